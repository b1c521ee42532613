//! What the tests share: the example of the documentation, short ways to plan, and rows of COPY.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shardkeeper_core::copy::Row;
use shardkeeper_core::plan::{DEFAULT_MAX_LEAVES, Plan, PlanInput, expand};
use shardkeeper_core::{KeyKind, Level, SpecError, parse};

pub fn example() -> Value {
    json!({"method": "range", "key": "order_date", "interval": "1 year", "start": "2024-01-01", "premake": 2,
     "partitions": {"method": "list", "key": "region",
       "values": {"us": {"in": ["US"], "nodes": ["us_1", "us_2", "us_3"],
                         "partitions": {"method": "hash", "key": "customer_id", "modulus": 3}},
                  "eu": {"in": ["EU", "UK"], "nodes": ["local", "eu_2"],
                         "partitions": {"method": "hash", "key": "customer_id", "modulus": 4}}},
       "default": false}})
}

pub fn kinds(key: &str) -> Option<KeyKind> {
    Some(match key {
        "order_date" | "day" => KeyKind::Date,
        "at" => KeyKind::Timestamp,
        "tz" => KeyKind::TimestampTz,
        "uuid" => KeyKind::Uuid,
        "id" | "customer_id" => KeyKind::Integer { bits: 64 },
        "small" => KeyKind::Integer { bits: 16 },
        "int" => KeyKind::Integer { bits: 32 },
        "num" => KeyKind::Numeric,
        "float" => KeyKind::Float,
        "region" => KeyKind::Text,
        "flag" => KeyKind::Bool,
        "other" => KeyKind::Other,
        _ => return None,
    })
}

pub fn input<'a>(root: &'a str, now: &str) -> PlanInput<'a> {
    PlanInput {
        root,
        now: now.parse().expect("a timestamp"),
        kind: &kinds,
        dealt: BTreeMap::new(),
        max_leaves: DEFAULT_MAX_LEAVES,
    }
}

pub fn level(doc: Value) -> Level {
    parse(&doc).unwrap_or_else(|error| panic!("{error}\n{doc}"))
}

pub fn plan_at(doc: Value, now: &str) -> Result<Plan, SpecError> {
    expand(&parse(&doc)?, &input("t", now))
}

pub fn plan(doc: Value) -> Result<Plan, SpecError> {
    plan_at(doc, "2024-06-15T12:00:00Z")
}

pub fn error(doc: Value) -> SpecError {
    match plan(doc) {
        Ok(plan) => panic!("no error: {plan:#?}"),
        Err(error) => error,
    }
}

/// `label from..to` of the partitions of the first level.
pub fn ranges(plan: &Plan) -> Vec<String> {
    use shardkeeper_core::plan::{Bound, Limit};
    let text = |limits: &[Limit]| {
        let texts = limits.iter().map(|limit| match limit {
            Limit::MinValue => "MINVALUE",
            Limit::Value(value) => value,
            Limit::MaxValue => "MAXVALUE",
        });
        texts.collect::<Vec<_>>().join(",")
    };
    let partitions = plan.tree.partitions.iter();
    let line = partitions.map(|p| match &p.bound {
        Bound::Range { from, to } => format!("{} {}..{}", p.label, text(from), text(to)),
        other => format!("{} {other:?}", p.label),
    });
    line.collect()
}

/// A row of a binary COPY stream, its fields without their lengths; `None` is NULL.
pub fn copy_row<T: AsRef<[u8]>>(fields: &[Option<T>]) -> Vec<u8> {
    let mut out = (fields.len() as i16).to_be_bytes().to_vec();
    for field in fields {
        match field {
            None => out.extend((-1i32).to_be_bytes()),
            Some(value) => {
                out.extend((value.as_ref().len() as i32).to_be_bytes());
                out.extend(value.as_ref());
            }
        }
    }
    out
}

/// The fields of a row that was read, as [`copy_row`] takes them.
pub fn copy_fields(row: Row<'_>) -> Vec<Option<Vec<u8>>> {
    (0..row.len()).map(|at| row.field(at).flatten().map(<[u8]>::to_vec)).collect()
}
