//! The switch: in one transaction that holds the parent, the last changes are applied and the targets take the places of the
//! sources, on all servers. Writers that wait for the lock go on with the new partitions.
//!
//! On nodes everything goes through the session channel, so it commits and heals like any other change: nodes first, the coordinator
//! last, and if the coordinator dies amid the commits, its own outcome decides. Where it has committed, the switch stands: nodes
//! forget their journals and the write fence goes. Where it has not, what nodes have committed is undone by their journals
//! (`node/in_doubt.rs`), at once by the operation's next worker, or else by that of the database, and direct writers on nodes wait
//! meanwhile (`write_fence`); the operation goes back to comparing, and switches again.
//!
//! The replaced tables go to a schema of their own, that of what is retired, where nobody finds them.

pub mod laps;
pub mod swap;
pub mod write_fence;

use self::laps::Laps;
use self::swap::swap;
use super::apply::Applier;
use super::apply::slot;
use super::outcome::{Step, fail};
use super::prepare::default_exclusion;
use super::prepare::staging::ATTACH_CHECK;
use super::revert;
use super::server::{BRIEF, Server};
use crate::catalog::operation::{self, Operation};
use crate::catalog::parent;
use crate::error::{Error, Report, Result};
use crate::guc;
use crate::hierarchy::managed_parent::ManagedParent;
use crate::name::ident;
use crate::node::channel::Channel;
use crate::node::in_doubt::{self, Coordinator};
use crate::node::session::{self, ConnectionParams as Way, Lent};
use crate::partitions::partition_ddl::lives_on;
use crate::pg::{role, sql, transaction, worker};
use futures_util::future::join_all;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::operation::Kind;
use shardkeeper_core::plan::LOCAL;
use std::time::{Duration, Instant};

/// How often, and with what rests, a lock of a table that serves is asked for before its worker leaves.
const TRIES: usize = 20;
const REST: Duration = Duration::from_millis(250);
/// How often, at most, what the sources' slots have is applied before the lock is asked for.
const APPROACHES: usize = 4;
/// Time for which that is near enough.
const NEAR: Duration = Duration::from_millis(10);

/// Schemas for what is replaced, and open ways to the nodes: what need not be done while writers wait.
pub fn get_ready(operation: &Operation) -> Result<()> {
    let retired = ident(&operation.retired());
    transaction::run(|| {
        let owner = role::name(operation.role())?;
        sql::run_quietly(&format!("CREATE SCHEMA IF NOT EXISTS {retired} AUTHORIZATION {}", ident(&owner)))
    })?;
    for node in &operation.plan.remote_nodes() {
        session::wait(async {
            let mut place = Server::open(node, operation.role(), BRIEF).await?;
            place.run(&format!("CREATE SCHEMA IF NOT EXISTS {retired}")).await
        })?;
    }
    transaction::run(|| {
        role::acting_as(operation.role(), || {
            for node in operation.plan.remote_nodes() {
                Channel::open(&node)?.query("SELECT 1")?;
            }
            Ok(())
        })
    })
}

/// One attempt. What it returns was in the way: nothing has changed, and writers waited no longer than
/// `shardkeeper.switch_lock_timeout`.
pub fn attempt(operation: &Operation) -> Step<Option<Report>> {
    let mut outcome = Ok(());
    let ended = transaction::run(|| {
        outcome = work(operation);
        match &outcome {
            Ok(()) => Ok(()),
            Err(_) => Report::new(Code::ERRCODE_QUERY_CANCELED, "the switch was not made").into(),
        }
    });
    match (outcome, ended) {
        (Ok(()), Ok(())) => {
            // What cannot be reached now is done when the switch is tidied up.
            let _ = write_fence::open(operation);
            Ok(None)
        }
        (Ok(()), Err(error)) => {
            // Some nodes may have committed. What cannot be reached now is the database worker's.
            let _ = undo_halves(operation);
            not_now(error)
        }
        (Err(super::outcome::Interruption::Again(error)), _) => not_now(error),
        (Err(interruption), _) => Err(interruption),
    }
}

/// Where a node has committed a switch that the coordinator has not, it is undone at once: until then clients do not find
/// the partitions in their places.
pub fn undo_halves(operation: &Operation) -> Result<()> {
    settle(operation, &operation.plan.remote_nodes())
}

/// Settles the journals of these nodes now, and not at the database worker's next visit.
pub fn settle(operation: &Operation, nodes: &[String]) -> Result<()> {
    let (coordinator, ways) = transaction::run(|| {
        let ways = nodes.iter().map(|node| Way::of(node, operation.role())).collect::<Result<Vec<_>>>()?;
        Ok((Coordinator::read()?, ways))
    })?;
    session::wait(async {
        let visits = ways.iter().map(async |way| {
            let mut lent = Lent::open(way, BRIEF).await?;
            in_doubt::settle(lent.session().await?, &coordinator).await.map(drop)
        });
        join_all(visits).await.into_iter().collect()
    })
}

/// What an operation says that waits for the lock of its switch.
pub fn waits_for_lock(refused: Report) -> Report {
    Report::new(refused.code, "the switch waits for a moment in which nobody holds the parent for long")
        .detail(format!("The last try: {}", refused.one_line()))
        .hint("It is tried again and again, and writers wait no longer than shardkeeper.switch_lock_timeout. See pg_locks for a session that keeps a lock on the parent.")
}

fn not_now(error: Error) -> Step<Option<Report>> {
    let report = Report::from(error);
    let passes = report.is_lock() || report.code == Code::ERRCODE_T_R_SERIALIZATION_FAILURE;
    if passes { Ok(Some(report)) } else { Err(Error::from(report).into()) }
}

/// The final mode at once, and all partitions with it: a weaker lock first would deadlock with those who read and then
/// write.
pub fn lock_parent(operation: &Operation) -> Result<()> {
    let timeout = guc::switch_lock_timeout_milliseconds();
    sql::run(&format!("SET LOCAL lock_timeout = {timeout}"), &[])?;
    role::acting_as(operation.role(), || {
        sql::run(&format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", qualified(operation.parent())?), &[])
    })?;
    Ok(())
}

fn work(operation: &Operation) -> Step {
    if operation.converts() {
        return super::convert::switch(operation);
    }
    if operation.is_return && operation.kind == Kind::Convert {
        return super::convert::convert_back::switch(operation);
    }
    let mut applier = Applier::open(operation)?;
    let name = sql::one::<String>("SELECT $1::regclass::text", &[operation.parent().into()])?.unwrap_or_default();
    let owners = swap::owners_on_targets(operation, &mut applier)?;
    let (managed, mut laps) = hold(operation, &mut applier)?;
    as_planned(operation, &managed, &name)?;
    drain(operation, &mut applier, &mut laps)?;
    swap(operation, &managed, owners)?;
    laps.lap("swap");
    if !operation.is_return {
        revert::open(operation, operation.parent(), &mut applier)?;
        laps.lap("way back");
    }
    operation::note_last(operation.id, &laps.to_string())?;
    Ok(())
}

/// From here on nobody reads the parent, nor writes to the sources on their nodes.
pub fn hold(operation: &Operation, applier: &mut Applier) -> Step<(ManagedParent, Laps)> {
    approach(operation, applier)?;
    lock_parent(operation)?;
    let mut laps = Laps::begin();
    let managed = role::acting_as(operation.role(), || {
        let managed = ManagedParent::read(operation.parent())?;
        laps.lap("read");
        fence(operation)?;
        laps.lap("fence");
        Ok(managed)
    })?;
    Ok((managed, laps))
}

/// Applies most of what is left, before anybody waits. What is written meanwhile is left again, each time less of it.
pub fn approach(operation: &Operation, applier: &mut Applier) -> Step {
    for _ in 0..APPROACHES {
        let begun = Instant::now();
        operation.plan.source_nodes().iter().try_for_each(|node| applier.up_to_date(operation, node).map(drop))?;
        if begun.elapsed() < NEAR {
            break;
        }
    }
    Ok(())
}

/// Applies the last changes: nobody can make more.
pub fn drain(operation: &Operation, applier: &mut Applier, laps: &mut Laps) -> Step {
    for node in operation.plan.source_nodes() {
        slot::end_of_log(applier.sources.get_mut(&node).and_then(Option::as_mut))?;
        laps.lap("end of log");
        applier.up_to_date(operation, &node)?;
        laps.lap("last changes");
    }
    Ok(())
}

pub fn qualified(relation: Oid) -> Result<String> {
    let found = sql::one::<String>(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
        &[relation.into()],
    )?;
    found.map_or_else(|| parent::not_managed(relation), Ok)
}

/// Nobody writes to the sources on their nodes from here to the end of the transaction.
///
/// The table above them stays readable for a moment: the check of a hash target opens it while the last changes are applied.
/// Writers through it are kept out, so that only one who reads first and writes now can be in the way of the swap.
fn fence(operation: &Operation) -> Result<()> {
    for node in operation.plan.source_nodes().iter().filter(|node| *node != LOCAL) {
        let leaves = operation.plan.source_leaves().filter(|(_, place)| place == node);
        let leaves: Vec<String> = leaves.map(|(name, _)| name.to_string()).collect();
        let lock = format!(
            "LOCK TABLE ONLY {} IN EXCLUSIVE MODE; LOCK TABLE {} IN ACCESS EXCLUSIVE MODE",
            operation.plan.above,
            leaves.join(", ")
        );
        Channel::open(node)?.run(&lock, "SELECT 1")?;
    }
    Ok(())
}

/// The partitions are still those that the operation was planned for. Under a lock of the parent.
pub fn as_planned(operation: &Operation, managed: &ManagedParent, name: &str) -> Step {
    if is_as_planned(operation, managed) {
        return Ok(());
    }
    fail(
        Report::new(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("the partitions of {name} were changed while the data moved"),
        )
        .hint("Call for the operation again."),
    )
}

fn is_as_planned(operation: &Operation, managed: &ManagedParent) -> bool {
    let plan = &operation.plan;
    let Some(above) = managed.members.iter().find(|member| member.name == plan.above) else { return false };
    plan.sources.iter().all(|source| {
        managed.children(above.oid()).any(|child| child.name == source.name)
            && source.tables.iter().all(|table| {
                let found = managed.members.iter().find(|member| member.name == table.name);
                found.is_some_and(|member| table.node.as_deref().is_none_or(|node| node == member.node()))
            })
    })
}

/// After the switch, and before the first step back: what it made needless goes. Safe to repeat.
pub fn sweep(operation: &Operation) -> Result<()> {
    write_fence::open(operation)?;
    super::cleanup::staging(operation)
}

/// Takes away what the targets carried for the switch. They serve by now: for each a lock is asked for as briefly as for the
/// switch itself, and of one table at a time, or it could deadlock with writers.
pub fn clear_targets(operation: &Operation) -> Result<()> {
    let (above, tree) = (&operation.plan.above, operation.plan.target_tree());
    for node in operation.plan.target_nodes() {
        let mut commands = Vec::new();
        if operation.kind != Kind::Convert {
            let checked = operation.plan.targets.iter().filter(|target| match node.as_str() {
                LOCAL => target.sub.is_some() || target.node.as_deref() == Some(LOCAL),
                node => lives_on(target, node),
            });
            let checked = checked.map(|target| above.sibling(&target.name));
            let check = ident(ATTACH_CHECK);
            commands.extend(
                checked.map(|table| format!("ALTER TABLE IF EXISTS {table} DROP CONSTRAINT IF EXISTS {check}")),
            );
        }
        if node != LOCAL {
            let leaves = tree.leaves().filter(|leaf| leaf.node.as_deref() == Some(&node));
            commands.extend(leaves.map(|leaf| write_fence::removal(&above.sibling(&leaf.name))));
        }
        let mut place = session::wait(Server::open(&node, operation.role(), BRIEF))?;
        commands.iter().try_for_each(|command| gently(&mut place, command)).map_err(cannot_clean_targets)?;
    }
    default_exclusion::clear(operation)
}

/// Tries for a while; writers never wait for longer than `shardkeeper.switch_lock_timeout`.
pub fn gently(place: &mut Server, command: &str) -> Result<()> {
    let command = format!("SET LOCAL lock_timeout = {}; {command}", guc::switch_lock_timeout_milliseconds());
    for _ in 0..TRIES {
        match session::wait(place.run(&command)) {
            Err(error) if error.is_lock() => worker::sleep(REST),
            outcome => return outcome,
        }
    }
    session::wait(place.run(&command))
}

fn cannot_clean_targets(error: Error) -> Error {
    match error {
        Error::Report(refused) if refused.is_lock() => Report::new(
            refused.code,
            "sessions keep the lock of a new partition, and the operation cannot tidy up after its switch",
        )
        .detail(refused.one_line())
        .hint("It is tried again and again; the new partitions serve. See pg_locks for a session that keeps a lock on one.")
        .into(),
        other => other,
    }
}
