//! The extension does not go before its operations have ended: nobody would take away what they hold on servers.

use crate::error::{Report, Result};
use crate::node::channel::COORDINATOR;
use crate::pg::sql;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode as Code};
use serde::Deserialize;
use shardkeeper_core::operation::State;
use shardkeeper_core::words::count;

#[derive(Deserialize)]
struct Left {
    id: i64,
    name: String,
    state: State,
}

/// Raises 55006 while an operation has not ended, with the calls that end it. By the table alone, which is the last of the
/// extension's to go: views and functions may be gone already.
pub fn object() {
    if let Err(error) = check() {
        ErrorReport::from(error).report(PgLogLevel::ERROR);
    }
}

fn check() -> Result<()> {
    // The operations of a group are ended with it. Those of the database that this one is a copy of hold nothing for it.
    let left: Vec<Left> = sql::documents(
        &format!(
            "SELECT pg_catalog.json_build_object('id', id, 'name', name, 'state', state)::text FROM shardkeeper.operations o
             WHERE ended_at IS NULL AND NOT EXISTS (
                 SELECT FROM shardkeeper.operations g WHERE g.id = o.part_of AND g.ended_at IS NULL)
               AND pg_catalog.right(stage::text, 6) = pg_catalog.left(pg_catalog.md5({COORDINATOR}), 6) ORDER BY id"
        ),
        &[],
    )?;
    let Some(first) = left.first() else { return Ok(()) };
    let more = match left.len() - 1 {
        0 => String::new(),
        more => format!(" and {}", count(more, "more operation", "more operations")),
    };
    let what: Vec<String> =
        left.iter().map(|Left { id, name, state }| format!("operation {id} on {name} is {state}")).collect();
    let mut calls: Vec<String> = left.iter().filter_map(Left::call).collect();
    calls.push("SELECT count(*) FROM shard_operations WHERE ended_at IS NULL; until it is 0".into());
    Report::new(
        Code::ERRCODE_OBJECT_IN_USE,
        format!("extension shardkeeper cannot be dropped while operation {}{more} has not ended", first.id),
    )
    .detail(format!("Slots, publications and tables would stay on servers for ever: {}.", what.join("; ")))
    .hint(format!("Run {}.", calls.join(" ")))
    .into()
}

impl Left {
    fn call(&self) -> Option<String> {
        match self.state {
            State::Switched => Some(format!("SELECT shard_finish({});", self.id)),
            // It is being cleaned up.
            state if state.is_final() => None,
            _ => Some(format!("SELECT shard_cancel({});", self.id)),
        }
    }
}
