//! `shard_tree`: the hierarchy as a picture.

use super::members::{self, Member};
use super::sizes;
use crate::catalog::parent;
use crate::error::{Report, Result};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::tree::{self, TreeNode};
use std::collections::HashMap;

pub fn draw(root: Oid, format: &str) -> Result<String> {
    let renderer = match format {
        "text" => tree::text,
        "mermaid" => tree::mermaid,
        "svg" => tree::svg,
        _ => {
            return Report::new(
                Code::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("unknown format {}", crate::name::literal(format)),
            )
            .hint("The formats are text, mermaid and svg.")
            .into();
        }
    };
    parent::require(root)?;
    let members = members::load(root)?;
    let leaves: Vec<Member> = members.iter().filter(|member| member.is_leaf()).cloned().collect();
    let sizes = sizes::sizes(&leaves)?.into_iter().map(|size| (size.oid(), (size.rows, size.bytes))).collect();
    let mut children: HashMap<Oid, Vec<&Member>> = HashMap::new();
    for member in &members {
        if let Some(parent) = member.parent() {
            children.entry(parent).or_default().push(member);
        }
    }
    match members.first() {
        Some(root) => Ok(renderer(&node(root, &children, &sizes))),
        None => parent::not_managed(root),
    }
}

fn node(
    member: &Member,
    children: &HashMap<Oid, Vec<&Member>>,
    sizes: &HashMap<Oid, (Option<i64>, Option<i64>)>,
) -> TreeNode {
    let size = sizes.get(&member.oid());
    let below = children.get(&member.oid()).map(Vec::as_slice).unwrap_or_default();
    let mut below: Vec<&&Member> = below.iter().collect();
    // Names of equal length first: 2 before 10. The default partition comes last, as it takes what the others leave.
    below.sort_by_key(|child| (child.values.as_deref() == Some("DEFAULT"), child.name.name.len(), &child.name.name));
    TreeNode {
        name: member.name.name.clone(),
        key: member.key.as_ref().map(|key| {
            let (method, columns) = key.split_once(' ').unwrap_or((key, ""));
            format!("{} {columns}", method.to_lowercase())
        }),
        bound: member.values.clone(),
        node: member.is_leaf().then(|| member.node().to_string()),
        rows: size.and_then(|size| size.0).map(|rows| rows as f64),
        bytes: size.and_then(|size| size.1).and_then(|bytes| bytes.try_into().ok()),
        children: below.into_iter().map(|child| node(child, children, sizes)).collect(),
    }
}
