//! shardkeeper: ordinary Postgres servers as one partitioned database.
use pgrx::prelude::*;

pgrx::pg_module_magic!();
