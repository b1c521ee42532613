//! The way back: from the switch on, what changes in the targets is brought to the sources too, so that these can serve again
//! without a loss until they are given up.
//!
//! It is the same engine with sources and targets changed over (`Operation::turned_round`): a stream on each server of the
//! targets, joined before the switch (`shared_slot`); staging tables in the retired schema, in which the sources are partitions
//! again; the same following, which `keeper` does for all operations together, comparison and switch.

pub mod keeper;
pub mod shared_slot;

use super::apply::Applier;
use super::convert::convert_back;
use super::outcome::{Interruption, Step, fail};
use super::prepare::staging::{ATTACH_CHECK, Staging};
use super::prepare::{self, default_exclusion, prerequisites};
use super::server::{BRIEF, LONG, Server};
use super::switch::{self, write_fence};
use super::{cleanup, lock_holders, plan, run, verify};
use crate::catalog::operation::{self, Operation};
use crate::catalog::way_back::{self, WayBack};
use crate::catalog::{parent, progress};
use crate::error::{Report, Result};
use crate::hierarchy::managed_parent::ManagedParent;
use crate::name::{QualifiedName, ident, literal};
use crate::node::session;
use crate::partitions::partition_ddl::lives_on;
use crate::pg::{role, sql, transaction, worker};
use crate::table::definition::TableDefinition;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use serde_json::Value;
use shardkeeper_core::operation::{Kind, Mode, State};
use shardkeeper_core::plan::{LOCAL, Partition};

/// Before the switch: from here on, the servers of the targets keep their changes. Where one cannot, the operation goes on
/// without a way back, and says so.
pub fn prepare(operation: &Operation) -> Step {
    if operation.way_back.as_ref().is_some_and(|way_back| way_back.lost.is_some()) {
        return Ok(());
    }
    if let Some(why) = obstacle(operation)? {
        cleanup::way_back(operation)?;
        transaction::run(|| way_back::lose(operation.id, &why))?;
        return Ok(());
    }
    for (node, tables) in targets(operation) {
        if let Err(interruption) = shared_slot::join(operation, &node, &tables) {
            let Interruption::Again(error) = interruption else { return Err(interruption) };
            let report = Report::from(error);
            let refused = [Code::ERRCODE_INSUFFICIENT_PRIVILEGE, Code::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED];
            if !refused.contains(&report.code) {
                return Err(report.into());
            }
            transaction::run(|| way_back::lose(operation.id, &format!("When it switched: {}", report.reason())))?;
            return Ok(());
        }
    }
    transaction::run(|| way_back::begin(operation.id))?;
    Ok(())
}

/// The servers of the targets, each with its leaves where they stand before the switch.
fn targets(operation: &Operation) -> Vec<(String, Vec<QualifiedName>)> {
    let tree = operation.plan.target_tree();
    let on = |node: &String| -> Vec<QualifiedName> {
        let here = tree.leaves().filter(|leaf| leaf.node.as_deref().unwrap_or(LOCAL) == node);
        here.map(|leaf| operation.staged(&leaf.name)).collect()
    };
    operation.plan.target_nodes().into_iter().map(|node| (node.clone(), on(&node))).collect()
}

/// Why there will be no way back.
fn obstacle(operation: &Operation) -> Step<Option<String>> {
    if !operation.keeps {
        return Ok(Some("It was called for with keep => '0'.".into()));
    }
    if operation.plan.before.is_none() {
        return Ok(Some("What it replaced is not described by the spec of the parent.".into()));
    }
    if let Some(report) = prerequisites::cannot_return(operation)? {
        return Ok(Some(format!("When it switched, {}.", report.message)));
    }
    for (node, tables) in targets(operation) {
        if let Some(report) = prerequisites::cannot_follow(operation, &node, &tables)? {
            return Ok(Some(format!("When it switched, {}.", report.message)));
        }
    }
    Ok(None)
}

/// Part of the switch: whatever commits on the servers of the targets later than this, others have written.
pub fn open(operation: &Operation, parent: Oid, applier: &mut Applier) -> Result<()> {
    const END: &str = "SELECT pg_catalog.pg_current_wal_insert_lsn()::text";
    // As it is now: others may have needed the slot since.
    if !way_back::is_begun(operation.id)? {
        return Ok(());
    }
    let mut way_back = WayBack {
        shape: shape(operation, parent)?,
        switched_in: sql::document("SELECT pg_catalog.pg_current_xact_id()::xid::text", &[])?,
        ..WayBack::default()
    };
    for target in &mut applier.targets {
        let end: Option<String> = match &mut target.session {
            None => sql::one(END, &[])?,
            Some(session) => session::wait(session.one(END, &[]))?,
        };
        let Some(end) = end else {
            return Report::new(Code::ERRCODE_INTERNAL_ERROR, "the server told no position of its log").into();
        };
        way_back.since.insert(target.node.clone(), end);
    }
    way_back::set(operation.id, &way_back)
}

/// What of the parent has to be the same at the return. A plain table takes back its own place, with all that was put on it.
fn shape(operation: &Operation, parent: Oid) -> Result<Option<Value>> {
    role::acting_as(operation.role(), || match operation.kind {
        Kind::Convert => TableDefinition::whole(parent),
        _ => TableDefinition::shape(parent),
    })
}

/// The first step after the switch, and after a revert that was given up: from here on the sources can be kept current
/// together with those of others. A way that cannot be kept open is given up: the operation stays switched.
pub fn settle_in(operation: &Operation) -> Step {
    let Some(back) = turned(operation) else { return Ok(()) };
    let settled = prepare_return(&back).and_then(|()| {
        if operation.streams.values().any(|shared| shared.apart) {
            run::follow(&back, run::VERY_NEAR)?;
        }
        shared_slot::rejoin(operation, &back)
    });
    match settled {
        Err(Interruption::Fail(error) | Interruption::Halt(error)) => {
            let why = Report::from(error).reason();
            transaction::run(|| way_back::lose(operation.id, &why))?;
            Err(Interruption::Asked)
        }
        other => other,
    }
}

pub fn turned(operation: &Operation) -> Option<Operation> {
    let is_open = operation.way_back.as_ref().is_some_and(WayBack::is_open);
    operation.turned_round().filter(|_| is_open)
}

/// The switch back. Between tries, and in the end if it cannot be made, the targets serve.
pub fn revert(operation: &Operation) -> Step<Option<State>> {
    let why = match turned(operation) {
        // It was lost since the revert was asked for.
        None => why_none(operation),
        Some(back) => match try_revert(operation, &back) {
            Err(Interruption::Fail(error) | Interruption::Halt(error)) => Report::from(error).reason(),
            outcome => return outcome.map(|()| None),
        },
    };
    switch::undo_halves(operation)?;
    drop_checks(operation);
    transaction::run(|| {
        way_back::lose(operation.id, &why)?;
        operation::stay_switched(operation.id, "it cannot be reverted")
    })?;
    Err(Interruption::Asked)
}

/// `back` is the operation turned round.
fn try_revert(operation: &Operation, back: &Operation) -> Step {
    let spec = transaction::run(|| parent::require(operation.parent()))?.spec;
    if spec != operation.plan.spec {
        return changed(operation);
    }
    prepare_return(back)?;
    shared_slot::part(operation)?;
    run::follow(back, run::NEAR)?;
    default_exclusion::make(back)?;
    verify::verify(back)?;
    add_checks(back)?;
    switch::get_ready(back)?;
    loop {
        run::follow(back, run::VERY_NEAR)?;
        let Some(refused) = switch::attempt(back)? else { return Err(Interruption::Asked) };
        lock_holders::waits_for_lock(back, switch::waits_for_lock(refused))?;
        worker::sleep(run::REST);
        run::look(operation)?;
    }
}

/// Lets the sources be attached without being read under the lock. Safe to repeat.
fn add_checks(back: &Operation) -> Result<()> {
    if back.kind == Kind::Convert {
        return Ok(());
    }
    let Some(command) = Staging::read(back)?.return_checks() else { return Ok(()) };
    let mut nodes = back.plan.remote_target_nodes();
    nodes.push(LOCAL.to_string());
    for node in nodes {
        session::wait(async { Server::open(&node, back.role(), LONG).await?.run(&command).await })?;
    }
    Ok(())
}

/// The sources stay where they are: what they got for the switch back goes. A server that is down keeps it, which does no
/// harm but for what depends on it.
pub fn drop_checks(operation: &Operation) {
    let Some(back) = operation.turned_round().filter(|back| back.kind != Kind::Convert) else { return };
    for node in back.plan.target_nodes() {
        let here = back.plan.targets.iter().filter(|target| match node.as_str() {
            LOCAL => target.sub.is_some() || target.node.as_deref() == Some(LOCAL),
            node => lives_on(target, node),
        });
        let drop = |target: &Partition| {
            let (table, check) = (back.staged(&target.name), ident(ATTACH_CHECK));
            format!("ALTER TABLE IF EXISTS {table} DROP CONSTRAINT IF EXISTS {check}")
        };
        let commands: Vec<String> = here.map(drop).collect();
        let _ =
            session::wait(async { Server::open(&node, back.role(), BRIEF).await?.run(&commands.join(";\n")).await });
    }
}

fn changed<T>(operation: &Operation) -> Step<T> {
    let text = format!("{} was changed since operation {} switched", operation.name, operation.id);
    fail(Report::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, text))
}

/// The sources are partitions again, of a table in the retired schema. Safe to repeat; nobody is kept waiting.
///
/// First of all the parent is looked at: those of one that was altered cannot be, and that would be told instead.
pub fn prepare_return(back: &Operation) -> Step {
    has_its_shape(back)?;
    if back.kind != Kind::Convert {
        make_stage(back)?;
    }
    Ok(())
}

/// The parent is what it was at the switch.
pub fn has_its_shape(back: &Operation) -> Step {
    if transaction::run(|| parent::load(back.parent()))?.is_none() {
        return changed(back);
    }
    let shape = transaction::run(|| shape(back, back.parent()))?;
    if shape.is_some() && back.way_back.as_ref().is_some_and(|way_back| way_back.shape == shape) {
        return Ok(());
    }
    changed(back)
}

fn make_stage(back: &Operation) -> Result<()> {
    let staging = Staging::read(back)?;
    for node in &back.plan.remote_target_nodes() {
        let progress = format!("SELECT (to_regclass({}) IS NOT NULL)::text", literal(&progress::table(back, node)));
        let there: Option<bool> =
            session::wait(async { Server::open(node, back.role(), BRIEF).await?.document(&progress, &[]).await })?;
        if there == Some(true) {
            continue;
        }
        let survey = prepare::way(back, node)?;
        let commands = staging.return_on(node, &survey).join(";\n");
        session::wait(async { Server::open(node, back.role(), LONG).await?.run(&commands).await })?;
    }
    let root = staging.root().to_string();
    let there = transaction::run(|| {
        sql::one::<bool>("SELECT pg_catalog.to_regclass($1) IS NOT NULL", &[root.as_str().into()])
    })?;
    if there != Some(true) {
        transaction::run(|| {
            leave_publications(back)?;
            role::acting_as(back.role(), || sql::run_quietly(&staging.return_here().join(";\n")))
        })?;
    }
    Ok(())
}

/// What is brought to the sources is no news for the subscribers of the application's publications. As the worker itself: a
/// publication can be of another owner.
fn leave_publications(back: &Operation) -> Result<()> {
    let commands: Vec<String> = sql::column(
        "SELECT pg_catalog.format('ALTER PUBLICATION %I DROP TABLE %I.%I', p.pubname, n.nspname, c.relname)
         FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
         JOIN pg_catalog.pg_class c ON c.oid = r.prrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1",
        &[back.staging.as_str().into()],
    )?;
    commands.iter().try_for_each(|command| sql::run_quietly(command))
}

/// What the way back left in the retired schema, once the sources have come out of it.
pub fn clear_retired(operation: &Operation) -> Result<()> {
    let Some(back) = operation.turned_round() else { return Ok(()) };
    write_fence::open(&back)?;
    switch::clear_targets(&back)?;
    let mut nodes = back.plan.target_nodes();
    nodes.push(LOCAL.to_string());
    nodes.dedup();
    for node in nodes {
        let mut drops = format!("DROP TABLE IF EXISTS {}", back.staged(&back.plan.above.name));
        if node != LOCAL {
            drops = format!("{drops}, {}", progress::table(&back, &node));
        }
        session::wait(async { Server::open(&node, back.role(), BRIEF).await?.run(&drops).await })?;
    }
    Ok(())
}

/// Why there is no way back.
fn why_none(operation: &Operation) -> String {
    let lost = operation.way_back.as_ref().and_then(|way_back| way_back.lost.clone());
    lost.unwrap_or_else(|| nothing_kept(operation.mode).to_string())
}

/// Why an operation has no way back that has lost none.
pub const fn nothing_kept(mode: Mode) -> &'static str {
    match mode {
        Mode::BlockWrites => "It was made with mode => 'block_writes', where changes are not followed.",
        Mode::Online => "Nothing was kept for it.",
    }
}

/// Whether a revert can begin.
///
/// Errors: 55000 there is no way back; 55006 another operation runs on the parent.
pub fn check(operation: &Operation) -> Result<()> {
    if operation.is_group() {
        return super::modulus_group::check(operation);
    }
    if operation.state == State::Switched && !operation.way_back.as_ref().is_some_and(WayBack::is_open) {
        let text = format!("operation {} has no way back", operation.id);
        let report = Report::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, text).detail(why_none(operation));
        return match operation.kind {
            // No operation makes a plain table of a parent.
            Kind::Convert => report,
            _ => report.hint("Start another operation to move the data back."),
        }
        .into();
    }
    if operation.state == State::Switched {
        operation::refuse_if_running(operation.parent(), &ident(&operation.name))?;
        let back = operation.turned_round().filter(|_| operation.kind != Kind::Convert);
        if let Some(found) = back.map(|back| plan::since(&back.plan)).transpose()?.flatten() {
            return found.hint("Drop them first: the old tables come in the place of these partitions.").into();
        }
        if operation.kind == Kind::Convert {
            convert_back::no_dependents(operation, &ManagedParent::read(operation.parent())?)?;
        }
    }
    Ok(())
}
