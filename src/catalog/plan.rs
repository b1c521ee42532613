//! What an operation replaces, and by what: the document in the column `plan` of `shardkeeper.operations`.

use super::carried::{Key, Statistics};
use crate::name::QualifiedName;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shardkeeper_core::plan::{Bound, LOCAL, Method, Partition, Tree};
use std::collections::BTreeMap;

/// What an operation replaces, and by what. All of it is decided when the operation is called for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// The partitioned table whose partitions change, and the labels that lead to it from the root.
    pub above: QualifiedName,
    pub labels: Vec<String>,
    pub method: Method,
    pub key: Vec<String>,
    pub sources: Vec<Source>,
    pub targets: Vec<Partition>,
    /// The bounds of the partitions beside them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<Bound>,
    /// The parent's spec and counters once the operation is switched.
    pub spec: Value,
    pub dealt: BTreeMap<String, u64>,
    /// Of a group, which replaces nothing itself: its moves, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<Move>,
    /// The node that a drain empties.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaving: Option<String>,
    /// Of a group that changes a modulus leaf by leaf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modulus: Option<NewModulus>,
    /// What a leaf that moves has of its own, beside what all leaves have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own: Option<Own>,
    /// What is to be there again after a revert; `None` where there is no way back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
}

/// What somebody gave to a single leaf.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Own {
    pub keys: Vec<Key>,
    pub statistics: Vec<Statistics>,
    /// Actions of an `ALTER TABLE` of the new leaf, while it is empty.
    pub actions: Vec<String>,
    /// Keys by which rows are identified or ordered.
    pub marks: Vec<Key>,
    /// `pg_class.relreplident`, where it is not that of the others.
    pub replica_identity: Option<char>,
}

impl Own {
    pub fn is_empty(&self) -> bool {
        let Self { keys, statistics, actions, marks, replica_identity } = self;
        keys.is_empty() && statistics.is_empty() && actions.is_empty() && marks.is_empty() && replica_identity.is_none()
    }
}

/// What was there when the operation was called for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Before {
    /// The sources with all that is below them.
    pub partitions: Vec<Partition>,
    pub spec: Value,
    pub dealt: BTreeMap<String, u64>,
}

/// How many hash partitions a table shall have. Which of them are replaced is decided one after the other, by what is there
/// then.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewModulus {
    pub table: QualifiedName,
    pub modulus: u32,
    pub nodes: Option<Vec<String>>,
    /// The counters of dealt leaves when it was called for.
    pub dealt: BTreeMap<String, u64>,
    /// How long what is replaced is kept, as an SQL interval.
    pub keep: String,
}

/// One move of a group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Move {
    pub parent: QualifiedName,
    pub partition: QualifiedName,
    pub from: String,
    pub to: String,
    /// Moves of one step may run side by side; a step waits for the end of the one before.
    pub step: u32,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            above: QualifiedName::new("", ""),
            labels: Vec::new(),
            method: Method::Hash,
            key: Vec::new(),
            sources: Vec::new(),
            targets: Vec::new(),
            beside: Vec::new(),
            spec: Value::Null,
            dealt: BTreeMap::new(),
            moves: Vec::new(),
            leaving: None,
            modulus: None,
            own: None,
            before: None,
        }
    }
}

/// A partition that goes, with all tables below it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Source {
    pub name: QualifiedName,
    pub label: String,
    pub bound: Bound,
    /// Itself if it is a leaf, else the tables below it too, each after the one above it.
    pub tables: Vec<SourceTable>,
    /// Of a plain table that becomes a parent, what must not change until it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTable {
    pub name: QualifiedName,
    /// Where a leaf lives; `None` for a table that is partitioned itself.
    pub node: Option<String>,
    /// Of a partitioned table, where the leaves below it live.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes_below: Vec<String>,
}

impl Source {
    /// A partition below `above` with all its tables.
    pub fn of(above: &QualifiedName, partition: &Partition) -> Self {
        let below = partition.sub.iter().flat_map(|sub| sub.walk());
        let tables = std::iter::once(partition).chain(below).map(|table| SourceTable {
            name: above.sibling(&table.name),
            node: table.sub.is_none().then(|| table.node.clone().unwrap_or_else(|| LOCAL.to_string())),
            nodes_below: match &table.sub {
                Some(sub) => distinct(sub.leaves().map(|leaf| leaf.node.as_deref().unwrap_or(LOCAL))),
                None => Vec::new(),
            },
        });
        Self {
            name: above.sibling(&partition.name),
            label: partition.label.clone(),
            bound: partition.bound.clone(),
            tables: tables.collect(),
            shape: None,
        }
    }
}

impl Plan {
    pub fn target_tree(&self) -> Tree {
        Tree { method: self.method, key: self.key.clone(), partitions: self.targets.clone() }
    }

    /// The leaves to be read, with their servers.
    pub fn source_leaves(&self) -> impl Iterator<Item = (&QualifiedName, &str)> {
        let tables = self.sources.iter().flat_map(|source| &source.tables);
        tables.filter_map(|table| Some((&table.name, table.node.as_deref()?)))
    }

    pub fn source_nodes(&self) -> Vec<String> {
        distinct(self.source_leaves().map(|(_, node)| node))
    }

    pub fn target_nodes(&self) -> Vec<String> {
        let tree = self.target_tree();
        distinct(tree.leaves().map(|leaf| leaf.node.as_deref().unwrap_or(LOCAL)))
    }

    /// The targets' servers other than the coordinator.
    pub fn remote_target_nodes(&self) -> Vec<String> {
        remote(self.target_nodes())
    }

    /// All servers that have a part in it, without the coordinator.
    pub fn remote_nodes(&self) -> Vec<String> {
        let (sources, targets) = (self.source_nodes(), self.target_nodes());
        remote(distinct(sources.iter().chain(&targets).map(String::as_str)))
    }

    /// The nodes that partitions come to, as far as they are known.
    pub fn arrives_at(&self) -> Vec<String> {
        let dealt = self.modulus.as_ref().and_then(|modulus| modulus.nodes.as_ref());
        let moved = self.moves.iter().map(|step| &step.to);
        let targets = self.target_nodes();
        let all = dealt.into_iter().flatten().chain(moved).chain(&targets).map(String::as_str);
        distinct(all.filter(|node| *node != LOCAL))
    }
}

fn remote(mut servers: Vec<String>) -> Vec<String> {
    servers.retain(|server| server != LOCAL);
    servers
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<String> = names.map(str::to_string).collect();
    names.sort();
    names.dedup();
    names
}
