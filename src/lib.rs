//! shardkeeper: ordinary Postgres servers as one partitioned database.
//!
//! `api` takes SQL calls and shapes rows; `node` talks to the other servers; `hierarchy` builds and takes apart trees;
//! `worker` is what runs in the background; `pg` is the only module with `unsafe`.

mod api;
mod background;
mod catalog;
mod check;
mod error;
mod guc;
mod hierarchy;
mod name;
mod node;
mod partitions;
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
    pg::drop_hook::register(reshard::leave::object);
    #[cfg(feature = "pg18")]
    pg::planning::register();
    pg::worker::register(worker::entry::ENTRIES);
}
