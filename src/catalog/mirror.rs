//! `shardkeeper.mirrors`: the nodes that have a mirror of a parent, and the rights that mapped roles were given there.

use super::node;
use crate::error::Result;
use crate::name::QualifiedName;
use crate::pg::{role, sql};
use pgrx::JsonB;
use pgrx::pg_sys::Oid;
use serde_json::Value;

/// For a `WITH` clause: whoever made them.
pub const ALL_MIRRORS: &str = "all_mirrors AS NOT MATERIALIZED (SELECT parent, node FROM shardkeeper.mirrors)";

/// For a `WITH` clause. What came with a restored dump belongs to another coordinator, which goes on using it.
pub const OWN_MIRRORS: &str = "own_mirrors AS NOT MATERIALIZED (
    SELECT parent, node, rights FROM shardkeeper.mirrors WHERE coordinator = shardkeeper.coordinator())";

/// The nodes that have one.
pub fn nodes(parent: Oid) -> Result<Vec<String>> {
    role::as_extension_owner(|| {
        sql::documents(
            "SELECT to_json(node)::text FROM shardkeeper.mirrors WHERE parent = $1 ORDER BY node",
            &[parent.into()],
        )
    })
}

/// Notes that `node` has a mirror, with these rights of mapped roles. Until the end of the transaction nobody drops the node.
///
/// Errors: those of `node::keep`.
pub fn add(parent: Oid, node: &str, rights: &Value) -> Result<()> {
    node::keep(node)?;
    role::as_extension_owner(|| {
        sql::run(
            "INSERT INTO shardkeeper.mirrors (parent, node, coordinator, rights) VALUES ($1, $2, shardkeeper.coordinator(), $3)
             ON CONFLICT (parent, node) DO UPDATE SET coordinator = excluded.coordinator, rights = excluded.rights",
            &[parent.into(), node.into(), JsonB(rights.clone()).into()],
        )
    })?;
    Ok(())
}

/// The node has no table of the parent any more.
pub fn forget(parent: Oid, node: &str) -> Result<()> {
    role::as_extension_owner(|| {
        sql::run("DELETE FROM shardkeeper.mirrors WHERE parent = $1 AND node = $2", &[parent.into(), node.into()])
    })?;
    Ok(())
}

/// What mapped roles were given on the mirror.
pub fn rights(parent: Oid, node: &str) -> Result<Value> {
    let found = role::as_extension_owner(|| {
        sql::document::<Value>(
            "SELECT rights::text FROM shardkeeper.mirrors WHERE parent = $1 AND node = $2",
            &[parent.into(), node.into()],
        )
    })?;
    Ok(found.unwrap_or(Value::Array(Vec::new())))
}

/// The same, and they stay so until the end of the transaction: waits for a GRANT that is under way.
pub fn hold_rights(parent: Oid, node: &str) -> Result<Value> {
    let found = role::as_extension_owner(|| {
        sql::document::<Value>(
            "SELECT rights::text FROM shardkeeper.mirrors WHERE parent = $1 AND node = $2 FOR SHARE",
            &[parent.into(), node.into()],
        )
    })?;
    Ok(found.unwrap_or(Value::Array(Vec::new())))
}

/// The parents that have a mirror on the node.
pub fn parents_on(node: &str) -> Result<Vec<Oid>> {
    sql::column("SELECT parent::oid FROM shardkeeper.mirrors WHERE node = $1 ORDER BY parent", &[node.into()])
}

/// How many mirrors the node has.
pub fn count_on(node: &str) -> Result<i64> {
    let count = role::as_extension_owner(|| {
        sql::one("SELECT count(*) FROM shardkeeper.mirrors WHERE node = $1", &[node.into()])
    })?;
    Ok(count.unwrap_or_default())
}

/// The nodes that have a mirror of the parent of this name.
pub fn nodes_of_named(parent: &QualifiedName) -> Result<Vec<String>> {
    role::as_extension_owner(|| {
        sql::column(
            "SELECT node::text FROM shardkeeper.mirrors WHERE parent = pg_catalog.to_regclass($1) ORDER BY node",
            &[parent.to_string().into()],
        )
    })
}

/// One parent, or each that there is, with the nodes of its mirrors, but for nodes that this transaction has changed: what it
/// has done there, no other session sees yet.
pub fn visible(parent: Option<Oid>) -> Result<Vec<(Oid, Vec<String>)>> {
    let found: Vec<(u32, Vec<String>)> = role::as_extension_owner(|| {
        sql::documents(
            "SELECT json_build_array(m.parent::oid::bigint, json_agg(m.node ORDER BY m.node))::text
             FROM shardkeeper.mirrors m JOIN pg_class c ON c.oid = m.parent
             WHERE ($1 IS NULL OR m.parent = $1) AND NOT EXISTS (
                 SELECT FROM shardkeeper.transactions x WHERE x.node = m.node AND x.xid = pg_current_xact_id_if_assigned())
             GROUP BY m.parent ORDER BY m.parent::text",
            &[parent.into()],
        )
    })?;
    Ok(found.into_iter().map(|(parent, nodes)| (Oid::from(parent), nodes)).collect())
}
