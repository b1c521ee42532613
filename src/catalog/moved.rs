//! `shardkeeper.moved`: tables that came in the place of others with rows that a snapshot from before does not see. A row counts
//! by the transaction that wrote it, which is the switch.

use crate::error::Result;
use crate::name::QualifiedName;
use crate::pg::{latest_snapshot, role, sql};
use pgrx::pg_sys::{Oid, TransactionId};

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

/// Which of these came by a switch, and by which transaction. In the middle of any statement of a user, whose search path it may
/// be: everything is named in full.
pub fn among(relations: &[Oid]) -> Vec<(Oid, TransactionId)> {
    const THERE: &str = "SELECT pg_catalog.to_regclass('shardkeeper.moved')::pg_catalog.text";
    const FOUND: &str = "SELECT pg_catalog.concat_ws(' ', m.relation, m.xmin) FROM shardkeeper.moved AS m
         WHERE m.relation OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[])";
    if latest_snapshot::texts(THERE, &[]).is_empty() {
        return Vec::new();
    }
    let found = role::as_extension_owner(|| Ok(latest_snapshot::texts(FOUND, &[relations.to_vec().into()])));
    let pair = |text: &String| {
        let (relation, number) = text.split_once(' ')?;
        Some((Oid::from(relation.parse::<u32>().ok()?), number.parse::<u32>().ok()?))
    };
    found.unwrap_or_default().iter().filter_map(|text| pair(text).map(|(oid, number)| (oid, number.into()))).collect()
}

/// Forgets those that are older than every transaction. A switch takes much less than a minute to commit; where the server does
/// not tell when transactions began, a day is waited.
pub fn forget_seen() -> Result<()> {
    role::as_extension_owner(|| {
        sql::run(
            "DELETE FROM shardkeeper.moved AS m
             WHERE m.at < pg_catalog.now() - interval '1 minute'
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a
                               WHERE a.xact_start < m.at + interval '1 minute'
                                  OR a.state = 'disabled' AND m.at > pg_catalog.now() - interval '1 day')",
            &[],
        )
    })?;
    Ok(())
}
