//! The changes of the sources on one server, read from its slot message by message.
//!
//! The slot is asked by SQL and only looks ahead: it moves on when everything that was read is safe on the targets. On a node
//! the answer arrives row by row, on the coordinator through a cursor, so that a large transaction needs no memory here.

use crate::catalog::operation::Operation;
use crate::error::{Report, Result};
use crate::name::literal;
use crate::node::session::{self, Session};
use crate::pg::{cursor, sql, timeout, transaction};
use crate::reshard::outcome::{Step, fail};
use futures_util::StreamExt;
use pgrx::PgSqlErrorCode as Code;
use pgrx::datum::DatumWithOid;
use pgrx::spi::Spi;
use postgres_types::ToSql;
use shardkeeper_core::Lsn;
use shardkeeper_core::pgoutput::Message;
use std::pin::pin;
use std::time::Duration;

/// What is taken from the network or a cursor at a time.
const CHUNK_BYTES: usize = 1 << 20;
const CURSOR_ROWS: i64 = 200;
/// What a moment without a running transaction is waited for.
const FRESHEN_PATIENCE: Duration = Duration::from_secs(1);

const PEEK: &str = "SELECT data FROM pg_catalog.pg_logical_slot_peek_binary_changes($1::text::name, $4::text::pg_lsn, $2::int, 'proto_version', '1', 'publication_names', $3::text)";

/// What is asked for changes.
#[derive(Debug, Clone)]
pub struct Slot<'a> {
    pub name: &'a str,
    pub publication: &'a str,
    /// Nothing behind this position is asked for.
    pub upto: Option<Lsn>,
}

impl<'a> Slot<'a> {
    /// On the way back, the publication is that of all ways back on the server.
    pub fn of(operation: &'a Operation, node: &str) -> Self {
        let name = operation.staging.as_str();
        let publication = match operation.streams.get(node) {
            Some(shared) if operation.is_return => shared.name.as_str(),
            _ => name,
        };
        Self { name, publication, upto: None }
    }
}

/// Whether the message is about one of these tables, or about all: beginnings and ends of transactions are.
pub fn is_about(message: &Message, tables: &[u32]) -> bool {
    match message {
        Message::Relation(relation) => tables.contains(&relation.id),
        Message::Insert { relation, .. } | Message::Update { relation, .. } | Message::Delete { relation, .. } => {
            tables.contains(relation)
        }
        Message::Truncate { relations, .. } => relations.iter().any(|relation| tables.contains(relation)),
        _ => true,
    }
}

/// Such a message without what it tells of other tables.
pub fn narrowed(mut message: Message, tables: &[u32]) -> Message {
    if let Message::Truncate { relations, .. } = &mut message {
        relations.retain(|relation| tables.contains(relation));
    }
    message
}

/// Hands out the messages that the slot has, up to the first end of a transaction after `limit` changes, if there is one.
///
/// `session` is `None` for the coordinator's own slot; then within a transaction, as a superuser.
pub fn read(
    slot: &Slot<'_>,
    session: Option<&mut Session>,
    limit: Option<i32>,
    mut each: impl FnMut(Message) -> Step,
) -> Step {
    let publication = crate::name::ident(slot.publication);
    let upto = slot.upto.map(|upto| upto.to_string());
    let mut take = |bytes: &[u8]| -> Step {
        let message = Message::parse(bytes).map_err(|error| {
            Report::new(Code::ERRCODE_PROTOCOL_VIOLATION, "a message of the slot cannot be read")
                .detail(error.to_string())
        })?;
        each(message)
    };
    let Some(session) = session else {
        // Postgres logs every look at a slot, and we look often. Decoding takes memory of this very process.
        sql::run("SET LOCAL log_min_messages = fatal", &[])?;
        sql::run("SET LOCAL logical_decoding_work_mem = '16MB'", &[])?;
        let arguments = [slot.name.into(), limit.into(), publication.as_str().into(), upto.as_deref().into()];
        return read_here(&arguments, take);
    };
    let rows = session::wait(session.with(async |client| {
        client.query_raw(PEEK, [&slot.name as &(dyn ToSql + Sync), &limit, &publication.as_str(), &upto]).await
    }))?;
    let mut rows = pin!(rows.fuse());
    loop {
        let chunk = session::wait(session.with(async |_| {
            let (mut chunk, mut size): (Vec<Vec<u8>>, usize) = (Vec::new(), 0);
            while size < CHUNK_BYTES {
                let Some(row) = rows.next().await else { break };
                let data: Vec<u8> = row?.try_get(0)?;
                size += data.len() + 100;
                chunk.push(data);
            }
            Ok(chunk)
        }))?;
        if chunk.is_empty() {
            return Ok(());
        }
        chunk.iter().try_for_each(|data| take(data))?;
    }
}

fn read_here(arguments: &[DatumWithOid<'_>], mut take: impl FnMut(&[u8]) -> Step) -> Step {
    let cursor = Spi::connect_mut(|client| -> Result<_> {
        let cursor = client.try_open_cursor(PEEK, arguments)?;
        Ok(cursor.detach_into_name())
    })?;
    loop {
        let chunk = cursor::next(&cursor, CURSOR_ROWS);
        if chunk.is_empty() {
            return Ok(());
        }
        chunk.iter().try_for_each(|data| take(data))?;
    }
}

/// Makes sure that the slot is there, has all changes since the copy, and is free: who reads it now is a session of ours that
/// lost its worker.
pub fn claim(operation: &Operation, node: &str, session: Option<&mut Session>) -> Step {
    const CLAIM: &str = "SELECT json_build_object('usable', wal_status IS DISTINCT FROM 'lost',
            'freed', CASE WHEN active_pid <> pg_backend_pid() THEN pg_terminate_backend(active_pid) END)::text
         FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::text::name";
    #[derive(serde::Deserialize)]
    struct Slot {
        usable: bool,
    }
    let name = operation.staging.as_str();
    let found: Option<Slot> = match session {
        None => sql::document(CLAIM, &[name.into()])?,
        Some(session) => session::wait(session.document(CLAIM, &[&name]))?,
    };
    if found.is_some_and(|slot| slot.usable) { Ok(()) } else { gone(operation, node) }
}

/// The slot is not there any more, or the server has thrown away what it would have told.
pub fn gone<T>(operation: &Operation, node: &str) -> Step<T> {
    fail(
        Report::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the replication slot of a source is gone")
            .detail(format!("It was {} on node {node}.", operation.staging))
            .hint("What changed since is not known any more: call for the operation again."),
    )
}

/// Where the server's log ends now: everything that was committed before is at a lower position, and on disk.
pub fn end_of_log(session: Option<&mut Session>) -> Result<Lsn> {
    let Some(session) = session else {
        let end = parse(sql::one("SELECT pg_catalog.pg_logical_emit_message(false, 'shardkeeper', '')::text", &[])?)?;
        crate::pg::wal::flush(end);
        return Ok(end);
    };
    let text = session::wait(async {
        // A transaction of its own that waits for the disk, and so for all before it.
        session
            .run("SET synchronous_commit = local; SELECT pg_catalog.pg_logical_emit_message(true, 'shardkeeper', '')")
            .await?;
        session.one::<String>("SELECT pg_catalog.pg_current_wal_flush_lsn()::text", &[]).await
    })?;
    parse(text)
}

/// Lets the server forget what is safe on all targets. Not for one's own transaction's slot while it is being read.
pub fn advance(slot: &str, session: Option<&mut Session>, to: Lsn) -> Result<()> {
    const ADVANCE: &str = "SELECT pg_catalog.pg_replication_slot_advance(slot_name, $2::text::pg_lsn)
         FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::text::name AND confirmed_flush_lsn < $2::text::pg_lsn";
    let to = to.to_string();
    match session {
        None => {
            sql::run("SET LOCAL log_min_messages = fatal", &[])?;
            sql::run(ADVANCE, &[slot.into(), to.as_str().into()]).map(|_| ())
        }
        Some(session) => session::wait(session.rows(ADVANCE, &[&slot, &to])).map(|_| ()),
    }
}

/// Makes the server note which transactions run, which it does by itself every 15 seconds only. Each look at a slot decodes
/// the log from the last but one such note before the slot's position: without, most of the time of a look goes into what
/// was read before. A temporary slot does it on all versions. Outside a transaction; whatever is in the way of it, nothing
/// is lost but time.
pub fn freshen(operation: &Operation, session: Option<&mut Session>) {
    let name = literal(&format!("{}_now", operation.staging));
    let make =
        format!("SELECT slot_name::text FROM pg_catalog.pg_create_logical_replication_slot({name}, 'pgoutput', true)");
    let drop = format!(
        "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name = {name} AND active_pid = pg_catalog.pg_backend_pid()"
    );
    let _ = match session {
        None => {
            let made = transaction::run(|| {
                let _deadline = timeout::deadline(FRESHEN_PATIENCE);
                sql::one_without_id::<String>(&make, &[]).map(|_| ())
            });
            made.and(transaction::run(|| sql::run_quietly(&drop)))
        }
        Some(session) => session::wait(async {
            let milliseconds = FRESHEN_PATIENCE.as_millis();
            let made =
                session.run(&format!("BEGIN; SET LOCAL statement_timeout = {milliseconds}; {make}; COMMIT")).await;
            if made.is_err() {
                session.run("ROLLBACK").await?;
            }
            session.run(&drop).await
        }),
    };
}

/// Where a slot stands to its server's log.
#[derive(serde::Deserialize)]
pub struct Lag {
    /// How far the slot is behind the end.
    pub bytes: i64,
    end: String,
}

impl Lag {
    /// What is in the log before was on disk.
    pub fn end(&self) -> Lsn {
        self.end.parse().unwrap_or_default()
    }
}

/// `None` if there is no such slot, or it has lost what it kept.
pub fn lag(operation: &Operation, session: Option<&mut Session>) -> Result<Option<Lag>> {
    const LAG: &str =
        "SELECT json_build_object('bytes', pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint,
            'end', pg_current_wal_flush_lsn())::text
         FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::text::name AND wal_status IS DISTINCT FROM 'lost'";
    let name = operation.staging.as_str();
    match session {
        None => sql::document(LAG, &[name.into()]),
        Some(session) => session::wait(session.document(LAG, &[&name])),
    }
}

pub fn parse(text: Option<String>) -> Result<Lsn> {
    text.as_deref()
        .and_then(|text| text.parse().ok())
        .map_or_else(|| Report::new(Code::ERRCODE_INTERNAL_ERROR, "the server told no position of its log").into(), Ok)
}
