//! The tables of a hierarchy as they are now, read from Postgres's own catalogs.

use crate::error::Result;
use crate::name::QualifiedName;
use crate::pg::{bounds, sql};
use pgrx::pg_sys::Oid;
use serde::Deserialize;
use shardkeeper_core::plan::{Bound, LOCAL};

/// A partitioned table or leaf.
#[derive(Debug, Clone, Deserialize)]
pub struct TreeTable {
    oid: u32,
    parent: Option<u32>,
    #[serde(flatten)]
    pub name: QualifiedName,
    /// `pg_get_partkeydef`, of a partitioned table.
    pub key: Option<String>,
    /// `FOR VALUES …` as Postgres prints it.
    pub values: Option<String>,
    stored_bound: Option<String>,
    pub server: Option<String>,
}

impl TreeTable {
    pub fn oid(&self) -> Oid {
        Oid::from(self.oid)
    }

    pub fn parent(&self) -> Option<Oid> {
        self.parent.map(Oid::from)
    }

    pub fn is_leaf(&self) -> bool {
        self.key.is_none()
    }

    pub fn node(&self) -> &str {
        self.server.as_deref().unwrap_or(LOCAL)
    }

    pub fn bound(&self) -> Result<Option<Bound>> {
        self.stored_bound.as_deref().map_or(Ok(None), bounds::read)
    }
}

/// `root` and all partitions below it, each after its parent, siblings in the order of their bounds.
pub fn load(root: Oid) -> Result<Vec<TreeTable>> {
    let mut members: Vec<TreeTable> = sql::kept_documents(
        "SELECT json_build_object('oid', c.oid::bigint, 'parent', t.parentrelid::oid::bigint, 'schema', n.nspname, 'name', c.relname,
             'key', pg_get_partkeydef(c.oid), 'values', pg_get_expr(c.relpartbound, c.oid), 'stored_bound', c.relpartbound::text,
             'server', s.srvname)::text
         FROM pg_partition_tree($1) AS t JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_foreign_table f ON f.ftrelid = c.oid LEFT JOIN pg_foreign_server s ON s.oid = f.ftserver
         ORDER BY t.level, c.relname",
        &[root.into()],
    )?;
    // A root of ours may be a partition of another table: what it is there has no part in its own hierarchy.
    if let Some(first) = members.first_mut() {
        (first.parent, first.values, first.stored_bound) = (None, None, None);
    }
    Ok(members)
}

/// The remote nodes on which leaves of `members` live, in order.
pub fn nodes<'a>(members: impl IntoIterator<Item = &'a TreeTable>) -> Vec<String> {
    let mut nodes: Vec<String> = members.into_iter().filter_map(|member| member.server.clone()).collect();
    nodes.sort();
    nodes.dedup();
    nodes
}

/// `of` and everything below it.
pub fn below(members: &[TreeTable], of: Oid) -> Vec<&TreeTable> {
    let mut inside = std::collections::HashSet::from([of]);
    members
        .iter()
        .filter(|member| {
            let is_inside = member.oid() == of || member.parent().is_some_and(|parent| inside.contains(&parent));
            is_inside && { inside.insert(member.oid()) || member.oid() == of }
        })
        .collect()
}
