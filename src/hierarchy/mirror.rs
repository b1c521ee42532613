//! Writing down that a node has a mirror: here, and there as well, so that what a coordinator left that is gone can be told
//! from the node's own tables.

use crate::catalog::parent;
use crate::error::Result;
use crate::name::literal;
use crate::node::channel::{COORDINATOR, Channel};
use crate::pg::sql;
use pgrx::pg_sys::Oid;
use serde_json::Value;

/// The node has a mirror of the parent since this transaction, with these rights of mapped roles.
pub fn add(parent: Oid, node: &str, rights: &Value) -> Result<()> {
    parent::add_mirror(parent, node, rights)?;
    let query = format!("SELECT pg_catalog.json_build_array($1::pg_catalog.regclass::text, {COORDINATOR})::text");
    let Some((name, coordinator)) = sql::document::<(String, String)>(&query, &[parent.into()])? else { return Ok(()) };
    let note = format!("SELECT shardkeeper.note_mirror({}, {})", literal(&name), literal(&coordinator));
    Channel::open(node)?.query(&note)?;
    Ok(())
}
