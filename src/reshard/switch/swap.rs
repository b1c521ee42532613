//! The swap: the targets take the places of the sources, on all servers, within the transaction of the switch. What is
//! replaced goes to the retired schema; on nodes, all of it through the session channel with its inverse.

use super::write_fence;
use crate::catalog::operation::{self, Operation, Source, SourceTable};
use crate::catalog::{drain, mirror, moved, parent, partition, way_back};
use crate::error::Result;
use crate::hierarchy::bound::for_values;
use crate::hierarchy::managed_parent::ManagedParent;
use crate::name::{QualifiedName, ident, literal};
use crate::node::session;
use crate::partitions::grants;
use crate::partitions::partition_ddl::lives_on;
use crate::partitions::script::Script;
use crate::pg::{parent_cache as cache, role};
use crate::reshard::apply::Applier;
use crate::reshard::convert::source_table::OperationTable;
use crate::reshard::outcome::{Step, halt};
use crate::reshard::plan::{self, label_rows};
use crate::reshard::prepare::staging::Staging;
use crate::table::ddl;
use pgrx::pg_sys::Oid;
use serde::Deserialize;
use shardkeeper_core::operation::State;
use shardkeeper_core::plan::{LOCAL, Partition};
use std::collections::BTreeMap;

/// Puts the targets in the places of the sources, on all servers, and says so. Under the lock of `lock_parent`.
pub fn swap(operation: &Operation, managed: &ManagedParent, owners: BTreeMap<String, Owner>) -> Step {
    if let Some(found) = plan::since(&operation.plan)? {
        if operation.is_return {
            return Err(found
                .hint("It is tried again and again. Drop them, or give the revert up with shard_cancel.")
                .into());
        }
        return halt(found.hint(format!("Drop them, and go on with SELECT shard_resume({});", operation.id)));
    }
    let staging = Staging::of(OperationTable::of(managed)?, operation)?;
    let swap = Swap { operation, managed, staging: &staging, owners };
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

struct Swap<'a> {
    operation: &'a Operation,
    managed: &'a ManagedParent,
    staging: &'a Staging,
    /// To whom the targets on each node belong.
    owners: BTreeMap<String, Owner>,
}

#[derive(Deserialize)]
pub struct Owner {
    role: String,
    owns_schema: bool,
    /// Replaced tables with partitions that are there without any: other operations have moved them away.
    shells: Vec<String>,
}

/// What the nodes of the targets answer about whose tables there are made.
pub fn owners(
    operation: &Operation,
    mut ask: impl FnMut(&str, &str) -> Result<Option<Owner>>,
) -> Result<BTreeMap<String, Owner>> {
    let partitioned =
        operation.plan.sources.iter().flat_map(|source| &source.tables).filter(|table| table.node.is_none());
    let partitioned: Vec<String> = partitioned.map(|table| literal(&table.name.name)).collect();
    let question = format!(
        "SELECT json_build_object('role', current_user, 'owns_schema', pg_has_role(nspowner, 'USAGE'), 'shells', ARRAY(
             SELECT relname FROM pg_catalog.pg_class c WHERE relnamespace = n.oid AND relkind = 'p' AND relname = ANY (ARRAY[{}]::text[])
             AND NOT EXISTS (SELECT FROM pg_catalog.pg_partition_tree(c.oid) WHERE isleaf AND relid <> c.oid)))::text
         FROM pg_catalog.pg_namespace n WHERE nspname = {}",
        partitioned.join(", "),
        literal(&operation.plan.above.schema)
    );
    let mut owners = BTreeMap::new();
    for node in operation.plan.remote_target_nodes() {
        if let Some(owner) = ask(&node, &question)? {
            owners.insert(node, owner);
        }
    }
    Ok(owners)
}

/// Asked before anybody waits.
pub fn owners_on_targets(operation: &Operation, applier: &mut Applier) -> Result<BTreeMap<String, Owner>> {
    owners(operation, |node, question| {
        let target = applier.targets.iter_mut().find(|target| target.node == node);
        match target.and_then(|target| target.session.as_mut()) {
            Some(session) => session::wait(session.document::<Owner>(question, &[])),
            None => Ok(None),
        }
    })
}

impl Swap<'_> {
    fn script(&self) -> Result<Script> {
        let mut script = Script::default();
        for node in self.operation.plan.remote_nodes() {
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
        let retired = self.operation.retired();
        for source in &self.operation.plan.sources {
            let shells = self.owners.get(node).map_or(&[][..], |owner| &owner.shells);
            let tables = tables_on(source, node, shells);
            if tables.is_empty() {
                continue;
            }
            commands.push(format!("ALTER TABLE {above} DETACH PARTITION {}", source.name));
            inverse.push(format!("ALTER TABLE {above} ATTACH PARTITION {} {}", source.name, for_values(&source.bound)));
            for table in tables {
                commands.push(table.relocation(&retired));
                let moved = QualifiedName::new(retired.clone(), table.name.clone());
                inverse.push(moved.relocation(&table.schema));
            }
        }
        for target in self.operation.plan.targets.iter().filter(|target| lives_on(target, node)) {
            let (staged, real) = (self.staging.root().sibling(&target.name), above.sibling(&target.name));
            let values = for_values(&target.bound);
            commands.push(format!("ALTER TABLE {} DETACH PARTITION {staged}", self.staging.root()));
            inverse.push(format!("ALTER TABLE {} ATTACH PARTITION {staged} {values}", self.staging.root()));
            for table in below(target).filter(|table| lives_on(table, node)) {
                let staged = self.staging.root().sibling(&table.name);
                commands.push(staged.relocation(schema));
                inverse.push(above.sibling(&table.name).relocation(&self.operation.staging));
            }
            commands.push(format!("ALTER TABLE {above} ATTACH PARTITION {real} {values}"));
            inverse.push(format!("ALTER TABLE {above} DETACH PARTITION {real}"));
        }
        let leaves = self.operation.plan.target_tree();
        let leaves = leaves.leaves().filter(|leaf| leaf.node.as_deref() == Some(node));
        let leaves: Vec<QualifiedName> = leaves.map(|leaf| above.sibling(&leaf.name)).collect();
        let (shut, open) = write_fence::shut(self.operation, &leaves);
        commands.extend(shut);
        inverse.extend(open);
        // The rights that the mirror has by now: what was given and taken while the data moved is in them.
        if let Some(owner) = self.owners.get(node) {
            let rights = mirror::hold_rights(self.managed.root, node)?;
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
        let root = self.staging.root();
        let retired = self.operation.retired();
        let mut commands = Vec::new();
        for source in &self.operation.plan.sources {
            commands.push(format!("ALTER TABLE {above} DETACH PARTITION {}", source.name));
        }
        commands.extend(self.keys_to_leaves());
        for source in &self.operation.plan.sources {
            commands.extend(source.tables.iter().map(|table| table.name.relocation(&retired)));
        }
        for target in &self.operation.plan.targets {
            let real = above.sibling(&target.name);
            commands.push(format!("ALTER TABLE {root} DETACH PARTITION {}", root.sibling(&target.name)));
            for table in below(target) {
                let staged = root.sibling(&table.name);
                commands.push(staged.relocation(schema));
                if table.node.as_deref().is_some_and(|node| node != LOCAL) {
                    commands.push(format!(
                        "ALTER FOREIGN TABLE {} OPTIONS (SET schema_name {})",
                        above.sibling(&table.name),
                        literal(schema)
                    ));
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
        commands.extend(ddl::publish(&self.managed.table, None, &local, self.managed.has_keys_on_leaves()));
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
        let parent = |member: &crate::hierarchy::tree_tables::TreeTable| {
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
        partition::forget(&gone)?;
        partition::add(self.managed.root, &self.managed.name().schema, &label_rows(&plan.targets))?;
        moved::add(plan.target_tree().leaves().map(|leaf| self.managed.name().sibling(leaf.name.clone())))?;
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
        let spec = drain::spec_after(self.operation.id, &plan.spec)?;
        parent::insert(self.managed.root, spec, &self.managed.catalog.extras, dealt)
    }
}

/// The tables of a source on one node: its leaves there, and the tables above them, from the top down.
fn tables_on<'a>(source: &'a Source, node: &str, shells: &[String]) -> Vec<&'a QualifiedName> {
    let here = |table: &&SourceTable| {
        table.node.as_deref() == Some(node)
            || table.node.is_none()
                && (table.nodes_below.iter().any(|below| below == node) || shells.contains(&table.name.name))
    };
    source.tables.iter().filter(here).map(|table| &table.name).collect()
}

/// A target and all below it, each before its own.
pub fn below(target: &Partition) -> impl Iterator<Item = &Partition> {
    std::iter::once(target).chain(target.sub.iter().flat_map(|sub| sub.walk()))
}
