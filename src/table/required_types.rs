//! What the columns of a table are made of beside built-in types: enums, composites, domains, ranges and collations. A node has
//! to have the same; what it lacks is made there, what differs is refused.

mod make;

use crate::error::Result;
use crate::name::{QualifiedName, literal};
use crate::pg::sql;
use pgrx::pg_sys::Oid;
use serde::Deserialize;

pub use make::{Preparation, create_schema, prepare};

const HERE: &str = include_str!("required_types/here.sql");
const OBJECTS: &str = include_str!("required_types/objects.sql");

/// A type or a collation.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Object {
    pub kind: Kind,
    #[serde(flatten)]
    pub name: QualifiedName,
    pub extension: Option<String>,
    /// What follows the name where it is made; `None` if SQL alone cannot make it.
    pub definition: Option<String>,
    /// The default of a domain, where a node can compute it.
    default: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Kind {
    #[serde(rename = "e")]
    Enum,
    #[serde(rename = "c")]
    Composite,
    #[serde(rename = "d")]
    Domain,
    #[serde(rename = "r")]
    Range,
    /// The type of the rows of a table.
    #[serde(rename = "row")]
    Row,
    #[serde(rename = "b")]
    Base,
    #[serde(rename = "collation")]
    Collation,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Kind::Domain => "domain",
            Kind::Collation => "collation",
            _ => "type",
        }
    }
}

impl Object {
    pub fn is_namesake_of(&self, other: &Object) -> bool {
        self.name == other.name && (self.kind == Kind::Collation) == (other.kind == Kind::Collation)
    }

    /// Values mean the same here and there. What a server prints of an expression has no more parentheses or spaces of meaning
    /// than another one's.
    pub fn is_like(&self, other: &Object) -> bool {
        let plain = |text: &Option<String>| {
            text.as_ref().map(|text| text.chars().filter(|c| !matches!(c, '(' | ')' | ' ' | '\n')).collect::<String>())
        };
        let same = match self.kind {
            Kind::Domain => plain(&self.definition) == plain(&other.definition),
            _ => self.definition == other.definition,
        };
        self.kind == other.kind && same
    }
}

/// What these tables need, each after what it needs itself.
pub fn of(tables: &[Oid]) -> Result<Vec<Object>> {
    let found = sql::document(&format!("{HERE} {}", objects()), &[tables.to_vec().into()])?;
    Ok(found.unwrap_or_default())
}

/// A query for the objects of these names on another server, a JSON array of documents.
pub fn question(wanted: &[Object]) -> String {
    let wanted = |of_collations: bool| {
        let objects = wanted.iter().filter(|object| (object.kind == Kind::Collation) == of_collations);
        let (schemas, names): (Vec<String>, Vec<String>) =
            objects.map(|object| (literal(&object.name.schema), literal(&object.name.name))).unzip();
        format!("ARRAY[{}]::text[], ARRAY[{}]::text[]", schemas.join(", "), names.join(", "))
    };
    format!(
        "WITH needed (class, id, depth) AS (
            SELECT 'pg_type'::regclass, t.oid, 0 FROM unnest({}) AS w (schema, name)
            JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_type t ON t.typnamespace = n.oid AND t.typname = w.name
            UNION ALL
            SELECT 'pg_collation'::regclass, c.oid, 0 FROM unnest({}) AS w (schema, name)
            JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_collation c ON c.collnamespace = n.oid AND c.collname = w.name
            WHERE c.collencoding IN (-1, (SELECT encoding FROM pg_database WHERE datname = current_database()))
        ) {}",
        wanted(false),
        wanted(true),
        objects()
    )
}

/// A channel takes for a query what begins like one.
fn objects() -> String {
    OBJECTS.lines().filter(|line| !line.trim().starts_with("--")).collect::<Vec<_>>().join("\n")
}
