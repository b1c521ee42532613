//! `shardkeeper.detached`: partitions that left their hierarchy with their rows on nodes. The foreign table here is all that leads
//! to these.

use crate::error::Result;
use crate::name::QualifiedName;
use crate::pg::{role, sql};
use pgrx::pg_sys::Oid;
use serde::Deserialize;

/// What stands for a detached partition on one node.
#[derive(Deserialize)]
pub struct Remote {
    pub node: String,
    #[serde(flatten)]
    pub table: QualifiedName,
}

pub fn add(partition: Oid, node: &str, table: &QualifiedName) -> Result<()> {
    role::as_extension_owner(|| {
        sql::run(
            "INSERT INTO shardkeeper.detached (partition, node, schema, name) VALUES ($1, $2, $3, $4)
             ON CONFLICT (partition, node) DO UPDATE SET schema = excluded.schema, name = excluded.name",
            &[partition.into(), node.into(), table.schema.as_str().into(), table.name.as_str().into()],
        )
    })?;
    Ok(())
}

/// Its tables on nodes; none for a table that no call has detached.
pub fn remotes(partition: Oid) -> Result<Vec<Remote>> {
    role::as_extension_owner(|| {
        sql::documents(
            "SELECT pg_catalog.json_build_object('node', node, 'schema', schema, 'name', name)::text
             FROM shardkeeper.detached WHERE partition = $1 ORDER BY node",
            &[partition.into()],
        )
    })
}

/// It is dropped, or a partition again.
pub fn forget(partitions: &[Oid]) -> Result<()> {
    role::as_extension_owner(|| {
        sql::run("DELETE FROM shardkeeper.detached WHERE partition = ANY ($1::oid[])", &[partitions.to_vec().into()])
    })?;
    Ok(())
}

/// The names here of what has its rows on the node.
pub fn on_node(node: &str) -> Result<Vec<String>> {
    role::as_extension_owner(|| {
        sql::column("SELECT partition::text FROM shardkeeper.detached WHERE node = $1 ORDER BY 1", &[node.into()])
    })
}
