//! Partition keys: what each entry of a spec's `key` means for one table.

use super::description::{Column, Description};
use crate::error::{Report, Result};
use crate::name::{QualifiedName, ident};
use crate::pg::{parse, sql};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use serde::Deserialize;
use shardkeeper_core::KeyKind;
use shardkeeper_core::plan::Method;
use shardkeeper_core::spec::{Level, Own, Ranges, Rule, Sub};
use std::collections::BTreeMap;

/// The keys of all levels of a spec, resolved against the table.
#[derive(Debug, Default)]
pub struct Keys {
    parts: BTreeMap<String, Part>,
}

#[derive(Debug)]
struct Part {
    /// As in `PARTITION BY`: a column, or an expression in parentheses.
    sql: String,
    column: Option<String>,
    kind: KeyKind,
    is_enum: bool,
    /// Equal values have equal bytes, so that their hash is the same on all servers.
    deterministic: bool,
}

impl Keys {
    /// Resolves and checks the key of every level, each with Postgres's own limits in our words.
    pub fn resolve(level: &Level, table: &Description) -> Result<Self> {
        let mut keys = Keys::default();
        for (level, path) in levels(level) {
            for (at, text) in level.key.iter().enumerate() {
                let path = if level.key.len() == 1 { format!("{path}.key") } else { format!("{path}.key[{at}]") };
                let part = resolve_one(text, table, &path)?;
                if level.method() == Method::Hash {
                    hash_key(&part, &path)?;
                }
                keys.parts.insert(text.clone(), part);
            }
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

    /// Columns of all levels; an expression is `Err` with its text.
    pub fn columns(&self) -> impl Iterator<Item = std::result::Result<&str, &str>> {
        self.parts.iter().map(|(text, part)| part.column.as_deref().ok_or(text.as_str()))
    }
}

/// Every level of a spec with its path, the shared ones and those of single partitions.
fn levels(level: &Level) -> Vec<(&Level, String)> {
    let mut found = Vec::new();
    let mut pending = vec![(level, "$".to_string())];
    while let Some((level, path)) = pending.pop() {
        for (part, part_path) in parts(level, &path) {
            if let Sub::Own(sub) = &part.partitions {
                pending.push((sub.as_ref(), format!("{part_path}.partitions")));
            }
        }
        if let Some(sub) = &level.partitions {
            pending.push((sub.as_ref(), format!("{path}.partitions")));
        }
        found.push((level, path));
    }
    found
}

/// What single partitions of a level say for themselves, with their paths.
fn parts<'a>(level: &'a Level, path: &str) -> Vec<(&'a Own, String)> {
    let mut found: Vec<(&Own, String)> = match &level.rule {
        Rule::List(parts) => parts.iter().map(|p| (&p.own, format!("{path}.values.{}", p.label))).collect(),
        Rule::Bounds(rule) => match &rule.ranges {
            Ranges::Labelled(parts) => parts.iter().map(|p| (&p.own, format!("{path}.bounds.{}", p.label))).collect(),
            Ranges::Points(_) => Vec::new(),
        },
        Rule::Interval(_) | Rule::Step(_) | Rule::Hash { .. } => Vec::new(),
    };
    found.extend(level.default.iter().map(|default| (&default.own, format!("{path}.default"))));
    found
}

fn resolve_one(text: &str, table: &Description, path: &str) -> Result<Part> {
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
    let kind = kind_of(&found.data_type, if found.kind == 'd' { 'o' } else { found.kind });
    Ok(Part { kind, sql, column: None, is_enum: found.kind == 'e', deterministic: found.deterministic })
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
        is_enum: column.type_kind == 'e',
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
    let what = if part.column.is_some() { "column" } else { "expression" };
    if part.is_enum {
        let why = "The hash of an enum value is computed from its object identifier, which differs between servers and after a restore.";
        return refuse(&format!("enum {what}"), why, "Use a list level, or a key of another type.");
    }
    if !part.deterministic {
        let why = "With a nondeterministic collation, its hash depends on the version of the collation library, which may differ between servers.";
        return refuse(what, why, "Use a key with a deterministic collation.");
    }
    Ok(())
}

#[derive(Deserialize)]
struct ExpressionType {
    data_type: String,
    kind: char,
    deterministic: bool,
}

fn expression_type(expression: &str, table: &QualifiedName) -> Result<Option<ExpressionType>> {
    sql::document(
        &format!(
            "SELECT pg_catalog.json_build_object('data_type', t.oid::pg_catalog.regtype::text, 'kind', t.typtype,
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
        ('b', "text" | "character varying" | "character") => KeyKind::Text,
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
