//! `shard_release_parent` and `shard_drop_parent`: the end of a managed hierarchy.

use super::detach::{discard_local, refuse_dependents};
use super::mirror;
use super::script::Script;
use crate::catalog::{self, parent};
use crate::error::{Report, Result};
use crate::hierarchy::managed_parent::ManagedParent;
use crate::hierarchy::validate;
use crate::name::literal;
use crate::node::trash::KeepTime;
use crate::pg::{parent_cache, relation};
use crate::table::definition::{TableDefinition, outside_dependents};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;

/// Stops managing; every table stays as it is, on every server.
pub fn release(root: Oid) -> Result<()> {
    let managed = open_root(root)?;
    parent_cache::forget_everywhere(managed.root);
    parent::delete(managed.root)
}

/// Takes the hierarchy away on all servers. Tables with rows go to the trash.
pub fn drop(root: Oid, keep: &KeepTime) -> Result<()> {
    if let Some(found) = TableDefinition::load(root)? {
        validate::owned(root, &found)?;
    }
    relation::lock_exclusive(root);
    let managed = open_root(root)?;
    managed.lock_exclusive(root);
    let tables = managed.tables_below(root);
    let mut found = Vec::new();
    for table in &tables {
        let own: Vec<Oid> = managed.children(table.oid()).map(|child| child.oid()).collect();
        found.extend(outside_dependents(table.oid(), &own)?);
    }
    let top = managed.member(root)?;
    refuse_dependents(top, found)?;
    let name = managed.name();
    let mut script = Script::default();
    for node in catalog::mirror::nodes(root)? {
        if mirror::found_on(&node, [name])?.is_empty() {
            mirror::warn_of_missing(&node, name);
            continue;
        }
        let restore = format!("SELECT shardkeeper.restore({}, {})", literal(&name.schema), literal(&name.name));
        script.on_node(&node, vec![keep.discard(name)], restore);
    }
    script.run()?;
    parent::delete(root)?;
    discard_local(top, &tables, keep)?;
    crate::background::ensure_running()
}

fn open_root(root: Oid) -> Result<ManagedParent> {
    let (managed, _) = ManagedParent::open_to_change(root)?;
    if managed.root == root {
        return Ok(managed);
    }
    let name = &managed.member(root)?.name;
    Report::new(Code::ERRCODE_WRONG_OBJECT_TYPE, format!("{name} is a partition, not a parent"))
        .hint(format!(
            "Its parent is {}. Single partitions leave with shard_detach_partition or shard_drop_partition.",
            managed.name()
        ))
        .into()
}
