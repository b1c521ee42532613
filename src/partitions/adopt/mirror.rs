//! The mirror of an adopted parent on one node: around the tables that are there, or as a released parent left it.

use super::not_there;
use crate::catalog::partition;
use crate::error::{Report, Result};
use crate::hierarchy::bound::for_values;
use crate::hierarchy::managed_parent::ManagedParent;
use crate::hierarchy::partition_keys::PartitionKeys;
use crate::hierarchy::tree_tables::TreeTable;
use crate::name::{QualifiedName, ident, literal};
use crate::node::channel::Channel;
use crate::partitions::create::{discard, fitted};
use crate::partitions::grants;
use crate::partitions::mirror;
use crate::partitions::mirror_path::{Way, check_of};
use crate::partitions::partition_ddl::{Blueprint, DEFAULT_CHECK};
use crate::partitions::preflight::{self, Load, Preflight};
use crate::partitions::script::Script;
use crate::table::definition::TableDefinition;
use pgrx::PgSqlErrorCode as Code;
use serde::Deserialize;
use shardkeeper_core::plan::Bound;
use std::collections::BTreeMap;

/// The mirror on one node, around the tables that are there.
pub(super) struct Mirror<'a> {
    pub managed: &'a ManagedParent,
    pub keys: &'a PartitionKeys,
    pub node: &'a str,
}

#[derive(Deserialize)]
struct Remote {
    name: String,
    kind: char,
    is_child: bool,
    /// Columns that take NULL.
    nullable: Vec<String>,
}

/// A table of a mirror that is there.
#[derive(Deserialize)]
struct Mirrored {
    #[serde(flatten)]
    name: QualifiedName,
    kind: char,
    key: Option<String>,
    values: Option<String>,
    is_top: bool,
    /// Its name; all are in one schema.
    above: Option<String>,
}

impl Mirror<'_> {
    pub fn make(&self) -> Result<()> {
        let Mirror { managed, node, .. } = self;
        let here = managed.tables_on(node)?;
        let (leaves, above): (Vec<&TreeTable>, Vec<&TreeTable>) =
            managed.members.iter().filter(|member| here.contains(&member.name)).partition(|member| member.is_leaf());
        if self.is_there(&leaves, &above)? {
            return self.take_up(&leaves, &here);
        }
        self.check_leaves(&leaves)?;
        let mut names: Vec<String> = above.iter().map(|member| member.name.name.clone()).collect();
        let load = Load { leaves: 0, foreign: 0, partitioned: names.len() };
        names.extend(managed.table.keys.iter().map(|key| key.name.clone()));
        let survey = preflight::check_node(node, &managed.table, &names, load)?;
        let (mut commands, mut inverse) = (survey.needs.commands.clone(), Vec::new());
        commands.extend(self.tables_above(&above, &survey)?);
        for leaf in &leaves {
            let Some(parent) = leaf.parent() else { continue };
            let (table, bound) = (&managed.member(parent)?.name, leaf.bound()?.unwrap_or(Bound::Default));
            if let Some(check) = check_of(managed, self.keys, leaf.oid())? {
                let constraint = ident(DEFAULT_CHECK);
                commands.push(format!("ALTER TABLE {} ADD CONSTRAINT {constraint} CHECK ({check})", leaf.name));
                inverse.insert(0, format!("ALTER TABLE {} DROP CONSTRAINT {constraint}", leaf.name));
            }
            commands.push(format!("ALTER TABLE {table} ATTACH PARTITION {} {}", leaf.name, for_values(&bound)));
            inverse.insert(0, format!("ALTER TABLE {table} DETACH PARTITION {}", leaf.name));
        }
        let rights = grants::wanted(managed.root, node)?;
        commands.extend(grants::on_node(&rights, &survey, &here)?);
        inverse.push(discard(managed.name()));
        let mut script = Script::default();
        script.on_node(node, commands, survey.needs.undo(inverse.join(";\n")));
        script.run()?;
        mirror::add(managed.root, node, &rights)
    }

    /// A released parent left its mirror, and it is still the one of these tables: of the same columns, keys and bounds, and
    /// nothing more.
    fn is_there(&self, leaves: &[&TreeTable], above: &[&TreeTable]) -> Result<bool> {
        let (managed, channel) = (self.managed, Channel::open(self.node)?);
        let root = managed.name();
        let found: Option<Vec<Mirrored>> = channel.document(&format!(
            "SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object('schema', n.nspname, 'name', c.relname, 'key', pg_catalog.pg_get_partkeydef(c.oid),
                 'values', pg_catalog.pg_get_expr(c.relpartbound, c.oid), 'kind', c.relkind, 'is_top', NOT c.relispartition,
                 'above', (SELECT a.relname FROM pg_catalog.pg_class a WHERE a.oid = t.parentrelid))), '[]')::text
             FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass({})) AS t JOIN pg_catalog.pg_class c ON c.oid = t.relid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace",
            literal(&root.to_string())
        ))?;
        let found = found.unwrap_or_default();
        let is_same = |member: &&TreeTable| {
            let same_name = |table: &&Mirrored| table.name == member.name;
            let Some(table) = found.iter().find(same_name) else { return false };
            let above = member.parent().and_then(|above| managed.member(above).ok()).map(|above| &above.name.name);
            let kind = if member.is_leaf() { 'r' } else { 'p' };
            let fits = table.kind == kind && table.key == member.key;
            match above {
                None => fits && table.is_top,
                Some(above) => fits && table.above.as_ref() == Some(above) && table.values == member.values,
            }
        };
        if found.len() != leaves.len() + above.len() || !leaves.iter().chain(above).all(is_same) {
            return Ok(false);
        }
        let columns = |table: &TableDefinition| -> Vec<(String, String)> {
            table.columns.iter().map(|column| (column.name.clone(), column.data_type.clone())).collect()
        };
        let mirror = channel.document::<Option<TableDefinition>>(&TableDefinition::question(root))?.flatten();
        Ok(mirror.is_some_and(|mirror| columns(&mirror) == columns(&managed.table)))
    }

    /// The mirror is there already. What it should say of siblings and rights may have changed since it was released.
    fn take_up(&self, leaves: &[&TreeTable], here: &[QualifiedName]) -> Result<()> {
        let Mirror { managed, node, .. } = self;
        let survey = preflight::check_node(node, &managed.table, &[], Load { leaves: 0, foreign: 0, partitioned: 0 })?;
        let mut commands = Vec::new();
        for leaf in leaves.iter().filter(|leaf| leaf.values.as_deref() == Some("DEFAULT")) {
            if let Some(check) = check_of(managed, self.keys, leaf.oid())? {
                let (name, table) = (ident(DEFAULT_CHECK), &leaf.name);
                commands.push(format!(
                    "ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}, ADD CONSTRAINT {name} CHECK ({check})"
                ));
            }
        }
        let rights = grants::wanted(managed.root, node)?;
        commands.extend(grants::on_node(&rights, &survey, here)?);
        let mut script = Script::default();
        // Both only say again what held before.
        script.on_node(node, commands, "SELECT 1".to_string());
        script.run()?;
        mirror::add(managed.root, node, &rights)
    }

    fn tables_above(&self, above: &[&TreeTable], survey: &Preflight) -> Result<Vec<String>> {
        let table = fitted(&self.managed.table, survey);
        let blueprint = Blueprint { table: &table, keys: self.keys, mixed: true };
        let labels = partition::labels(self.managed.root)?;
        let mut commands = Vec::new();
        for member in above {
            let path = self.managed.path_to(member.oid())?;
            let label = |member: &&TreeTable| labels.get(&member.oid().to_u32()).cloned();
            let labels: Vec<String> = path.iter().filter_map(label).collect();
            let way = Way { managed: self.managed, above: member, labels: &labels };
            commands.extend(way.make(&blueprint, &[(*member, path.len() - 1)])?);
        }
        Ok(commands)
    }

    /// What takes NULL there cannot be a partition of what takes none.
    fn takes_no_null(&self, leaf: &TreeTable, remote: &Remote) -> Result<()> {
        let columns = self.managed.table.columns.iter().filter(|column| column.not_null);
        let wrong: Vec<String> =
            columns.filter(|column| remote.nullable.contains(&column.name)).map(|column| ident(&column.name)).collect();
        let Some(first) = wrong.first() else { return Ok(()) };
        let actions: Vec<String> = wrong.iter().map(|column| format!("ALTER COLUMN {column} SET NOT NULL")).collect();
        Report::new(
            Code::ERRCODE_DATATYPE_MISMATCH,
            format!("column {first} of {} takes NULL on node {}, not here", leaf.name, ident(self.node)),
        )
        .detail("It has to become a partition of the mirror there, which takes none.")
        .hint(format!("There, run ALTER TABLE {} {};", leaf.name, actions.join(", ")))
        .into()
    }

    /// The tables there are ordinary ones that nothing else holds.
    fn check_leaves(&self, leaves: &[&TreeTable]) -> Result<()> {
        let node = self.node;
        let names = leaves.iter().map(|leaf| literal(&leaf.name.to_string())).collect::<Vec<_>>().join(", ");
        let found: Option<Option<Vec<Remote>>> = Channel::open(node)?.document(&format!(
            "SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object('name', n, 'kind', c.relkind,
                 'is_child', EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid OR i.inhparent = c.oid),
                 'nullable', ARRAY(SELECT a.attname FROM pg_catalog.pg_attribute a
                                   WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND NOT a.attnotnull))), '[]')::text
             FROM pg_catalog.unnest(ARRAY[{names}]) AS n JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(n)"
        ))?;
        let found: BTreeMap<String, Remote> =
            found.flatten().unwrap_or_default().into_iter().map(|remote| (remote.name.clone(), remote)).collect();
        for leaf in leaves {
            let wrong = match found.get(&leaf.name.to_string()) {
                None => return not_there(leaf),
                Some(remote) if remote.kind != 'r' => "is not an ordinary table",
                Some(remote) if remote.is_child => "takes part in another hierarchy",
                Some(remote) => {
                    self.takes_no_null(leaf, remote)?;
                    continue;
                }
            };
            return Report::new(
                Code::ERRCODE_WRONG_OBJECT_TYPE,
                format!("{} on node {} {wrong}", leaf.name, ident(node)),
            )
            .detail("It has to become a partition of the mirror there.")
            .hint("Make it an ordinary table of its own there: DETACH PARTITION or NO INHERIT takes it out of another one.")
            .into();
        }
        Ok(())
    }
}
