//! Pictures of a hierarchy: as text, as a Mermaid flowchart, and to scale as SVG.

#![deny(missing_docs)]

mod mermaid;
mod palette;
mod svg;
mod text;
mod units;

use std::collections::BTreeMap;

pub use mermaid::mermaid;
pub use svg::svg;
pub use text::text;

/// A table of the hierarchy with what is known of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TreeNode {
    /// Of the table, without its schema.
    pub name: String,
    /// Of a partitioned table: `range (order_date)`.
    pub key: Option<String>,
    /// As Postgres prints it, with or without `FOR VALUES`. `None` for the root.
    pub bound: Option<String>,
    /// The server of a leaf; `None` for the coordinator, and for a partitioned table.
    pub node: Option<String>,
    /// Of a leaf; `None` if it was never analyzed.
    pub rows: Option<f64>,
    /// Of a leaf; `None` if its node did not tell.
    pub bytes: Option<u64>,
    /// In the order in which they are drawn; empty for a leaf.
    pub children: Vec<TreeNode>,
}

/// What some leaves hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sum {
    leaves: usize,
    /// `None` if it is known of no leaf.
    rows: Option<f64>,
    bytes: Option<u64>,
    /// The server of some leaf did not tell.
    is_partial: bool,
}

impl Sum {
    fn add(&mut self, leaf: &TreeNode) {
        self.leaves += 1;
        if let Some(rows) = leaf.rows.filter(|rows| rows.is_finite() && *rows >= 0.0) {
            self.rows = Some(self.rows.unwrap_or(0.0) + rows);
        }
        if let Some(bytes) = leaf.bytes {
            self.bytes = Some(self.bytes.unwrap_or(0).saturating_add(bytes));
        } else {
            self.is_partial = true;
        }
    }

    fn add_all(&mut self, other: Sum) {
        self.leaves += other.leaves;
        self.is_partial |= other.is_partial;
        self.rows = sum(self.rows, other.rows, |a, b| a + b);
        self.bytes = sum(self.bytes, other.bytes, u64::saturating_add);
    }
}

fn sum<T: Copy>(a: Option<T>, b: Option<T>, add: impl Fn(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(add(a, b)),
        (known, None) | (None, known) => known,
    }
}

impl TreeNode {
    fn is_leaf(&self) -> bool {
        self.key.is_none() && self.children.is_empty()
    }

    fn leaves(&self) -> Vec<&TreeNode> {
        let mut leaves = Vec::new();
        let mut pending = vec![self];
        while let Some(table) = pending.pop() {
            match table.is_leaf() {
                true => leaves.push(table),
                false => pending.extend(table.children.iter().rev()),
            }
        }
        leaves
    }

    fn sum(&self) -> Sum {
        let mut sum = Sum::default();
        self.leaves().into_iter().for_each(|leaf| sum.add(leaf));
        sum
    }

    /// Per node, in the order of their names.
    fn by_node(&self) -> BTreeMap<&str, Sum> {
        let mut nodes: BTreeMap<&str, Sum> = BTreeMap::new();
        for leaf in self.leaves() {
            nodes.entry(leaf.node()).or_default().add(leaf);
        }
        nodes
    }

    fn node(&self) -> &str {
        self.node.as_deref().unwrap_or(shardkeeper_core::plan::LOCAL)
    }

    /// The bound without the words that all bounds begin with.
    fn bound(&self) -> Option<&str> {
        self.bound.as_deref().map(|bound| bound.strip_prefix("FOR VALUES ").unwrap_or(bound))
    }
}
