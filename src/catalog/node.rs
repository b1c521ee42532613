//! `shardkeeper.nodes`, with the foreign servers and user mappings that say how each node is reached.

use crate::error::{Report, Result};
use crate::pg::{role, sql};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The schema of the coordinator that holds one foreign table per node.
pub const SCHEMA: &str = "shardkeeper_nodes";

/// For a `WITH` clause.
pub const KNOWN_NODES: &str = "known_nodes AS NOT MATERIALIZED (SELECT name FROM shardkeeper.nodes)";

/// A condition that holds on a server which is a coordinator itself. For a session there.
pub const IS_COORDINATOR: &str = "to_regclass('shardkeeper.nodes') IS NOT NULL";

pub fn unknown_node(node: &str) -> Report {
    Report::new(Code::ERRCODE_UNDEFINED_OBJECT, format!("node \"{node}\" does not exist"))
        .hint("See the view shard_nodes, or add it with SELECT shard_add_node(name, host => …).")
}

pub fn is_known(node: &str) -> Result<bool> {
    let found = role::as_extension_owner(|| {
        sql::one::<bool>("SELECT true FROM shardkeeper.nodes WHERE name = $1", &[node.into()])
    })?;
    Ok(found.is_some())
}

/// Of the nodes that have a mirror of one parent, or of all.
pub fn names(parent: Option<Oid>) -> Result<Vec<String>> {
    role::as_extension_owner(|| {
        sql::column(
            "SELECT name::text FROM shardkeeper.nodes n
             WHERE $1 IS NULL OR EXISTS (SELECT FROM shardkeeper.mirrors m WHERE m.node = n.name AND m.parent = $1)
             ORDER BY name",
            &[parent.into()],
        )
    })
}

pub fn names_with_regions() -> Result<Vec<(String, Option<String>)>> {
    role::as_extension_owner(|| {
        sql::documents(
            "SELECT pg_catalog.json_build_array(name, region)::text FROM shardkeeper.nodes ORDER BY name",
            &[],
        )
    })
}

/// System identifier and database, where they are known.
pub fn identity(node: &str) -> Result<Option<String>> {
    role::as_extension_owner(|| sql::one("SELECT identity FROM shardkeeper.nodes WHERE name = $1", &[node.into()]))
}

/// The node that is this database.
pub fn name_of(identity: Option<&str>) -> Result<Option<String>> {
    role::as_extension_owner(|| {
        sql::one("SELECT name::text FROM shardkeeper.nodes WHERE identity = $1", &[identity.into()])
    })
}

/// Until the end of the transaction nobody else adds a node.
pub fn hold_all() -> Result<()> {
    role::as_extension_owner(|| sql::run("LOCK TABLE shardkeeper.nodes IN SHARE ROW EXCLUSIVE MODE", &[]))?;
    Ok(())
}

/// Until the end of the transaction nobody drops the node.
///
/// Errors: 42704 it was dropped just now.
pub fn keep(node: &str) -> Result<()> {
    let known = role::as_extension_owner(|| {
        sql::one::<bool>("SELECT true FROM shardkeeper.nodes WHERE name = $1 FOR KEY SHARE", &[node.into()])
    })?;
    if known.is_none() { unknown_node(node).into() } else { Ok(()) }
}

/// Until the end of the transaction nobody gives the node a mirror, or has an operation bring it partitions.
pub fn hold(node: &str) -> Result<()> {
    role::as_extension_owner(|| {
        sql::one::<bool>("SELECT true FROM shardkeeper.nodes WHERE name = $1 FOR UPDATE", &[node.into()])
    })?;
    Ok(())
}

pub fn insert(node: &str, region: Option<&str>, identity: Option<&str>) -> Result<()> {
    role::as_extension_owner(|| {
        sql::run(
            "INSERT INTO shardkeeper.nodes (name, region, identity) VALUES ($1, $2, $3)",
            &[node.into(), region.into(), identity.into()],
        )
    })?;
    Ok(())
}

pub fn set_identity(node: &str, identity: Option<&str>) -> Result<()> {
    role::as_extension_owner(|| {
        sql::run("UPDATE shardkeeper.nodes SET identity = $2 WHERE name = $1", &[node.into(), identity.into()])
    })?;
    Ok(())
}

/// An empty text takes the region away.
pub fn set_region(node: &str, region: &str) -> Result<()> {
    role::as_extension_owner(|| {
        sql::run("UPDATE shardkeeper.nodes SET region = nullif($2, '') WHERE name = $1", &[node.into(), region.into()])
    })?;
    Ok(())
}

pub fn delete(node: &str) -> Result<()> {
    role::as_extension_owner(|| sql::run("DELETE FROM shardkeeper.nodes WHERE name = $1", &[node.into()]))?;
    Ok(())
}

/// The options of the foreign server, `None` when there is no such node.
pub fn server_options(node: &str) -> Result<Option<BTreeMap<String, String>>> {
    role::as_extension_owner(|| {
        sql::document(
            "SELECT (SELECT coalesce(pg_catalog.json_object_agg(option_name, option_value), '{}')
                     FROM pg_catalog.pg_options_to_table(s.srvoptions))::text
             FROM pg_catalog.pg_foreign_server s JOIN shardkeeper.nodes n ON n.name = s.srvname WHERE s.srvname = $1",
            &[node.into()],
        )
    })
}

/// A way to a node.
#[derive(Deserialize)]
pub struct Mapping {
    pub node: String,
    /// `None` where the node has no user mapping at all.
    pub role: Option<u32>,
    /// The role is a superuser; of the mapping for everybody, the server's owner.
    pub trusted: bool,
    /// Of the server and of the mapping.
    pub options: BTreeMap<String, String>,
}

/// The user mappings of all nodes. Only for a worker, which may see them.
pub fn mappings() -> Result<Vec<Mapping>> {
    sql::documents(
        "SELECT pg_catalog.json_build_object('node', n.name, 'role', m.umuser::bigint, 'trusted', o.rolsuper,
                    'options', coalesce((SELECT pg_catalog.json_object_agg(option_name, option_value) FROM (
                        SELECT * FROM pg_catalog.pg_options_to_table(s.srvoptions)
                        UNION ALL SELECT * FROM pg_catalog.pg_options_to_table(m.umoptions)) all_options), '{}'))::text
         FROM shardkeeper.nodes n JOIN pg_catalog.pg_foreign_server s ON s.srvname = n.name
         LEFT JOIN pg_catalog.pg_user_mapping m ON m.umserver = s.oid
         JOIN pg_catalog.pg_roles o ON o.oid = CASE WHEN m.umuser <> 0 THEN m.umuser ELSE s.srvowner END
         ORDER BY n.name, m.umuser",
        &[],
    )
}
