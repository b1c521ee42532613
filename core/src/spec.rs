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
pub const MAX_DEPTH: usize = 16;
/// Partitions that a level makes past the current one unless told otherwise.
pub const DEFAULT_PREMAKE: u32 = 2;
/// What Postgres takes as a modulus.
pub const MAX_MODULUS: u32 = i32::MAX as u32;
/// The label of a default partition.
pub const DEFAULT_LABEL: &str = "default";

/// One step of a hierarchy: by what, and into what, a table is partitioned.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    /// Column names and expressions, as written.
    pub key: Vec<String>,
    pub rule: Rule,
    /// Where the leaves below go, unless something nearer to them says otherwise. Never empty.
    pub nodes: Option<Vec<String>>,
    pub name: Template,
    pub default: Option<DefaultPart>,
    /// The next level of all partitions that have none of their own.
    pub partitions: Option<Box<Level>>,
    /// How the spec was written: what is found wrong with it later is told in the same words.
    pub(crate) form: Form,
}

/// How the partitions of a level are made.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    Interval(IntervalRule),
    Step(StepRule),
    Bounds(BoundsRule),
    List(Vec<ListPart>),
    Hash { modulus: u32 },
}

/// What Postgres is told in `PARTITION BY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    Range,
    List,
    Hash,
}

/// One range per period of time.
#[derive(Clone, Debug, PartialEq)]
pub struct IntervalRule {
    pub interval: Interval,
    pub start: Option<Scalar>,
    pub end: Option<Scalar>,
    pub premake: u32,
    pub timezone: Zone,
    pub epoch: Option<Epoch>,
}

/// What a number that stands for a time counts, since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epoch {
    Seconds,
    Millis,
    Micros,
    Nanos,
}

/// One range per so many numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRule {
    pub step: Decimal,
    pub start: Option<Decimal>,
    pub end: Option<Decimal>,
    pub premake: u32,
}

/// Ranges that are written out.
#[derive(Clone, Debug, PartialEq)]
pub struct BoundsRule {
    /// For times written without an offset.
    pub timezone: Zone,
    pub ranges: Ranges,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Ranges {
    /// Each two neighbours are a range.
    Points(Vec<Vec<Scalar>>),
    Labelled(Vec<RangePart>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct RangePart {
    pub label: String,
    pub from: Vec<Scalar>,
    pub to: Vec<Scalar>,
    pub own: Own,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ListPart {
    pub label: String,
    pub values: Vec<Scalar>,
    pub own: Own,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct DefaultPart {
    pub name: Option<Template>,
    pub own: Own,
}

/// What a single partition can say for itself.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Own {
    pub nodes: Option<Vec<String>>,
    pub partitions: Sub,
}

/// The level below a single partition.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Sub {
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
