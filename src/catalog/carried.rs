//! What leaves and mirrors carry and the parent on the coordinator cannot, as it is kept in the catalog for those to come.

use crate::name::QualifiedName;
use serde::{Deserialize, Serialize};

/// What the parent on the coordinator cannot carry itself, kept for the leaves and mirrors to come.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Extras {
    pub keys: Vec<Key>,
    /// Storage parameters of leaves.
    pub options: Vec<String>,
    pub access_method: Option<String>,
    pub replica_identity: Option<char>,
    #[serde(default)]
    pub publications: Vec<Publication>,
}

/// An index, with or without a constraint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Key {
    pub name: String,
    /// `PRIMARY KEY (…)` or `UNIQUE (…)`, when it is a constraint.
    pub constraint: Option<String>,
    pub primary: bool,
    pub unique: bool,
    /// What follows `USING` in `CREATE INDEX`.
    pub definition: String,
    /// Key columns; an expression counts as none.
    pub columns: Vec<String>,
    pub tablespace: Option<String>,
    pub clustered: bool,
    pub replica_identity: bool,
    pub valid: bool,
    pub comment: Option<String>,
    pub index_comment: Option<String>,
    /// Statistics targets of expression columns: number and target.
    pub statistics: Vec<(i16, i32)>,
}

impl Key {
    /// What it is, in words.
    pub fn what(&self) -> &'static str {
        match (self.primary, self.unique, &self.constraint) {
            (true, _, _) => "primary key",
            (false, true, Some(_)) => "unique constraint",
            (false, true, None) => "unique index",
            (false, false, _) => "index",
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Statistics {
    pub name: QualifiedName,
    /// What stands between the name and the table in `CREATE STATISTICS`.
    pub definition: String,
    pub target: Option<i32>,
    pub comment: Option<String>,
}

impl Statistics {
    /// The command that makes the same under a name, on a table.
    pub fn create(&self, name: &QualifiedName, table: &QualifiedName) -> String {
        format!("CREATE STATISTICS {name}{} FROM {table}", self.definition)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Publication {
    pub name: String,
    /// It publishes the rows of partitions as rows of their root.
    #[serde(default)]
    pub via_root: bool,
    #[serde(rename = "where")]
    pub filter: Option<String>,
    pub columns: Option<Vec<String>>,
}
