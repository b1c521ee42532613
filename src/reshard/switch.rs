//! The switch: in one transaction that holds the parent, the last changes are applied and the targets take the places of the
//! sources, on all servers. Writers that wait for the lock go on with the new partitions.
//!
//! On nodes everything goes through the session channel, so it commits and heals like any other change. The replaced tables
//! go to a schema of their own, the attic, where nobody finds them.

use super::back;
use super::follow::Flow;
use super::plan::label_rows;
use super::stage::{ATTACH_CHECK, Stage};
use super::stream;
use super::subject::Subject;
use super::trouble::{Step, fail};
use crate::catalog::operation::{self, Operation, Source};
use crate::catalog::parent;
use crate::catalog::way_back;
use crate::error::{Error, Report, Result};
use crate::guc;
use crate::hierarchy::bound::for_values;
use crate::hierarchy::build::lives_on;
use crate::hierarchy::grants;
use crate::hierarchy::managed::Managed;
use crate::hierarchy::rebuild;
use crate::hierarchy::script::Script;
use crate::name::{QualifiedName, ident, literal};
use crate::node::channel::Channel;
use crate::node::heal::{self, Coordinator};
use crate::node::own::{self, Session, Target as Way};
use crate::pg::{managed as cache, role, sql, transaction};
use crate::reshard::place::{BRIEF, Place};
use futures_util::future::join_all;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use serde::Deserialize;
use shardkeeper_core::operation::{Kind, State};
use shardkeeper_core::plan::{LOCAL, Partition};
use std::collections::BTreeMap;

/// Schemas for what is replaced, and open ways to the nodes: what need not be done while writers wait.
pub fn get_ready(operation: &Operation) -> Result<()> {
    let attic = ident(&operation.attic());
    transaction::run(|| {
        let owner = role::name(operation.role())?;
        sql::run_quietly(&format!("CREATE SCHEMA IF NOT EXISTS {attic} AUTHORIZATION {}", ident(&owner)))
    })?;
    for node in operation.plan.source_nodes().iter().filter(|node| *node != LOCAL) {
        own::wait(async {
            let mut place = Place::open(node, operation.role(), BRIEF).await?;
            place.run(&format!("CREATE SCHEMA IF NOT EXISTS {attic}")).await
        })?;
    }
    transaction::run(|| {
        role::acting_as(operation.role(), || {
            for node in nodes(operation) {
                Channel::open(&node)?.query("SELECT 1")?;
            }
            Ok(())
        })
    })
}

pub fn nodes(operation: &Operation) -> Vec<String> {
    let mut nodes = operation.plan.source_nodes();
    nodes.extend(operation.plan.target_nodes());
    nodes.retain(|node| node != LOCAL);
    nodes.sort();
    nodes.dedup();
    nodes
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
        (Ok(()), Ok(())) => Ok(None),
        (Ok(()), Err(error)) => {
            // Some nodes may have committed. What cannot be reached now is the database worker's.
            let _ = undo_halves(operation);
            not_now(error)
        }
        (Err(super::trouble::Trouble::Again(error)), _) => not_now(error),
        (Err(trouble), _) => Err(trouble),
    }
}

/// Where a node has committed a switch that the coordinator has not, it is undone at once: until then clients do not find
/// the partitions in their places.
pub fn undo_halves(operation: &Operation) -> Result<()> {
    settle(operation, &nodes(operation))
}

/// Settles the journals of these nodes now, and not at the database worker's next visit.
pub fn settle(operation: &Operation, nodes: &[String]) -> Result<()> {
    let (coordinator, ways) = transaction::run(|| {
        let ways = nodes.iter().map(|node| Way::of(node, operation.role())).collect::<Result<Vec<_>>>()?;
        Ok((Coordinator::read()?, ways))
    })?;
    own::wait(async {
        let visits = ways.iter().map(async |way| {
            let mut session = Session::open(way, BRIEF).await?;
            heal::settle(&mut session, &coordinator).await.map(drop)
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
    match report.code {
        Code::ERRCODE_LOCK_NOT_AVAILABLE
        | Code::ERRCODE_T_R_DEADLOCK_DETECTED
        | Code::ERRCODE_T_R_SERIALIZATION_FAILURE => Ok(Some(report)),
        _ => Err(Error::from(report).into()),
    }
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
        return super::unconvert::switch(operation);
    }
    let mut flow = Flow::open(operation)?;
    let name = sql::one::<String>("SELECT $1::regclass::text", &[operation.parent().into()])?.unwrap_or_default();
    let owners = flow_owners(operation, &mut flow)?;
    // Most of what is left, before anybody waits.
    for node in operation.plan.source_nodes() {
        flow.up_to_date(operation, &node)?;
    }
    lock_parent(operation)?;
    let managed = role::acting_as(operation.role(), || {
        let managed = Managed::read(operation.parent())?;
        fence(operation)?;
        Ok(managed)
    })?;
    as_planned(operation, &managed, &name)?;
    for node in operation.plan.source_nodes() {
        stream::end_of_log(flow.sources.get_mut(&node).and_then(Option::as_mut))?;
        flow.up_to_date(operation, &node)?;
    }
    swap(operation, &managed, owners)?;
    if !operation.is_return {
        back::open(operation, operation.parent(), &mut flow)?;
    }
    Ok(())
}

/// Puts the targets in the places of the sources, on all servers, and says so. Under the lock of `lock_parent`.
pub fn swap(operation: &Operation, managed: &Managed, owners: BTreeMap<String, Owner>) -> Step {
    let stage = Stage::of(Subject::of(managed)?, operation)?;
    let swap = Swap { operation, managed, stage: &stage, owners };
    role::acting_as(operation.role(), || swap.script()?.run())?;
    swap.record()?;
    if operation.is_return {
        operation::enter(operation.id, State::Reverted, None)?;
    } else {
        way_back::cut_off(operation, operation.parent())?;
        operation::enter(operation.id, State::Switched, None)?;
    }
    cache::forget_everywhere(operation.parent());
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
pub fn fence(operation: &Operation) -> Result<()> {
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
pub fn as_planned(operation: &Operation, managed: &Managed, name: &str) -> Step {
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

fn is_as_planned(operation: &Operation, managed: &Managed) -> bool {
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

struct Swap<'a> {
    operation: &'a Operation,
    managed: &'a Managed,
    stage: &'a Stage,
    /// To whom the targets on each node belong.
    owners: BTreeMap<String, Owner>,
}

#[derive(Deserialize)]
pub struct Owner {
    role: String,
    owns_schema: bool,
}

/// What the nodes of the targets answer about whose tables there are made.
pub fn owners(
    operation: &Operation,
    mut ask: impl FnMut(&str, &str) -> Result<Option<Owner>>,
) -> Result<BTreeMap<String, Owner>> {
    let question = format!(
        "SELECT json_build_object('role', current_user, 'owns_schema', pg_has_role(nspowner, 'USAGE'))::text
         FROM pg_catalog.pg_namespace WHERE nspname = {}",
        literal(&operation.plan.above.schema)
    );
    let mut owners = BTreeMap::new();
    for node in operation.plan.target_nodes().into_iter().filter(|node| node != LOCAL) {
        if let Some(owner) = ask(&node, &question)? {
            owners.insert(node, owner);
        }
    }
    Ok(owners)
}

/// Asked before anybody waits.
fn flow_owners(operation: &Operation, flow: &mut Flow) -> Result<BTreeMap<String, Owner>> {
    owners(operation, |node, question| {
        let target = flow.targets.iter_mut().find(|target| target.node == node);
        match target.and_then(|target| target.session.as_mut()) {
            Some(session) => own::wait(session.document::<Owner>(question, &[])),
            None => Ok(None),
        }
    })
}

impl Swap<'_> {
    fn script(&self) -> Result<Script> {
        let mut script = Script::default();
        for node in nodes(self.operation) {
            let (commands, inverse) = self.on_node(&node)?;
            script.on_node(&node, commands, inverse);
        }
        script.local(self.here()?);
        Ok(script)
    }

    fn above(&self) -> &QualifiedName {
        &self.operation.plan.above
    }

    /// A mirror, or the local tables of one, change places.
    fn on_node(&self, node: &str) -> Result<(Vec<String>, String)> {
        let (mut commands, mut inverse) = (Vec::new(), Vec::new());
        let (above, schema) = (self.above(), &self.managed.name().schema);
        let attic = self.operation.attic();
        for source in &self.operation.plan.sources {
            let tables = tables_on(source, node);
            if tables.is_empty() {
                continue;
            }
            commands.push(format!("ALTER TABLE {above} DETACH PARTITION {}", source.name));
            inverse.push(format!("ALTER TABLE {above} ATTACH PARTITION {} {}", source.name, for_values(&source.bound)));
            for table in tables {
                commands.push(format!("ALTER TABLE {table} SET SCHEMA {}", ident(&attic)));
                let moved = QualifiedName::new(attic.clone(), table.name.clone());
                inverse.push(format!("ALTER TABLE {moved} SET SCHEMA {}", ident(&table.schema)));
            }
        }
        for target in self.operation.plan.targets.iter().filter(|target| lives_on(target, node)) {
            let (staged, real) = (self.stage.root().sibling(&target.name), above.sibling(&target.name));
            let values = for_values(&target.bound);
            commands.push(format!("ALTER TABLE {} DETACH PARTITION {staged}", self.stage.root()));
            inverse.push(format!("ALTER TABLE {} ATTACH PARTITION {staged} {values}", self.stage.root()));
            for table in below(target).filter(|table| lives_on(table, node)) {
                let staged = self.stage.root().sibling(&table.name);
                commands.push(format!("ALTER TABLE {staged} SET SCHEMA {}", ident(schema)));
                let real = above.sibling(&table.name);
                inverse.push(format!("ALTER TABLE {real} SET SCHEMA {}", ident(&self.operation.stage)));
            }
            commands.push(format!("ALTER TABLE {above} ATTACH PARTITION {real} {values}"));
            inverse.push(format!("ALTER TABLE {above} DETACH PARTITION {real}"));
        }
        // The rights that the mirror has by now: what was given and taken while the data moved is in them.
        if let Some(owner) = self.owners.get(node) {
            let rights = parent::hold_mirror_rights(self.managed.root, node)?;
            let made = self.operation.plan.targets.iter().flat_map(below).filter(|table| lives_on(table, node));
            let made: Vec<QualifiedName> = made.map(|table| above.sibling(&table.name)).collect();
            commands.extend(grants::commands(&rights, &owner.role, owner.owns_schema, &made)?);
            inverse.extend(grants::revocations(&rights, &owner.role, &made)?);
        }
        inverse.reverse();
        Ok((commands, inverse.join(";\n")))
    }

    /// The coordinator's own tree. What is undone here is undone by its transaction.
    fn here(&self) -> Result<Vec<String>> {
        let (above, schema) = (self.above(), &self.managed.name().schema);
        let root = self.stage.root();
        let attic = ident(&self.operation.attic());
        let mut commands = Vec::new();
        for source in &self.operation.plan.sources {
            commands.push(format!("ALTER TABLE {above} DETACH PARTITION {}", source.name));
        }
        commands.extend(self.keys_to_leaves());
        for source in &self.operation.plan.sources {
            for table in &source.tables {
                let foreign = table.node.as_deref().is_some_and(|node| node != LOCAL);
                let kind = if foreign { "FOREIGN TABLE" } else { "TABLE" };
                commands.push(format!("ALTER {kind} {} SET SCHEMA {attic}", table.name));
            }
        }
        for target in &self.operation.plan.targets {
            let real = above.sibling(&target.name);
            commands.push(format!("ALTER TABLE {root} DETACH PARTITION {}", root.sibling(&target.name)));
            for table in below(target) {
                let staged = root.sibling(&table.name);
                let foreign = table.node.as_deref().is_some_and(|node| node != LOCAL);
                if foreign {
                    commands.push(format!("ALTER FOREIGN TABLE {staged} SET SCHEMA {}", ident(schema)));
                    commands.push(format!(
                        "ALTER FOREIGN TABLE {} OPTIONS (SET schema_name {})",
                        above.sibling(&table.name),
                        literal(schema)
                    ));
                } else {
                    commands.push(format!("ALTER TABLE {staged} SET SCHEMA {}", ident(schema)));
                }
            }
            commands.push(format!("ALTER TABLE {above} ATTACH PARTITION {real} {}", for_values(&target.bound)));
        }
        let local: Vec<QualifiedName> = self
            .operation
            .plan
            .target_tree()
            .leaves()
            .filter(|leaf| leaf.node.as_deref() == Some(LOCAL))
            .map(|leaf| above.sibling(&leaf.name))
            .collect();
        commands.extend(rebuild::publish(&self.managed.table, None, &local, self.managed.has_keys_on_leaves()));
        Ok(commands)
    }

    /// With the first remote leaf, unique keys can no longer be on the parent. A leaf that is taken out keeps its own part of
    /// them, so the local leaves that stay are taken out and put back; what they carry for it lets Postgres believe their
    /// bounds without reading them.
    fn keys_to_leaves(&self) -> Vec<String> {
        let table = &self.managed.table;
        let becomes_mixed = !self.managed.has_keys_on_leaves()
            && self.operation.plan.target_tree().leaves().any(|leaf| leaf.node.as_deref() != Some(LOCAL));
        let keys: Vec<_> = table.keys.iter().filter(|key| key.unique && self.managed.has_on_root(key)).collect();
        if !becomes_mixed || keys.is_empty() {
            return Vec::new();
        }
        let gone: Vec<&QualifiedName> =
            self.operation.plan.sources.iter().flat_map(|source| &source.tables).map(|table| &table.name).collect();
        let stay: Vec<_> =
            self.managed.members.iter().filter(|member| member.is_leaf() && !gone.contains(&&member.name)).collect();
        let parent = |member: &crate::hierarchy::members::Member| {
            let above = member.parent().and_then(|oid| self.managed.member(oid).ok());
            above.map(|above| above.name.to_string()).unwrap_or_default()
        };
        let mut commands: Vec<String> =
            stay.iter().map(|leaf| format!("ALTER TABLE {} DETACH PARTITION {}", parent(leaf), leaf.name)).collect();
        for key in keys {
            commands.push(match key.constraint {
                Some(_) => format!("ALTER TABLE {} DROP CONSTRAINT {}", table.name, ident(&key.name)),
                None => format!("DROP INDEX {}", table.name.sibling(key.name.clone())),
            });
        }
        commands.extend(stay.iter().map(|leaf| {
            let values = leaf.values.as_deref().unwrap_or("DEFAULT");
            format!("ALTER TABLE {} ATTACH PARTITION {} {values}", parent(leaf), leaf.name)
        }));
        commands
    }

    fn record(&self) -> Result<()> {
        let plan = &self.operation.plan;
        let gone = plan.sources.iter().flat_map(|source| &source.tables);
        let gone: Vec<Oid> = gone
            .filter_map(|table| self.managed.members.iter().find(|member| member.name == table.name))
            .map(|member| member.oid())
            .collect();
        parent::forget_partitions(&gone)?;
        parent::add_partitions(self.managed.root, &self.managed.name().schema, &label_rows(&plan.targets))?;
        // What others dealt out meanwhile stays dealt out.
        let now = &self.managed.catalog.dealt;
        let dealt = match &plan.before {
            Some(before) if self.operation.is_return => {
                if *now == plan.dealt {
                    &before.dealt
                } else {
                    now
                }
            }
            _ => &plan.dealt,
        };
        parent::insert(self.managed.root, plan.spec.clone(), &self.managed.catalog.extras, dealt)
    }
}

/// The tables of a source on one node: its leaves there, and the tables above them, from the top down.
fn tables_on<'a>(source: &'a Source, node: &str) -> Vec<&'a QualifiedName> {
    let any = source.tables.iter().any(|table| table.node.as_deref() == Some(node));
    if !any {
        return Vec::new();
    }
    let here = |table: &&crate::catalog::operation::SourceTable| {
        table.node.as_deref() == Some(node)
            || table.node.is_none() && table.nodes_below.iter().any(|below| below == node)
    };
    source.tables.iter().filter(here).map(|table| &table.name).collect()
}

/// A target and all below it, each before its own.
pub fn below(target: &Partition) -> impl Iterator<Item = &Partition> {
    std::iter::once(target).chain(target.sub.iter().flat_map(|sub| sub.walk()))
}

/// After the switch: what it made needless goes, in small steps that can be repeated.
pub fn tidy(operation: &Operation) -> Result<()> {
    if operation.kind != Kind::Convert {
        drop_attach_checks(operation)?;
    }
    super::sweep::stage(operation)
}

pub fn drop_attach_checks(operation: &Operation) -> Result<()> {
    for node in operation.plan.target_nodes() {
        let tables = operation.plan.targets.iter().filter(|target| {
            if node == LOCAL {
                target.sub.is_some() || target.node.as_deref() == Some(LOCAL)
            } else {
                lives_on(target, &node)
            }
        });
        let above = &operation.plan.above;
        let drops: Vec<String> = tables
            .map(|target| {
                format!(
                    "ALTER TABLE IF EXISTS {} DROP CONSTRAINT IF EXISTS {}",
                    above.sibling(&target.name),
                    ident(ATTACH_CHECK)
                )
            })
            .collect();
        own::wait(async {
            let mut place = Place::open(&node, operation.role(), BRIEF).await?;
            for drop in &drops {
                place.run(drop).await?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
