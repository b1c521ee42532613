//! The partitions of a tree as commands: on the coordinator with foreign tables for remote leaves, on each node as the
//! mirror with only its own leaves.

use crate::hierarchy::bound::{default_check, for_values};
use crate::hierarchy::partition_keys::PartitionKeys;
use crate::name::{QualifiedName, ident, literal};
use crate::table::columns::{self, Place};
use crate::table::ddl::{alter, create_index, create_table, storage};
use crate::table::definition::TableDefinition;
use shardkeeper_core::plan::{Bound, LOCAL, Partition, Tree};

/// The check that a default partition on a node carries: its bounds there exclude only the siblings that live there.
pub const DEFAULT_CHECK: &str = "shardkeeper_default";

/// What all tables of one hierarchy are made from.
pub struct Blueprint<'a> {
    pub table: &'a TableDefinition,
    pub keys: &'a PartitionKeys,
    /// Some leaves are foreign, so unique keys are on the local leaves one by one.
    pub mixed: bool,
}

/// Whether a table is made inside its parent or beside it and attached: the former takes ACCESS EXCLUSIVE on the
/// parent, so it is for parents that nobody uses yet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Joining {
    Inside,
    Attached,
}

impl Blueprint<'_> {
    pub fn partition_by(&self, tree: &Tree) -> String {
        format!("PARTITION BY {} ({})", tree.method.as_str().to_uppercase(), self.keys.sql(&tree.key).join(", "))
    }

    fn named(&self, name: &str) -> QualifiedName {
        self.table.name.sibling(name)
    }

    /// All partitions below `parent` on the coordinator.
    pub fn local_tree(&self, parent: &QualifiedName, tree: &Tree) -> Vec<String> {
        tree.partitions.iter().flat_map(|p| self.local_partition(parent, p, Joining::Inside)).collect()
    }

    /// One partition of `parent` on the coordinator, with everything below it.
    pub fn local_partition(&self, parent: &QualifiedName, partition: &Partition, joining: Joining) -> Vec<String> {
        let mut joining = joining;
        let name = self.named(&partition.name);
        let values = for_values(&partition.bound);
        let mut commands = Vec::new();
        match (&partition.sub, partition.node.as_deref()) {
            (Some(sub), _) => {
                let by = self.partition_by(sub);
                commands.push(match joining {
                    Joining::Inside => format!("CREATE TABLE {name} PARTITION OF {parent} {values} {by}"),
                    Joining::Attached => create_table(self.table, &name, Place::LocalLeaf, &by),
                });
                commands.extend(self.local_tree(&name, sub));
            }
            (None, None | Some(LOCAL)) => {
                commands.push(match joining {
                    Joining::Inside => {
                        format!("CREATE TABLE {name} PARTITION OF {parent} {values}{}", storage(self.table))
                    }
                    Joining::Attached => create_table(self.table, &name, Place::LocalLeaf, ""),
                });
                commands.extend(self.leaf_extras(&name));
            }
            (None, Some(node)) => {
                // Made inside, it would inherit the compression of columns, and no dump of it could be restored: Postgres
                // takes `SET COMPRESSION` for its own tables only.
                if self.table.columns.iter().any(|column| column.compression.is_some()) {
                    joining = Joining::Attached;
                }
                commands.push(self.foreign_table(
                    &name,
                    node,
                    match joining {
                        Joining::Inside => format!("PARTITION OF {parent} {values}"),
                        Joining::Attached => columns::list(self.table, Place::Foreign),
                    },
                ));
            }
        }
        if joining == Joining::Attached {
            commands.push(format!("ALTER TABLE {parent} ATTACH PARTITION {name} {values}"));
        }
        commands
    }

    fn foreign_table(&self, name: &QualifiedName, node: &str, body: String) -> String {
        format!(
            "CREATE FOREIGN TABLE {name} {body} SERVER {} OPTIONS (schema_name {}, table_name {})",
            ident(node),
            literal(&name.schema),
            literal(&name.name)
        )
    }

    /// What a local leaf needs beyond what it gets from its parent.
    fn leaf_extras(&self, leaf: &QualifiedName) -> Vec<String> {
        let mut commands = Vec::new();
        alter(&mut commands, leaf, columns::leaf_settings(self.table));
        if self.mixed {
            for key in self.table.keys.iter().filter(|key| key.unique) {
                commands.extend(create_index(key, leaf, false));
            }
        }
        commands.extend(self.replica_identity(leaf));
        commands
    }

    fn replica_identity(&self, leaf: &QualifiedName) -> Option<String> {
        let what = match self.table.replica_identity {
            'f' => "FULL",
            'n' => "NOTHING",
            _ => return None,
        };
        Some(format!("ALTER TABLE {leaf} REPLICA IDENTITY {what}"))
    }

    /// The mirror's own table on a node, without partitions. Unique keys are native here: they contain the partition
    /// key, so each of them holds for all nodes together.
    pub fn mirror_root(&self, tree: &Tree) -> Vec<String> {
        let name = &self.table.name;
        let mut commands = vec![create_table(self.table, name, Place::Mirror, &self.partition_by(tree))];
        alter(&mut commands, name, columns::settings(self.table));
        for key in &self.table.keys {
            commands.extend(create_index(key, name, true));
        }
        for statistics in self.table.statistics.iter().filter(|s| s.name.schema == name.schema) {
            commands.push(statistics.create(&statistics.name, name));
        }
        commands
    }

    /// The part of the tree below `parent` that lives on `node`.
    pub fn mirror_tree(&self, node: &str, parent: &QualifiedName, tree: &Tree) -> Vec<String> {
        tree.partitions
            .iter()
            .filter(|partition| lives_on(partition, node))
            .flat_map(|partition| {
                let siblings = tree.partitions.iter().map(|p| &p.bound);
                self.mirror_partition(
                    node,
                    parent,
                    partition,
                    self.default_check(tree, &partition.bound, siblings),
                    Joining::Inside,
                )
            })
            .collect()
    }

    /// One partition of the mirror with what lives below it on `node`. `check` is for a default partition.
    pub fn mirror_partition(
        &self,
        node: &str,
        parent: &QualifiedName,
        partition: &Partition,
        check: Option<String>,
        joining: Joining,
    ) -> Vec<String> {
        let name = self.named(&partition.name);
        let values = for_values(&partition.bound);
        let check = check.map(|check| format!("CONSTRAINT {} CHECK ({check})", ident(DEFAULT_CHECK)));
        let tail = match &partition.sub {
            Some(sub) => format!(" {}", self.partition_by(sub)),
            None => storage(self.table),
        };
        let mut commands = vec![match (joining, &partition.sub) {
            (Joining::Inside, _) => {
                let check = check.as_ref().map(|check| format!(" ({check})")).unwrap_or_default();
                format!("CREATE TABLE {name} PARTITION OF {parent}{check} {values}{tail}")
            }
            (Joining::Attached, Some(sub)) => create_table(self.table, &name, Place::Mirror, &self.partition_by(sub)),
            (Joining::Attached, None) => create_table(self.table, &name, Place::Mirror, ""),
        }];
        if let (Joining::Attached, Some(check)) = (joining, &check) {
            commands.push(format!("ALTER TABLE {name} ADD {check}"));
        }
        match &partition.sub {
            Some(sub) => commands.extend(self.mirror_tree(node, &name, sub)),
            None => {
                alter(&mut commands, &name, columns::leaf_settings(self.table));
                commands.extend(self.replica_identity(&name));
            }
        }
        if joining == Joining::Attached {
            commands.push(format!("ALTER TABLE {parent} ATTACH PARTITION {name} {values}"));
        }
        commands
    }

    fn default_check<'b>(
        &self,
        tree: &Tree,
        bound: &Bound,
        siblings: impl Iterator<Item = &'b Bound>,
    ) -> Option<String> {
        match bound {
            Bound::Default => default_check(&self.keys.sql(&tree.key), siblings),
            _ => None,
        }
    }
}

/// Whether any leaf of the partition is stored on `node`.
pub fn lives_on(partition: &Partition, node: &str) -> bool {
    match &partition.sub {
        Some(sub) => sub.leaves().any(|leaf| leaf.node.as_deref() == Some(node)),
        None => partition.node.as_deref() == Some(node),
    }
}

/// The remote nodes of some leaves, in order.
pub fn remote_nodes<'a>(leaves: impl Iterator<Item = &'a Partition>) -> Vec<String> {
    let mut nodes: Vec<String> =
        leaves.filter_map(|leaf| leaf.node.as_deref()).filter(|node| *node != LOCAL).map(str::to_string).collect();
    nodes.sort();
    nodes.dedup();
    nodes
}
