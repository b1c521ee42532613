//! From a spec to the tables it makes: bounds, names and nodes of the whole hierarchy.

mod add;
mod build;
mod count;
mod derive;
mod label;
mod overlap;
mod parts;
mod replace;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::KeyKind;
use crate::error::Result;
use crate::spec::Level;
pub use crate::spec::Method;

pub use add::{NewPartition, expand_one, parse_bound};
pub use derive::{Derived, derive};
pub use overlap::EMPTY_RANGE;
pub use replace::{Labelled, replaced};

/// Where leaves live that no declaration of nodes governs: the coordinator itself.
pub const LOCAL: &str = "local";
/// More leaves than this are refused unless the caller says otherwise.
pub const DEFAULT_MAX_LEAVES: usize = 100_000;

/// What a plan depends on besides the spec.
pub struct PlanInput<'a> {
    /// Name of the table that is partitioned.
    pub root: &'a str,
    pub now: Timestamp,
    /// The type of a key column or expression; `None` if it is not known.
    pub kind: &'a dyn Fn(&str) -> Option<KeyKind>,
    /// How many leaves each declaration of nodes has placed so far, by its path.
    pub dealt: BTreeMap<String, u64>,
    pub max_leaves: usize,
}

/// What [`expand`] decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub tree: Tree,
    /// [`PlanInput::dealt`] with the new leaves counted.
    pub dealt: BTreeMap<String, u64>,
    pub leaves: u64,
}

/// The partitions of one table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tree {
    pub method: Method,
    pub key: Vec<String>,
    pub partitions: Vec<Partition>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Partition {
    pub name: String,
    pub label: String,
    pub bound: Bound,
    /// Of a leaf; `None` for a table that is partitioned itself.
    pub node: Option<String>,
    /// Path of the declaration of nodes that placed the leaf; empty if none did.
    pub deal: String,
    pub sub: Option<Tree>,
    /// JSON path of the member that made this partition.
    pub path: String,
}

/// As in `FOR VALUES`. Texts are values of the key, not yet quoted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bound {
    Range {
        from: Vec<Limit>,
        to: Vec<Limit>,
    },
    /// `None` is NULL.
    List {
        values: Vec<Option<String>>,
    },
    Hash {
        modulus: u32,
        remainder: u32,
    },
    Default,
}

/// One column of a range bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    MinValue,
    Value(String),
    MaxValue,
}

/// All tables that `level` makes below `input.root`.
pub fn expand(level: &Level, input: &PlanInput<'_>) -> Result<Plan> {
    let site = level.site();
    count::within_limit(level, &site.path, input)?;
    let resolved = parts::Resolver::new(input).resolve(level, &site.path)?;
    let mut builder = build::Builder::new(input, None);
    let tree = builder.tree(&resolved, input.root, site.nodes.as_ref())?;
    Ok(Plan { tree, dealt: builder.dealt, leaves: resolved.leaves })
}

impl Tree {
    /// All partitions below, each before its own.
    pub fn walk<'a>(&'a self) -> impl Iterator<Item = &'a Partition> {
        let mut pending: Vec<&'a Partition> = self.partitions.iter().rev().collect();
        std::iter::from_fn(move || {
            let next = pending.pop()?;
            pending.extend(next.sub.iter().flat_map(|sub| sub.partitions.iter().rev()));
            Some(next)
        })
    }

    pub fn leaves(&self) -> impl Iterator<Item = &Partition> {
        self.walk().filter(|partition| partition.sub.is_none())
    }
}
