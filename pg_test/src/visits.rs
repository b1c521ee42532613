//! Evidence that a worker has been at work, for tests of what it must leave alone: it has to treat a marker of ours.
use anyhow::{Context, Result};
use postgres::Client;

use crate::cluster::PATIENCE;
use crate::server::{ROLE, Server};
use crate::wait::eventually;

/// How the coordinator of the session names itself in the journals of nodes.
pub const SIGNATURE: &str = "(SELECT system_identifier FROM pg_control_system()) || '/' ||
    (SELECT oid FROM pg_database WHERE datname = current_database())";
/// The timeline that the session's server writes now.
pub const TIMELINE: &str = "('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int";

/// Waits until the worker of the coordinator's database has settled the whole journal of the node, as it is now.
///
/// The worker reads the journal once at each visit. The visit that ends the first marker has seen all that is there
/// now; and it is over when a later one ends the second.
pub fn visited(coordinator: &Server, database: &str, node: &Server) -> Result<()> {
    for round in ["first", "second"] {
        let marker = mark(coordinator, database, node)?;
        let there = format!("SELECT count(*) = 0 FROM shardkeeper.journal WHERE id = {marker}");
        let what = format!("the worker of {database} has ended the {round} marker on {}", node.name);
        eventually(&what, PATIENCE, || node.value(&there))?;
    }
    Ok(())
}

/// A command of a transaction that the coordinator rolled back. Undoing it does nothing.
fn mark(coordinator: &Server, database: &str, node: &Server) -> Result<i64> {
    let mut client = coordinator.client_in(database)?;
    let row = client.query_one(&format!("SELECT {SIGNATURE}, {TIMELINE}"), &[])?;
    let (signature, timeline): (String, i32) = (row.get(0), row.get(1));
    let xid = aborted(&mut client)?;
    let id = node
        .client()?
        .query_one(
            "INSERT INTO shardkeeper.journal (coordinator, timeline, lsn, transaction, xid, role, command, inverse)
             VALUES ($1, $2, '0/1', gen_random_uuid(), $3::text::xid8, $4::text::name, 'SELECT 1', 'SELECT 1') RETURNING id",
            &[&signature, &timeline, &xid, &ROLE],
        )
        .with_context(|| format!("cannot leave a marker on {}", node.name))?
        .get(0);
    Ok(id)
}

/// The number of a transaction that was rolled back.
pub fn aborted(client: &mut Client) -> Result<String> {
    let mut transaction = client.transaction()?;
    let xid = transaction.query_one("SELECT pg_current_xact_id()::text", &[])?.get(0);
    transaction.rollback()?;
    Ok(xid)
}
