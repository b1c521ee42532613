//! The write fence before new partitions on a node: from the node's commit of the switch to the news that the coordinator has
//! committed too, direct writers wait there.
//!
//! Without it, what such a writer commits in a switch that is undone would be in the rejected copy only. Writers through the
//! coordinator pass: they find the new partitions exactly if it has committed. The rest is in `shardkeeper.write_fence()` in
//! `sql/node.sql`.

use crate::catalog::operation::Operation;
use crate::error::Result;
use crate::name::{QualifiedName, ident, literal};
use crate::node::session::{self, ConnectionParams, Lent};
use crate::pg::transaction;
use crate::reshard::server::BRIEF;
use futures_util::future::join_all;

/// Rows, and TRUNCATE.
const TRIGGERS: [(&str, &str); 2] = [
    ("shardkeeper_write_fence", "BEFORE INSERT OR UPDATE OR DELETE"),
    ("shardkeeper_write_fence_truncate", "BEFORE TRUNCATE"),
];

/// Commands that put the fence before these leaves, part of the switch on their node, and those that undo it.
pub fn shut(operation: &Operation, leaves: &[QualifiedName]) -> (Vec<String>, Vec<String>) {
    if leaves.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let staging = literal(&operation.staging);
    let mut commands = vec![format!("INSERT INTO shardkeeper.switches (staging) VALUES ({staging})")];
    let mut inverse = vec![format!("DELETE FROM shardkeeper.switches WHERE staging = {staging}")];
    for leaf in leaves {
        for (name, event) in TRIGGERS {
            let each = if event.contains("TRUNCATE") { "STATEMENT" } else { "ROW" };
            commands.push(format!(
                "CREATE OR REPLACE TRIGGER {} {event} ON {leaf} FOR EACH {each} EXECUTE FUNCTION shardkeeper.write_fence({staging})",
                ident(name)
            ));
        }
        inverse.push(removal(leaf));
    }
    (commands, inverse)
}

/// The command that takes the fence of a leaf away.
pub fn removal(leaf: &QualifiedName) -> String {
    TRIGGERS.map(|(name, _)| format!("DROP TRIGGER IF EXISTS {} ON {leaf}", ident(name))).join(";\n")
}

/// The coordinator has committed. Outside a transaction; safe to repeat.
pub fn open(operation: &Operation) -> Result<()> {
    let nodes = operation.plan.remote_target_nodes().into_iter();
    let ways = transaction::run(|| {
        nodes.map(|node| ConnectionParams::of(&node, operation.role())).collect::<Result<Vec<_>>>()
    })?;
    let open = format!("DELETE FROM shardkeeper.switches WHERE staging = {}", literal(&operation.staging));
    session::wait(async {
        let visits = ways.iter().map(async |way| Lent::open(way, BRIEF).await?.session().await?.run(&open).await);
        join_all(visits).await.into_iter().collect()
    })
}
