//! SQL functions for what was dropped and is kept for a while.

use super::data_movement::keep_time;
use super::hierarchies::given;
use crate::partitions::trash;
use pgrx::datum::Interval;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// What the view shard_trash shows: tables that the caller dropped and that are still kept, on all servers.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn shard_trash_tables() -> Result<
    TableIterator<
        'static,
        (
            name!(node, String),
            name!(table, String),
            name!(name, String),
            name!(bytes, i64),
            name!(dropped_at, String),
            name!(destroyed_at, String),
            name!(restore, String),
        ),
    >,
    ErrorReport,
> {
    Ok(TableIterator::new(trash::list()?.into_iter().map(|item| {
        let (name, restore) = (item.origin().to_string(), item.way_back());
        (item.node, item.table, name, item.bytes, item.dropped_at, item.destroyed_at, restore)
    })))
}

/// Brings a table out of the trash of its server, as a table of its own. Returns its name there.
///
/// Errors: 22023 the name is empty; 42622 it is too long; 42704 no such node; 42P01 it is not in the trash; 42P07 its name is
/// taken.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_restore_trash(
    node: Option<&str>,
    table: Option<&str>,
    name: default!(Option<&str>, "NULL"),
) -> Result<String, ErrorReport> {
    Ok(trash::restore(given("node", node)?, given("table", table)?, name)?)
}

/// Gives up what the caller dropped at least so long ago, on all servers, and tells what that is.
///
/// Errors: 22023 the interval is negative; 2BP01 something outside the trash depends on it.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn shard_empty_trash(
    older_than: default!(Option<Interval>, "'0'"),
) -> Result<
    TableIterator<'static, (name!(node, String), name!(table, String), name!(name, String), name!(bytes, i64))>,
    ErrorReport,
> {
    let older_than = keep_time("older_than", given("older_than", older_than)?)?;
    Ok(TableIterator::new(trash::empty(&older_than)?.into_iter().map(|item| {
        let name = item.origin().to_string();
        (item.node, item.table, name, item.bytes)
    })))
}

extension_sql_file!(
    "../../sql/trash_calls.sql",
    name = "trash_calls",
    requires = ["trash", shard_trash_tables, shard_restore_trash, shard_empty_trash]
);
