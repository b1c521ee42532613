//! SQL functions that move data, and those that steer what moves it.

use super::hierarchies::given;
use crate::error::{Report, Result};
use crate::pg::regclass::Regclass;
use crate::reshard::{control, plan};
use pgrx::datum::Interval;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use shardkeeper_core::operation::{Mode, Wish};
use std::time::Duration;

fn mode(text: Option<&str>) -> Result<Mode> {
    match given("mode", text)?.parse::<Mode>() {
        Ok(Mode::Online) => Ok(Mode::Online),
        _ => Report::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "mode must be online").into(),
    }
}

fn keep(interval: Option<Interval>) -> Result<String> {
    let text = crate::pg::sql::one::<String>("SELECT $1::text", &[given("keep", interval)?.into()])?;
    let text = text.unwrap_or_default();
    plan::keep(&text)?;
    Ok(text)
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
) -> Result<i64, ErrorReport> {
    let (mode, keep) = (self::mode(mode)?, self::keep(keep)?);
    Ok(plan::move_leaf(given("partition", partition)?.0, given("node", node)?)?.start(mode, &keep)?)
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
) -> Result<i64, ErrorReport> {
    let (mode, keep) = (self::mode(mode)?, self::keep(keep)?);
    let nodes =
        nodes.map(|nodes| nodes.into_iter().map(|node| given("nodes", node)).collect::<Result<_>>()).transpose()?;
    Ok(plan::set_modulus(given("parent", parent)?.0, given("modulus", modulus)?, nodes)?.start(mode, &keep)?)
}

/// Waits until an operation has switched or is over, at most for `timeout`; returns its state.
///
/// Errors: 42704 no such operation; 57014 the time is over; 55000 it waits for a person; the operation's error if it failed.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_wait(operation: Option<i64>, timeout: default!(Option<Interval>, "NULL")) -> Result<String, ErrorReport> {
    let limit = timeout.map(|timeout| {
        // Without a query, as what waits must not get a transaction id.
        let days = i64::from(timeout.months()) * 30 + i64::from(timeout.days());
        let micros = days.saturating_mul(86_400_000_000).saturating_add(timeout.micros());
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    });
    Ok(control::wait(given("operation", operation)?, limit)?.to_string())
}

/// Stops the work of an operation until `shard_resume`. Errors: 42704 no such operation; 42501 not the owner; 55000 it is over.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_pause(operation: Option<i64>) -> Result<(), ErrorReport> {
    Ok(control::wish(given("operation", operation)?, Wish::Pause)?)
}

/// Goes on with a paused or halted operation. Errors: those of `shard_pause`.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_resume(operation: Option<i64>) -> Result<(), ErrorReport> {
    Ok(control::wish(given("operation", operation)?, Wish::Run)?)
}

/// Ends an operation before its switch; what it made is removed. Errors: those of `shard_pause`; 55000 it has switched.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_cancel(operation: Option<i64>) -> Result<(), ErrorReport> {
    Ok(control::wish(given("operation", operation)?, Wish::Cancel)?)
}

/// Drops the tables that an operation replaced. Errors: those of `shard_pause`; 55000 it has not switched.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_finish(operation: Option<i64>) -> Result<(), ErrorReport> {
    Ok(control::wish(given("operation", operation)?, Wish::Finish)?)
}

extension_sql_file!(
    "../../sql/operations.sql",
    name = "operations",
    requires = [
        "catalog",
        shard_move_partition,
        shard_set_modulus,
        shard_wait,
        shard_pause,
        shard_resume,
        shard_cancel,
        shard_finish
    ]
);
