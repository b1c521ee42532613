//! `shardkeeper.transactions`: those that sent commands to nodes, and are not forgotten there. A row is visible only once its
//! transaction has committed here.

use crate::error::Result;
use crate::pg::{role, sql};

/// Notes that the current transaction changes the node. Returns its id, and whether it has changed any node before.
pub fn register(node: &str) -> Result<(String, bool)> {
    let found = role::as_extension_owner(|| {
        sql::one::<String>(
            "WITH known AS (
                 SELECT id FROM shardkeeper.transactions WHERE xid = pg_catalog.pg_current_xact_id() LIMIT 1
             ), used AS (
                 SELECT coalesce((SELECT id FROM known), pg_catalog.gen_random_uuid()) AS id
             ), added AS (
                 INSERT INTO shardkeeper.transactions (id, node, xid)
                 SELECT id, $1, pg_catalog.pg_current_xact_id() FROM used ON CONFLICT DO NOTHING
             )
             SELECT pg_catalog.json_build_array(id, EXISTS (SELECT FROM known))::text FROM used",
            &[node.into()],
        )
    })?;
    Ok(serde_json::from_str(&found.unwrap_or_default())?)
}

/// Those of the given ones that have committed here.
pub fn committed(ids: Vec<String>) -> Result<Vec<String>> {
    role::as_extension_owner(|| {
        sql::column("SELECT id::text FROM shardkeeper.transactions WHERE id = ANY ($1::text[]::uuid[])", &[ids.into()])
    })
}

/// Committed ones that are still remembered for the node. Only for a worker, before it reads the node's journals.
pub fn remembered(node: &str) -> Result<Vec<String>> {
    sql::column("SELECT id::text FROM shardkeeper.transactions WHERE node = $1", &[node.into()])
}

/// What all journals of the node have forgotten. Only for a worker.
pub fn forget(node: &str, ids: &[String]) -> Result<()> {
    if !ids.is_empty() {
        let ids = ids.to_vec();
        sql::run(
            "DELETE FROM shardkeeper.transactions WHERE node = $1 AND id = ANY ($2::text[]::uuid[])",
            &[node.into(), ids.into()],
        )?;
    }
    Ok(())
}

/// All of the node; `true` if the current transaction is one of them.
pub fn forget_all(node: &str) -> Result<bool> {
    role::as_extension_owner(|| {
        let own = sql::one::<bool>(
            "SELECT true FROM shardkeeper.transactions WHERE node = $1 AND xid = pg_catalog.pg_current_xact_id_if_assigned()",
            &[node.into()],
        )?;
        sql::run("DELETE FROM shardkeeper.transactions WHERE node = $1", &[node.into()])?;
        Ok(own == Some(true))
    })
}
