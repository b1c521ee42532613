//! Messages of the output plugin `pgoutput`, protocol version 1, as Postgres 15 to 18 write them.

use crate::lsn::Lsn;

/// One message of a logical decoding stream.
///
/// A transaction is a `Begin`, its changes and a `Commit`. A `Relation` precedes the first change of a table in a
/// stream, and the first one after the table has changed. Times are microseconds since 2000-01-01 00:00:00 UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A transaction begins that has committed.
    Begin {
        /// Where its commit record begins: the `commit_lsn` of the `Commit` that follows.
        final_lsn: Lsn,
        /// When it committed.
        commit_time: i64,
        /// Its number on the server that sends, without the epoch.
        xid: u32,
    },
    /// The transaction is told.
    Commit {
        /// Where its commit record begins.
        commit_lsn: Lsn,
        /// Where its commit record ends: how far a slot may advance when the transaction was applied.
        end_lsn: Lsn,
        /// When it committed.
        commit_time: i64,
    },
    /// The transaction came by replication from elsewhere.
    Origin {
        /// Where it committed in the log of the server that it came from.
        commit_lsn: Lsn,
        /// The replication origin, as the server that sends calls it.
        name: String,
    },
    /// What the table looks like that the next changes are about.
    Relation(Relation),
    /// The name of a type that is not built in, before the `Relation` that uses it.
    Type {
        /// Its OID on the server that sends: the [`Column::type_oid`] of its columns.
        id: u32,
        /// Also where it is `pg_catalog`, which is sent as an empty name.
        schema: String,
        /// Its name in that schema.
        name: String,
    },
    /// A row was inserted.
    Insert {
        /// The [`Relation::id`] of its table.
        relation: u32,
        /// The whole row: none of its values is `Unchanged`.
        new: Tuple,
    },
    /// A row was updated.
    Update {
        /// The [`Relation::id`] of its table.
        relation: u32,
        /// Told if the identity is full, if a key column changed, or if one is stored out of line.
        old: Option<Old>,
        /// The row as it is now.
        new: Tuple,
    },
    /// A row was deleted.
    Delete {
        /// The [`Relation::id`] of its table.
        relation: u32,
        /// What identifies the row.
        old: Old,
    },
    /// Tables were emptied by one `TRUNCATE`.
    Truncate {
        /// The [`Relation::id`] of each of them that is published.
        relations: Vec<u32>,
        /// Whether the command said `CASCADE`. The tables that this emptied are among `relations`.
        cascade: bool,
        /// Whether the command said `RESTART IDENTITY`: sequences of the tables began anew.
        restart_identity: bool,
    },
    /// What `pg_logical_emit_message` wrote.
    Logical {
        /// Whether it is part of a transaction; if not, it is told outside of `Begin` and `Commit`, at once.
        transactional: bool,
        /// Where it is in the log.
        lsn: Lsn,
        /// By which readers know the messages that are meant for them.
        prefix: String,
        /// Whatever bytes the writer gave.
        content: Vec<u8>,
    },
}

/// A table as the changes after it describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// Its OID on the server that sends.
    pub id: u32,
    /// Also where it is `pg_catalog`, which is sent as an empty name.
    pub schema: String,
    /// Its name in that schema.
    pub name: String,
    /// What is told of the old rows of updates and deletes.
    pub identity: Identity,
    /// The published columns, in the order of the values in a [`Tuple`].
    pub columns: Vec<Column>,
}

/// `REPLICA IDENTITY` of a table: what identifies an old row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The primary key, if there is one.
    Default,
    /// Nothing does: Postgres refuses updates and deletes where they are published.
    Nothing,
    /// All columns together.
    Full,
    /// The columns of a unique index that was chosen.
    Index,
}

/// A published column of a [`Relation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Part of the replica identity; all columns are when it is full.
    pub is_key: bool,
    /// By which the columns of the targets find it.
    pub name: String,
    /// On the server that sends; for a type that is not built in, a `Type` message told its name.
    pub type_oid: u32,
    /// What the type was declared with, such as the digits of a numeric, encoded as in `pg_attribute.atttypmod`; -1 if
    /// there is none.
    pub type_modifier: i32,
}

/// What is told of a row before its change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Old {
    /// The columns of the replica identity; the others are `Null`, whatever they were.
    Key(Tuple),
    /// All columns.
    Full(Tuple),
}

/// One value a published column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuple(pub Vec<Value>);

/// The value of one column, as far as the stream tells it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// NULL; in an [`Old::Key`] also what is not told.
    Null,
    /// Stored out of line, not changed, and so not told.
    Unchanged,
    /// The text form.
    Text(Vec<u8>),
    /// The binary form, sent only where the option `binary` of the plugin asks for it.
    Binary(Vec<u8>),
}

/// Why bytes are not a [`Message`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The first byte, which begins no message of version 1.
    #[error("unknown message type {}", shown(*.0))]
    Unknown(u8),
    /// What is there asks for more bytes.
    #[error("the message ends too early")]
    Truncated,
    /// A whole message was read, and something is left.
    #[error("the message has bytes after its end")]
    Trailing,
    /// One that is negative.
    #[error("a length or count in the message is {0}")]
    Length(i32),
    /// The session has another `client_encoding` than UTF-8, or these are no bytes of Postgres.
    #[error("a name in the message is not UTF-8")]
    Name,
    /// The byte that should be a `pg_class.relreplident`.
    #[error("unknown replica identity {}", shown(*.0))]
    Identity(u8),
    /// The byte before a row that should tell whether it is the new one, a key or the whole old one.
    #[error("unknown kind of row {}", shown(*.0))]
    Row(u8),
    /// The byte before a value that should tell how it is written.
    #[error("unknown kind of value {}", shown(*.0))]
    Value(u8),
    /// A byte of flags with bits that version 1 does not know.
    #[error("unknown flags {0:#04x}")]
    Flags(u8),
}

/// A byte as a character and as a number.
fn shown(byte: u8) -> String {
    format!("'{}' (0x{byte:02x})", byte.escape_ascii())
}

type Result<T> = std::result::Result<T, MessageError>;

impl Message {
    /// Reads one message: a whole row of `pg_logical_slot_peek_binary_changes`, or the payload of one WAL data message.
    ///
    /// Errors: [`MessageError`]; a message of a later protocol version is `Unknown` or another of them.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader(bytes);
        let message = reader.message()?;
        if reader.0.is_empty() { Ok(message) } else { Err(MessageError::Trailing) }
    }
}

/// The bytes of a message that are still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn message(&mut self) -> Result<Message> {
        Ok(match self.byte()? {
            b'B' => Message::Begin { final_lsn: self.lsn()?, commit_time: self.int64()?, xid: self.oid()? },
            b'C' => {
                self.flags(0)?;
                Message::Commit { commit_lsn: self.lsn()?, end_lsn: self.lsn()?, commit_time: self.int64()? }
            }
            b'O' => Message::Origin { commit_lsn: self.lsn()?, name: self.string()? },
            b'R' => Message::Relation(self.relation()?),
            b'Y' => Message::Type { id: self.oid()?, schema: self.schema()?, name: self.string()? },
            b'I' => {
                let relation = self.oid()?;
                match self.byte()? {
                    b'N' => Message::Insert { relation, new: self.tuple()? },
                    other => return Err(MessageError::Row(other)),
                }
            }
            b'U' => self.update()?,
            b'D' => {
                let relation = self.oid()?;
                let kind = self.byte()?;
                Message::Delete { relation, old: self.old(kind)? }
            }
            b'T' => {
                let count = self.int32()?;
                let count = usize::try_from(count).map_err(|_| MessageError::Length(count))?;
                let flags = self.flags(0b11)?;
                let relations = self.list(count, Self::oid)?;
                Message::Truncate { relations, cascade: flags & 0b01 != 0, restart_identity: flags & 0b10 != 0 }
            }
            b'M' => {
                let transactional = self.flags(1)? == 1;
                let (lsn, prefix) = (self.lsn()?, self.string()?);
                Message::Logical { transactional, lsn, prefix, content: self.counted()? }
            }
            other => return Err(MessageError::Unknown(other)),
        })
    }

    fn relation(&mut self) -> Result<Relation> {
        let (id, schema, name) = (self.oid()?, self.schema()?, self.string()?);
        let identity = match self.byte()? {
            b'd' => Identity::Default,
            b'n' => Identity::Nothing,
            b'f' => Identity::Full,
            b'i' => Identity::Index,
            other => return Err(MessageError::Identity(other)),
        };
        let count = self.count()?;
        let columns = self.list(count, |reader| {
            let is_key = reader.byte()? & 1 != 0;
            let (name, type_oid) = (reader.string()?, reader.oid()?);
            Ok(Column { is_key, name, type_oid, type_modifier: reader.int32()? })
        })?;
        Ok(Relation { id, schema, name, identity, columns })
    }

    fn update(&mut self) -> Result<Message> {
        let relation = self.oid()?;
        let (old, kind) = match self.byte()? {
            b'N' => (None, b'N'),
            kind => (Some(self.old(kind)?), self.byte()?),
        };
        match kind {
            b'N' => Ok(Message::Update { relation, old, new: self.tuple()? }),
            other => Err(MessageError::Row(other)),
        }
    }

    fn old(&mut self, kind: u8) -> Result<Old> {
        match kind {
            b'K' => Ok(Old::Key(self.tuple()?)),
            b'O' => Ok(Old::Full(self.tuple()?)),
            other => Err(MessageError::Row(other)),
        }
    }

    fn tuple(&mut self) -> Result<Tuple> {
        let count = self.count()?;
        let value = |reader: &mut Self| match reader.byte()? {
            b'n' => Ok(Value::Null),
            b'u' => Ok(Value::Unchanged),
            b't' => Ok(Value::Text(reader.counted()?)),
            b'b' => Ok(Value::Binary(reader.counted()?)),
            other => Err(MessageError::Value(other)),
        };
        Ok(Tuple(self.list(count, value)?))
    }

    /// So many items; memory is taken for no more than the bytes that are there could hold.
    fn list<T>(&mut self, count: usize, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut list = Vec::with_capacity(count.min(self.0.len()));
        for _ in 0..count {
            list.push(item(self)?);
        }
        Ok(list)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(MessageError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(MessageError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A byte of flags that may have these bits.
    fn flags(&mut self, known: u8) -> Result<u8> {
        let flags = self.byte()?;
        if flags & !known == 0 { Ok(flags) } else { Err(MessageError::Flags(flags)) }
    }

    fn count(&mut self) -> Result<usize> {
        let count = i16::from_be_bytes(self.array()?);
        usize::try_from(count).map_err(|_| MessageError::Length(count.into()))
    }

    fn int32(&mut self) -> Result<i32> {
        self.array().map(i32::from_be_bytes)
    }

    fn int64(&mut self) -> Result<i64> {
        self.array().map(i64::from_be_bytes)
    }

    fn oid(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn lsn(&mut self) -> Result<Lsn> {
        self.array().map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    /// Bytes after their length.
    fn counted(&mut self) -> Result<Vec<u8>> {
        let length = self.int32()?;
        let length = usize::try_from(length).map_err(|_| MessageError::Length(length))?;
        self.take(length).map(<[u8]>::to_vec)
    }

    fn string(&mut self) -> Result<String> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(MessageError::Truncated)?;
        let text = std::str::from_utf8(self.take(end)?).map_err(|_| MessageError::Name)?.to_owned();
        self.byte().map(|_| text)
    }

    /// The name of a schema; `pg_catalog` is sent as the empty one.
    fn schema(&mut self) -> Result<String> {
        self.string().map(|name| if name.is_empty() { "pg_catalog".to_owned() } else { name })
    }
}
