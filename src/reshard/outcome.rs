//! What a step that did not work means for its operation: another try, a person, or the end.

use super::{lock_holders, switch};
use crate::background::log::Log;
use crate::catalog::operation::{self, Operation};
use crate::catalog::way_back::WayBack;
use crate::catalog::{tries, way_back};
use crate::error::{Error, Report, Result, sql_state_text};
use crate::pg::transaction;
use shardkeeper_core::operation::{Backoff, State, may_pass};

/// Tries that may fail for a reason that time does not cure: some seconds.
const MOST_HOPELESS: i32 = 5;

/// Why a step ended early.
#[derive(Debug)]
pub enum Interruption {
    /// It may work later: a server is down, a lock is held. The worker tries again by itself; not for ever where the error is
    /// of a kind that time does not cure.
    Again(Error),
    /// A person has to look: the operation stands still until it is resumed or cancelled.
    Halt(Error),
    /// Somebody asked for something else meanwhile.
    Asked,
    /// It will never work: the operation fails, and what it made is removed.
    Fail(Error),
}

pub type Step<T = ()> = std::result::Result<T, Interruption>;

impl From<Error> for Interruption {
    fn from(error: Error) -> Self {
        Interruption::Again(error)
    }
}

impl From<Report> for Interruption {
    fn from(report: Report) -> Self {
        Interruption::Again(report.into())
    }
}

pub fn halt<T>(report: Report) -> Step<T> {
    Err(Interruption::Halt(report.into()))
}

pub fn fail<T>(report: Report) -> Step<T> {
    Err(Interruption::Fail(report.into()))
}

/// What is done about an error.
type Act = fn(&Operation, Report) -> Result<()>;

/// Writes down what went wrong, for people and for whoever goes on, and ends what cannot go on. Outside a transaction.
pub fn note(operation: &Operation, interruption: Interruption) {
    let subject = format!("operation {}", operation.id);
    let mut log = Log::default();
    let (report, act): (Report, Act) = match interruption {
        Interruption::Asked => return,
        Interruption::Again(error) => (error.into(), again),
        Interruption::Halt(error) => (error.into(), stand_still),
        Interruption::Fail(error) => (error.into(), at_once),
    };
    log.failure(&subject, report.clone().into());
    if let Err(error) = act(operation, report) {
        log.failure(&subject, error);
    }
}

fn stand_still(operation: &Operation, report: Report) -> Result<()> {
    transaction::run(|| tries::failed(operation.id, report.into(), None, None))
}

fn again(operation: &Operation, report: Report) -> Result<()> {
    let holder = if report.is_lock() { lock_holders::of_locks(operation) } else { None };
    let report = lock_holders::with_holder(report, holder.as_deref());
    let delay = delay(operation);
    let passes = may_pass(&sql_state_text(report.code));
    let hopeless = transaction::run(|| {
        tries::failed(operation.id, report.clone().into(), Some(delay), holder.as_deref())?;
        if passes { Ok(0) } else { tries::count_hopeless(operation.id) }
    })?;
    if hopeless < MOST_HOPELESS { Ok(()) } else { end(operation, report).map(drop) }
}

fn at_once(operation: &Operation, report: Report) -> Result<()> {
    if end(operation, report.clone())? {
        return Ok(());
    }
    transaction::run(|| tries::failed(operation.id, report.into(), Some(delay(operation)), None))
}

fn delay(operation: &Operation) -> f64 {
    Backoff::default().delay(operation.failures, operation.id as u64).as_secs_f64()
}

/// Gives up what can be given up in the operation's state; `false` when it can only be tried again.
///
/// Its row says what has happened: an error can come after a switch that has committed, and what the worker believed before
/// is old.
fn end(operation: &Operation, report: Report) -> Result<bool> {
    let Some(now) = transaction::run(|| operation::load(operation.id))? else { return Ok(true) };
    let id = now.id;
    match now.state {
        state if state.is_before_switch() => transaction::run(|| {
            operation::enter(id, State::Failed, None)?;
            tries::failed(id, report.into(), Some(0.0), None)
        })?,
        // The targets serve on. Where a node has committed the switch back, that is undone first, or nothing is given up.
        State::Reverting => {
            switch::undo_halves(&now)?;
            let why = report.reason();
            transaction::run(|| {
                operation::stay_switched(id, "the revert was given up")?;
                way_back::refuse(id, &why)
            })?;
        }
        // It serves; the changes since cannot be brought back.
        State::Switched if now.targets_cleaned && now.way_back.as_ref().is_some_and(WayBack::is_open) => {
            let why = report.reason();
            transaction::run(|| way_back::lose(id, &why))?;
        }
        // What is left to do has no other end than that it is done.
        _ => return Ok(false),
    }
    Ok(true)
}
