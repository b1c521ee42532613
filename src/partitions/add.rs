//! `shard_add_partition`: one more partition of a live hierarchy, with everything below it.
//!
//! Tables are made beside the hierarchy and attached, so that readers and writers go on.

use super::create::{discard, fitted};
use super::mirror_path::Way;
use super::partition_ddl::{Blueprint, Joining, lives_on, remote_nodes};
use super::preflight::{self, Load, Preflight};
use super::script::Script;
use super::{default_partition, grants, mirror};
use crate::catalog::{parent, partition};
use crate::error::{Report, Result};
use crate::hierarchy::bound::default_check;
use crate::hierarchy::managed_parent::ManagedParent;
use crate::hierarchy::tree_tables::TreeTable;
use crate::hierarchy::{overlap, validate};
use crate::name::{QualifiedName, ident};
use crate::node::channel::Channel;
use crate::pg::sql;
use crate::table::ddl::{create_index, index_marks, leaf_rights, owner_changes, publish};
use crate::table::publications::{self, Accept};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use serde_json::Value;
use shardkeeper_core::plan::{self, Bound, LOCAL, Partition, PlanInput};
use shardkeeper_core::spec::Site;
use std::collections::BTreeMap;

/// Adds a partition with these bounds to `relation`, a managed parent or a partitioned table below one. With `node`, all
/// its leaves go there; else they are dealt as the spec says.
pub fn add_partition(relation: Oid, bounds: &Value, node: Option<&str>, accept: Accept) -> Result<Oid> {
    let (managed, labels) = ManagedParent::open_to_change(relation)?;
    let above = managed.member(relation)?;
    let Some(site) = managed.level.at(&labels).filter(|_| !above.is_leaf()) else {
        return Report::new(Code::ERRCODE_WRONG_OBJECT_TYPE, format!("{} is a leaf", above.name))
            .hint("Name the parent, or a partitioned table below it.")
            .into();
    };
    let keys = managed.keys()?;
    let input = PlanInput {
        root: &above.name.name,
        now: managed.now()?,
        kind: &|key| keys.kind(key),
        dealt: managed.catalog.dealt.clone(),
        max_leaves: plan::DEFAULT_MAX_LEAVES,
    };
    let new = plan::parse_bound(&site, bounds, &input)?;
    let (partition, dealt) = plan::expand_one(&site, &new, node, &input)?;
    add_planned(&managed, relation, &labels, &partition, &new.place, &dealt, accept)
}

/// Adds a partition that was planned already to `relation`, which `labels` lead to; its bound was written at `place`.
pub fn add_planned(
    managed: &ManagedParent,
    relation: Oid,
    labels: &[String],
    partition: &Partition,
    place: &str,
    dealt: &BTreeMap<String, u64>,
    accept: Accept,
) -> Result<Oid> {
    let above = managed.member(relation)?;
    let Some(site) = managed.level.at(labels) else { return parent::not_managed(relation) };
    let keys = managed.keys()?;
    overlap::none(managed, above, &keys.types(&site.level.key), &partition.bound, place)?;
    let addition = Addition { managed, above, site: &site, labels, partition };
    let nodes = remote_nodes(leaves(partition));
    if !nodes.is_empty() {
        validate::fit_for_nodes(&managed.table)?;
        publications::check(managed.root, managed.name(), &nodes, accept)?;
    }
    for node in &nodes {
        Channel::open(node)?;
    }
    let mixed = managed.has_keys_on_leaves() || !nodes.is_empty();
    if let Some(default) = managed.default_of(relation) {
        managed.lock_exclusive(default.oid());
    }
    let blueprint = Blueprint { table: &managed.table, keys: &keys, mixed };
    addition.compose(&blueprint, &nodes)?.run()?;
    addition.record(&nodes, dealt)
}

struct Addition<'a> {
    managed: &'a ManagedParent,
    above: &'a TreeTable,
    site: &'a Site<'a>,
    labels: &'a [String],
    partition: &'a Partition,
}

impl Addition<'_> {
    fn tables(&self) -> Vec<&Partition> {
        let below = self.partition.sub.iter().flat_map(|sub| sub.walk());
        std::iter::once(self.partition).chain(below).collect()
    }

    fn named(&self, name: &str) -> QualifiedName {
        self.managed.name().sibling(name)
    }

    fn compose(&self, blueprint: &Blueprint<'_>, nodes: &[String]) -> Result<Script> {
        let table = blueprint.table;
        let tables = self.tables();
        let local: Vec<QualifiedName> = leaves(self.partition)
            .filter(|leaf| leaf.node.as_deref() == Some(LOCAL))
            .map(|leaf| self.named(&leaf.name))
            .collect();
        let names: Vec<String> = tables.iter().map(|table| table.name.clone()).collect();
        let count = leaves(self.partition).count();
        let load = Load { leaves: local.len(), foreign: count - local.len(), partitioned: tables.len() - count };
        preflight::check_local(table, &names, load, blueprint.mixed)?;

        let before = self.managed.bounds(self.above.oid())?;
        let before: Vec<Bound> = before.into_iter().map(|(_, bound)| bound).filter(|b| *b != Bound::Default).collect();
        let mut after = before.clone();
        after.push(self.partition.bound.clone());
        let key = blueprint.keys.sql(&self.site.level.key);

        let mut script = Script::default();
        if self.partition.bound != Bound::Default {
            default_partition::no_rows_of(self.managed, self.above.oid(), &key, &self.partition.bound)?;
            default_partition::renew(&mut script, self.managed, self.above.oid(), &key, &before, &after)?;
        }
        let check = if self.partition.bound == Bound::Default { default_check(&key, before.iter()) } else { None };
        for node in nodes {
            self.on_node(&mut script, blueprint, node, check.clone())?;
        }
        let mut commands = Vec::new();
        if blueprint.mixed {
            commands.extend(self.keys_to_leaves());
        }
        commands.extend(blueprint.local_partition(&self.above.name, self.partition, Joining::Attached));
        let made: Vec<QualifiedName> = tables.iter().map(|table| self.named(&table.name)).collect();
        let caller = sql::one::<String>("SELECT current_user::text", &[])?.unwrap_or_default();
        commands.extend(owner_changes(table, &made, &caller));
        commands.extend(leaf_rights(table, &made));
        commands.extend(index_marks(table, &local));
        commands.extend(publish(table, None, &local, blueprint.mixed));
        script.local(commands);
        Ok(script)
    }

    /// With the first remote leaf, unique keys can no longer be on the parent: each local leaf gets its own.
    fn keys_to_leaves(&self) -> Vec<String> {
        let table = &self.managed.table;
        let mut commands = Vec::new();
        for key in table.keys.iter().filter(|key| key.unique && self.managed.has_on_root(key)) {
            commands.push(match key.constraint {
                Some(_) => format!("ALTER TABLE {} DROP CONSTRAINT {}", table.name, ident(&key.name)),
                None => format!("DROP INDEX {}", table.name.sibling(key.name.clone())),
            });
            for leaf in self.managed.members.iter().filter(|member| member.is_leaf()) {
                commands.extend(create_index(key, &leaf.name, false));
            }
        }
        commands
    }

    fn on_node(&self, script: &mut Script, blueprint: &Blueprint<'_>, node: &str, check: Option<String>) -> Result<()> {
        let way = Way { managed: self.managed, above: self.above, labels: self.labels };
        let missing = way.missing_on(node)?;
        let new: Vec<&Partition> = self.tables().into_iter().filter(|table| lives_on(table, node)).collect();
        let leaf_count = new.iter().filter(|table| table.sub.is_none()).count();
        let names: Vec<String> = new
            .iter()
            .map(|table| table.name.clone())
            .chain(missing.iter().map(|(m, _)| m.name.name.clone()))
            .collect();
        let load = Load { leaves: leaf_count, foreign: 0, partitioned: names.len() - leaf_count };
        let survey = preflight::check_node(node, blueprint.table, &names, load)?;
        let table = fitted(blueprint.table, &survey);
        let blueprint = Blueprint { table: &table, keys: blueprint.keys, mixed: blueprint.mixed };
        let mut commands = survey.needs.commands.clone();
        commands.extend(way.make(&blueprint, &missing)?);
        commands.extend(blueprint.mirror_partition(node, &self.above.name, self.partition, check, Joining::Attached));
        let leaves: Vec<QualifiedName> =
            new.iter().filter(|table| table.sub.is_none()).map(|leaf| self.named(&leaf.name)).collect();
        commands.extend(index_marks(&table, &leaves));
        let mut made: Vec<QualifiedName> = missing.iter().map(|(member, _)| member.name.clone()).collect();
        made.extend(new.iter().map(|table| self.named(&table.name)));
        commands.extend(self.grants(node, &survey, &made)?);
        let inverse = survey.needs.undo(self.inverse(&missing)?);
        script.on_node(node, commands, inverse);
        Ok(())
    }

    fn grants(&self, node: &str, survey: &Preflight, made: &[QualifiedName]) -> Result<Vec<String>> {
        let rights = grants::wanted(self.managed.root, node)?;
        grants::on_node(&rights, survey, made)
    }

    /// Takes away the topmost table that was made on the node.
    fn inverse(&self, missing: &[(&TreeTable, usize)]) -> Result<String> {
        let (table, above) = match missing.first() {
            Some((member, _)) => {
                (member.name.clone(), member.parent().map(|above| self.managed.member(above)).transpose()?)
            }
            None => (self.named(&self.partition.name), Some(self.above)),
        };
        let away = discard(&table);
        Ok(match above {
            Some(above) => format!("ALTER TABLE {} DETACH PARTITION {table};\n{away}", above.name),
            None => away,
        })
    }

    fn record(&self, nodes: &[String], dealt: &BTreeMap<String, u64>) -> Result<Oid> {
        let root = self.managed.root;
        let labels: Vec<(String, String)> = self.tables().iter().map(|t| (t.name.clone(), t.label.clone())).collect();
        partition::add(root, &self.managed.name().schema, &labels)?;
        parent::set_dealt(root, dealt)?;
        for node in nodes {
            mirror::add(root, node, &grants::wanted(root, node)?)?;
        }
        grants::warn_of_owner_without_way(root, nodes)?;
        let name = self.named(&self.partition.name).to_string();
        Ok(sql::one::<Oid>("SELECT pg_catalog.to_regclass($1)::oid", &[name.into()])?
            .unwrap_or(pgrx::pg_sys::InvalidOid))
    }
}

fn leaves(partition: &Partition) -> Box<dyn Iterator<Item = &Partition> + '_> {
    match &partition.sub {
        Some(sub) => Box::new(sub.leaves()),
        None => Box::new(std::iter::once(partition)),
    }
}
