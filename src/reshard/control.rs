//! What people steer operations with.

use crate::catalog::operation::{self, Operation};
use crate::error::{Report, Result};
use crate::pg::{interrupt, role, sql, worker};
use pgrx::PgSqlErrorCode as Code;
use shardkeeper_core::operation::{State, Wish, allowed};
use std::time::{Duration, Instant};

/// Asks something of an operation.
///
/// Errors: 42704 no such operation; 42501 not the owner of its parent; 55000 its state does not allow it.
pub fn wish(id: i64, wish: Wish) -> Result<()> {
    let operation = mine(id)?;
    if let Err(refusal) = allowed(operation.state, wish) {
        return Report::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, refusal.to_string())
            .detail(refusal.detail())
            .hint(refusal.hint(id))
            .into();
    }
    operation::set_wish(id, wish)?;
    crate::worker::ensure_running()
}

fn mine(id: i64) -> Result<Operation> {
    let operation = operation::require(id)?;
    let owns = sql::one::<bool>("SELECT pg_catalog.pg_has_role($1, 'USAGE')", &[operation.role().into()])?;
    if owns == Some(true) {
        return Ok(operation);
    }
    Report::new(Code::ERRCODE_INSUFFICIENT_PRIVILEGE, format!("must be owner of {}", operation.name)).into()
}

/// How often the row is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Waits until the operation has switched or is over. `None` waits for ever.
///
/// Errors: 42704 no such operation; 57014 the time is over; 55000 it is paused, or waits for a person, or was called for in
/// this same transaction; the operation's own error when it failed.
pub fn wait(id: i64, limit: Option<Duration>) -> Result<State> {
    let first = operation::require(id)?;
    let own = role::as_extension_owner(|| {
        sql::one::<bool>(
            "SELECT xmin = pg_catalog.pg_current_xact_id_if_assigned()::xid FROM shardkeeper.operations WHERE id = $1",
            &[id.into()],
        )
    })?;
    if own == Some(true) && first.state == State::Planned {
        return Report::new(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("operation {id} was called for in this transaction"),
        )
        .detail("It begins when the transaction commits.")
        .hint("Commit first, and wait then.")
        .into();
    }
    crate::worker::ensure_now()?;
    let start = Instant::now();
    loop {
        let operation = operation::require(id)?;
        if operation.state == State::Failed {
            return Err(failure(&operation)?.into());
        }
        if operation.state == State::Switched || operation.state.is_final() {
            return Ok(operation.state);
        }
        if operation.halted || operation.wish == Wish::Pause {
            let what = if operation.halted { "waits for a person" } else { "is paused" };
            let report = Report::new(
                Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("operation {id} {what} in state {}", operation.state),
            );
            let why = failure(&operation)?;
            return report
                .detail(if operation.halted { why.one_line() } else { "It goes on when somebody asks for it.".into() })
                .hint(why.hint.unwrap_or_else(|| format!("Run SELECT shard_resume({id});")))
                .into();
        }
        if limit.is_some_and(|limit| start.elapsed() >= limit) {
            let why = failure(&operation)?;
            let report = Report::new(
                Code::ERRCODE_QUERY_CANCELED,
                format!("operation {id} is not done within the time: it is {}", operation.state),
            );
            return if why.message.is_empty() {
                report
            } else {
                report.detail(format!("The last error: {}", why.one_line()))
            }
            .hint("It goes on. See the view shard_progress.")
            .into();
        }
        worker::sleep(LOOK);
        interrupt::check();
    }
}

/// The last error of the operation as it was written down.
fn failure(operation: &Operation) -> Result<Report> {
    #[derive(serde::Deserialize)]
    struct Kept {
        code: String,
        message: String,
        detail: Option<String>,
        hint: Option<String>,
    }
    let kept = role::as_extension_owner(|| {
        sql::document::<Kept>(
            "SELECT error::text FROM shardkeeper.operations WHERE id = $1 AND error IS NOT NULL",
            &[operation.id.into()],
        )
    })?;
    Ok(match kept {
        Some(Kept { code, message, detail, hint }) => {
            Report { code: crate::error::sql_state(&code), message, detail, hint }
        }
        None => Report::new(Code::ERRCODE_INTERNAL_ERROR, ""),
    })
}
