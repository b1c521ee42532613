//! Mirrors that hold no leaf any more, or not yet: made for an operation, or left by it.

use crate::catalog::operation::{self, Operation};
use crate::catalog::{self, parent};
use crate::error::Result;
use crate::hierarchy::managed_parent::ManagedParent;
use crate::name::literal;
use crate::node::trash::KeepTime;
use crate::partitions::mirror;
use crate::partitions::script::Script;
use crate::pg::{role, transaction};
use pgrx::pg_sys::Oid;

/// Takes away the mirror of the parent on nodes of the operation that store no leaf of it, unless the next operation is about
/// to bring one there. Both hold the parent against changes while they look and make.
pub fn drop_empty(operation: &Operation) -> Result<()> {
    for node in operation.plan.remote_nodes() {
        transaction::run(|| role::acting_as(operation.role(), || drop_on(operation.parent(), &node, operation.id)))?;
    }
    Ok(())
}

/// Takes the mirror away if no leaf is left in it, and no other operation than this one works with it.
pub fn drop_on(parent: Oid, node: &str, operation: i64) -> Result<()> {
    if parent::load(parent)?.is_none() {
        return Ok(());
    }
    let (managed, _) = ManagedParent::open(parent)?;
    let used = managed.members.iter().any(|member| member.server.as_deref() == Some(node));
    if used || operation::uses(managed.root, node, operation)? {
        return Ok(());
    }
    if !catalog::mirror::nodes(managed.root)?.iter().any(|known| known == node) {
        return Ok(());
    }
    let name = managed.name();
    let restore = format!("SELECT shardkeeper.restore({}, {})", literal(&name.schema), literal(&name.name));
    let mut script = Script::default();
    // Somebody may have dropped it there: what was not thrown away must not be brought back, should this be undone.
    if !mirror::found_on(node, [name])?.is_empty() {
        // There is no row in it that anybody could want back.
        script.on_node(node, vec![KeepTime::of(Some("0")).discard(name)], restore);
        script.run()?;
    }
    catalog::mirror::forget(managed.root, node)
}
