//! The spec: one typed JSON document that says what a hierarchy shall be.

mod check;
mod document;
mod find;
mod range;
mod short;
mod unknown;
mod write;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::error::Result;
use crate::name::Template;
use crate::path::{Form, Path};
use crate::{Decimal, Interval, Scalar, Zone};

pub(crate) use check::{duplicate, modulus, some_values, whole_number};
pub(crate) use document::{Object, present};
pub(crate) use find::Nodes;
pub use find::{KeyEntry, Site};
pub(crate) use range::{Limits, ends};
pub use short::ShortForm;
pub(crate) use unknown::explain;

/// Levels below each other, the first included.
pub(crate) const MAX_DEPTH: usize = 16;
/// Partitions that a level makes past the current one unless told otherwise.
pub(crate) const DEFAULT_PREMAKE: u32 = 2;
/// What Postgres takes as a modulus.
pub(crate) const MAX_MODULUS: u32 = i32::MAX as u32;
/// The label of a default partition.
pub(crate) const DEFAULT_LABEL: &str = "default";

/// One step of a hierarchy: by what, and into what, a table is partitioned.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    /// Column names and expressions, as written. Never empty; of a list level, exactly one.
    pub key: Vec<String>,
    /// By which method and into which partitions, the default one aside.
    pub rule: Rule,
    /// Where the leaves below go, unless something nearer to them says otherwise. Never empty.
    pub nodes: Option<Vec<String>>,
    pub(crate) name: Template,
    /// Never one on a hash level.
    pub(crate) default: Option<DefaultPart>,
    /// The next level of all partitions that have none of their own.
    pub(crate) partitions: Option<Box<Level>>,
    /// How the spec was written: what is found wrong with it later is told in the same words.
    pub(crate) form: Form,
}

/// How the partitions of a level are made.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// Ranges of one period of time each.
    Interval(IntervalRule),
    /// Ranges of so many numbers each.
    Step(StepRule),
    /// Ranges that are written out.
    Bounds(BoundsRule),
    /// Lists of values, in the order of the document.
    List(Vec<ListPart>),
    /// One partition per remainder.
    Hash {
        /// The number of partitions, from 1 to what an `integer` of Postgres holds.
        modulus: u32,
    },
}

/// What Postgres is told in `PARTITION BY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Each partition takes the keys from one limit up to another, which is not included.
    Range,
    /// Each partition takes the keys that it lists. There is one key column.
    List,
    /// Each partition takes the keys whose hash, divided by its modulus, leaves its remainder.
    Hash,
}

/// One range per period of time.
#[derive(Clone, Debug, PartialEq)]
pub struct IntervalRule {
    pub(crate) interval: Interval,
    /// Where the first period begins; without, a new table begins with the current one.
    pub(crate) start: Option<Scalar>,
    /// Where the last period ends; without, `premake` says how many there are.
    pub(crate) end: Option<Scalar>,
    /// Periods after the current one.
    pub(crate) premake: u32,
    /// Of the boundaries, and of times written without an offset.
    pub(crate) timezone: Zone,
    /// Of a key that is a number; `None` for one that is a time.
    pub(crate) epoch: Option<Epoch>,
}

/// What a number that stands for a time counts, since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Epoch {
    Seconds,
    Millis,
    Micros,
    Nanos,
}

/// One range per so many numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRule {
    /// Above 0.
    pub(crate) step: Decimal,
    /// Where the first range begins; without, at 0.
    pub(crate) start: Option<Decimal>,
    /// Where the last range ends; without, `premake` says how many there are.
    pub(crate) end: Option<Decimal>,
    /// Ranges after the first one.
    pub(crate) premake: u32,
}

/// Ranges that are written out.
#[derive(Clone, Debug, PartialEq)]
pub struct BoundsRule {
    /// For times written without an offset.
    pub(crate) timezone: Zone,
    pub(crate) ranges: Ranges,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ranges {
    /// Each two neighbours are a range.
    Points(Vec<Vec<Scalar>>),
    Labelled(Vec<RangePart>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RangePart {
    pub label: String,
    pub from: Vec<Scalar>,
    pub to: Vec<Scalar>,
    pub own: Own,
}

/// One partition of a list level.
#[derive(Clone, Debug, PartialEq)]
pub struct ListPart {
    pub(crate) label: String,
    pub(crate) values: Vec<Scalar>,
    pub(crate) own: Own,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub(crate) struct DefaultPart {
    pub name: Option<Template>,
    pub own: Own,
}

/// What a single partition can say for itself.
#[derive(Clone, Debug, PartialEq, Default)]
pub(crate) struct Own {
    pub nodes: Option<Vec<String>>,
    pub partitions: Sub,
}

/// The level below a single partition.
#[derive(Clone, Debug, PartialEq, Default)]
pub(crate) enum Sub {
    /// The one that its level gives to all.
    #[default]
    Inherit,
    /// None, whatever its level says: written `"partitions": false`.
    Leaf,
    Own(Box<Level>),
}

impl Method {
    /// As in `PARTITION BY` and in the spec.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::List => "list",
            Self::Hash => "hash",
        }
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Epoch {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Millis => "ms",
            Self::Micros => "us",
            Self::Nanos => "ns",
        }
    }

    pub(crate) fn nanos(self) -> i128 {
        match self {
            Self::Seconds => 1_000_000_000,
            Self::Millis => 1_000_000,
            Self::Micros => 1000,
            Self::Nanos => 1,
        }
    }
}

/// Reads a spec. Objects keep the order of the document.
///
/// Errors: fields that are unknown, missing or do not belong together, and values that are wrong whatever the table is. What
/// depends on the types of its keys, [`plan::expand`](crate::plan::expand) finds.
pub fn parse(doc: &Value) -> Result<Level> {
    read(doc, Form::Document)
}

/// Reads a spec that was written in this form.
fn read(doc: &Value, form: Form) -> Result<Level> {
    let root = Path::root(form);
    let document::Object(raw) = serde_path_to_error::deserialize(doc).map_err(|e| unknown::explain(doc, &e, &root))?;
    check::level(raw, &root, 1)
}

impl Level {
    /// Which kind of partitions Postgres is to have here.
    pub fn method(&self) -> Method {
        match self.rule {
            Rule::Interval(_) | Rule::Step(_) | Rule::Bounds(_) => Method::Range,
            Rule::List(_) => Method::List,
            Rule::Hash { .. } => Method::Hash,
        }
    }

    /// The spec in its canonical form: [`parse`] of it is this level again.
    pub fn to_json(&self) -> Value {
        // A document of strings, numbers and string keys always has a JSON value.
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl Serialize for Level {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        write::level(self).serialize(to)
    }
}
