//! SQL functions that build hierarchies, change them and take them apart.

use super::data_movement;
use crate::error::{Error, Report, Result};
use crate::hierarchy::partition_keys;
use crate::node::trash::KeepTime;
use crate::partitions::detach::{self, Fate};
use crate::partitions::{add, adopt, create, drop_parent, grants};
use crate::pg::regclass::Regclass;
use crate::reshard::convert;
use crate::table::publications::Accept;
use pgrx::JsonB;
use pgrx::datum::Interval;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use shardkeeper_core::operation::Mode;
use shardkeeper_core::plan::LOCAL;
use shardkeeper_core::spec::{self, Level, ShortForm};

/// An argument that must be there: a call without it would otherwise do nothing and look like a success.
///
/// Errors: 22004 the argument is NULL.
pub(super) fn given<T>(name: &str, argument: Option<T>) -> Result<T> {
    match argument {
        Some(argument) => Ok(argument),
        None => Report::new(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, format!("{name} is NULL")).into(),
    }
}

/// The names of nodes in an array argument.
///
/// Errors: 22004 one of them is NULL.
pub(super) fn node_names(argument: &str, nodes: Vec<Option<String>>) -> Result<Vec<String>> {
    let named = |(at, node): (usize, Option<String>)| given(&format!("{argument}[{at}]: the name of a node"), node);
    nodes.into_iter().enumerate().map(named).collect()
}

/// How long what is dropped is kept.
fn keep(interval: Option<Interval>) -> Result<KeepTime> {
    let given = interval.map(|interval| data_movement::keep_time("keep", interval)).transpose()?;
    Ok(KeepTime::of(given.as_deref()))
}

/// Makes `parent` the root of the hierarchy in `spec`. Returns an operation id when data has to move, else NULL; then `mode`
/// says whether writers go on.
///
/// Errors: 42501 not the owner; 42809 not a table that can be partitioned; 22023 a mistake in the spec, with its JSON
/// path; 2BP01 other objects depend on the table; 42P16 a unique key lacks a partition key; 55000 it has
/// rows, and no replica identity or no logical decoding; 55006 another operation runs on it.
#[pg_extern(volatile, parallel_unsafe, name = "shard_create_parent")]
#[search_path(pg_catalog, pg_temp)]
fn shard_create_parent(
    parent: Option<Regclass>,
    spec: Option<JsonB>,
    mode: default!(Option<&str>, "'online'"),
    accept: default!(Option<Vec<Option<String>>>, "NULL"),
) -> Result<Option<i64>, ErrorReport> {
    let (parent, spec, mode) = (given("parent", parent)?, given("spec", spec)?, data_movement::mode(mode)?);
    Ok(create_parent(parent.0, &spec::parse(&spec.0).map_err(Error::from)?, mode, Accept::parse(accept)?)?)
}

/// The one-level form. `key` is one column or expression, or several columns with commas between.
#[pg_extern(volatile, parallel_unsafe, name = "shard_create_parent")]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::too_many_arguments)]
fn shard_create_parent_short(
    parent: Option<Regclass>,
    method: Option<&str>,
    key: Option<&str>,
    modulus: default!(Option<i32>, "NULL"),
    interval: default!(Option<&str>, "NULL"),
    lists: default!(Option<JsonB>, "NULL"),
    nodes: default!(Option<Vec<Option<String>>>, "NULL"),
    premake: default!(Option<i32>, "NULL"),
    default_partition: default!(Option<bool>, "false"),
    start: default!(Option<&str>, "NULL"),
    until: default!(Option<&str>, "NULL"),
    step: default!(Option<AnyNumeric>, "NULL"),
    bounds: default!(Option<JsonB>, "NULL"),
    timezone: default!(Option<&str>, "NULL"),
    epoch: default!(Option<&str>, "NULL"),
    mode: default!(Option<&str>, "'online'"),
    accept: default!(Option<Vec<Option<String>>>, "NULL"),
) -> Result<Option<i64>, ErrorReport> {
    let mode = data_movement::mode(mode)?;
    let parent = given("parent", parent)?.0;
    let level = one_level(
        parent,
        method,
        key,
        modulus,
        interval,
        lists,
        nodes,
        premake,
        default_partition,
        start,
        until,
        step,
        bounds,
        timezone,
        epoch,
    )?;
    Ok(create_parent(parent, &level, mode, Accept::parse(accept)?)?)
}

/// What the arguments of a short form say.
#[allow(clippy::too_many_arguments)]
fn one_level(
    parent: pg_sys::Oid,
    method: Option<&str>,
    key: Option<&str>,
    modulus: Option<i32>,
    interval: Option<&str>,
    lists: Option<JsonB>,
    nodes: Option<Vec<Option<String>>>,
    premake: Option<i32>,
    default_partition: Option<bool>,
    start: Option<&str>,
    until: Option<&str>,
    step: Option<AnyNumeric>,
    bounds: Option<JsonB>,
    timezone: Option<&str>,
    epoch: Option<&str>,
) -> Result<Level> {
    let (method, key) = (given("method", method)?, given("key", key)?);
    let level = Level::short_form(ShortForm {
        method: Some(method.to_string()),
        key: Some(partition_keys::split(parent, key)?),
        modulus: modulus.map(i64::from),
        interval: interval.map(str::to_string),
        step: step.map(|step| step.to_string()),
        start: start.map(str::to_string),
        until: until.map(str::to_string),
        premake: premake.map(i64::from),
        timezone: timezone.map(str::to_string),
        epoch: epoch.map(str::to_string),
        lists: lists.map(|json| json.0),
        bounds: bounds.map(|json| json.0),
        nodes: nodes.map(|nodes| node_names("nodes", nodes)).transpose()?,
        default_partition: default_partition.filter(|wanted| *wanted),
    })?;
    Ok(level)
}

/// The rows of a populated table move in an operation; all else is done at once.
fn create_parent(table: pg_sys::Oid, level: &Level, mode: Mode, accept: Accept) -> Result<Option<i64>> {
    if create::is_populated(table)? {
        return convert::start(table, level, mode, accept).map(Some);
    }
    create::create(table, level, accept)?;
    Ok(None)
}

/// The commands that `shard_create_parent` would run, in order. Nothing is changed, on no server.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_plan_parent(
    parent: Option<Regclass>,
    spec: Option<JsonB>,
) -> Result<TableIterator<'static, (name!(step, i32), name!(node, String), name!(command, String))>, ErrorReport> {
    let (parent, spec) = (given("parent", parent)?.0, given("spec", spec)?);
    Ok(TableIterator::new(plan_rows(parent, &spec::parse(&spec.0).map_err(Error::from)?)?))
}

/// The same for the one-level form of `shard_create_parent`, with its arguments.
#[pg_extern(volatile, parallel_unsafe, name = "shard_plan_parent")]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::too_many_arguments)]
fn shard_plan_parent_short(
    parent: Option<Regclass>,
    method: Option<&str>,
    key: Option<&str>,
    modulus: default!(Option<i32>, "NULL"),
    interval: default!(Option<&str>, "NULL"),
    lists: default!(Option<JsonB>, "NULL"),
    nodes: default!(Option<Vec<Option<String>>>, "NULL"),
    premake: default!(Option<i32>, "NULL"),
    default_partition: default!(Option<bool>, "false"),
    start: default!(Option<&str>, "NULL"),
    until: default!(Option<&str>, "NULL"),
    step: default!(Option<AnyNumeric>, "NULL"),
    bounds: default!(Option<JsonB>, "NULL"),
    timezone: default!(Option<&str>, "NULL"),
    epoch: default!(Option<&str>, "NULL"),
) -> Result<TableIterator<'static, (name!(step, i32), name!(node, String), name!(command, String))>, ErrorReport> {
    let parent = given("parent", parent)?.0;
    let level = one_level(
        parent,
        method,
        key,
        modulus,
        interval,
        lists,
        nodes,
        premake,
        default_partition,
        start,
        until,
        step,
        bounds,
        timezone,
        epoch,
    )?;
    Ok(TableIterator::new(plan_rows(parent, &level)?))
}

fn plan_rows(parent: pg_sys::Oid, level: &Level) -> Result<Vec<(i32, String, String)>> {
    let prepared = create::prepare(parent, level, create::Intent::Plan)?;
    let warning = prepared.publication_warning(parent)?.map(|text| (LOCAL, format!("-- {text}")));
    let commands = prepared.script.rows().map(|(node, command)| (node, command.to_string()));
    let rows = commands.chain(warning).zip(1..);
    Ok(rows.map(|((node, command), step)| (step, node.to_string(), command)).collect())
}

/// Takes a partitioned table that was built by hand under management, with partitions here and on nodes. No table is made anew.
///
/// Errors: 42501 not the owner; 42809 not partitioned; 0A000, 22023 what a spec cannot say; 42704 a server that is no node; 55000
/// another schema, owner or remote name; 42P01 a partition is not there on its node; 23514 a row in the wrong partition;
/// 42710 it is managed already.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_adopt_parent(parent: Option<Regclass>) -> Result<(), ErrorReport> {
    Ok(adopt::adopt(given("parent", parent)?.0)?)
}

/// Adds one partition with everything below it; returns it. Without `node`, leaves are dealt as the spec says.
///
/// `bounds` is `{"from": …, "to": …}`, `{"in": […]}`, `{"modulus": …, "remainder": …}` or `{"default": true}`, with an
/// optional `name` or `label`. `parent` is a managed parent or a partitioned table below one.
/// Errors: 42P01 not managed; 42501 not the owner; 22023 wrong bounds; 42P17 they overlap; 23514 rows of the default
/// partition belong to the new one.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_add_partition(
    parent: Option<Regclass>,
    bounds: Option<JsonB>,
    node: default!(Option<&str>, "NULL"),
    accept: default!(Option<Vec<Option<String>>>, "NULL"),
) -> Result<Regclass, ErrorReport> {
    let (parent, bounds) = (given("parent", parent)?, given("bounds", bounds)?);
    Ok(Regclass(add::add_partition(parent.0, &bounds.0, node, Accept::parse(accept)?)?))
}

/// Takes a partition out of its hierarchy; it stays, with its rows, as a table of its own on the same server.
///
/// Errors: 42P01 not managed; 42501 not the owner; 42809 it is the parent; 0A000 it is a hash partition.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_detach_partition(partition: Option<Regclass>) -> Result<(), ErrorReport> {
    Ok(detach::take_out(given("partition", partition)?.0, &Fate::Keep)?)
}

/// Drops a partition on its server: it goes to the trash, and is destroyed after `keep`; without, after
/// `shardkeeper.trash_keep`.
///
/// Errors: those of `shard_detach_partition`; 2BP01 other objects depend on it; 22023 keep is negative.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_drop_partition(
    partition: Option<Regclass>,
    keep: default!(Option<Interval>, "NULL"),
) -> Result<(), ErrorReport> {
    Ok(detach::take_out(given("partition", partition)?.0, &Fate::Trash(self::keep(keep)?))?)
}

/// Stops managing a parent. All tables stay as they are, on all servers.
///
/// Errors: 42P01 not managed; 42501 not the owner; 42809 it is a partition.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_release_parent(parent: Option<Regclass>) -> Result<(), ErrorReport> {
    Ok(drop_parent::release(given("parent", parent)?.0)?)
}

/// Drops a parent with all partitions on all servers: they go to the trash of their servers, and are destroyed after
/// `keep`; without, after `shardkeeper.trash_keep`.
///
/// Errors: those of `shard_release_parent`; 2BP01 other objects depend on it; 22023 keep is negative.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_drop_parent(parent: Option<Regclass>, keep: default!(Option<Interval>, "NULL")) -> Result<(), ErrorReport> {
    Ok(drop_parent::drop(given("parent", parent)?.0, &self::keep(keep)?)?)
}

/// Brings the rights of mapped roles on the nodes in step with those on the parent here. GRANT and REVOKE on a parent do
/// it by themselves; this is for what they cannot see: membership of roles, or a node that was down.
///
/// Errors: 42P01 not managed. What a node refuses is a warning.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_sync_grants(parent: Option<Regclass>) -> Result<(), ErrorReport> {
    let parent = given("parent", parent)?;
    crate::catalog::parent::require(parent.0)?;
    Ok(grants::follow(parent.0, None)?)
}
