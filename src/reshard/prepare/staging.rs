//! The staging schema: where the targets stand until the switch. A schema of its own on the coordinator and on every node that
//! gets targets, with a copy of the partitioned table in which they are partitions as they will be in the real one.
//!
//! So rows find their place by Postgres's own routing, on the coordinator for the server and on each server for the leaf,
//! and no row can get into the wrong target.

use crate::catalog::carried::Key;
use crate::catalog::operation::{Operation, Own};
use crate::catalog::progress;
use crate::error::Result;
use crate::hierarchy::bound::{default_check, for_values};
use crate::hierarchy::partition_keys::PartitionKeys;
use crate::name::{QualifiedName, ident, literal};
use crate::partitions::create::fitted;
use crate::partitions::partition_ddl::{Blueprint, DEFAULT_CHECK, lives_on};
use crate::partitions::preflight::Preflight;
use crate::pg::transaction;
use crate::reshard::apply::target::Column;
use crate::reshard::convert::source_table::OperationTable;
use crate::table::columns::{self, Place as ColumnPlace};
use crate::table::ddl::{self, create_index, create_table};
use crate::table::definition::TableDefinition;
use shardkeeper_core::plan::{Bound, LOCAL, Partition, Tree};

/// What a target carries until it is attached: with it, Postgres need not read the table to believe where its rows belong.
pub const ATTACH_CHECK: &str = "shardkeeper_attach";
/// For a moment, in the staging schema: empty, and partitioned as the real table will be.
const PROBE: &str = "shardkeeper_probe";

pub struct Staging {
    /// The parent's description under the name of the staged table.
    table: TableDefinition,
    keys: PartitionKeys,
    tree: Tree,
    above: QualifiedName,
    /// The bounds of the partitions that stay beside the targets.
    beside: Vec<Bound>,
    /// Names of the partitions that go.
    sources: Vec<String>,
    /// The staged root itself will be the parent: nothing is attached.
    is_whole: bool,
    /// What the one target takes over from the leaf that it replaces.
    own: Option<Own>,
}

impl Staging {
    /// As the parent is now, by itself. Outside a transaction.
    pub fn read(operation: &Operation) -> Result<Self> {
        transaction::run(|| Self::of(OperationTable::read(operation)?, operation))
    }

    /// Within a transaction.
    pub fn of(source: OperationTable, operation: &Operation) -> Result<Self> {
        let OperationTable { mut table, keys } = source;
        let schema = std::mem::replace(&mut table.name, operation.staged(&operation.plan.above.name)).schema;
        // A whole mirror brings those of the table along.
        table.statistics.retain(|statistics| operation.converts() && statistics.name.schema == schema);
        for statistics in &mut table.statistics {
            statistics.name = operation.staged(&statistics.name.name);
        }
        // The sources are followed by whole rows, or they could not be: the targets can be followed the same way.
        if table.replica_identity == 'd' && !table.keys.iter().any(|key| key.primary) {
            table.replica_identity = 'f';
        }
        let (tree, above) = (operation.plan.target_tree(), operation.plan.above.clone());
        let sources = operation.plan.sources.iter().map(|source| source.name.name.clone()).collect();
        let beside = operation.plan.beside.clone();
        let own = operation.plan.own.clone().filter(|_| !operation.is_return);
        Ok(Self { table, keys, tree, above, beside, sources, is_whole: operation.converts(), own })
    }

    pub fn root(&self) -> &QualifiedName {
        &self.table.name
    }

    /// Columns that hold data of their own, in the order in which rows travel.
    pub fn columns(&self) -> Vec<Column> {
        let stored = self.table.columns.iter().filter(|column| column.generated.is_empty());
        stored.map(|c| Column { name: c.name.clone(), data_type: c.data_type.clone() }).collect()
    }

    /// Columns that each server computes by itself.
    pub fn generated(&self) -> Vec<String> {
        let generated = self.table.columns.iter().filter(|column| !column.generated.is_empty());
        generated.map(|column| column.name.clone()).collect()
    }

    /// The places of the primary key among [`columns`](Self::columns); none if there is no key, or it holds a computed one.
    pub fn primary(&self) -> Vec<usize> {
        let columns = self.columns();
        let Some(key) = self.table.keys.iter().find(|key| key.primary) else { return Vec::new() };
        let places = key.columns.iter().map(|name| columns.iter().position(|column| column.name == *name));
        let mut places = places.collect::<Option<Vec<usize>>>().unwrap_or_default();
        places.sort_unstable();
        places
    }

    /// Rows that are updated one after the other can be in each other's way by another key than the one they are found by.
    pub fn is_contested(&self) -> bool {
        let own = self.own.iter().flat_map(|own| &own.keys);
        self.table.keys.iter().chain(own).filter(|key| key.unique).count() > 1
    }

    /// The columns that decide where a row belongs.
    pub fn key_columns(&self) -> Vec<String> {
        self.keys.columns().filter_map(std::result::Result::ok).map(str::to_string).collect()
    }

    /// The staged tree on the coordinator: local targets as tables, the others as foreign tables.
    pub fn local_commands(&self) -> Vec<String> {
        let table = self.bare();
        let blueprint = Blueprint { table: &table, keys: &self.keys, mixed: true };
        let mut commands =
            vec![create_table(&table, &table.name, ColumnPlace::LocalLeaf, &blueprint.partition_by(&self.tree))];
        ddl::alter(&mut commands, &table.name, columns::settings(&table));
        commands.extend(blueprint.local_tree(&table.name, &self.tree));
        commands.extend(self.own_commands(LOCAL));
        commands.extend(self.attach_checks());
        commands
    }

    /// The staged mirror on one node.
    pub fn node_commands(&self, node: &str, survey: &Preflight) -> Vec<String> {
        let table = fitted(&self.bare(), survey);
        let blueprint = Blueprint { table: &table, keys: &self.keys, mixed: true };
        let schema = ident(&table.name.schema);
        let mut commands = vec![format!("CREATE SCHEMA {schema}"), progress::create_in(&schema)];
        commands.extend(blueprint.mirror_root(&self.tree));
        commands.extend(blueprint.mirror_tree(node, &table.name, &self.tree));
        commands.extend(self.default_check(node));
        commands.extend(self.own_commands(node));
        commands.extend(self.attach_checks());
        commands
    }

    /// What a leaf that moves has of its own, while the new one is empty: what rows have to fulfil, or are found by.
    fn own_commands(&self, node: &str) -> Vec<String> {
        let mut commands = Vec::new();
        for (leaf, own) in self.leaves_on(node).iter().zip(&self.own) {
            ddl::alter(&mut commands, leaf, own.actions.clone());
            commands.extend(own.keys.iter().filter(|key| key.unique).flat_map(|key| own_key(key, leaf)));
            let identity = match own.replica_identity {
                Some('d') => "DEFAULT",
                Some('f') => "FULL",
                Some('n') => "NOTHING",
                _ => continue,
            };
            commands.push(format!("ALTER TABLE {leaf} REPLICA IDENTITY {identity}"));
        }
        commands
    }

    /// The rest of it.
    fn late_own_commands(&self, node: &str) -> Vec<String> {
        let mut commands = Vec::new();
        for (leaf, own) in self.leaves_on(node).iter().zip(&self.own) {
            commands.extend(own.keys.iter().filter(|key| !key.unique).flat_map(|key| own_key(key, leaf)));
            let statistics = own.statistics.iter();
            commands.extend(statistics.map(|s| s.create(&leaf.sibling(s.name.name.clone()), leaf)));
            let mut marked = self.table.clone();
            marked.keys.clone_from(&own.marks);
            marked.replica_identity = own.replica_identity.unwrap_or(marked.replica_identity);
            commands.extend(ddl::index_marks(&marked, std::slice::from_ref(leaf)));
        }
        commands
    }

    /// What makes the sources of a switched operation, in the retired schema, partitions again: on the coordinator.
    pub fn return_here(&self) -> Vec<String> {
        let table = self.bare();
        let blueprint = Blueprint { table: &table, keys: &self.keys, mixed: true };
        let mut commands =
            vec![create_table(&table, &table.name, ColumnPlace::LocalLeaf, &blueprint.partition_by(&self.tree))];
        ddl::alter(&mut commands, &table.name, columns::settings(&table));
        for leaf in self.tree.leaves().filter(|leaf| leaf.node.as_deref().is_some_and(|node| node != LOCAL)) {
            commands.push(format!(
                "ALTER FOREIGN TABLE {} OPTIONS (SET schema_name {})",
                table.name.sibling(&leaf.name),
                literal(&table.name.schema)
            ));
        }
        commands.extend(self.attach(|_| true));
        commands
    }

    /// The same on a node.
    pub fn return_on(&self, node: &str, survey: &Preflight) -> Vec<String> {
        let table = fitted(&self.bare(), survey);
        let blueprint = Blueprint { table: &table, keys: &self.keys, mixed: true };
        let mut commands = vec![progress::create_in(&ident(&table.name.schema))];
        commands.extend(blueprint.mirror_root(&self.tree));
        commands.extend(self.attach(|partition| lives_on(partition, node)));
        commands
    }

    /// What the sources get for the switch back, and no earlier: what is kept goes into dumps, and depends on nothing.
    pub fn return_checks(&self) -> Option<String> {
        self.attach_checks()
    }

    /// A default partition among the targets on a node is kept apart from all that will be beside it.
    fn default_check(&self, node: &str) -> Option<String> {
        let default = self.tree.partitions.iter().find(|partition| partition.bound == Bound::Default)?;
        let others = self.tree.partitions.iter().map(|partition| &partition.bound).chain(&self.beside);
        let check = default_check(&self.keys.sql(&self.tree.key), others).filter(|_| lives_on(default, node))?;
        let (table, name) = (self.table.name.sibling(&default.name), ident(DEFAULT_CHECK));
        Some(format!("ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}, ADD CONSTRAINT {name} CHECK ({check})"))
    }

    fn attach(&self, which: impl Fn(&Partition) -> bool) -> Vec<String> {
        let root = &self.table.name;
        let partitions = self.tree.partitions.iter().filter(|partition| which(partition));
        partitions
            .map(|partition| {
                let values = for_values(&partition.bound);
                format!("ALTER TABLE {root} ATTACH PARTITION {} {values}", root.sibling(&partition.name))
            })
            .collect()
    }

    /// The description with only what must be there before rows are: keys that changes are applied by, or that could be
    /// violated. Other indexes are faster made afterwards.
    fn bare(&self) -> TableDefinition {
        let mut table = self.table.clone();
        table.keys.retain(|key| key.unique);
        table
    }

    /// What the copy left for later, on one server with these tablespaces: other indexes, and the marks on indexes.
    pub fn index_commands(&self, node: &str, tablespaces: &[String]) -> Vec<String> {
        let mut later: Vec<Key> = self.table.keys.iter().filter(|key| !key.unique).cloned().collect();
        for key in &mut later {
            key.tablespace = key.tablespace.take().filter(|name| tablespaces.contains(name));
        }
        let named = node != LOCAL || self.is_whole;
        let mut commands = Vec::new();
        if named && !later.is_empty() {
            commands.push(ddl::make_way(&self.table.name.schema, later.iter().map(|key| &key.name)));
        }
        commands.extend(later.iter().flat_map(|key| create_index(key, &self.table.name, named)));
        commands.extend(ddl::index_marks(&self.table, &self.leaves_on(node)));
        commands.extend(self.late_own_commands(node));
        commands
    }

    pub fn leaves_on(&self, node: &str) -> Vec<QualifiedName> {
        let here = self.tree.leaves().filter(|leaf| leaf.node.as_deref().unwrap_or(LOCAL) == node);
        here.map(|leaf| self.table.name.sibling(leaf.name.clone())).collect()
    }

    /// Gives each target the check that lets it be attached without a scan: the bounds of the real place, from the root
    /// down, as Postgres itself writes them. Those of a default partition depend on all that will be beside it on its server:
    /// they are read from an empty table that has as many.
    ///
    /// Postgres writes a table that is partitioned by hash as a number, which would mean nothing, or another table, where a
    /// dump of the database is restored. As a name it is the same condition.
    fn attach_checks(&self) -> Option<String> {
        if self.is_whole {
            return None;
        }
        let body = format!(
            "DECLARE
    staged pg_catalog.regclass := {staged};
    above pg_catalog.regclass := {above};
    child record;
    hashed record;
    inherited record;
    condition text;
    bound text;
    number int := 0;
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
               WHERE i.inhparent = staged AND c.relkind <> 'f' AND pg_catalog.pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT') THEN
        EXECUTE pg_catalog.format('CREATE TABLE {probe} (LIKE %s) PARTITION BY %s', staged, pg_catalog.pg_get_partkeydef(staged));
        FOR bound IN
            SELECT pg_catalog.pg_get_expr(c.relpartbound, c.oid) FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = staged OR i.inhparent = above AND c.relname <> ALL (ARRAY[{sources}]::name[])
        LOOP
            EXECUTE pg_catalog.format('CREATE TABLE {probe}_%s PARTITION OF {probe} %s', number, bound);
            number := number + 1;
        END LOOP;
    END IF;
    FOR child IN
        SELECT c.oid::pg_catalog.regclass AS name,
               CASE WHEN pg_catalog.pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT' THEN pg_catalog.pg_get_partition_constraintdef(c.oid)
                    ELSE (SELECT pg_catalog.pg_get_partition_constraintdef(p.inhrelid)
                          FROM pg_catalog.pg_inherits p JOIN pg_catalog.pg_class d ON d.oid = p.inhrelid
                          WHERE p.inhparent = pg_catalog.to_regclass({probe_name}) AND pg_catalog.pg_get_expr(d.relpartbound, d.oid) = 'DEFAULT') END AS own,
               pg_catalog.pg_get_partition_constraintdef(above) AS outer
        FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = staged AND c.relkind <> 'f'
    LOOP
        condition := pg_catalog.concat_ws(' AND ', child.own, child.outer);
        FOR hashed IN
            SELECT staged::oid AS written, above::oid AS meant
            UNION ALL SELECT relid, relid FROM pg_catalog.pg_partition_ancestors(above)
        LOOP
            condition := pg_catalog.replace(condition,
                pg_catalog.format('satisfies_hash_partition(%L::oid,', hashed.written),
                pg_catalog.format('satisfies_hash_partition(%L::pg_catalog.regclass,', (
                    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c
                    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = hashed.meant)));
        END LOOP;
        EXECUTE pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS {ATTACH_CHECK}', child.name);
        IF condition <> '' THEN
            EXECUTE pg_catalog.format('ALTER TABLE %s ADD CONSTRAINT {ATTACH_CHECK} CHECK (%s)', child.name, condition);
        END IF;
        -- Below a default partition on a node, it would inherit this one, and must have it already.
        FOR inherited IN
            SELECT pg_catalog.pg_get_constraintdef(k.oid) AS definition FROM pg_catalog.pg_constraint k
            WHERE k.conrelid = above AND k.conname = {default_check}
              AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint h WHERE h.conrelid = child.name AND h.conname = k.conname)
        LOOP
            EXECUTE pg_catalog.format('ALTER TABLE %s ADD CONSTRAINT %I %s', child.name, {default_check}, inherited.definition);
        END LOOP;
    END LOOP;
    DROP TABLE IF EXISTS {probe};
END",
            probe = self.table.name.sibling(PROBE),
            probe_name = literal(&self.table.name.sibling(PROBE).to_string()),
            sources = self.sources.iter().map(|name| literal(name)).collect::<Vec<_>>().join(", "),
            staged = self.table.name.regclass(),
            above = self.above.regclass(),
            default_check = literal(DEFAULT_CHECK),
        );
        Some(format!("DO {}", literal(&body)))
    }
}

/// Under its own name, in whatever tablespace is the server's default.
fn own_key(key: &Key, leaf: &QualifiedName) -> Vec<String> {
    let key = Key { tablespace: None, ..key.clone() };
    let mut commands = vec![ddl::make_way(&leaf.schema, [&key.name])];
    commands.extend(create_index(&key, leaf, true));
    commands.extend(ddl::key_comments(&key, leaf));
    commands
}
