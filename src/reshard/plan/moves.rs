//! A leaf to another node.

use super::{Decided, beside, key_of, known_node, leaf_of, source};
use crate::catalog::operation::Plan;
use crate::error::{Report, Result};
use crate::hierarchy::managed_parent::ManagedParent;
use crate::name::ident;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::operation::Kind;
use shardkeeper_core::plan::Partition;

/// Moves `leaf` to `node`, as the same partition.
///
/// Errors: 42P01 not managed; 42501 not the owner; 42704 no such node; 42809 not a leaf; 55000 it is there already.
pub fn move_leaf(leaf: Oid, node: &str) -> Result<Decided> {
    let (managed, labels) = ManagedParent::open(leaf)?;
    let (member, above) = leaf_of(&managed, leaf)?;
    known_node(node)?;
    if member.node() == node {
        return Report::new(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("{} is on node {} already", member.name, ident(node)),
        )
        .into();
    }
    let Some(bound) = member.bound()? else { return crate::catalog::parent::not_managed(leaf) };
    let (label, labels) = match labels.split_last() {
        Some((last, rest)) => (last.clone(), rest.to_vec()),
        None => (member.name.name.clone(), Vec::new()),
    };
    let target = Partition {
        name: member.name.name.clone(),
        label: label.clone(),
        bound: bound.clone(),
        node: Some(node.to_string()),
        deal: String::new(),
        sub: None,
        path: String::new(),
    };
    let subject = format!("{} from {} to {}", member.name, ident(member.node()), ident(node));
    let (method, key) = key_of(&managed, &labels, above)?;
    let plan = Plan {
        above: above.name.clone(),
        labels,
        method,
        key,
        sources: vec![source(&managed, member, label, bound)],
        targets: vec![target],
        beside: beside(&managed, above.oid(), &[leaf])?,
        spec: managed.catalog.spec.clone(),
        dealt: managed.catalog.dealt.clone(),
        ..Plan::default()
    };
    Ok(Decided { managed, kind: Kind::Move, subject, plan })
}
