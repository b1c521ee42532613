//! What an operation has brought to a server, noted there in the transactions that bring it: on the coordinator in
//! `shardkeeper.progress`, on a node in a table of the staging schema. So the same statements go to both.

use super::operation::Operation;
use crate::error::Result;
use crate::name::ident;
use crate::pg::sql;
use shardkeeper_core::plan::LOCAL;

/// On each node, what the operation has brought there.
const PROGRESS: &str = "shardkeeper_progress";

/// The command that makes the table in a schema on a node. The schema is quoted already.
pub fn create_in(schema: &str) -> String {
    format!(
        "CREATE TABLE {schema}.{PROGRESS} (operation bigint NOT NULL, source text NOT NULL, snapshot text, lsn pg_lsn, handed text[], PRIMARY KEY (operation, source))"
    )
}

/// The table on a server in which the operation notes what it has brought there.
pub fn table(operation: &Operation, node: &str) -> String {
    match node {
        LOCAL => "shardkeeper.progress".to_string(),
        _ => format!("{}.{PROGRESS}", ident(&operation.staging)),
    }
}

/// What the coordinator was brought is gone. Only for a worker.
pub fn forget(operation: i64) -> Result<()> {
    sql::run("DELETE FROM shardkeeper.progress WHERE operation = $1", &[operation.into()])?;
    Ok(())
}
