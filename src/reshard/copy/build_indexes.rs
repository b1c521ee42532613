//! After the copy: indexes by the commands of `table/ddl/index.rs`, and statistics for the planner, which are made anew after the switch.

use crate::background::log::Log;
use crate::catalog::operation::Operation;
use crate::error::{Error, Report, Result};
use crate::name::{QualifiedName, ident};
use crate::node::session;
use crate::pg::{timeout, transaction};
use crate::reshard::outcome::Step;
use crate::reshard::prepare::staging::Staging;
use crate::reshard::server::{BRIEF, LONG, Server};
use shardkeeper_core::plan::LOCAL;
use std::time::Duration;

/// Indexes that the copy went without, and statistics for the planner, on one server.
pub fn finish_tables(staging: &Staging, node: &str, place: &mut Server) -> Step {
    let table = staging.root();
    session::wait(async {
        if !is_finished(place, table).await? {
            let query = "SELECT pg_catalog.to_json(spcname)::text FROM pg_catalog.pg_tablespace";
            let commands = staging.index_commands(node, &place.documents::<String>(query, &[]).await?);
            place.run(&format!("{};\nCOMMENT ON TABLE {table} IS 'indexed'", commands.join(";\n"))).await?;
        }
        match node {
            // Not by the root, whose foreign leaves would be read as well.
            LOCAL => match idents_of(&staging.leaves_on(LOCAL)) {
                leaves if leaves.is_empty() => Ok(()),
                leaves => {
                    transaction::tell_statistics();
                    place.run(&format!("ANALYZE {leaves}")).await
                }
            },
            _ => place.run(&format!("ANALYZE {table}")).await,
        }
    })
    .map_err(|error| with_node(error, node))?;
    Ok(())
}

/// Before 16, the coordinator reads all of a foreign table to analyze it, and what is larger is left to whoever wants that.
const MOST_BYTES: i64 = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// What the planners of both sides know of the new partitions, as they are after the switch: of each where it is stored, and
/// of its foreign table here. One after the other, so that each is locked briefly, and only against other maintenance. What
/// does not work is left to autovacuum and to people: the partitions serve.
pub fn analyze(operation: &Operation) {
    let tree = operation.plan.target_tree();
    for node in operation.plan.target_nodes() {
        let here = tree.leaves().filter(|leaf| leaf.node.as_deref().unwrap_or(LOCAL) == node);
        let leaves: Vec<QualifiedName> = here.map(|leaf| operation.plan.above.sibling(&leaf.name)).collect();
        if let Err(error) = analyze_on(operation, &node, &leaves) {
            Log::default().failure(&format!("operation {}", operation.id), error);
        }
    }
}

fn analyze_on(operation: &Operation, node: &str, leaves: &[QualifiedName]) -> Result<()> {
    let mut place = session::wait(Server::open(node, operation.role(), LONG))?;
    let mut local = session::wait(Server::open(LOCAL, operation.role(), BRIEF))?;
    let version = "SELECT current_setting('server_version_num')";
    let samples = session::wait(local.document::<i32>(version, &[]))?.is_some_and(|version| version >= 160_000);
    transaction::tell_statistics();
    for leaf in leaves {
        session::wait(place.run(&format!("ANALYZE {leaf}")))?;
        if node == LOCAL {
            continue;
        }
        let size = format!("SELECT pg_catalog.pg_table_size({})::text", leaf.regclass());
        let small = session::wait(place.document::<i64>(&size, &[]))?.is_some_and(|bytes| bytes <= MOST_BYTES);
        if small || samples {
            let _deadline = timeout::deadline(PATIENCE);
            session::wait(local.run(&format!("ANALYZE {leaf}")))?;
        }
    }
    Ok(())
}

fn idents_of(tables: &[QualifiedName]) -> String {
    tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The mark is made in the transaction of the indexes.
async fn is_finished(place: &mut Server, table: &QualifiedName) -> Result<bool> {
    let query = "SELECT (pg_catalog.obj_description($1::text::regclass, 'pg_class') IS NOT NULL)::text";
    Ok(place.document::<bool>(query, &[&table.to_string()]).await?.unwrap_or(false))
}

fn with_node(error: Error, node: &str) -> Error {
    let mut report = Report::from(error);
    if report.detail.is_none() {
        report.detail = Some(format!("It was on node {}.", ident(node)));
    }
    report.into()
}
