//! `shard_tree`: the hierarchy as a picture.

use super::sizes;
use super::tree_tables::{self, TreeTable};
use crate::catalog::parent;
use crate::error::{Report, Result};
use crate::pg::key_router;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_draw::TreeNode;
use std::collections::HashMap;

pub fn draw(root: Oid, format: &str) -> Result<String> {
    let renderer = match format {
        "text" => shardkeeper_draw::text,
        "mermaid" => shardkeeper_draw::mermaid,
        "svg" => shardkeeper_draw::svg,
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
    let members = tree_tables::load(root)?;
    let leaves: Vec<TreeTable> = members.iter().filter(|member| member.is_leaf()).cloned().collect();
    let sizes = sizes::sizes(&leaves)?.into_iter().map(|size| (size.oid(), (size.rows, size.bytes))).collect();
    let by_oid: HashMap<Oid, &TreeTable> = members.iter().map(|member| (member.oid(), member)).collect();
    match members.first() {
        Some(root) => Ok(renderer(&node(root, &by_oid, &sizes))),
        None => parent::not_managed(root),
    }
}

fn node(
    member: &TreeTable,
    members: &HashMap<Oid, &TreeTable>,
    sizes: &HashMap<Oid, (Option<i64>, Option<i64>)>,
) -> TreeNode {
    let size = sizes.get(&member.oid());
    let below = if member.is_leaf() { Vec::new() } else { key_router::in_order(member.oid()) };
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
        children: below.iter().filter_map(|oid| members.get(oid)).map(|child| node(child, members, sizes)).collect(),
    }
}
