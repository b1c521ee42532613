//! What people steer operations with.

use super::cleanup::copied_database;
use crate::catalog::copied::refusal;
use crate::catalog::operation::{self, Failure, Operation};
use crate::catalog::operation_look::{self, Glance};
use crate::catalog::way_back;
use crate::error::{Report, Result};
use crate::pg::{interrupt, sql, worker};
use pgrx::PgSqlErrorCode as Code;
use shardkeeper_core::operation::{Kind, Refusal, Requested, State, allowed_after};
use std::time::{Duration, Instant};

/// Asks something of an operation.
///
/// Errors: 42704 no such operation; 42501 not the owner of its parent; 55000 its state does not allow it, or it belongs to
/// the database that this one is a copy of. Such a one can only be forgotten.
pub fn requested(id: i64, requested: Requested) -> Result<()> {
    let operation = mine(id)?;
    if !operation.is_own {
        return match requested {
            Requested::Cancel | Requested::Finish => copied_database::forget(&operation),
            _ => refusal(id).into(),
        };
    }
    if let Err(refusal) = allowed_after(operation.requested, operation.state, requested) {
        return refused(&operation, refusal)?.into();
    }
    if requested == Requested::Revert {
        super::revert::check(&operation)?;
        way_back::forget_refusal(id)?;
    }
    operation::set_requested(id, requested)?;
    // What is asked of a group is asked of the operations that it is at.
    let is_at = |state: State| state.is_before_switch() || state == State::Reverting;
    for child in operation::children(id)?.iter().filter(|child| is_at(child.state)) {
        operation::set_requested(child.id, requested)?;
    }
    crate::background::ensure_running()
}

/// What the state does not allow, and what to do instead.
fn refused(operation: &Operation, refusal: Refusal) -> Result<Report> {
    let id = operation.id;
    let (mut detail, mut hint) = (refusal.detail(), refusal.hint(id));
    match refusal {
        Refusal::Switched if super::revert::check(operation).is_err() => {
            hint = format!("To drop the old ones, run SELECT shard_finish({id});");
            if operation.kind != Kind::Convert {
                hint += " another operation can move the data back.";
            }
        }
        Refusal::Over { state: State::Cancelled | State::Failed, .. } if operation.is_group() => {
            if let Some(stays) = super::operation_group::what_stays(operation)? {
                (detail, hint) = stays;
            }
        }
        _ => {}
    }
    let code = Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
    Ok(Report::new(code, refusal.to_string()).detail(detail).hint(hint))
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

/// Waits until the operation has switched, or has reverted or finished where that was asked for, or is over. `None` waits for ever.
///
/// Errors: 42704 no such operation; 57014 the time is over; 55000 it is paused, or waits for a person, or was called for in
/// this same transaction, or cannot be reverted, or belongs to the database that this one is a copy of; the operation's own
/// error when it failed.
pub fn wait(id: i64, limit: Option<Duration>) -> Result<State> {
    let state = Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
    let first = operation_look::glance(id)?;
    if !first.is_own && !first.state.is_final() {
        return refusal(id).into();
    }
    if first.own && first.state == State::Planned {
        return Report::new(state, format!("operation {id} was called for in this transaction"))
            .detail("It begins when the transaction commits.")
            .hint("Commit first, and wait then.")
            .into();
    }
    crate::background::ensure_quietly();
    let start = Instant::now();
    let (mut reverts, mut told) = (false, None);
    loop {
        let Glance { state: now, requested, halted, ended, error, lost, refused, .. } = operation_look::glance(id)?;
        let was_to_revert = reverts;
        reverts = now == State::Reverting || requested == Requested::Revert;
        let error = error.map(Failure::report);
        if now == State::Failed {
            return Err(error.unwrap_or_else(|| Report::new(state, format!("operation {id} has failed"))).into());
        }
        if let (State::Switched, true, false, Some(why)) = (now, was_to_revert, reverts, lost.or(refused)) {
            return Report::new(state, format!("operation {id} was not reverted: its new partitions serve"))
                .detail(why)
                .into();
        }
        let finishes = requested == Requested::Finish;
        let is_there = match now {
            State::Switched => !reverts && !finishes,
            // Whoever asked for it wants to go on where the old tables were.
            State::Finished => ended || !finishes,
            state => state.is_final(),
        };
        if is_there {
            return Ok(now);
        }
        if halted || requested == Requested::Pause {
            let what = if halted { "waits for a person" } else { "is paused" };
            let mut report = Report::new(state, format!("operation {id} {what} in state {now}"));
            let resume = format!("Run SELECT shard_resume({id});");
            report.detail = error.as_ref().filter(|_| halted).map(Report::one_line);
            report.hint = error.filter(|_| halted).and_then(|error| error.hint).or(Some(resume));
            return report.into();
        }
        // Whoever waits without a limit hears what keeps it.
        let keeps = error.as_ref().map(|error| error.message.clone());
        if let Some(error) = error.as_ref().filter(|_| keeps != told) {
            pgrx::notice!("operation {id} has met an error and tries again: {}", error.one_line());
            told = keeps;
        }
        if limit.is_some_and(|limit| start.elapsed() >= limit) {
            let mut report = Report::new(
                Code::ERRCODE_QUERY_CANCELED,
                format!("operation {id} is not done within the time: it is {now}"),
            );
            report.detail = error.map(|error| format!("The last error: {}", error.one_line()));
            return report.hint("It goes on. See the view shard_progress.").into();
        }
        worker::sleep(LOOK);
        interrupt::check();
    }
}
