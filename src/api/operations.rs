//! SQL functions that steer operations.

use super::hierarchies::given;
use crate::reshard::control;
use pgrx::datum::Interval;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use shardkeeper_core::operation::Requested;
use std::time::Duration;

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
    Ok(control::requested(given("operation", operation)?, Requested::Pause)?)
}

/// Goes on with a paused or halted operation. Errors: those of `shard_pause`.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_resume(operation: Option<i64>) -> Result<(), ErrorReport> {
    Ok(control::requested(given("operation", operation)?, Requested::Run)?)
}

/// Ends an operation before its switch; what it made is removed. Errors: those of `shard_pause`; 55000 it has switched.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_cancel(operation: Option<i64>) -> Result<(), ErrorReport> {
    Ok(control::requested(given("operation", operation)?, Requested::Cancel)?)
}

/// Drops the tables that an operation replaced. Errors: those of `shard_pause`; 55000 it has not switched.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_finish(operation: Option<i64>) -> Result<(), ErrorReport> {
    Ok(control::requested(given("operation", operation)?, Requested::Finish)?)
}

/// Brings back what an operation replaced, with everything that was written since; the new partitions go.
///
/// Errors: those of `shard_pause`; 55000 it has not switched, or there is no way back; 55006 another operation runs on the parent.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_revert(operation: Option<i64>) -> Result<(), ErrorReport> {
    Ok(control::requested(given("operation", operation)?, Requested::Revert)?)
}

extension_sql_file!(
    "../../sql/operations.sql",
    name = "operations",
    requires = [
        "catalog",
        data_movement::shard_move_partition,
        data_movement::shard_set_modulus,
        data_movement::shard_split,
        data_movement::shard_merge,
        data_movement::shard_move_values,
        data_movement::shard_drain_node,
        data_movement::shard_rebalance,
        preview::shard_plan_move_partition,
        preview::shard_plan_set_modulus,
        preview::shard_plan_split,
        preview::shard_plan_merge,
        preview::shard_plan_move_values,
        preview::shard_plan_drain_node,
        preview::shard_plan_rebalance,
        shard_wait,
        shard_pause,
        shard_resume,
        shard_cancel,
        shard_finish,
        shard_revert
    ]
);
