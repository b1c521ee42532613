//! SQL functions that look: where a key lives, what a tree looks like, how large its leaves are.

use super::hierarchies::given;
use crate::hierarchy::{draw, locate, sizes};
use crate::pg::regclass::Regclass;
use crate::pg::subtransaction::look;
use pgrx::JsonB;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// Which leaf of `parent` stores `key`, and on which server.
///
/// `key` is a JSON object with one member per partition key column, on every level; further columns of the table are
/// ignored. `host` is NULL on `local`: it is the address that the caller is connected to.
/// Errors: 42P01 not a managed parent; 22023 a key column is missing or unknown; 23514 no partition accepts the key.
#[pg_extern(stable, parallel_safe)]
#[allow(clippy::type_complexity)]
fn shard_locate(
    parent: Option<Regclass>,
    key: Option<JsonB>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(partition, Regclass),
            name!(node, String),
            name!(host, Option<String>),
            name!(port, Option<i32>),
            name!(dbname, String),
        ),
    >,
    ErrorReport,
> {
    let leaf = locate::locate(given("parent", parent)?.0, given("key", key)?.0)?;
    Ok(TableIterator::once((Regclass(leaf.partition), leaf.node, leaf.host, leaf.port, leaf.dbname)))
}

/// The picture of a hierarchy: `text`, `mermaid` or `svg`.
///
/// Errors: 42P01 not a managed parent; 22023 an unknown format.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_tree(parent: Option<Regclass>, format: default!(Option<&str>, "'text'")) -> Result<String, ErrorReport> {
    let (parent, format) = (given("parent", parent)?.0, given("format", format)?);
    Ok(look(|| draw::draw(parent, format))?)
}

/// Live sizes of the leaves of one parent, or of all: `estimated_rows` is what the server believes, `bytes` with indexes and TOAST.
/// Both are NULL for leaves on a node that does not answer, which a warning tells.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn shard_partition_sizes(
    parent: default!(Option<Regclass>, "NULL"),
) -> Result<
    TableIterator<'static, (name!(partition, Regclass), name!(estimated_rows, Option<i64>), name!(bytes, Option<i64>))>,
    ErrorReport,
> {
    let parent = parent.map(|parent| parent.0);
    let sizes = look(|| sizes::of_leaves(parent))?;
    Ok(TableIterator::new(sizes.into_iter().map(|leaf| (Regclass(leaf.oid()), leaf.rows, leaf.bytes))))
}

extension_sql_file!(
    "../../sql/hierarchies.sql",
    name = "hierarchies",
    requires = [
        "catalog",
        shard_locate,
        shard_tree,
        shard_partition_sizes,
        hierarchies::shard_create_parent,
        hierarchies::shard_create_parent_short,
        hierarchies::shard_plan_parent,
        hierarchies::shard_plan_parent_short,
        hierarchies::shard_adopt_parent,
        hierarchies::shard_add_partition,
        hierarchies::shard_detach_partition,
        hierarchies::shard_drop_partition,
        hierarchies::shard_release_parent,
        hierarchies::shard_drop_parent,
        hierarchies::shard_sync_grants,
    ]
);

extension_sql_file!(
    "../../sql/events.sql",
    name = "events",
    requires = [
        "hierarchies",
        "operations",
        dropping::before_drop,
        ddl::ddl_parts,
        ddl::judge_change,
        ddl::judge_drop,
        ddl::before_alter
    ]
);
