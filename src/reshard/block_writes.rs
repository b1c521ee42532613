//! The way for servers that cannot tell changes, or tables whose rows nothing identifies: writers wait while one transaction
//! copies, compares and switches.
//!
//! It holds the parent EXCLUSIVE, and the sources on their nodes through the session channel: readers go on. The switch needs
//! ACCESS EXCLUSIVE. A session that has read and now waits to write is in its way and waits for it, for ever: its statement
//! is cancelled, as the deadlock detector would do it. Others that read leave by themselves.
//!
//! Nothing of it is kept when it ends early: the operation begins again by preparing.

use super::apply::Applier;
use super::convert::source_table::{self, OperationTable};
use super::copy;
use super::copy::build_indexes;
use super::copy::rate_limit::Throttle;
use super::outcome::{Interruption, Step};
use super::prepare::staging::Staging;
use super::server::{LONG, Server};
use super::switch::{self, swap, write_fence};
use super::{convert, lock_holders, verify};
use crate::catalog::operation::{self, Operation, Progress};
use crate::error::{Error, Report, Result};
use crate::guc;
use crate::hierarchy::managed_parent::ManagedParent;
use crate::name::{QualifiedName, ident, literal};
use crate::node::channel::Channel;
use crate::pg::{role, sql, subtransaction, transaction, worker};
use pgrx::PgSqlErrorCode as Code;
use serde::Deserialize;
use shardkeeper_core::operation::{Requested, State};
use shardkeeper_core::plan::LOCAL;
use std::time::{Duration, Instant};

/// Between two tries to get the first lock, as for the switch of an online operation.
const REST: Duration = Duration::from_millis(250);
/// Between two tries to get the last one: writers wait meanwhile.
const SHORT_REST: Duration = Duration::from_millis(50);
/// How long sessions that read may keep the switch, and with it the writers, waiting.
const PATIENCE: Duration = Duration::from_secs(30);

/// What may end a transaction that takes long.
const NO_LIMITS: &str = "SELECT pg_catalog.set_config(name, '0', true) FROM pg_catalog.pg_settings
    WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout', 'idle_session_timeout')";

/// On a node, whose session of ours is idle meanwhile: a coordinator that vanished is noticed within a minute, not after the
/// hours of the system's default, and its locks go.
const WATCH: &str = "SET LOCAL tcp_keepalives_idle = 30;
    SET LOCAL tcp_keepalives_interval = 10;
    SET LOCAL tcp_keepalives_count = 3";

/// Brings the operation from `copying` to `switched`.
pub fn run(operation: &Operation) -> Step {
    switch::get_ready(operation)?;
    let total = copy::sizes(operation)?;
    transaction::run(|| operation::set_progress(operation.id, total))?;
    loop {
        let mut locked = false;
        match attempt(operation, &mut locked) {
            Ok(rows) => {
                let progress = Progress { rows_done: rows, ..total };
                return Ok(transaction::run(|| operation::set_progress(operation.id, progress))?);
            }
            Err(Interruption::Again(error)) if !locked && error.is_lock() => {
                let report = Report::from(error);
                let told = Report::new(report.code, "the copy waits for a moment in which nobody writes to the parent for long")
                    .detail(format!("The last try: {}", report.one_line()))
                    .hint("It is tried again and again, and writers wait no longer than shardkeeper.switch_lock_timeout. See pg_locks for a session that keeps a lock on the parent.");
                lock_holders::waits_for_lock(operation, told)?;
                worker::sleep(REST);
                transaction::run(|| asked(operation))??;
            }
            Err(interruption) => {
                transaction::run(|| operation::go_back(operation.id, State::Preparing))?;
                return Err(interruption);
            }
        }
    }
}

/// Within a transaction.
fn asked(operation: &Operation) -> Result<Step> {
    let requested = operation::load(operation.id)?.map(|found| found.requested);
    Ok(if requested == Some(Requested::Run) { Ok(()) } else { Err(Interruption::Asked) })
}

/// The whole, in one transaction; the number of rows copied. `locked` tells whether it got its first locks.
fn attempt(operation: &Operation, locked: &mut bool) -> Step<i64> {
    let rows = transaction::run_step(|| work(operation, locked))?;
    // What cannot be reached now is done when the switch is tidied up.
    let _ = write_fence::open(operation);
    Ok(rows)
}

fn work(operation: &Operation, locked: &mut bool) -> Step<i64> {
    sql::run(NO_LIMITS, &[])?;
    keep_writers_out(operation)?;
    *locked = true;
    let surveys = if operation.converts() {
        source_table::unchanged(operation)?;
        Some(convert::surveys(operation)?)
    } else {
        let managed = role::acting_as(operation.role(), || ManagedParent::read(operation.parent()))?;
        switch::as_planned(operation, &managed, &operation.name)?;
        None
    };
    let mut rows = 0;
    let mut throttle = Throttle::open();
    for source in operation.plan.source_leaves() {
        rows += transaction::as_of_now(|| {
            copy::one_source(operation, Applier::open(operation)?, &mut throttle, source, rows)
        })?;
    }
    let staging = Staging::of(OperationTable::read(operation)?, operation)?;
    for node in operation.plan.target_nodes() {
        build_indexes::finish_tables(&staging, &node, &mut Server::within(&node, operation.role(), LONG)?)?;
    }
    verify::verify_locked(operation)?;
    let start = Instant::now();
    loop {
        // Right before the lock is asked for: who is cancelled comes again, and shall find us first in the queue.
        let refused = free_the_way(operation)?;
        let mut outcome = Ok(());
        let ended = subtransaction::attempt(|| {
            outcome = match &surveys {
                Some(surveys) => switch::lock_parent(operation)
                    .map_err(Interruption::from)
                    .and_then(|()| convert::swap(operation, surveys).map(drop)),
                None => swap(operation),
            };
            match &outcome {
                Ok(()) => Ok(()),
                Err(_) => Report::new(Code::ERRCODE_INTERNAL_ERROR, "the switch was not made").into(),
            }
        });
        let error = match (outcome, ended) {
            (Ok(()), Ok(())) => return Ok(rows),
            (Ok(()), Err(report)) => report.into(),
            (Err(Interruption::Again(error)), _) => error,
            (Err(interruption), _) => return Err(interruption),
        };
        if !error.is_lock() {
            return Err(error.into());
        }
        asked(operation)??;
        if start.elapsed() > PATIENCE {
            return Err(refused.unwrap_or_else(|| kept(error)).into());
        }
        worker::sleep(SHORT_REST);
    }
}

/// Writers on the coordinator, and those who write to the sources on their nodes, wait from here on.
fn keep_writers_out(operation: &Operation) -> Result<()> {
    let timeout = guc::switch_lock_timeout_milliseconds();
    sql::run(&format!("SET LOCAL lock_timeout = {timeout}"), &[])?;
    role::acting_as(operation.role(), || {
        sql::run(&format!("LOCK TABLE {} IN EXCLUSIVE MODE", switch::qualified(operation.parent())?), &[])?;
        lock_sources(operation, "EXCLUSIVE", &format!("{NO_LIMITS};\n{WATCH}"))
    })
}

fn swap(operation: &Operation) -> Step {
    switch::lock_parent(operation)?;
    let (managed, owners) = role::acting_as(operation.role(), || {
        lock_sources(operation, "ACCESS EXCLUSIVE", "SELECT 1")?;
        let owners = swap::owners(operation, |node, question| Channel::open(node)?.document(question))?;
        Ok((ManagedParent::read(operation.parent())?, owners))
    })?;
    swap::swap(operation, &managed, owners)
}

/// Through the session channel: the locks end with this transaction.
fn lock_sources(operation: &Operation, mode: &str, also: &str) -> Result<()> {
    for node in operation.plan.source_nodes().iter().filter(|node| *node != LOCAL) {
        let leaves: Vec<String> = sources_on(operation, node).map(|leaf| leaf.to_string()).collect();
        let above = &operation.plan.above;
        let commands = format!(
            "{also};\nLOCK TABLE ONLY {above} IN {mode} MODE;\nLOCK TABLE {} IN {mode} MODE",
            leaves.join(", ")
        );
        Channel::open(node)?.run(&commands, "SELECT 1")?;
    }
    Ok(())
}

fn sources_on<'a>(operation: &'a Operation, node: &'a str) -> impl Iterator<Item = &'a QualifiedName> {
    operation.plan.source_leaves().filter(move |(_, place)| *place == node).map(|(name, _)| name)
}

/// Cancels the statements of sessions that have a lock on one of `tables` (an SQL array of OIDs) and wait for this session,
/// themselves or behind others. A document: what could not be cancelled.
fn cancel_those_who_wait(tables: &str) -> String {
    format!(
        "WITH RECURSIVE waiting AS MATERIALIZED (
             SELECT DISTINCT l.pid, b.blocker FROM pg_catalog.pg_locks l, pg_catalog.unnest(pg_catalog.pg_blocking_pids(l.pid)) AS b (blocker)
             WHERE NOT l.granted
         ), behind (pid) AS (
             SELECT pg_catalog.pg_backend_pid() UNION SELECT w.pid FROM waiting w JOIN behind b ON w.blocker = b.pid
         ), stuck AS (
             SELECT a.pid, a.usename, pg_catalog.pg_has_role(a.usesysid, 'MEMBER') OR pg_catalog.pg_has_role('pg_signal_backend', 'MEMBER') AS may,
                    (SELECT rolsuper FROM pg_catalog.pg_roles WHERE oid = a.usesysid) AND pg_catalog.current_setting('is_superuser') <> 'on' AS above
             FROM behind b JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid
             WHERE b.pid <> pg_catalog.pg_backend_pid()
               AND EXISTS (SELECT FROM pg_catalog.pg_locks g WHERE g.pid = b.pid AND g.granted AND g.locktype = 'relation'
                           AND g.relation = ANY ({tables})
                           AND g.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
         )
         SELECT pg_catalog.json_agg(pg_catalog.json_build_object('pid', pid, 'role', usename, 'cancelled',
                    CASE WHEN may AND NOT above THEN pg_catalog.pg_cancel_backend(pid) ELSE false END))::text FROM stuck"
    )
}

#[derive(Deserialize)]
struct Stuck {
    pid: i32,
    role: Option<String>,
    cancelled: bool,
}

/// Ends what would wait for us as long as we wait for it. The error tells of a session that may not be cancelled.
fn free_the_way(operation: &Operation) -> Result<Option<Error>> {
    let parent = operation.parent().to_u32();
    let tree =
        format!("ARRAY(SELECT relid::oid FROM pg_catalog.pg_partition_tree({parent}::oid) UNION SELECT {parent}::oid)");
    let mut found: Vec<(String, Option<Vec<Stuck>>)> = Vec::new();
    for node in operation.plan.source_nodes().iter().filter(|node| *node != LOCAL) {
        let names: Vec<String> = std::iter::once(&operation.plan.above)
            .chain(sources_on(operation, node))
            .map(|name| format!("pg_catalog.to_regclass({})::oid", literal(&name.to_string())))
            .collect();
        let query = cancel_those_who_wait(&format!("ARRAY[{}]", names.join(", ")));
        let told = role::acting_as(operation.role(), || Channel::open(node)?.document(&query))?;
        found.push((node.clone(), told));
    }
    // The lock here is the first that is asked for.
    let told: Option<Option<Vec<Stuck>>> = sql::document(&cancel_those_who_wait(&tree), &[])?;
    found.push((LOCAL.to_string(), told.flatten()));
    let mut stuck = found
        .into_iter()
        .flat_map(|(node, stuck)| stuck.unwrap_or_default().into_iter().map(move |s| (node.clone(), s)));
    Ok(stuck.find(|(_, session)| !session.cancelled).map(|(node, Stuck { pid, role, .. })| {
        Report::new(
            Code::ERRCODE_OBJECT_IN_USE,
            format!("a session on node {} waits for the operation, and the operation for it", ident(&node)),
        )
        .detail(format!(
            "Process {pid} of role {} has read the table and now wants to write; its statement may not be cancelled from here.",
            ident(&role.unwrap_or_default())
        ))
        .hint("End it there, or run there GRANT pg_signal_backend TO the role of the user mapping; the operation begins again by itself.")
        .into()
    }))
}

fn kept(error: Error) -> Error {
    let report = Report::from(error);
    Report::new(report.code, "sessions that read the parent kept the switch from its lock for too long")
        .detail(format!("The last try: {}", report.one_line()))
        .hint("Writers go on for now, and the operation begins again by itself. See pg_locks for a session that keeps a lock on the parent, and end it.")
        .into()
}
