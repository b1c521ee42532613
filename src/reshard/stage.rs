//! The stage: where the targets stand until the switch. A schema of its own on the coordinator and on every node that
//! gets targets, with a copy of the partitioned table in which they are partitions as they will be in the real one.
//!
//! So rows find their place by Postgres's own routing, on the coordinator for the server and on each server for the leaf,
//! and no row can get into the wrong target.

use crate::catalog::operation::Operation;
use crate::error::Result;
use crate::hierarchy::build::{Blueprint, lives_on};
use crate::hierarchy::columns::Place as ColumnPlace;
use crate::hierarchy::create::fitted;
use crate::hierarchy::description::{Description, Key};
use crate::hierarchy::key::Keys;
use crate::hierarchy::managed::Managed;
use crate::hierarchy::rebuild::{self, create_key, create_table};
use crate::hierarchy::survey::Survey;
use crate::name::{QualifiedName, ident, literal};
use crate::pg::{role, transaction};
use shardkeeper_core::plan::{LOCAL, Partition, Tree};

/// What a target carries until it is attached: with it, Postgres need not read the table to believe where its rows belong.
pub const ATTACH_CHECK: &str = "shardkeeper_attach";
/// On each node, what the operation has brought there.
const PROGRESS: &str = "shardkeeper_progress";

pub struct Stage {
    /// The parent's description under the name of the staged table.
    table: Description,
    keys: Keys,
    tree: Tree,
    above: QualifiedName,
}

impl Stage {
    /// As the parent is now, by itself. Outside a transaction.
    pub fn read(operation: &Operation) -> Result<(Managed, Self)> {
        transaction::run(|| {
            let managed = role::acting_as(operation.role(), || Managed::read(operation.parent()))?;
            let stage = Self::of(&managed, operation)?;
            Ok((managed, stage))
        })
    }

    /// Within a transaction.
    pub fn of(managed: &Managed, operation: &Operation) -> Result<Self> {
        let mut table = managed.table.clone();
        let keys = managed.keys()?;
        table.name = operation.staged(&operation.plan.above.name);
        table.statistics.clear();
        Ok(Self { table, keys, tree: operation.plan.target_tree(), above: operation.plan.above.clone() })
    }

    pub fn root(&self) -> &QualifiedName {
        &self.table.name
    }

    /// Columns that hold data of their own, in the order in which rows travel.
    pub fn columns(&self) -> Vec<String> {
        let stored = self.table.columns.iter().filter(|column| column.generated.is_empty());
        stored.map(|column| column.name.clone()).collect()
    }

    /// The staged tree on the coordinator: local targets as tables, the others as foreign tables.
    pub fn local_commands(&self) -> Vec<String> {
        let table = self.bare();
        let blueprint = Blueprint { table: &table, keys: &self.keys, mixed: true };
        let mut commands =
            vec![create_table(&table, &table.name, ColumnPlace::LocalLeaf, &blueprint.partition_by(&self.tree))];
        commands.extend(blueprint.local_tree(&table.name, &self.tree));
        commands.push(self.attach_checks());
        commands
    }

    /// The staged mirror on one node.
    pub fn node_commands(&self, node: &str, survey: &Survey) -> Vec<String> {
        let table = fitted(&self.bare(), survey);
        let blueprint = Blueprint { table: &table, keys: &self.keys, mixed: true };
        let schema = ident(&table.name.schema);
        let mut commands = vec![
            format!("CREATE SCHEMA {schema}"),
            format!(
                "CREATE TABLE {schema}.{PROGRESS} (operation bigint NOT NULL, source text NOT NULL, snapshot text, lsn pg_lsn, PRIMARY KEY (operation, source))"
            ),
        ];
        commands.extend(blueprint.mirror_root(&self.tree));
        commands.extend(blueprint.mirror_tree(node, &table.name, &self.tree));
        commands.push(self.attach_checks());
        commands
    }

    /// The description with only what must be there before rows are: keys that changes are applied by, or that could be
    /// violated. Other indexes are faster made afterwards.
    fn bare(&self) -> Description {
        let mut table = self.table.clone();
        table.keys.retain(|key| key.unique);
        table
    }

    /// What the copy left for later, on one server: other indexes, and the marks on indexes.
    pub fn index_commands(&self, node: &str) -> Vec<String> {
        let later: Vec<&Key> = self.table.keys.iter().filter(|key| !key.unique).collect();
        let mut commands: Vec<String> =
            later.iter().flat_map(|key| create_key(key, &self.table.name, node != LOCAL)).collect();
        let leaves: Vec<QualifiedName> = self
            .tree
            .leaves()
            .filter(|leaf| leaf.node.as_deref() == Some(node))
            .map(|leaf| self.table.name.sibling(leaf.name.clone()))
            .collect();
        commands.extend(rebuild::index_marks(&self.table, &leaves));
        commands
    }

    /// Gives each target the check that lets it be attached without a scan: the bounds of the real place, from the root
    /// down, as Postgres itself writes them. Those of a default partition depend on its siblings and are left out.
    fn attach_checks(&self) -> String {
        let body = format!(
            "DECLARE
    staged pg_catalog.regclass := {staged};
    above pg_catalog.regclass := {above};
    child record;
BEGIN
    FOR child IN
        SELECT c.oid::pg_catalog.regclass AS name,
               pg_catalog.replace(pg_catalog.pg_get_partition_constraintdef(c.oid),
                   pg_catalog.quote_literal(staged::oid) || '::oid', pg_catalog.quote_literal(above::oid) || '::oid') AS own,
               pg_catalog.pg_get_partition_constraintdef(above) AS outer
        FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = staged AND c.relkind <> 'f' AND pg_catalog.pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT'
    LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s ADD CONSTRAINT {ATTACH_CHECK} CHECK (%s)', child.name,
            pg_catalog.concat_ws(' AND ', child.own, child.outer));
    END LOOP;
END",
            staged = self.table.name.regclass(),
            above = self.above.regclass(),
        );
        format!("DO {}", literal(&body))
    }

    /// The staged tables with rows on one server, and those above them.
    pub fn tables_on(&self, node: &str) -> Vec<QualifiedName> {
        let on_node = |partition: &&Partition| lives_on(partition, node);
        self.tree.walk().filter(on_node).map(|p| self.table.name.sibling(p.name.clone())).collect()
    }
}

/// The table on a server in which the operation notes what it has brought there.
pub fn progress_table(operation: &Operation, node: &str) -> String {
    match node {
        LOCAL => "shardkeeper.progress".to_string(),
        _ => format!("{}.{PROGRESS}", ident(&operation.stage)),
    }
}
