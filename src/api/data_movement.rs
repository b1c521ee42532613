//! SQL functions that move data. Each returns the id of an operation, which begins when the transaction commits.

use super::hierarchies::{given, node_names};
use crate::error::{Report, Result};
use crate::pg::regclass::Regclass;
use crate::pg::subtransaction::steady;
use crate::reshard::plan;
use crate::table::publications::Accept;
use pgrx::JsonB;
use pgrx::datum::Interval;
use pgrx::pg_sys::Oid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use shardkeeper_core::operation::Mode;

pub(super) fn mode(text: Option<&str>) -> Result<Mode> {
    let text = given("mode", text)?;
    text.parse::<Mode>().or_else(|_| {
        Report::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, format!("mode cannot be \"{text}\""))
            .hint("It is online or block_writes.")
            .into()
    })
}

fn keep(interval: Option<Interval>) -> Result<String> {
    keep_time("keep", given("keep", interval)?)
}

/// How long something is kept, as text.
pub(super) fn keep_time(argument: &str, interval: Interval) -> Result<String> {
    let text = crate::pg::sql::one::<String>("SELECT $1::text", &[interval.into()])?;
    let text = text.unwrap_or_default();
    plan::keep(argument, &text)?;
    Ok(text)
}

/// An argument of names of nodes.
pub(super) fn named(nodes: Option<Vec<Option<String>>>) -> Result<Option<Vec<String>>> {
    nodes.map(|nodes| node_names("nodes", nodes)).transpose()
}

/// An argument of partitions.
pub(super) fn listed(partitions: Option<Vec<Option<Regclass>>>) -> Result<Vec<Oid>> {
    let partitions = given("partitions", partitions)?.into_iter();
    partitions.map(|partition| given("partitions: a partition", partition).map(|partition| partition.0)).collect()
}

/// The moves of a rebalance.
pub(super) fn balancing(
    parent: Option<Regclass>,
    by: Option<&str>,
    nodes: Option<Vec<Option<String>>>,
    capacities: Option<JsonB>,
    minimum_gain: Option<f64>,
) -> Result<plan::Group> {
    let nodes = named(nodes)?;
    let shares = plan::Shares {
        by: given("by", by)?,
        nodes: nodes.as_deref(),
        capacities: capacities.as_ref().map(|capacities| &capacities.0),
        minimum_gain: given("minimum_gain", minimum_gain)?,
    };
    let parent = parent.map(|parent| parent.0);
    // Of all parents, one may be dropped while they are read.
    steady(|| plan::rebalance(parent, &shares))
}

/// Moves a leaf to another node, online; `local` is the coordinator. Returns the operation id.
///
/// Errors: 42P01 not managed; 42501 not the owner; 42704 no such node; 42809 not a leaf; 55000 it is there already; 55006
/// another operation runs on the parent.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_move_partition(
    partition: Option<Regclass>,
    node: Option<&str>,
    mode: default!(Option<&str>, "'online'"),
    keep: default!(Option<Interval>, "'1 day'"),
    accept: default!(Option<Vec<Option<String>>>, "NULL"),
) -> Result<i64, ErrorReport> {
    let (mode, keep) = (self::mode(mode)?, self::keep(keep)?);
    Ok(plan::move_leaf(given("partition", partition)?.0, given("node", node)?)?
        .accepting(Accept::parse(accept)?)?
        .start(mode, &keep)?)
}

/// Replaces the hash partitions of a table by `modulus` new ones, online. Returns the operation id. `nodes` are those that
/// the new leaves are dealt over; without, those of the spec.
///
/// Errors: 42P01 not managed; 42501 not the owner; 42809 not partitioned by hash; 22023 modulus below 1; 42704 no such node;
/// 55000 nothing would change; 55006 another operation runs on the parent.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_set_modulus(
    parent: Option<Regclass>,
    modulus: Option<i32>,
    nodes: default!(Option<Vec<Option<String>>>, "NULL"),
    mode: default!(Option<&str>, "'online'"),
    keep: default!(Option<Interval>, "'1 day'"),
    accept: default!(Option<Vec<Option<String>>>, "NULL"),
) -> Result<i64, ErrorReport> {
    let (mode, keep) = (self::mode(mode)?, self::keep(keep)?);
    Ok(plan::set_modulus(given("parent", parent)?.0, given("modulus", modulus)?, named(nodes)?)?
        .accepting(Accept::parse(accept)?)?
        .start(mode, &keep)?)
}

/// Replaces a leaf by several, online. Of a range `bounds` is the list of points at which it is split, of a list an object with
/// the values of each part, of a default partition the bounds of new partitions as for `shard_add_partition`, one or a list.
/// Without `nodes` the parts go where the spec says. Returns the operation id.
///
/// Errors: 42P01 not managed; 42501 not the owner; 42704 no such node; 42809 not a leaf; 0A000 a hash partition;
/// 22023 wrong bounds; 42P17 they overlap; 42P07 a name is taken; 55006 another operation runs on the parent.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_split(
    partition: Option<Regclass>,
    bounds: Option<JsonB>,
    nodes: default!(Option<Vec<Option<String>>>, "NULL"),
    mode: default!(Option<&str>, "'online'"),
    keep: default!(Option<Interval>, "'1 day'"),
    accept: default!(Option<Vec<Option<String>>>, "NULL"),
) -> Result<i64, ErrorReport> {
    let (mode, keep) = (self::mode(mode)?, self::keep(keep)?);
    let (partition, bounds) = (given("partition", partition)?.0, given("bounds", bounds)?.0);
    Ok(plan::split(partition, &bounds, named(nodes)?)?.accepting(Accept::parse(accept)?)?.start(mode, &keep)?)
}

/// Replaces adjacent ranges, or lists, of one table by one leaf, online. Without `node` it goes where most of them are. Returns
/// the operation id.
///
/// Errors: those of `shard_split`; 22023 fewer than two, not of one table, or a gap between them.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_merge(
    partitions: Option<Vec<Option<Regclass>>>,
    name: default!(Option<&str>, "NULL"),
    node: default!(Option<&str>, "NULL"),
    mode: default!(Option<&str>, "'online'"),
    keep: default!(Option<Interval>, "'1 day'"),
    accept: default!(Option<Vec<Option<String>>>, "NULL"),
) -> Result<i64, ErrorReport> {
    let (mode, keep) = (self::mode(mode)?, self::keep(keep)?);
    Ok(plan::merge(&listed(partitions)?, name, node)?.accepting(Accept::parse(accept)?)?.start(mode, &keep)?)
}

/// Moves values of one list partition, with their rows, to another one of the same table, online. Returns the operation id.
///
/// Errors: those of `shard_split`; 42809 not a list partition; 22023 a value is not in `from`, or all are.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_move_values(
    from: Option<Regclass>,
    to: Option<Regclass>,
    values: Option<JsonB>,
    mode: default!(Option<&str>, "'online'"),
    keep: default!(Option<Interval>, "'1 day'"),
    accept: default!(Option<Vec<Option<String>>>, "NULL"),
) -> Result<i64, ErrorReport> {
    let (mode, keep) = (self::mode(mode)?, self::keep(keep)?);
    let (from, to, values) = (given("from", from)?.0, given("to", to)?.0, given("values", values)?.0);
    Ok(plan::move_values(from, to, &values)?.accepting(Accept::parse(accept)?)?.start(mode, &keep)?)
}

/// Moves all leaves of a node to others, online; each old one is dropped as soon as it is moved. From the call on no spec
/// names the node. Returns the operation id, of a group of moves.
///
/// Errors: 42704 no such node; 42501 not the owner of a parent with leaves there; 55000 a leaf has no place to go; 55006
/// another group of moves runs.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_drain_node(
    name: Option<&str>,
    mode: default!(Option<&str>, "'online'"),
    accept: default!(Option<Vec<Option<String>>>, "NULL"),
) -> Result<i64, ErrorReport> {
    let (mode, name) = (self::mode(mode)?, given("name", name)?);
    Ok(steady(|| plan::drain(name))?.accepting(Accept::parse(accept)?)?.start(mode)?)
}

/// Moves leaves so that each node has its share of `bytes`, `rows` or `count`, online; each old one is dropped as soon as it is
/// moved. Leaves go to `nodes`, without, to those of their spec; and to the regions of these only. `capacities` are weights by
/// node, and `minimum_gain` is a part of a node's ideal load. Returns the operation id, of a group of moves.
///
/// Errors: 42P01 not managed; 42501 not the owner; 42704 no such node; 42809 not a parent; 22023 an unknown measure, a wrong
/// capacity or gain; 55006 another group of moves runs.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_rebalance(
    parent: default!(Option<Regclass>, "NULL"),
    by: default!(Option<&str>, "'bytes'"),
    nodes: default!(Option<Vec<Option<String>>>, "NULL"),
    mode: default!(Option<&str>, "'online'"),
    capacities: default!(Option<JsonB>, "NULL"),
    minimum_gain: default!(Option<f64>, "0.05"),
    accept: default!(Option<Vec<Option<String>>>, "NULL"),
) -> Result<i64, ErrorReport> {
    let mode = self::mode(mode)?;
    Ok(balancing(parent, by, nodes, capacities, minimum_gain)?.accepting(Accept::parse(accept)?)?.start(mode)?)
}
