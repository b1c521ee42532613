//! Bounds as SQL: `FOR VALUES`, and the check that keeps a default partition apart from siblings on other nodes.

use crate::name::literal;
use shardkeeper_core::plan::{Bound, Limit};

/// `FOR VALUES …` or `DEFAULT`.
pub fn for_values(bound: &Bound) -> String {
    match bound {
        Bound::Range { from, to } => format!("FOR VALUES FROM ({}) TO ({})", limits(from), limits(to)),
        Bound::List { values } => format!("FOR VALUES IN ({})", join(values.iter().map(|v| value(v.as_deref())))),
        Bound::Hash { modulus, remainder } => {
            format!("FOR VALUES WITH (MODULUS {modulus}, REMAINDER {remainder})")
        }
        Bound::Default => "DEFAULT".to_string(),
    }
}

/// The condition that a row of the default partition fulfils: it belongs to none of `siblings`. On a node the default
/// partition knows only the siblings that live there; this tells it of the others. `None` without siblings.
///
/// `key` holds the key columns and expressions as SQL.
pub fn default_check<'a>(key: &[String], siblings: impl Iterator<Item = &'a Bound>) -> Option<String> {
    let mut listed: Vec<String> = Vec::new();
    let mut null_is_taken = false;
    let mut ranges = Vec::new();
    for bound in siblings {
        match bound {
            Bound::List { values } => {
                null_is_taken |= values.iter().any(Option::is_none);
                listed.extend(values.iter().flatten().map(|v| literal(v)));
            }
            Bound::Range { from, to } => {
                ranges.push(format!("NOT ({} AND {})", at_least(key, from), below(key, to)));
            }
            Bound::Hash { .. } | Bound::Default => {}
        }
    }
    if !ranges.is_empty() {
        let nulls = join_with(key.iter().map(|k| format!("{k} IS NULL")), " OR ");
        return Some(format!("{nulls} OR ({})", ranges.join(" AND ")));
    }
    let column = key.first()?;
    match (listed.is_empty(), null_is_taken) {
        (true, false) => None,
        (true, true) => Some(format!("{column} IS NOT NULL")),
        (false, true) => Some(format!("{column} IS NOT NULL AND {column} NOT IN ({})", listed.join(", "))),
        (false, false) => Some(format!("{column} IS NULL OR {column} NOT IN ({})", listed.join(", "))),
    }
}

fn limits(limits: &[Limit]) -> String {
    join(limits.iter().map(|limit| match limit {
        Limit::MinValue => "MINVALUE".to_string(),
        Limit::MaxValue => "MAXVALUE".to_string(),
        Limit::Value(text) => literal(text),
    }))
}

fn value(value: Option<&str>) -> String {
    value.map_or_else(|| "NULL".to_string(), literal)
}

/// The key is at or above the lower bound, column by column from the left, as Postgres compares range bounds.
fn at_least(key: &[String], from: &[Limit]) -> String {
    match (key.split_first(), from.split_first()) {
        (Some((_, _)), Some((Limit::MinValue, _))) => "true".into(),
        (Some((_, _)), Some((Limit::MaxValue, _))) => "false".into(),
        (Some((column, [])), Some((Limit::Value(v), _))) => format!("{column} >= {}", literal(v)),
        (Some((column, rest)), Some((Limit::Value(v), more))) => {
            let v = literal(v);
            format!("({column} > {v} OR ({column} = {v} AND {}))", at_least(rest, more))
        }
        _ => "true".into(),
    }
}

/// The key is below the upper bound.
fn below(key: &[String], to: &[Limit]) -> String {
    match (key.split_first(), to.split_first()) {
        (Some((_, _)), Some((Limit::MinValue, _))) => "false".into(),
        (Some((_, _)), Some((Limit::MaxValue, _))) => "true".into(),
        (Some((column, [])), Some((Limit::Value(v), _))) => format!("{column} < {}", literal(v)),
        (Some((column, rest)), Some((Limit::Value(v), more))) => {
            let v = literal(v);
            format!("({column} < {v} OR ({column} = {v} AND {}))", below(rest, more))
        }
        _ => "false".into(),
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    join_with(parts, ", ")
}

fn join_with(parts: impl Iterator<Item = String>, separator: &str) -> String {
    parts.collect::<Vec<_>>().join(separator)
}
