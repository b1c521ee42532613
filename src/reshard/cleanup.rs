//! Taking away what an operation made on the servers. Safe to repeat, and safe when nothing is there.

pub mod copied_database;
pub mod empty_mirrors;

use super::revert::shared_slot;
use super::server::{BRIEF, Server};
use crate::catalog::operation::Operation;
use crate::catalog::progress;
use crate::error::{Error, Result};
use crate::name::{ident, literal};
use crate::node::session;
use crate::pg::{sql, transaction};
use shardkeeper_core::operation::State;
use shardkeeper_core::plan::LOCAL;

const CASCADE: &str = "CASCADE";
const RESTRICT: &str = "RESTRICT";

/// The staging schema, publications and slots, on all servers of the operation. The first error is returned after all were tried.
pub fn staging(operation: &Operation) -> Result<()> {
    let mut failed = None;
    for node in servers(operation) {
        let done = stream(operation, &node, &operation.staging)
            .and_then(|()| schema(operation, &node, &operation.staging, CASCADE));
        if let Err(error) = done {
            failed = failed.or(Some(error));
        }
    }
    failed.map_or(Ok(()), Err)
}

/// What the servers keep for a way back. A server that is down must not keep the others from being cleaned.
pub fn way_back(operation: &Operation) -> Result<()> {
    let done: Vec<Result<()>> =
        operation.streams.iter().map(|(node, stream)| shared_slot::leave(operation, node, stream)).collect();
    done.into_iter().collect()
}

/// The schema of the replaced tables, on all servers. Before a switch it is empty, and nothing else is taken away: where a
/// node has committed a switch that the coordinator has not, the tables in it are the only ones.
pub fn retired(operation: &Operation) -> Result<()> {
    let mut failed: Option<Error> = None;
    let how = if operation.state == State::Finished { CASCADE } else { RESTRICT };
    for node in servers(operation) {
        if let Err(error) = schema(operation, &node, &operation.retired(), how) {
            failed = failed.or(Some(error));
        }
    }
    failed.map_or(Ok(()), Err)
}

fn servers(operation: &Operation) -> Vec<String> {
    let mut servers = operation.plan.remote_nodes();
    servers.push(LOCAL.to_string());
    servers
}

/// Slot and publication.
pub fn stream(operation: &Operation, node: &str, named: &str) -> Result<()> {
    // Each by itself: a slot is gone for good even if what follows fails.
    slot(operation, node, named)?;
    let command = format!("DROP PUBLICATION IF EXISTS {}", ident(named));
    if node == LOCAL {
        return transaction::run(|| sql::run_quietly(&command));
    }
    session::wait(async { Server::open(node, operation.role(), BRIEF).await?.run(&command).await })
}

/// A slot; `false` if there was none. A process that still reads it is one of ours that lost its worker.
pub fn slot(operation: &Operation, node: &str, named: &str) -> Result<bool> {
    let name = literal(named);
    let end = format!(
        "SELECT pg_catalog.pg_terminate_backend(active_pid)::text FROM pg_catalog.pg_replication_slots WHERE slot_name = {name} AND active_pid <> pg_catalog.pg_backend_pid()"
    );
    let drop = format!(
        "SELECT pg_catalog.to_json(pg_catalog.pg_drop_replication_slot(slot_name)::text)::text FROM pg_catalog.pg_replication_slots WHERE slot_name = {name}"
    );
    let there = format!("SELECT true::text FROM pg_catalog.pg_replication_slots WHERE slot_name = {name}");
    if node == LOCAL {
        return transaction::run(|| {
            let found = sql::document::<bool>(&there, &[])?.is_some();
            if found {
                sql::run(&end, &[])?;
                sql::run(&drop, &[])?;
            }
            Ok(found)
        });
    }
    session::wait(async {
        let mut place = Server::open(node, operation.role(), BRIEF).await?;
        let found = place.document::<bool>(&there, &[]).await?.is_some();
        if found {
            place.run(&end).await?;
            place.run(&drop).await?;
        }
        Ok(found)
    })
}

fn schema(operation: &Operation, node: &str, schema: &str, how: &str) -> Result<()> {
    let drop = format!("DROP SCHEMA IF EXISTS {} {how}", ident(schema));
    if node == LOCAL {
        return transaction::run(|| {
            sql::run_quietly(&drop)?;
            progress::forget(operation.id)
        });
    }
    session::wait(async {
        let mut place = Server::open(node, operation.role(), BRIEF).await?;
        place.run(&drop).await
    })
}
