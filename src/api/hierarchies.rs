//! SQL functions that build hierarchies, change them and take them apart.

use crate::error::Result;
use crate::hierarchy::{create, key};
use crate::pg::regclass::Regclass;
use pgrx::JsonB;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::Value;
use shardkeeper_core::spec::{self, Level, ShortForm};

/// Makes `parent` the root of the hierarchy in `spec`. Returns an operation id when data has to move, else NULL.
///
/// Errors: 42501 not the owner; 42809 not a table that can be partitioned; 22023 a mistake in the spec, with its JSON
/// path; 2BP01 other objects depend on the table; 42P16 a unique key lacks a partition key; 55000 the table has rows.
#[pg_extern(volatile, parallel_unsafe, name = "shard_create_parent")]
#[search_path(pg_catalog, pg_temp)]
fn shard_create_parent(parent: Regclass, spec: JsonB) -> Result<Option<i64>, ErrorReport> {
    create::create(parent.0, &spec::parse(&spec.0).map_err(crate::error::Error::from)?)?;
    Ok(None)
}

/// The one-level form. `key` is one column or expression, or several columns with commas between.
#[pg_extern(volatile, parallel_unsafe, name = "shard_create_parent")]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::too_many_arguments)]
fn shard_create_parent_short(
    parent: Regclass,
    method: &str,
    key: &str,
    modulus: default!(Option<i32>, "NULL"),
    interval: default!(Option<&str>, "NULL"),
    lists: default!(Option<JsonB>, "NULL"),
    nodes: default!(Option<Vec<String>>, "NULL"),
    premake: default!(Option<i32>, "NULL"),
    default_partition: default!(bool, "false"),
    start: default!(Option<&str>, "NULL"),
    until: default!(Option<&str>, "NULL"),
    step: default!(Option<&str>, "NULL"),
    bounds: default!(Option<JsonB>, "NULL"),
    timezone: default!(Option<&str>, "NULL"),
    epoch: default!(Option<&str>, "NULL"),
) -> Result<Option<i64>, ErrorReport> {
    let level = Level::short_form(ShortForm {
        method: Some(method.to_string()),
        key: Some(key::split(parent.0, key)?),
        modulus: modulus.map(i64::from),
        interval: interval.map(str::to_string),
        step: step.map(str::to_string),
        start: start.map(str::to_string),
        end: until.map(str::to_string),
        premake: premake.map(i64::from),
        timezone: timezone.map(str::to_string),
        epoch: epoch.map(str::to_string),
        lists: lists.map(|json| json.0),
        bounds: bounds.map(|json| json.0),
        nodes,
        name: None,
        default_partition: default_partition.then_some(true),
        partitions: None,
    })
    .map_err(crate::error::Error::from)?;
    create::create(parent.0, &level)?;
    Ok(None)
}

/// The commands that `shard_create_parent` would run, in order. Nothing is changed, on no server.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_plan_parent(
    parent: Regclass,
    spec: JsonB,
) -> Result<TableIterator<'static, (name!(step, i32), name!(node, String), name!(command, String))>, ErrorReport> {
    Ok(TableIterator::new(plan_rows(parent, &spec.0)?))
}

fn plan_rows(parent: Regclass, spec: &Value) -> Result<Vec<(i32, String, String)>> {
    let prepared = create::prepare(parent.0, &spec::parse(spec)?, create::Intent::Plan)?;
    let rows = prepared.script.rows().zip(1..);
    Ok(rows.map(|((node, command), step)| (step, node.to_string(), command.to_string())).collect())
}
