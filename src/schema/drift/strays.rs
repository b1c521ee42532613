//! Partitions that a mirror has and the parent here has not, or has elsewhere: somebody dropped them here by hand, and their rows
//! are on the node.

use super::Parent;
use crate::catalog::{operation, partition};
use crate::error::Result;
use crate::hierarchy::tree_tables::TreeTable;
use crate::name::{QualifiedName, ident};
use crate::node::finding::Row;
use crate::node::finding::{Finding, Severity};
use crate::pg::{role, sql};
use crate::schema::come_back::{self, Lost};
use pgrx::pg_sys::Oid;
use serde::Deserialize;

const STRAYS: &str = include_str!("strays.sql");

/// A table in the tree of a mirror that the node was not asked for.
#[derive(Debug, Deserialize)]
pub struct Stray {
    root: QualifiedName,
    #[serde(flatten)]
    name: QualifiedName,
    kind: char,
    above: QualifiedName,
    bound: String,
    key: Option<String>,
}

/// The question to a node; `wanted` are rows as those of `tables.sql`.
pub fn question(wanted: &str) -> String {
    format!("WITH RECURSIVE wanted (name, is_root) AS (VALUES {wanted}), {STRAYS}")
}

/// What the mirror on `node` has and this parent lacks, leaf by leaf.
pub fn rows(parent: &Parent, strays: &[Stray], node: &str) -> Result<Vec<Row>> {
    let root = parent.managed.name();
    let (known, lost): (Vec<&Stray>, Vec<&Stray>) =
        strays.iter().filter(|stray| stray.root == *root).partition(|stray| member(parent, &stray.name).is_some());
    if known.is_empty() && lost.is_empty() || is_being_changed(parent.managed.root)? {
        return Ok(Vec::new());
    }
    let mut rows = Vec::new();
    for leaf in known.iter().filter(|stray| stray.kind == 'r') {
        if let Some(other) = member(parent, &leaf.name).filter(|other| other.is_leaf()) {
            rows.push(twofold(leaf, other, node));
        }
    }
    // What was detached here by hand is a table still, and told as such.
    let here = partition::tables(parent.managed.root)?;
    for leaf in lost.iter().filter(|stray| stray.kind == 'r' && !here.contains(&stray.name)) {
        let path = path(leaf, &lost);
        match path.first().and_then(|top| alike(parent, top)) {
            Some(other) if other.is_leaf() && other.server.as_deref() != Some(node) => {
                rows.push(twofold(leaf, other, node));
            }
            // It was renamed there, and is told as missing.
            Some(_) => {}
            None if path.len() == 1 && leaves_a_gap(parent, leaf) => {}
            None => rows.push(row(parent, &path, leaf, node)?),
        }
    }
    Ok(rows)
}

/// After it was dropped here, another one was made for its bounds on another server.
fn twofold(leaf: &Stray, other: &TreeTable, node: &str) -> Row {
    let Stray { name, above, bound, .. } = leaf;
    let text = format!("the node has this partition of {above}, {bound}, too: its rows there are not in the parent");
    let hint = format!(
        "Here it is {} on {}. On the node, run ALTER TABLE {above} DETACH PARTITION {name}; and insert here what is missing of its rows.",
        other.name,
        ident(other.node())
    );
    let finding = Finding::new(Severity::Error, text, Some(&hint));
    Row::new("hierarchy", Some(&name.to_string()), Some(node), finding)
}

fn row(parent: &Parent, path: &[&Stray], leaf: &Stray, node: &str) -> Result<Row> {
    let text = format!(
        "the node has this partition of {}, {}, and here it is missing: its rows are not in the parent",
        leaf.above, leaf.bound
    );
    let above = path.first().and_then(|top| member(parent, &top.above)).filter(|above| !above.is_leaf());
    let hint = match above {
        _ if exists(&leaf.name)? => {
            format!("Rename the table {} here, and look again: the partition needs its name.", leaf.name)
        }
        None => format!("Bring back {} first, and look again.", path.first().map_or(&leaf.above, |top| &top.above)),
        Some(_) => {
            let lost: Vec<Lost<'_>> = path.iter().map(|stray| stray.lost()).collect();
            format!("Run {}", come_back::commands(&parent.managed.table, &lost, node)?)
        }
    };
    let finding = Finding::new(Severity::Error, text, Some(&hint));
    Ok(Row::new("hierarchy", Some(&leaf.name.to_string()), Some(node), finding))
}

impl Stray {
    fn lost(&self) -> Lost<'_> {
        Lost { name: &self.name, above: &self.above, bound: &self.bound, key: self.key.as_deref() }
    }
}

fn member<'a>(parent: &'a Parent, name: &QualifiedName) -> Option<&'a TreeTable> {
    parent.managed.members.iter().find(|member| member.name == *name)
}

/// Down to the leaf, from the first table that is missing.
fn path<'a>(leaf: &'a Stray, lost: &[&'a Stray]) -> Vec<&'a Stray> {
    let mut path = vec![leaf];
    while let Some(above) = path.last().and_then(|last| lost.iter().copied().find(|stray| stray.name == last.above)) {
        path.push(above);
    }
    path.reverse();
    path
}

/// What here has the bounds of a partition there.
fn alike<'a>(parent: &'a Parent, stray: &Stray) -> Option<&'a TreeTable> {
    let above = member(parent, &stray.above)?;
    parent.managed.children(above.oid()).find(|child| child.values.as_deref() == Some(stray.bound.as_str()))
}

/// Then it is told as a remainder without a partition.
fn leaves_a_gap(parent: &Parent, leaf: &Stray) -> bool {
    let Some(above) = member(parent, &leaf.above) else { return false };
    let largest = parent.managed.children(above.oid()).filter_map(|child| modulus(child.values.as_deref()?)).max();
    largest.is_some() && largest == modulus(&leaf.bound)
}

fn modulus(bound: &str) -> Option<i64> {
    bound.to_lowercase().strip_prefix("for values with (modulus ")?.split(',').next()?.parse().ok()
}

/// What makes partitions is done on the nodes a moment before it is done here. Whoever does holds a lock on the parent, and an
/// operation is written down.
fn is_being_changed(root: Oid) -> Result<bool> {
    role::as_extension_owner(|| {
        let locked = sql::one::<bool>(
            "SELECT true FROM pg_catalog.pg_locks
             WHERE locktype = 'relation' AND relation = $1 AND mode = 'ShareUpdateExclusiveLock' AND granted
               AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
               AND pid IS DISTINCT FROM pg_catalog.pg_backend_pid() LIMIT 1",
            &[root.into()],
        )?;
        Ok(locked.is_some() || operation::running(root)?.is_some())
    })
}

fn exists(table: &QualifiedName) -> Result<bool> {
    let found = sql::one::<bool>("SELECT pg_catalog.to_regclass($1) IS NOT NULL", &[table.to_string().into()])?;
    Ok(found == Some(true))
}
