//! A node that is emptied, and operations that were called for before.

use super::operation::Plan;
use crate::error::{Report, Result};
use crate::name::ident;
use crate::pg::{role, sql};
use pgrx::PgSqlErrorCode as Code;
use serde_json::Value;
use shardkeeper_core::spec;

/// Errors: 55006 an operation under way brings partitions to the node.
pub fn nothing_comes(node: &str) -> Result<()> {
    let Some(coming) = next_to_come(node)? else { return Ok(()) };
    Report::new(Code::ERRCODE_OBJECT_IN_USE, format!("operation {coming} brings partitions to node {}", ident(node)))
        .hint(format!("Wait with SELECT shard_wait({coming}); or end it with SELECT shard_cancel({coming});"))
        .into()
}

fn next_to_come(node: &str) -> Result<Option<i64>> {
    let under_way: Vec<(i64, Plan)> = role::as_extension_owner(|| {
        sql::documents(
            "SELECT pg_catalog.json_build_array(id, plan)::text FROM shardkeeper.operations
             WHERE state NOT IN ('switched', 'finished', 'cancelled', 'failed', 'reverted') AND shardkeeper.is_own(staging)
             ORDER BY id",
            &[],
        )
    })?;
    Ok(under_way.into_iter().find(|(_, plan)| plan.arrives_at().iter().any(|name| name == node)).map(|(id, _)| id))
}

/// The spec that an operation leaves, without the nodes that were drained since it was called for.
pub fn spec_after(operation: i64, spec: &Value) -> Result<Value> {
    let left: Vec<String> = role::as_extension_owner(|| {
        sql::column(
            "SELECT DISTINCT plan ->> 'leaving' FROM shardkeeper.operations WHERE id > $1 AND plan ? 'leaving'",
            &[operation.into()],
        )
    })?;
    let mut level = spec::parse(spec)?;
    let forgets = left.iter().fold(false, |forgets, node| level.forget_node(node) | forgets);
    Ok(if forgets { level.to_json() } else { spec.clone() })
}
