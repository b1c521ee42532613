//! `shardkeeper.moved`: partitions that a switch has put in the place of others. A snapshot from before the switch does not see their
//! rows, and `pg/stale_snapshot.rs` refuses the statement: it asks whether the snapshot sees the transaction that wrote the entry
//! here, which is that of the switch.

use crate::error::Result;
use crate::name::QualifiedName;
use crate::pg::stale_snapshot::Moved;
use crate::pg::{role, sql};

/// As `pg` reads it, in the middle of statements of users.
pub const TABLE: Moved = (c"shardkeeper", c"moved");

/// Notes tables of this transaction's switch, given by their names.
pub fn add(tables: impl Iterator<Item = QualifiedName>) -> Result<()> {
    let names: Vec<String> = tables.map(|name| name.to_string()).collect();
    role::as_extension_owner(|| {
        sql::run(
            "INSERT INTO shardkeeper.moved (relation) SELECT pg_catalog.to_regclass(name)::oid FROM unnest($1::text[]) AS name
             WHERE pg_catalog.to_regclass(name) IS NOT NULL
             ON CONFLICT (relation) DO UPDATE SET at = excluded.at",
            &[names.into()],
        )
    })?;
    Ok(())
}

/// Forgets those that are older than every transaction. A switch takes less than ten minutes to commit, also where a node freezes
/// amid it; where the server does not tell when transactions began, a day is waited.
pub fn forget_seen() -> Result<()> {
    role::as_extension_owner(|| {
        sql::run(
            "DELETE FROM shardkeeper.moved AS m
             WHERE m.at < pg_catalog.now() - interval '10 minutes'
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a
                               WHERE a.xact_start < m.at + interval '10 minutes'
                                  OR a.state = 'disabled' AND m.at > pg_catalog.now() - interval '1 day')",
            &[],
        )
    })?;
    Ok(())
}
