//! The worker of one operation: takes it from state to state until it is over, or until something is in the way.
//!
//! What the worker knows is in the operation's row; it can be killed at any line and another goes on. After an error it
//! leaves, and the database worker starts another one when it is time to try again.

use super::follow::Flow;
use super::trouble::{Step, Trouble};
use super::{copy, group, prepare, stream, sweep, switch, verify};
use crate::catalog::operation::{self, Operation, Progress};
use crate::catalog::parent;
use crate::error::{Error, Report, Result};
use crate::guc;
use crate::pg::lock::{self, Single};
use crate::pg::{sql, transaction, worker};
use crate::worker::log::Log;
use pgrx::PgSqlErrorCode as Code;
use shardkeeper_core::operation::{Backoff, State, Wish, allowed};
use std::time::{Duration, Instant};

/// Changes that are read from a slot at a time.
const LIMIT: i32 = 20_000;
/// Bytes of log behind the writers with which the comparison, and then the switch, are begun.
const NEAR: i64 = 16 << 20;
const VERY_NEAR: i64 = 1 << 20;
/// How long the switch is tried, and rested between two tries, before the operation goes back to following for a while.
const REST: Duration = Duration::from_millis(250);
/// While it follows and nothing changes.
const IDLE: Duration = Duration::from_millis(100);

pub fn run(id: i64) {
    let log = Log::default();
    let subject = format!("operation {id}");
    match transaction::run(|| settle_in(id)).and_then(|ours| Ok(ours && take_up(id)?)) {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => return Log::default().trouble(&subject, error),
    }
    loop {
        worker::reload_if_asked();
        if !guc::worker_enabled() || lock::database_is_wanted() {
            return;
        }
        let operation = match transaction::run(|| operation::load(id)) {
            Ok(Some(operation)) => operation,
            Ok(None) => return,
            Err(error) => return Log::default().trouble(&subject, error),
        };
        match step(&operation) {
            Ok(Some(next)) => {
                if let Err(error) = transaction::run(|| operation::enter(id, next, None)) {
                    return Log::default().trouble(&subject, error);
                }
                log.note(&subject, format!("{next}, {}", operation.name));
            }
            Ok(None) => return,
            Err(Trouble::Asked) => {}
            Err(trouble) => {
                note(&operation, trouble);
                return;
            }
        }
    }
}

/// `false` when another worker has the operation.
fn settle_in(id: i64) -> Result<bool> {
    let settings = [
        "SET search_path = pg_catalog, pg_temp",
        "SET default_transaction_isolation = 'read committed'",
        "SET default_transaction_read_only = off",
        "SET lock_timeout = '2s'",
        "SET idle_in_transaction_session_timeout = 0",
        "SET client_encoding = 'UTF8'",
        "SET synchronous_commit = local",
        // Rows are brought as they are: triggers of the application fired for them on the source.
        "SET session_replication_role = 'replica'",
    ];
    for setting in settings.iter().chain(&super::place::STYLE) {
        sql::run(setting, &[])?;
    }
    // By this name the view shard_progress finds the rows that are copied in a transaction still open.
    sql::run(&format!("SET application_name = 'shardkeeper operation {id}'"), &[])?;
    let number = u32::try_from(id).unwrap_or(u32::MAX);
    Ok((0..5).any(|attempt| {
        if attempt > 0 {
            worker::sleep(Duration::from_millis(20));
        }
        lock::become_single(Single::Operation(number))
    }))
}

/// Whoever takes up an operation that was about to switch does not know what happened to the targets since they were
/// compared: a pause, a crash, a commit that was undone. They are compared again.
fn take_up(id: i64) -> Result<bool> {
    let Some(operation) = transaction::run(|| operation::load(id))? else { return Ok(false) };
    if matches!(operation.state, State::Ready | State::Switching) && operation.wish == Wish::Run {
        // A node that is down is met again by the comparison, which then says so.
        let _ = switch::undo_halves(&operation);
        transaction::run(|| operation::go_back(id, State::Verifying))?;
    }
    Ok(true)
}

/// What comes next; `None` when there is nothing to do now.
fn step(operation: &Operation) -> Step<Option<State>> {
    let wish = match allowed(operation.state, operation.wish) {
        Ok(()) => operation.wish,
        // It came too late.
        Err(_) => Wish::Run,
    };
    if operation.state.is_final() {
        clean_up(operation)?;
        return Ok(None);
    }
    if operation.kind.is_group() {
        return group::step(operation, wish);
    }
    if operation.state.is_before_switch()
        && !operation.converts()
        && transaction::run(|| parent::load(operation.parent()))?.is_none()
    {
        return super::trouble::fail(
            Report::new(
                Code::ERRCODE_UNDEFINED_TABLE,
                format!("{} is no longer there, or not managed", operation.name),
            )
            .hint("What the operation made is removed."),
        );
    }
    if wish == Wish::Run {
        transaction::run(|| Ok(super::subject::unchanged(operation)))??;
    }
    match (operation.state, wish) {
        (state, Wish::Pause) if state != State::Switched => Ok(None),
        (state, Wish::Cancel) if state.is_before_switch() => Ok(Some(State::Cancelled)),
        (State::Planned, _) => Ok(Some(State::Preparing)),
        (State::Preparing, _) => prepare::prepare(operation).map(|()| Some(State::Copying)),
        (State::Copying, _) => copy::copy(operation).map(|()| Some(State::CatchingUp)),
        (State::CatchingUp, _) => follow(operation, NEAR).map(|()| Some(State::Verifying)),
        (State::Verifying, _) => verify::verify(operation).map(|()| Some(State::Ready)),
        (State::Ready, _) => {
            switch::get_ready(operation)?;
            follow(operation, VERY_NEAR)?;
            Ok(Some(State::Switching))
        }
        (State::Switching, _) => {
            let Some(refused) = switch::attempt(operation)? else {
                // The switch itself has entered the state.
                return Err(Trouble::Asked);
            };
            let locked = Report::new(refused.code, "the switch waits for a moment in which nobody holds the parent for long")
                .detail(format!("The last try: {}", refused.one_line()))
                .hint("It is tried again and again, and writers wait no longer than shardkeeper.switch_lock_timeout. See pg_locks for a session that keeps a lock on the parent.");
            transaction::run(|| operation::note_failure(operation.id, locked.into(), Some(0.0)))?;
            worker::sleep(REST);
            follow(operation, VERY_NEAR)?;
            Err(Trouble::Asked)
        }
        (State::Switched, wish) => {
            switch::tidy(operation)?;
            transaction::run(|| operation::set_tidy(operation.id))?;
            let is_due = wish != Wish::Pause && operation.keep_left <= 0.0;
            if wish == Wish::Finish || is_due { Ok(Some(State::Finished)) } else { Ok(None) }
        }
        (State::Reverting | State::Finished | State::Cancelled | State::Failed | State::Reverted, _) => Ok(None),
    }
}

/// Takes away what is no longer needed, and says that the operation is over.
fn clean_up(operation: &Operation) -> Step {
    if operation.state != State::Finished {
        // The way back of a switch that was half made leads through what is removed here.
        switch::undo_halves(operation)?;
    }
    // A server that is down must not keep the others from being cleaned.
    let done = [sweep::stage(operation), sweep::attic(operation), super::mirrors::drop_empty(operation)];
    done.into_iter().collect::<Result<Vec<()>>>()?;
    transaction::run(|| operation::end(operation.id))?;
    Ok(())
}

/// Applies changes until the sources are no more than so many bytes of log ahead.
fn follow(operation: &Operation, near: i64) -> Step {
    let mut flow = transaction::run(|| Flow::open(operation))?;
    let nodes = operation.plan.source_nodes();
    for node in &nodes {
        let session = flow.sources.get_mut(node).and_then(Option::as_mut);
        let mut outcome = Ok(());
        transaction::run(|| {
            outcome = stream::claim(operation, node, session);
            Ok(())
        })?;
        outcome?;
    }
    let mut told = Instant::now();
    loop {
        let mut behind = 0;
        let mut progressed = false;
        for node in &nodes {
            let before = flow.changes;
            let mut outcome = Ok(super::follow::Round::default());
            let ended = transaction::run(|| {
                outcome = flow.round(operation, node, Some(LIMIT));
                match &outcome {
                    Ok(_) => Ok(()),
                    Err(_) => Report::new(Code::ERRCODE_QUERY_CANCELED, "following was interrupted").into(),
                }
            });
            let round = outcome?;
            ended?;
            progressed |= flow.changes > before;
            let mut session = flow.sources.get_mut(node).and_then(Option::as_mut);
            let lag = transaction::run(|| {
                stream::advance(operation, session.as_deref_mut(), round.applied)?;
                stream::lag(operation, session)
            })?;
            let Some(lag) = lag else { return stream::gone(operation, node) };
            behind = behind.max(lag);
        }
        if told.elapsed() > Duration::from_millis(500) || behind <= near {
            told = Instant::now();
            let changes = flow.changes;
            transaction::run(|| {
                operation::set_progress(operation.id, Progress { changes, lag: Some(behind), ..Progress::default() })
            })?;
        }
        if behind <= near {
            return Ok(());
        }
        let asked = transaction::run(|| operation::load(operation.id))?;
        if asked.is_none_or(|found| found.wish != operation.wish) {
            return Err(Trouble::Asked);
        }
        if !progressed {
            worker::sleep(IDLE);
        }
    }
}

/// Writes down what went wrong, for people and for whoever goes on.
fn note(operation: &Operation, trouble: Trouble) {
    let subject = format!("operation {}", operation.id);
    let mut log = Log::default();
    let told = |error: &Error| match error {
        Error::Report(report) => Error::Report(report.clone()),
        other => Error::Report(Report::new(Code::ERRCODE_INTERNAL_ERROR, format!("{other:?}"))),
    };
    let written = match trouble {
        Trouble::Asked => Ok(()),
        Trouble::Again(error) => {
            let delay = Backoff::default().delay(operation.failures, operation.id as u64).as_secs_f64();
            log.trouble(&subject, told(&error));
            transaction::run(|| operation::note_failure(operation.id, error, Some(delay)))
        }
        Trouble::Halt(error) => {
            log.trouble(&subject, told(&error));
            transaction::run(|| operation::note_failure(operation.id, error, None))
        }
        Trouble::Fail(error) => {
            log.trouble(&subject, told(&error));
            transaction::run(|| {
                operation::enter(operation.id, State::Failed, None)?;
                operation::note_failure(operation.id, error, Some(0.0))
            })
        }
    };
    if let Err(error) = written {
        log.trouble(&subject, error);
    }
}
