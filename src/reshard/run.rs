//! The worker of one operation: takes it from state to state until it is over, or until something is in the way.
//!
//! What the worker knows is in the operation's row; it can be killed at any line and another goes on. After an error it
//! leaves, and the database worker starts another one when it is time to try again.

use super::apply::Applier;
use super::apply::slot;
use super::copy::{self, build_indexes};
use super::outcome::{Interruption, Step};
use super::prepare::{self, default_exclusion};
use super::{block_writes, cleanup, lock_holders, operation_group, outcome, revert, switch, verify};
use crate::background::log::Log;
use crate::catalog::operation::{self, Operation, Progress};
use crate::catalog::parent;
use crate::catalog::way_back::WayBack;
use crate::error::{Report, Result};
use crate::guc;
use crate::name::literal;
use crate::node::session;
use crate::pg::lock::{self, Single};
use crate::pg::settings;
use crate::pg::{sql, stale_snapshot, transaction, worker};
use pgrx::PgSqlErrorCode as Code;
use shardkeeper_core::Lsn;
use shardkeeper_core::operation::{Mode, Requested, State, allowed};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Changes that are read from a slot at a time.
const LIMIT: i32 = 20_000;
/// Bytes of log behind the writers with which the comparison, and then the switch, are begun.
pub const NEAR: i64 = 16 << 20;
pub const VERY_NEAR: i64 = 1 << 20;
/// How long the switch is tried, and rested between two tries, before the operation goes back to following for a while.
pub const REST: Duration = Duration::from_millis(250);
/// How often servers are made to note which transactions run, while changes are followed.
const FRESHEN: Duration = Duration::from_secs(3);
/// What a note takes where nothing is in its way.
const NOTE: Duration = Duration::from_millis(200);
/// While it follows and nothing changes.
const IDLE: Duration = Duration::from_millis(100);

pub fn run(id: i64) {
    let log = Log::default();
    let subject = format!("operation {id}");
    match transaction::run(|| settle_in(id)).and_then(|ours| Ok(ours && take_up(id)?)) {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => return Log::default().failure(&subject, error),
    }
    loop {
        worker::reload_if_asked();
        if !guc::worker_enabled() || lock::database_is_wanted() {
            return;
        }
        let operation = match transaction::run(|| operation::load(id)) {
            Ok(Some(operation)) => operation,
            Ok(None) => return,
            Err(error) => return Log::default().failure(&subject, error),
        };
        match step(&operation) {
            Ok(Some(next)) => {
                if let Err(error) = transaction::run(|| operation::enter(id, next, None)) {
                    return Log::default().failure(&subject, error);
                }
                log.note(&subject, format!("{next}, {}", operation.name));
            }
            Ok(None) => return,
            Err(Interruption::Asked) => {}
            Err(met) => {
                outcome::note(&operation, met);
                return;
            }
        }
    }
}

/// `false` when another worker has the operation.
fn settle_in(id: i64) -> Result<bool> {
    session::keep_sessions();
    // By this name the view shard_progress finds the rows that are copied in a transaction still open.
    settings(&format!("shardkeeper operation {id}"))?;
    let number = u32::try_from(id).unwrap_or(u32::MAX);
    Ok((0..5).any(|attempt| {
        if attempt > 0 {
            worker::sleep(Duration::from_millis(20));
        }
        lock::become_single(Single::Operation(number))
    }))
}

/// How a worker that moves data runs its statements.
pub fn settings(name: &str) -> Result<()> {
    stale_snapshot::pass_over();
    settings::settle_worker()?;
    let more = [
        "SET client_encoding = 'UTF8'",
        // Rows are brought as they are: triggers of the application fired for them on the source.
        "SET session_replication_role = 'replica'",
        super::server::EVERY_ROW,
    ];
    for setting in more {
        sql::run(setting, &[])?;
    }
    sql::run(&format!("SET application_name = {}", literal(name)), &[])?;
    Ok(())
}

/// Whoever takes up an operation that was about to switch does not know what happened to the targets since they were
/// compared: a pause, a crash, a commit that was undone. They are compared again.
fn take_up(id: i64) -> Result<bool> {
    let Some(operation) = transaction::run(|| operation::load(id))? else { return Ok(false) };
    if operation.failures > 0 || !matches!(operation.state, State::Planned | State::Switched) {
        super::server::end_lost_sessions(&operation);
    }
    if matches!(operation.state, State::Ready | State::Switching) && operation.requested == Requested::Run {
        // A node that is down is met again by the comparison, which then says so.
        let _ = switch::undo_halves(&operation);
        transaction::run(|| operation::go_back(id, State::Verifying))?;
    }
    if operation.state == State::Reverting {
        let _ = switch::undo_halves(&operation);
    }
    if operation.state == State::Copying && operation.mode == Mode::BlockWrites && !operation.is_group() {
        // Of its one transaction nothing is left here, but there may be on nodes.
        transaction::run(|| operation::go_back(id, State::Preparing))?;
    }
    Ok(true)
}

/// What comes next; `None` when there is nothing to do now.
fn step(operation: &Operation) -> Step<Option<State>> {
    let requested = match allowed(operation.state, operation.requested) {
        Ok(()) => operation.requested,
        // It came too late.
        Err(_) => Requested::Run,
    };
    if operation.state.is_final() {
        clean_up(operation)?;
        return Ok(None);
    }
    if operation.state == State::Switched && operation.requested == Requested::Cancel {
        transaction::run(|| operation::forget_cancel(operation.id))?;
        return Err(Interruption::Asked);
    }
    if operation.is_group() {
        return operation_group::step(operation, requested);
    }
    if operation.state.is_before_switch()
        && !operation.converts()
        && transaction::run(|| parent::load(operation.parent()))?.is_none()
    {
        return super::outcome::fail(
            Report::new(
                Code::ERRCODE_UNDEFINED_TABLE,
                format!("{} is no longer there, or not managed", operation.name),
            )
            .hint("What the operation made is removed."),
        );
    }
    if requested == Requested::Run {
        transaction::run(|| Ok(super::convert::source_table::unchanged(operation)))??;
    }
    match (operation.state, requested) {
        (state, Requested::Pause) if state != State::Switched => Ok(None),
        (state, Requested::Cancel) if state.is_before_switch() => Ok(Some(State::Cancelled)),
        (State::Planned, _) => Ok(Some(State::Preparing)),
        (State::Preparing, _) => prepare::prepare(operation).map(|()| Some(State::Copying)),
        (State::Copying, _) if operation.mode == Mode::BlockWrites => {
            block_writes::run(operation)?;
            // Its transaction has entered the state.
            Err(Interruption::Asked)
        }
        (State::Copying, _) => copy::copy(operation).map(|()| Some(State::CatchingUp)),
        (State::CatchingUp, _) => {
            follow(operation, NEAR)?;
            default_exclusion::make(operation)?;
            Ok(Some(State::Verifying))
        }
        (State::Verifying, _) => verify::verify(operation).map(|()| Some(State::Ready)),
        (State::Ready, _) => {
            switch::get_ready(operation)?;
            revert::prepare(operation)?;
            follow(operation, VERY_NEAR)?;
            Ok(Some(State::Switching))
        }
        (State::Switching, _) => {
            let Some(refused) = switch::attempt(operation)? else {
                // The switch itself has entered the state.
                return Err(Interruption::Asked);
            };
            lock_holders::waits_for_lock(operation, switch::waits_for_lock(refused))?;
            worker::sleep(REST);
            follow(operation, VERY_NEAR)?;
            Err(Interruption::Asked)
        }
        (State::Switched, requested) => {
            if !operation.targets_cleaned {
                if !operation.way_back.as_ref().is_some_and(WayBack::is_open) {
                    cleanup::way_back(operation)?;
                }
                if !operation.staging_dropped {
                    switch::sweep(operation)?;
                    build_indexes::analyze(operation);
                    transaction::run(|| operation::set_staging_dropped(operation.id))?;
                }
                // What the targets carry goes with them in a revert, which need not wait for their locks.
                if requested != Requested::Revert {
                    revert::settle_in(operation)?;
                    switch::clear_targets(operation)?;
                    transaction::run(|| operation::set_targets_cleaned(operation.id))?;
                }
            }
            let is_due = operation.keep_left <= 0.0;
            match requested {
                Requested::Finish => Ok(Some(State::Finished)),
                Requested::Revert => Ok(Some(State::Reverting)),
                Requested::Pause => Ok(None),
                _ if is_due => Ok(Some(State::Finished)),
                // Its sources are kept current with those of all others.
                _ => Ok(None),
            }
        }
        (State::Reverting, Requested::Cancel) => {
            switch::undo_halves(operation)?;
            revert::drop_checks(operation);
            transaction::run(|| operation::stay_switched(operation.id, "the revert was given up"))?;
            Err(Interruption::Asked)
        }
        (State::Reverting, _) => revert::revert(operation),
        (State::Finished | State::Cancelled | State::Failed | State::Reverted, _) => Ok(None),
    }
}

/// Takes away what is no longer needed, and says that the operation is over.
fn clean_up(operation: &Operation) -> Step {
    if !matches!(operation.state, State::Finished | State::Reverted) {
        // The way back of a switch that was half made leads through what is removed here.
        switch::undo_halves(operation)?;
    }
    // A server that is down must not keep the others from being cleaned.
    let cleared = if operation.state == State::Reverted { revert::clear_retired(operation) } else { Ok(()) };
    let done = [
        cleared,
        cleanup::way_back(operation),
        cleanup::staging(operation),
        cleanup::retired(operation),
        default_exclusion::clear(operation),
        super::cleanup::empty_mirrors::drop_empty(operation),
    ];
    done.into_iter().collect::<Result<Vec<()>>>()?;
    transaction::run(|| operation::end(operation.id))?;
    Ok(())
}

/// Ends a step whose operation is asked for something else, and one that the worker shall leave. Outside a transaction.
pub fn look(operation: &Operation) -> Step {
    worker::reload_if_asked();
    let asked = transaction::run(|| operation::load(operation.id))?;
    let same = asked.is_some_and(|found| found.requested == operation.requested);
    if same && guc::worker_enabled() && !lock::database_is_wanted() { Ok(()) } else { Err(Interruption::Asked) }
}

/// Applies changes until the sources are no more than so many bytes of log ahead.
pub fn follow(operation: &Operation, near: i64) -> Step {
    let mut applier = transaction::run(|| Applier::open(operation))?;
    let nodes = operation.plan.source_nodes();
    for node in &nodes {
        let session = applier.sources.get_mut(node).and_then(Option::as_mut);
        let mut outcome = Ok(());
        transaction::run(|| {
            outcome = slot::claim(operation, node, session);
            Ok(())
        })?;
        outcome?;
    }
    let mut told = Instant::now();
    let mut freshened: Option<Instant> = None;
    // Before a switch: each look at a slot, also the last one that others wait for, begins at the last but one note.
    let mut notes = if near <= VERY_NEAR { 2 } else { 0 };
    // Where each server's log ended before its slot is looked at: other tables may fill it, the copy too, and this one has no
    // changes. A look decodes all of that, so it should not need a second one to be over.
    let mut ends: HashMap<&String, Lsn> = HashMap::new();
    for node in &nodes {
        let session = applier.sources.get_mut(node).and_then(Option::as_mut);
        let Some(lag) = transaction::run(|| slot::lag(operation, session))? else { return slot::gone(operation, node) };
        ends.insert(node, lag.end());
    }
    loop {
        if freshened.is_none_or(|at| at.elapsed() > FRESHEN) {
            let begun = Instant::now();
            freshened = Some(begun);
            nodes
                .iter()
                .for_each(|node| slot::freshen(operation, applier.sources.get_mut(node).and_then(Option::as_mut)));
            // An old transaction is in the way of a note, and will be in that of the next one.
            if begun.elapsed() > NOTE {
                notes = 0;
            }
        }
        let mut behind = 0;
        let mut progressed = false;
        for node in &nodes {
            let before = applier.changes;
            let round = transaction::run_step(|| applier.round(operation, node, Some(LIMIT)))?;
            applier.has_committed(node, round);
            progressed |= applier.changes > before;
            let mut session = applier.sources.get_mut(node).and_then(Option::as_mut);
            let lag = transaction::run(|| {
                let seen = ends.get(node).copied().filter(|_| round.whole).unwrap_or_default();
                slot::advance(&operation.staging, session.as_deref_mut(), round.applied.max(seen))?;
                slot::lag(operation, session)
            })?;
            let Some(lag) = lag else { return slot::gone(operation, node) };
            behind = behind.max(lag.bytes);
            ends.insert(node, lag.end());
        }
        if told.elapsed() > Duration::from_millis(500) || behind <= near {
            told = Instant::now();
            let changes = applier.changes;
            transaction::run(|| {
                operation::set_progress(operation.id, Progress { changes, lag: Some(behind), ..Progress::default() })
            })?;
        }
        if behind <= near {
            if notes == 0 {
                return Ok(());
            }
            notes -= 1;
            freshened = None;
        }
        look(operation)?;
        if !progressed && behind > near {
            worker::sleep(IDLE);
        }
    }
}
