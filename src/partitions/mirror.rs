//! Writing down that a node has a mirror: here, and there as well, so that what a coordinator left that is gone can be told
//! from the node's own tables.

use crate::catalog::mirror;
use crate::error::{Report, Result};
use crate::name::{QualifiedName, ident, literal};
use crate::node::channel::{COORDINATOR, Channel};
use crate::pg::sql;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use serde_json::Value;

/// The node has a mirror of the parent since this transaction, with these rights of mapped roles.
pub fn add(parent: Oid, node: &str, rights: &Value) -> Result<()> {
    mirror::add(parent, node, rights)?;
    let query = format!("SELECT pg_catalog.json_build_array($1::pg_catalog.regclass::text, {COORDINATOR})::text");
    let Some((name, coordinator)) = sql::document::<(String, String)>(&query, &[parent.into()])? else { return Ok(()) };
    let note = format!("SELECT shardkeeper.note_mirror({}, {})", literal(&name), literal(&coordinator));
    Channel::open(node)?.query(&note)?;
    Ok(())
}

/// Which of these tables the node has: somebody may have dropped one there.
pub fn found_on<'a>(node: &str, tables: impl IntoIterator<Item = &'a QualifiedName>) -> Result<Vec<String>> {
    let names: Vec<String> = tables.into_iter().map(|table| literal(&table.to_string())).collect();
    let question = format!(
        "SELECT coalesce(json_agg(wanted), '[]')::text FROM unnest(ARRAY[{}]::text[]) AS wanted WHERE to_regclass(wanted) IS NOT NULL",
        names.join(", ")
    );
    Ok(Channel::open(node)?.document(&question)?.unwrap_or_default())
}

/// What is to be dropped on a node and is not there is no reason to keep the rest.
pub fn warn_of_missing(node: &str, table: &QualifiedName) {
    Report::new(
        Code::ERRCODE_WARNING,
        format!("table {table} is not on node {}: there was nothing to be dropped", ident(node)),
    )
    .warn();
}
