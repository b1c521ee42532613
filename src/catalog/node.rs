//! What the catalog says of nodes.

use crate::error::Report;
use pgrx::PgSqlErrorCode as Code;

/// The schema of the coordinator that holds one foreign table per node.
pub const SCHEMA: &str = "shardkeeper_nodes";

pub fn unknown_node(node: &str) -> Report {
    Report::new(Code::ERRCODE_UNDEFINED_OBJECT, format!("node \"{node}\" does not exist"))
        .hint("See the view shard_nodes, or add it with SELECT shard_add_node(name, host => …).")
}
