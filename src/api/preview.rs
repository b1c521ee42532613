//! What the calls that move data would do, step by step. They take the same arguments.

use super::data_movement::{balancing, listed, mode, named};
use super::hierarchies::given;
use crate::pg::regclass::Regclass;
use crate::pg::subtransaction::steady;
use crate::reshard::plan;
use pgrx::JsonB;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// What `shard_move_partition` would do. Nothing is changed. Errors: those of `shard_move_partition`.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn shard_plan_move_partition(
    partition: Option<Regclass>,
    node: Option<&str>,
    mode: default!(Option<&str>, "'online'"),
) -> Result<TableIterator<'static, (name!(step, i32), name!(node, String), name!(action, String))>, ErrorReport> {
    let mode = self::mode(mode)?;
    let decided = plan::move_leaf(given("partition", partition)?.0, given("node", node)?)?;
    Ok(TableIterator::new(decided.preview(mode)?))
}

/// What `shard_set_modulus` would do. Nothing is changed. Errors: those of `shard_set_modulus`.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn shard_plan_set_modulus(
    parent: Option<Regclass>,
    modulus: Option<i32>,
    nodes: default!(Option<Vec<Option<String>>>, "NULL"),
    mode: default!(Option<&str>, "'online'"),
) -> Result<TableIterator<'static, (name!(step, i32), name!(node, String), name!(action, String))>, ErrorReport> {
    let mode = self::mode(mode)?;
    let decided = plan::set_modulus(given("parent", parent)?.0, given("modulus", modulus)?, named(nodes)?)?;
    Ok(TableIterator::new(decided.preview(mode)?))
}

/// What `shard_split` would do. Nothing is changed. Errors: those of `shard_split`.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn shard_plan_split(
    partition: Option<Regclass>,
    bounds: Option<JsonB>,
    nodes: default!(Option<Vec<Option<String>>>, "NULL"),
    mode: default!(Option<&str>, "'online'"),
) -> Result<TableIterator<'static, (name!(step, i32), name!(node, String), name!(action, String))>, ErrorReport> {
    let mode = self::mode(mode)?;
    let (partition, bounds) = (given("partition", partition)?.0, given("bounds", bounds)?.0);
    Ok(TableIterator::new(plan::split(partition, &bounds, named(nodes)?)?.preview(mode)?))
}

/// What `shard_merge` would do. Nothing is changed. Errors: those of `shard_merge`.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn shard_plan_merge(
    partitions: Option<Vec<Option<Regclass>>>,
    name: default!(Option<&str>, "NULL"),
    node: default!(Option<&str>, "NULL"),
    mode: default!(Option<&str>, "'online'"),
) -> Result<TableIterator<'static, (name!(step, i32), name!(node, String), name!(action, String))>, ErrorReport> {
    let mode = self::mode(mode)?;
    Ok(TableIterator::new(plan::merge(&listed(partitions)?, name, node)?.preview(mode)?))
}

/// What `shard_move_values` would do. Nothing is changed. Errors: those of `shard_move_values`.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn shard_plan_move_values(
    from: Option<Regclass>,
    to: Option<Regclass>,
    values: Option<JsonB>,
    mode: default!(Option<&str>, "'online'"),
) -> Result<TableIterator<'static, (name!(step, i32), name!(node, String), name!(action, String))>, ErrorReport> {
    let mode = self::mode(mode)?;
    let (from, to, values) = (given("from", from)?.0, given("to", to)?.0, given("values", values)?.0);
    Ok(TableIterator::new(plan::move_values(from, to, &values)?.preview(mode)?))
}

/// What `shard_drain_node` would do. Nothing is changed. Errors: those of `shard_drain_node`.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn shard_plan_drain_node(
    name: Option<&str>,
    mode: default!(Option<&str>, "'online'"),
) -> Result<TableIterator<'static, (name!(step, i32), name!(node, String), name!(action, String))>, ErrorReport> {
    let (mode, name) = (self::mode(mode)?, given("name", name)?);
    Ok(TableIterator::new(steady(|| plan::drain(name))?.preview(mode)?))
}

/// What `shard_rebalance` would do. Nothing is changed. Errors: those of `shard_rebalance`.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn shard_plan_rebalance(
    parent: default!(Option<Regclass>, "NULL"),
    by: default!(Option<&str>, "'bytes'"),
    nodes: default!(Option<Vec<Option<String>>>, "NULL"),
    mode: default!(Option<&str>, "'online'"),
    capacities: default!(Option<JsonB>, "NULL"),
    minimum_gain: default!(Option<f64>, "0.05"),
) -> Result<TableIterator<'static, (name!(step, i32), name!(node, String), name!(action, String))>, ErrorReport> {
    let mode = self::mode(mode)?;
    Ok(TableIterator::new(balancing(parent, by, nodes, capacities, minimum_gain)?.preview(mode)?))
}
