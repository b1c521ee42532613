//! Partition keys: what each entry of a spec's `key` means for one table.

use super::hashing::{self, Why};
use crate::error::{Report, Result};
use crate::name::{QualifiedName, ident, literal};
use crate::pg::{parse, sql, types};
use crate::table::definition::{Column, TableDefinition};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use serde::Deserialize;
use shardkeeper_core::KeyKind;
use shardkeeper_core::plan::Method;
use shardkeeper_core::spec::Level;
use std::collections::BTreeMap;

/// The keys of all levels of a spec, resolved against the table.
#[derive(Debug, Default)]
pub struct PartitionKeys {
    parts: BTreeMap<String, Part>,
}

#[derive(Debug)]
struct Part {
    /// As in `PARTITION BY`: a column, or an expression in parentheses.
    sql: String,
    column: Option<String>,
    kind: KeyKind,
    data_type: KeyType,
    /// Equal values have equal bytes, so that their hash is the same on all servers.
    deterministic: bool,
}

/// What values of a key are in SQL.
#[derive(Debug, Clone, Deserialize)]
pub struct KeyType {
    #[serde(rename = "type")]
    name: String,
    /// Set when it is not the type's own.
    collation: Option<String>,
    #[serde(rename = "type_oid")]
    oid: u32,
}

impl KeyType {
    /// The value, as the key has it.
    pub fn literal(&self, value: &str) -> String {
        let value = format!("CAST({} AS {})", literal(value), self.name);
        self.collation.as_ref().map_or(value.clone(), |collation| format!("{value} COLLATE {collation}"))
    }

    pub fn oid(&self) -> Oid {
        Oid::from(self.oid)
    }
}

impl PartitionKeys {
    /// Resolves and checks the key of every level, each with Postgres's own limits in our words.
    pub fn resolve(level: &Level, table: &TableDefinition) -> Result<Self> {
        let mut keys = PartitionKeys::default();
        for entry in level.key_entries() {
            let part = resolve_one(entry.text, table, &entry.place)?;
            match entry.level.method() {
                Method::Hash => hash_key(&part, &entry.place)?,
                method @ (Method::Range | Method::List) => ordered_key(&part, method, &entry.place)?,
            }
            keys.parts.insert(entry.text.to_string(), part);
        }
        Ok(keys)
    }

    pub fn kind(&self, key: &str) -> Option<KeyKind> {
        self.parts.get(key).map(|part| part.kind)
    }

    /// The key of one level as SQL, entry by entry.
    pub fn sql(&self, key: &[String]) -> Vec<String> {
        key.iter().map(|text| self.parts.get(text).map_or_else(|| ident(text), |part| part.sql.clone())).collect()
    }

    /// The types of the key of one level, entry by entry.
    pub fn types(&self, key: &[String]) -> Vec<&KeyType> {
        key.iter().filter_map(|text| self.parts.get(text)).map(|part| &part.data_type).collect()
    }

    /// Columns of all levels; an expression is `Err` with its text.
    pub fn columns(&self) -> impl Iterator<Item = std::result::Result<&str, &str>> {
        self.parts.iter().map(|(text, part)| part.column.as_deref().ok_or(text.as_str()))
    }
}

fn resolve_one(text: &str, table: &TableDefinition, path: &str) -> Result<Part> {
    let bare = without_parentheses(text);
    if let Some(column) = table.column(text).or_else(|| table.column(bare)) {
        return column_key(column, path);
    }
    if parse::SYSTEM_COLUMNS.contains(&text) {
        return Report::new(
            Code::ERRCODE_INVALID_OBJECT_DEFINITION,
            format!("{path}: system column {} cannot be a partition key", ident(text)),
        )
        .into();
    }
    if parse::is_plain_name(text) || !parse::is_one_expression(text) {
        let names = table.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
        return Report::new(
            Code::ERRCODE_UNDEFINED_COLUMN,
            format!("{path}: table {} has no column {}", table.name, ident(text)),
        )
        .detail(format!("Its columns are {names}."))
        .hint("A key is the name of a column as it is stored, or one expression.")
        .into();
    }
    let sql = format!("({text})");
    let Some(found) = expression_type(&sql, &table.name)? else {
        return Report::new(Code::ERRCODE_INVALID_OBJECT_DEFINITION, format!("{path}: the key has no type")).into();
    };
    let kind = kind_of(&found.data_type.name, if found.kind == 'd' { 'o' } else { found.kind });
    Ok(Part { kind, sql, column: None, data_type: found.data_type, deterministic: found.deterministic })
}

/// A column may stand in parentheses, as in `PARTITION BY`.
fn without_parentheses(text: &str) -> &str {
    let mut bare = text.trim();
    while let Some(inner) = bare.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        bare = inner.trim();
    }
    bare
}

fn column_key(column: &Column, path: &str) -> Result<Part> {
    if !column.generated.is_empty() {
        return Report::new(
            Code::ERRCODE_INVALID_OBJECT_DEFINITION,
            format!("{path}: generated column {} cannot be a partition key", ident(&column.name)),
        )
        .hint("Use the columns that it is computed from, or make it an ordinary column that the application fills.")
        .into();
    }
    Ok(Part {
        sql: ident(&column.name),
        column: Some(column.name.clone()),
        data_type: KeyType {
            name: column.data_type.clone(),
            collation: column.collation.clone(),
            oid: column.type_oid,
        },
        deterministic: column.deterministic,
        kind: kind_of(&column.base_type, if column.type_kind == 'd' { 'b' } else { column.type_kind }),
    })
}

fn hash_key(part: &Part, path: &str) -> Result<()> {
    let refuse = |what: &str, why: &str, hint: &str| -> Result<()> {
        Report::new(Code::ERRCODE_FEATURE_NOT_SUPPORTED, format!("{path}: {what} {} cannot be a hash key", part.sql))
            .detail(why)
            .hint(hint)
            .into()
    };
    let what = part.what();
    if let Some(found) = hashing::unsteady(part.data_type.oid())? {
        let name = &found.name;
        let (kind, mut why) = match found.why {
            Why::Enum => (
                "enum ",
                "The hash of an enum value is computed from its object identifier, which differs between servers and after a restore."
                    .to_string(),
            ),
            Why::Object => (
                "",
                format!(
                    "A value of type {name} is the object identifier of what it names, which differs between servers and after a restore."
                ),
            ),
            Why::Collation => (
                "",
                format!(
                    "With the nondeterministic collation {name}, its hash depends on the version of the collation library, which may differ between servers."
                ),
            ),
        };
        let kind = if found.is_whole { kind } else { "" };
        if !found.is_whole && found.why != Why::Collation {
            why = format!("Its type contains {name}. {why}");
        }
        return refuse(&format!("{kind}{what}"), &why, "Use a list level, or a key of another type.");
    }
    if !types::can_hash(part.data_type.oid()) {
        return part.unfit(Method::Hash, "hash", path);
    }
    if !part.deterministic {
        let why = "With a nondeterministic collation, its hash depends on the version of the collation library, which may differ between servers.";
        return refuse(what, why, "Use a key with a deterministic collation.");
    }
    Ok(())
}

fn ordered_key(part: &Part, method: Method, path: &str) -> Result<()> {
    match types::order(part.data_type.oid()) {
        Some(_) => Ok(()),
        None => part.unfit(method, "btree", path),
    }
}

impl Part {
    fn what(&self) -> &'static str {
        if self.column.is_some() { "column" } else { "expression" }
    }

    /// Values of its type cannot be compared as the method has to.
    fn unfit(&self, method: Method, access_method: &str, path: &str) -> Result<()> {
        let (what, name) = (self.what(), &self.data_type.name);
        Report::new(Code::ERRCODE_UNDEFINED_OBJECT, format!("{path}: {what} {} cannot be a {method} key", self.sql))
            .detail(format!("Type {name} has no default operator class for access method {access_method}."))
            .hint("Use a column of another type, or an expression that takes one value out of it.")
            .into()
    }
}

#[derive(Deserialize)]
struct ExpressionType {
    #[serde(flatten)]
    data_type: KeyType,
    kind: char,
    deterministic: bool,
}

fn expression_type(expression: &str, table: &QualifiedName) -> Result<Option<ExpressionType>> {
    sql::document(
        &format!(
            "SELECT pg_catalog.json_build_object('type', pg_catalog.format_type(t.oid, -1), 'type_oid', t.oid::pg_catalog.int8, 'kind', t.typtype,
                'collation', CASE WHEN t.typcollation <> 0 THEN pg_catalog.pg_collation_for(q.e) END,
                'deterministic', CASE WHEN t.typcollation = 0 THEN true ELSE
                    coalesce((SELECT collisdeterministic FROM pg_catalog.pg_collation
                              WHERE oid = pg_catalog.pg_collation_for(q.e)::pg_catalog.regcollation), true) END)::text
             FROM (SELECT 1) AS one LEFT JOIN (SELECT {expression} AS e FROM ONLY {table}) AS q ON true
             JOIN pg_catalog.pg_type t ON t.oid = pg_catalog.pg_typeof(q.e) LIMIT 1"
        ),
        &[],
    )
}

fn kind_of(data_type: &str, type_kind: char) -> KeyKind {
    let base = data_type.split('(').next().unwrap_or_default().trim();
    match (type_kind, base) {
        ('b', "date") => KeyKind::Date,
        ('b', "uuid") => KeyKind::Uuid,
        ('b', "smallint") => KeyKind::Integer { bits: 16 },
        ('b', "integer") => KeyKind::Integer { bits: 32 },
        ('b', "bigint") => KeyKind::Integer { bits: 64 },
        ('b', "numeric") => KeyKind::Numeric,
        ('b', "real" | "double precision") => KeyKind::Float,
        ('b', "boolean") => KeyKind::Bool,
        ('b', "text" | "character varying" | "character" | "bpchar") => KeyKind::Text,
        ('b', "timestamp" | "timestamp without time zone") if !data_type.ends_with("with time zone") => {
            KeyKind::Timestamp
        }
        ('b', "timestamp" | "timestamp with time zone") => KeyKind::TimestampTz,
        _ => KeyKind::Other,
    }
}

/// The entries of a key written as one text: the names of columns with commas between, or else one expression.
pub fn split(table: Oid, text: &str) -> Result<Vec<String>> {
    let columns = sql::column::<String>(
        "SELECT attname::text FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped",
        &[table.into()],
    )?;
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_string()).collect();
    let all_columns = names.iter().all(|name| columns.contains(name));
    let plain = names.iter().all(|name| parse::is_plain_name(name));
    let whole = columns.iter().any(|column| column == text);
    Ok(if !whole && (all_columns || plain) { names } else { vec![text.to_string()] })
}
