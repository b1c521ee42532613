//! From a spec to the tables it makes: bounds, names and nodes of the whole hierarchy.

mod add;
mod build;
mod count;
mod derive;
mod label;
mod overlap;
mod parts;
mod replace;
mod upkeep;

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
pub use upkeep::{Ranges, ahead, expired, later, missing};

/// Where leaves live that no declaration of nodes governs: the coordinator itself.
pub const LOCAL: &str = "local";
/// More leaves than this are refused unless the caller says otherwise.
pub const DEFAULT_MAX_LEAVES: usize = 100_000;

/// What a plan depends on besides the spec.
pub struct PlanInput<'a> {
    /// Name of the table that is partitioned, without its schema.
    pub root: &'a str,
    /// When the tables are made: the current period of an interval level is the one that holds it.
    pub now: Timestamp,
    /// The type of a key column or expression; `None` if it is not known.
    pub kind: &'a dyn Fn(&str) -> Option<KeyKind>,
    /// How many leaves each declaration of nodes has placed so far, by its path.
    pub dealt: BTreeMap<String, u64>,
    /// A plan of more leaves is an error.
    pub max_leaves: usize,
}

/// What [`expand`] decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What is below [`PlanInput::root`].
    pub tree: Tree,
    /// [`PlanInput::dealt`] with the new leaves counted.
    pub dealt: BTreeMap<String, u64>,
}

/// The partitions of one table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tree {
    /// How the table is partitioned.
    pub method: Method,
    /// Column names and expressions, as the spec has them.
    pub key: Vec<String>,
    /// Those of a plan are in the order of the spec, the default partition last.
    pub partitions: Vec<Partition>,
}

/// A table below another one: a leaf, or partitioned itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Partition {
    /// Its name in the schema of the root, at most 63 bytes.
    pub name: String,
    /// What tells it from its siblings: a part of its name, and how it is found in the spec.
    pub label: String,
    /// Which rows of the table above it takes.
    pub bound: Bound,
    /// Of a leaf; `None` for a table that is partitioned itself.
    pub node: Option<String>,
    /// Path of the declaration of nodes that placed the leaf; empty if none did.
    pub deal: String,
    /// Its own partitions; `None` for a leaf.
    pub sub: Option<Tree>,
    /// JSON path of the member that made this partition.
    pub path: String,
}

/// As in `FOR VALUES`. Texts are values of the key, not yet quoted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bound {
    /// Keys between two limits.
    Range {
        /// The least key, included: a limit per key column.
        from: Vec<Limit>,
        /// The end, not included: a limit per key column.
        to: Vec<Limit>,
    },
    /// Keys that are listed.
    List {
        /// Each once, in no order; `None` is NULL.
        values: Vec<Option<String>>,
    },
    /// Keys by the remainder of their hash.
    Hash {
        /// What the hash is divided by. Siblings may have others, where each divides the next larger one.
        modulus: u32,
        /// From 0 to below `modulus`.
        remainder: u32,
    },
    /// All keys that no sibling takes; NULL too, unless one lists it.
    Default,
}

/// One column of a range bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// Below all values of the column.
    MinValue,
    /// A value of the column, as text.
    Value(String),
    /// Above all values of the column, infinity too.
    MaxValue,
}

/// All tables that `level` makes below `input.root`.
///
/// Errors: what [`parse`](crate::parse) cannot know yet. Values that the key does not take, bounds that overlap, two tables of
/// one name, too many leaves.
pub fn expand(level: &Level, input: &PlanInput<'_>) -> Result<Plan> {
    let site = level.site();
    count::within_limit(level, &site.path, input)?;
    let resolved = parts::Resolver::new(input).resolve(level, &site.path)?;
    let mut builder = build::Builder::new(input, None);
    let tree = builder.tree(&resolved, input.root, site.nodes.as_ref())?;
    Ok(Plan { tree, dealt: builder.dealt })
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

    /// The partitions that store rows, in the order of [`walk`](Self::walk).
    pub fn leaves(&self) -> impl Iterator<Item = &Partition> {
        self.walk().filter(|partition| partition.sub.is_none())
    }
}
