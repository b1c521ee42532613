//! A table as its user made it: everything that the rebuilt table, its leaves and its mirrors must carry.

use crate::catalog::carried::{Key, Publication, Statistics};
use crate::error::Result;
use crate::name::QualifiedName;
use crate::pg::sql;
use pgrx::pg_sys::Oid;
use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Clone, Deserialize)]
pub struct TableDefinition {
    oid: u32,
    pub name: QualifiedName,
    /// `pg_class.relkind`.
    pub kind: char,
    pub persistence: char,
    pub owner: String,
    pub is_partition: bool,
    pub is_typed: bool,
    pub has_parents: bool,
    pub has_children: bool,
    pub is_system: bool,
    pub partition_key: Option<String>,
    pub tablespace: Option<String>,
    pub access_method: Option<String>,
    /// Storage parameters as `name=value`, those of the TOAST table with the prefix `toast.`.
    pub options: Vec<String>,
    pub replica_identity: char,
    pub row_security: bool,
    pub force_row_security: bool,
    pub comment: Option<String>,
    pub has_toast: bool,
    /// `None` when nothing was ever granted or revoked.
    pub grants: Option<Vec<Grant>>,
    /// Roles that default privileges give something on each new table.
    pub default_grantees: Vec<Option<String>>,
    /// The same for sequences.
    pub default_sequence_grantees: Vec<Option<String>>,
    pub columns: Vec<Column>,
    pub checks: Vec<Check>,
    pub exclusions: Vec<String>,
    pub keys: Vec<Key>,
    pub statistics: Vec<Statistics>,
    pub policies: Vec<Policy>,
    pub triggers: Vec<Trigger>,
    pub publications: Vec<Publication>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Grant {
    /// `None` is PUBLIC.
    pub role: Option<String>,
    pub privileges: Vec<String>,
    pub grantable: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Column {
    pub name: String,
    /// With its modifier, qualified unless built in.
    #[serde(rename = "type")]
    pub data_type: String,
    pub type_oid: u32,
    /// Of a domain, what it is a domain over; else the type itself.
    pub base_type: String,
    /// `pg_type.typtype`: `b` base, `e` enum, `d` domain, `c` composite, `r` range.
    pub type_kind: char,
    /// Set when it is not the type's own.
    pub collation: Option<String>,
    pub deterministic: bool,
    pub not_null: bool,
    pub not_null_constraint: Option<NotNull>,
    pub generated: String,
    pub identity: String,
    pub default: Option<String>,
    /// A constraint of its domain that old values need not fulfil.
    pub unchecked: Option<String>,
    /// The default uses a sequence or a function that only the coordinator is sure to have.
    pub default_is_local: bool,
    /// The sequence of an identity column.
    pub sequence: Option<Sequence>,
    /// Sequences that would be dropped with the column.
    pub owned: Vec<QualifiedName>,
    pub storage: Option<String>,
    pub compression: Option<String>,
    pub statistics: Option<i32>,
    pub options: Vec<String>,
    pub comment: Option<String>,
    pub grants: Vec<Grant>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct NotNull {
    pub name: String,
    pub valid: bool,
    pub comment: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Sequence {
    pub name: QualifiedName,
    pub start: i64,
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    pub cache: i64,
    pub cycle: bool,
    pub comment: Option<String>,
    /// `None` when nothing was ever granted or revoked.
    pub grants: Option<Vec<Grant>>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Check {
    pub name: String,
    pub definition: String,
    pub comment: Option<String>,
}

impl Check {
    /// Rows that were there before it need not fulfil it.
    pub fn is_valid(&self) -> bool {
        !self.definition.ends_with(" NOT VALID")
    }

    /// It says something that no row is ever asked for, as Postgres can from 18 on.
    pub fn is_enforced(&self) -> bool {
        !self.definition.ends_with(" NOT ENFORCED")
    }
}

#[derive(Debug, Clone, Deserialize)]
pub struct Policy {
    pub name: String,
    pub permissive: bool,
    pub command: String,
    pub roles: Vec<Option<String>>,
    pub using: Option<String>,
    pub check: Option<String>,
    pub comment: Option<String>,
}

impl Policy {
    /// It refuses some of the rows that are inserted or updated. What only selects rows also decides what an update may
    /// make of them.
    pub fn checks_rows(&self) -> bool {
        let condition = match self.command.as_str() {
            "SELECT" | "DELETE" => None,
            _ => self.check.as_ref().or(self.using.as_ref()),
        };
        condition.is_some_and(|condition| condition != "true")
    }
}

#[derive(Debug, Clone, Deserialize)]
pub struct Trigger {
    pub name: String,
    pub definition: String,
    /// `pg_trigger.tgenabled`: `O`, `D`, `R` or `A`.
    pub enabled: char,
    pub constraint: bool,
    pub transition: bool,
    pub comment: Option<String>,
}

impl TableDefinition {
    pub fn load(table: Oid) -> Result<Option<Self>> {
        sql::kept_document(include_str!("describe.sql"), &[table.into()])
    }

    /// Everything that is told of a table, for comparing.
    pub fn whole(table: Oid) -> Result<Option<Value>> {
        sql::kept_document(include_str!("describe.sql"), &[table.into()])
    }

    /// The question of `load` to another server, by name. A channel takes for a query what begins like one.
    pub fn question(table: &QualifiedName) -> String {
        let query: Vec<&str> =
            include_str!("describe.sql").lines().filter(|line| !line.trim().starts_with("--")).collect();
        query.join("\n").replace("$1", &format!("pg_catalog.to_regclass({})", crate::name::literal(&table.to_string())))
    }

    /// What rows and their copies have in common: columns, checks and keys. Equal as long as none of them is changed.
    pub fn shape(table: Oid) -> Result<Option<Value>> {
        const PARTS: [(&str, &[&str]); 3] = [
            ("columns", &["name", "type", "collation", "not_null", "generated", "identity", "default"]),
            ("checks", &["name", "definition"]),
            ("keys", &["name", "constraint", "definition", "unique", "valid"]),
        ];
        let found = Self::whole(table)?;
        let part = |whole: &Value, name: &str, wanted: &[&str]| {
            let items = whole[name].as_array().cloned().unwrap_or_default();
            let item = |item: &Value| wanted.iter().map(|field| item[*field].clone()).collect::<Value>();
            items.iter().map(item).collect::<Value>()
        };
        Ok(found.map(|whole| PARTS.iter().map(|(name, wanted)| part(&whole, name, wanted)).collect()))
    }

    /// On the server that was asked.
    pub fn oid(&self) -> Oid {
        Oid::from(self.oid)
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// What else would be lost with the table, each as Postgres describes it.
pub fn dependents(table: Oid) -> Result<Vec<String>> {
    outside_dependents(table, &[])
}

/// The same, without these partitions of the table.
pub fn outside_dependents(table: Oid, partitions: &[Oid]) -> Result<Vec<String>> {
    sql::kept_documents(include_str!("dependents.sql"), &[table.into(), partitions.to_vec().into()])
}

/// What depends on a leaf on its node, as a question to that node.
pub fn dependents_question(leaf: &QualifiedName) -> String {
    let query: Vec<&str> =
        include_str!("dependents.sql").lines().filter(|line| !line.trim().starts_with("--")).collect();
    let query = query.join("\n").replace("$1", &format!("{}::oid", leaf.regclass())).replace("$2", "'{}'");
    format!("SELECT coalesce(json_agg(found.what::json), '[]')::text FROM ({query}) AS found (what)")
}
