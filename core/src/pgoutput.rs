//! Messages of the output plugin `pgoutput`, protocol version 1, as Postgres 15 to 18 write them.

use crate::lsn::Lsn;

/// One message of a logical decoding stream.
///
/// A transaction is a `Begin`, its changes and a `Commit`. A `Relation` precedes the first change of a table in a
/// stream, and the first one after the table has changed. Times are microseconds since 2000-01-01 00:00:00 UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// `final_lsn` is that of the commit record: the `commit_lsn` of the `Commit` that follows.
    Begin {
        final_lsn: Lsn,
        commit_time: i64,
        xid: u32,
    },
    /// `end_lsn` is where the commit record ends: how far a slot may advance when the transaction was applied.
    Commit {
        commit_lsn: Lsn,
        end_lsn: Lsn,
        commit_time: i64,
    },
    /// The transaction came by replication from elsewhere.
    Origin {
        commit_lsn: Lsn,
        name: String,
    },
    Relation(Relation),
    /// The name of a type that is not built in, before the `Relation` that uses it.
    Type {
        id: u32,
        schema: String,
        name: String,
    },
    Insert {
        relation: u32,
        new: Tuple,
    },
    /// `old` is there if the identity is full, if a key column changed, or if one is stored out of line.
    Update {
        relation: u32,
        old: Option<Old>,
        new: Tuple,
    },
    Delete {
        relation: u32,
        old: Old,
    },
    Truncate {
        relations: Vec<u32>,
        cascade: bool,
        restart_identity: bool,
    },
    /// What `pg_logical_emit_message` wrote. Outside of `Begin` and `Commit` if not transactional.
    Logical {
        transactional: bool,
        lsn: Lsn,
        prefix: String,
        content: Vec<u8>,
    },
}

/// A table as the changes after it describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    pub id: u32,
    pub schema: String,
    pub name: String,
    pub identity: Identity,
    /// The published columns, in the order of the values in a [`Tuple`].
    pub columns: Vec<Column>,
}

/// `REPLICA IDENTITY` of a table: what identifies an old row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The primary key, if there is one.
    Default,
    Nothing,
    Full,
    Index,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Part of the replica identity; all columns are when it is full.
    pub is_key: bool,
    pub name: String,
    pub type_oid: u32,
    /// -1 if there is none.
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

impl Old {
    /// The values at these positions, which must be those of columns of the replica identity. `None` if one is absent.
    pub fn key(&self, columns: &[usize]) -> Option<Vec<Value>> {
        let (Self::Key(tuple) | Self::Full(tuple)) = self;
        columns.iter().map(|column| tuple.0.get(*column).cloned()).collect()
    }
}

/// One value a published column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuple(pub Vec<Value>);

impl Tuple {
    /// Gives `Unchanged` values what they are in `old`, a row that is told whole. An [`Old::Key`] is not.
    pub fn fill(&mut self, old: &Tuple) {
        for (value, before) in self.0.iter_mut().zip(&old.0) {
            if *value == Value::Unchanged {
                value.clone_from(before);
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
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
    #[error("unknown message type {}", shown(*.0))]
    Unknown(u8),
    #[error("the message ends too early")]
    Truncated,
    #[error("the message has bytes after its end")]
    Trailing,
    #[error("a length or count in the message is {0}")]
    Length(i32),
    #[error("a name in the message is not UTF-8")]
    Name,
    #[error("unknown replica identity {}", shown(*.0))]
    Identity(u8),
    #[error("unknown kind of row {}", shown(*.0))]
    Row(u8),
    #[error("unknown kind of value {}", shown(*.0))]
    Value(u8),
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
