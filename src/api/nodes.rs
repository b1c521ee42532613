//! SQL functions about nodes.

use super::hierarchies::{given, node_names};
use crate::error::{Report, Result as Outcome};
use crate::node::add::{self, NewNode};
use crate::node::alter::{self, Changes};
use crate::node::finding::Finding;
use crate::node::reset::{self, Request};
use crate::node::run_on_nodes;
use crate::node::unsettled::{self, Decision};
use crate::partitions::grants;
use crate::pg::redact;
use crate::pg::regrole::Regrole;
use pgrx::JsonB;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

fn rows(found: Vec<Finding>) -> impl Iterator<Item = (String, String, Option<String>)> {
    found.into_iter().map(|f| (f.severity.word().to_string(), f.finding, f.hint))
}

/// Registers another Postgres database as a node, checks it and makes it ready.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::too_many_arguments)]
fn shard_add_node(
    name: Option<&str>,
    host: Option<&str>,
    port: default!(Option<i32>, 5432),
    dbname: default!(Option<&str>, "NULL"),
    username: default!(Option<&str>, "NULL"),
    password: default!(Option<&str>, "NULL"),
    region: default!(Option<&str>, "NULL"),
    options: default!(Option<JsonB>, "'{}'"),
) -> Result<
    TableIterator<'static, (name!(severity, String), name!(finding, String), name!(hint, Option<String>))>,
    ErrorReport,
> {
    let (name, host, port) = (given("name", name)?, given("host", host)?, given("port", port)?);
    let options = &given("options", options)?.0;
    let new = NewNode { name, host, port, dbname, username, password, region, options };
    Ok(TableIterator::new(rows(redact::hiding(password, || add::add(&new))?)))
}

/// Changes how a node is reached; what is NULL stays.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::too_many_arguments)]
fn shard_alter_node(
    name: Option<&str>,
    host: default!(Option<&str>, "NULL"),
    port: default!(Option<i32>, "NULL"),
    dbname: default!(Option<&str>, "NULL"),
    username: default!(Option<&str>, "NULL"),
    password: default!(Option<&str>, "NULL"),
    region: default!(Option<&str>, "NULL"),
    options: default!(Option<JsonB>, "NULL"),
) -> Result<
    TableIterator<'static, (name!(severity, String), name!(finding, String), name!(hint, Option<String>))>,
    ErrorReport,
> {
    let name = given("name", name)?;
    let options = options.as_ref().map(|json| &json.0);
    let changes = Changes { host, port, dbname, username, password, region, options };
    Ok(TableIterator::new(rows(redact::hiding(password, || alter::alter(name, &changes))?)))
}

/// Forgets a node that stores nothing.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_drop_node(name: Option<&str>) -> Result<(), ErrorReport> {
    Ok(alter::drop(given("name", name)?)?)
}

/// Gives another role its way to a node.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_grant_node(
    name: Option<&str>,
    role: Option<Regrole>,
    username: default!(Option<&str>, "NULL"),
    password: default!(Option<&str>, "NULL"),
) -> Result<(), ErrorReport> {
    let (name, role) = (given("name", name)?, given("role", role)?.0);
    redact::hiding(password, || alter::grant(name, role, username, password))?;
    Ok(grants::follow_all(name)?)
}

/// Runs statements on each node, in parallel or as part of the transaction; what fails is a row too.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn shard_run_on_nodes(
    sql: Option<&str>,
    nodes: default!(Option<Vec<Option<String>>>, "NULL"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(node, String),
            name!(ok, bool),
            name!(rows, Option<i64>),
            name!(result, Option<JsonB>),
            name!(error, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let row = |answer: run_on_nodes::Answer| match answer.outcome {
        Ok((rows, result)) => (answer.node, true, Some(rows), result.map(JsonB), None),
        Err(error) => (answer.node, false, None, None, Some(Report::from(error).one_line())),
    };
    let nodes = nodes.map(|nodes| node_names("nodes", nodes)).transpose()?;
    Ok(TableIterator::new(run_on_nodes::run(given("sql", sql)?, nodes)?.into_iter().map(row).collect::<Vec<_>>()))
}

/// Settles what a transaction left in the journal of a node, where the worker cannot know how it ended: `keep` or `undo`.
///
/// Errors: 42704 no such node, or no such commands; 55006 the transaction still runs; 55000 it was committed.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_settle(
    name: Option<&str>,
    transaction: Option<pgrx::Uuid>,
    decision: Option<&str>,
) -> Result<i64, ErrorReport> {
    let decision = self::decision(given("decision", decision)?)?;
    Ok(unsettled::settle(given("name", name)?, &given("transaction", transaction)?.to_string(), decision)?)
}

fn decision(word: &str) -> Outcome<Decision> {
    match word {
        "keep" => Ok(Decision::Keep),
        "undo" => Ok(Decision::Undo),
        _ => Report::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, format!("decision {word:?} is not known"))
            .hint("It is keep or undo.")
            .into(),
    }
}

/// Frees a node of what is ours there and no longer known here; returns how many objects went. What has rows goes only with
/// `including_data`, and to the trash.
///
/// Errors: 42704 no such node; 42501 not its owner; 22023 a coordinator that is not gone.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_reset_node(
    name: Option<&str>,
    including_data: default!(Option<bool>, "false"),
    coordinator: default!(Option<&str>, "NULL"),
) -> Result<i64, ErrorReport> {
    let (node, including_data) = (given("name", name)?, given("including_data", including_data)?);
    Ok(reset::reset(&Request { node, including_data, coordinator })?)
}

/// What `shard_reset_node` would do. Nothing is changed. Errors: those of `shard_reset_node`.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn shard_plan_reset_node(
    name: Option<&str>,
    including_data: default!(Option<bool>, "false"),
    coordinator: default!(Option<&str>, "NULL"),
) -> Result<
    TableIterator<
        'static,
        (name!(step, i32), name!(object, String), name!(action, String), name!(command, Option<String>)),
    >,
    ErrorReport,
> {
    let (node, including_data) = (given("name", name)?, given("including_data", including_data)?);
    let items = reset::plan(&Request { node, including_data, coordinator })?;
    Ok(TableIterator::new((1..).zip(items).map(|(step, item)| (step, item.object, item.action, item.command))))
}

extension_sql_file!(
    "../../sql/nodes.sql",
    name = "nodes",
    requires = [
        "catalog",
        shard_add_node,
        shard_alter_node,
        shard_drop_node,
        shard_grant_node,
        shard_run_on_nodes,
        shard_settle,
        shard_reset_node,
        shard_plan_reset_node
    ]
);
