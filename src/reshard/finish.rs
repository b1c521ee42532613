//! After the copy: indexes, and statistics for the planner.

use super::place::Place;
use super::stage::Stage;
use super::trouble::Step;
use crate::error::{Error, Report, Result};
use crate::name::{QualifiedName, ident};
use crate::node::own;
use crate::pg::transaction;
use shardkeeper_core::plan::LOCAL;

/// Indexes that the copy went without, and statistics for the planner, on one server.
pub fn finish_tables(stage: &Stage, node: &str, place: &mut Place) -> Step {
    let table = stage.root();
    own::wait(async {
        if !is_finished(place, table).await? {
            let query = "SELECT pg_catalog.to_json(spcname)::text FROM pg_catalog.pg_tablespace";
            let commands = stage.index_commands(node, &place.documents::<String>(query, &[]).await?);
            place.run(&format!("{};\nCOMMENT ON TABLE {table} IS 'indexed'", commands.join(";\n"))).await?;
        }
        match node {
            // Not by the root, whose foreign leaves would be read as well.
            LOCAL => match idents_of(&stage.leaves_on(LOCAL)) {
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

fn idents_of(tables: &[QualifiedName]) -> String {
    tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The mark is made in the transaction of the indexes.
async fn is_finished(place: &mut Place, table: &QualifiedName) -> Result<bool> {
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
