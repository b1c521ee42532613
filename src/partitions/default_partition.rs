//! A default partition on a node knows only the siblings that are there. A CHECK constraint excludes the rows of those on other servers;
//! it is made anew here when they change.

use super::partition_ddl::DEFAULT_CHECK;
use super::script::Script;
use crate::error::{Report, Result};
use crate::hierarchy::bound::default_check;
use crate::hierarchy::managed_parent::ManagedParent;
use crate::hierarchy::tree_tables;
use crate::name::{ident, literal};
use crate::pg::sql;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::plan::Bound;

/// Adds to `script` what renews the check of the default partition of `table` on its nodes, if it has one there. `before`
/// and `after` are the bounds of the other partitions; rows that belong to a new one make the command fail on the node.
pub fn renew(
    script: &mut Script,
    managed: &ManagedParent,
    table: Oid,
    key: &[String],
    before: &[Bound],
    after: &[Bound],
) -> Result<()> {
    let Some(default) = managed.default_of(table) else { return Ok(()) };
    let command = |bounds: &[Bound]| {
        let constraint = ident(DEFAULT_CHECK);
        let drop = format!("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {constraint}", default.name);
        match default_check(key, bounds.iter()) {
            Some(check) => format!("{drop}, ADD CONSTRAINT {constraint} CHECK ({check})"),
            None => drop,
        }
    };
    for node in tree_tables::nodes(managed.tables_below(default.oid())) {
        script.on_node(&node, vec![command(after)], command(before));
    }
    Ok(())
}

/// Most rows that are counted for the error: more would only make it late.
const ENOUGH: i64 = 10_000;

/// The default partition of `table` holds no rows that belong in a new partition with this bound. The renewed check
/// would refuse them too, but could not say how many there are and what to do.
pub fn no_rows_of(managed: &ManagedParent, table: Oid, key: &[String], bound: &Bound) -> Result<()> {
    let Some(default) = managed.default_of(table) else { return Ok(()) };
    let Some(check) = default_check(key, std::iter::once(bound)) else { return Ok(()) };
    let query =
        format!("SELECT count(*) FROM (SELECT FROM {} WHERE ({check}) IS FALSE LIMIT {ENOUGH}) AS found", default.name);
    let found = sql::one::<i64>(&query, &[])?.unwrap_or(0);
    if found == 0 {
        return Ok(());
    }
    let count = if found == ENOUGH { format!("{ENOUGH} or more") } else { found.to_string() };
    Report::new(
        Code::ERRCODE_CHECK_VIOLATION,
        format!("default partition {} holds rows that belong in the new partition", default.name),
    )
    .detail(format!("Rows within the new bounds: {count}."))
    .hint(format!(
        "Move them into it online: SELECT shard_split({}, bounds => …); with the same bounds.",
        literal(&default.name.to_string())
    ))
    .into()
}
