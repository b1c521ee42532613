//! The extension does not go before its operations have ended: nobody would take away what they hold on servers.

use crate::catalog::operation_look::{self, Unended};
use crate::error::{Report, Result};
use crate::node::channel::COORDINATOR;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode as Code};
use shardkeeper_core::operation::State;
use shardkeeper_core::plural::count;

/// Raises 55006 while an operation has not ended, with the calls that end it. By the table alone, which is the last of the
/// extension's to go: views and functions may be gone already.
pub fn object() {
    if let Err(error) = check() {
        ErrorReport::from(error).report(PgLogLevel::ERROR);
    }
}

fn check() -> Result<()> {
    // The operations of a group are ended with it.
    let left = operation_look::unended(COORDINATOR)?;
    let Some(first) = left.first() else { return Ok(()) };
    let more = match left.len() - 1 {
        0 => " has ended".to_string(),
        more => format!(" and {} have ended", count(more, "more operation", "more operations")),
    };
    let what: Vec<String> =
        left.iter().map(|Unended { id, name, state }| format!("operation {id} on {name} is {state}")).collect();
    let mut calls: Vec<String> = left.iter().filter_map(Unended::call).collect();
    calls.push("SELECT count(*) FROM shard_operations WHERE ended_at IS NULL; until it is 0".into());
    Report::new(
        Code::ERRCODE_OBJECT_IN_USE,
        format!("extension shardkeeper cannot be dropped before operation {}{more}", first.id),
    )
    .detail(format!("Slots, publications and tables would stay on servers for ever: {}.", what.join("; ")))
    .hint(format!("Run {}.", calls.join(" ")))
    .into()
}

impl Unended {
    fn call(&self) -> Option<String> {
        match self.state {
            State::Switched => Some(format!("SELECT shard_finish({});", self.id)),
            // It is being cleaned up.
            state if state.is_final() => None,
            _ => Some(format!("SELECT shard_cancel({});", self.id)),
        }
    }
}
