//! The check that keeps a default partition on a node apart from siblings elsewhere, kept in step with them.

use super::bound::default_check;
use super::build::DEFAULT_CHECK;
use super::managed::Managed;
use super::members;
use super::script::Script;
use crate::error::Result;
use crate::name::ident;
use pgrx::pg_sys::Oid;
use shardkeeper_core::plan::Bound;

/// Adds to `script` what renews the check of the default partition of `table` on its nodes, if it has one there. `before`
/// and `after` are the bounds of the other partitions; rows that belong to a new one make the command fail on the node.
pub fn renew(
    script: &mut Script,
    managed: &Managed,
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
    for node in members::nodes(managed.tables_below(default.oid())) {
        script.on_node(&node, vec![command(after)], command(before));
    }
    Ok(())
}
