//! Names and values in SQL text: the only place that quotes.

use pgrx::spi;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A table, index or other object by schema and name. Its `Display` is quoted SQL.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QualifiedName {
    pub schema: String,
    pub name: String,
}

impl QualifiedName {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }

    /// Another object of the same schema.
    pub fn sibling(&self, name: impl Into<String>) -> Self {
        Self::new(self.schema.clone(), name)
    }

    /// The command that moves a table to another schema, with what is named beside it.
    pub fn relocation(&self, schema: &str) -> String {
        format!("SELECT shardkeeper.relocate({}, {})", self.regclass(), literal(schema))
    }

    /// `'schema.name'::regclass`, for use inside SQL text.
    pub fn regclass(&self) -> String {
        format!("{}::pg_catalog.regclass", literal(&self.to_string()))
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", ident(&self.schema), ident(&self.name))
    }
}

/// One identifier, quoted where SQL needs it.
pub fn ident(name: &str) -> String {
    spi::quote_identifier(without_nul(name))
}

/// Several identifiers with commas between.
pub fn idents<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    names.into_iter().map(|name| ident(name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// A string constant.
pub fn literal(value: &str) -> String {
    spi::quote_literal(without_nul(value))
}

/// A body of code as a string constant that stays readable.
pub fn body(code: &str) -> String {
    if code.contains('$') { literal(code) } else { format!("$${}$$", without_nul(code)) }
}

/// Postgres text holds no NUL, but JSON can carry one: it becomes the replacement character, never a panic.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
