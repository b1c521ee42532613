//! shardkeeper: ordinary Postgres servers as one partitioned database.
//!
//! The floors, from the top down; a module uses only those below it, which `xtask/tests/floors.rs` keeps so:
//!
//! - `worker`: background processes: the launcher, the worker of a database with the list of its tasks, that of an operation
//! - `api`: the SQL functions: parse, call, shape rows
//! - `check`: what `shard_check` says
//! - `maintain`: what has to happen to a hierarchy as time goes on
//! - `reshard`: moving data while applications read and write
//! - `partitions`: the calls that change a tree: create, add, detach, drop, release, adopt
//! - `schema`: what happens to definitions: commands by hand, drift, repair
//! - `hierarchy`: the model of a managed parent and its tree, read only
//! - `table`: one table, and the commands that make each of its objects
//! - `node`: other servers: the session channel, own sessions, journal and healing, registration
//! - `catalog`: typed rows in and out of the extension's own tables
//! - `background`: starting, waking and finding workers; their log
//! - `pg`: safe wrappers over the server, the only module with `unsafe`
//! - `error`, `guc`, `name`: what everything stands on
//!
//! Decisions that need no server are in the crate `shardkeeper_core`: what a spec means, which bounds, names (`core/src/plan/build.rs`,
//! for splits and changes of a modulus too) and nodes its partitions get, and where leaves go in a rebalance. Pictures are in
//! `shardkeeper_draw`. The parts that are SQL are in `sql/`, each with its subject in its first lines.

#![deny(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api;
mod background;
mod catalog;
mod check;
mod error;
mod guc;
mod hierarchy;
mod maintain;
mod name;
mod node;
mod partitions;
#[allow(unsafe_code)]
mod pg;
mod reshard;
mod schema;
mod table;
mod worker;

use pgrx::prelude::*;

pgrx::pg_module_magic!();

extension_sql_file!("../sql/catalog.sql", name = "catalog", bootstrap);
extension_sql_file!("../sql/names.sql", name = "names", requires = ["catalog"]);
extension_sql_file!("../sql/trash.sql", name = "trash", requires = ["names"]);
// The last one: it alters what the others have made.
extension_sql_file!("../sql/settings.sql", name = "settings", finalize);

#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::process::no_backtraces();
    guc::register();
    pg::guc::reserve(c"shardkeeper");
    pg::drop_hook::register(reshard::extension_drop::object);
    pg::stale_snapshot::register(catalog::moved::TABLE);
    #[cfg(feature = "pg18")]
    pg::planning::register();
    pg::worker::register(worker::entry::ENTRIES);
}
