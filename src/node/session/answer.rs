//! What a node answers, read without trust: another server may stand there, or somebody may have changed what is asked.

use crate::error::{Report, Result};
use pgrx::PgSqlErrorCode as Code;
use postgres_types::FromSql;
use serde::de::DeserializeOwned;
use tokio_postgres::{Row, SimpleQueryRow};

/// One value of a row.
///
/// Errors: HV000 there is no such column, or it holds something else.
pub fn value<'a, T: FromSql<'a>>(node: &str, row: &'a Row, at: usize) -> Result<T> {
    row.try_get(at).or_else(|error| unreadable(node, &super::remote::sentence(&error)).into())
}

/// The same of a row that comes as text.
pub fn text<'a>(node: &str, row: &'a SimpleQueryRow, at: usize) -> Result<Option<&'a str>> {
    row.try_get(at).or_else(|error| unreadable(node, &super::remote::sentence(&error)).into())
}

/// A JSON document as text.
///
/// Errors: HV000 it is not the one that was asked for.
pub fn document<T: DeserializeOwned>(node: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).or_else(|error| unreadable(node, &error.to_string()).into())
}

/// The node answers, but not what it was asked.
pub(super) fn unreadable(node: &str, why: &str) -> Report {
    Report::new(Code::ERRCODE_FDW_ERROR, format!("the answer of node \"{node}\" cannot be read"))
        .detail(format!("What is wrong with it: {why}."))
        .hint(format!(
            "Something there was changed, perhaps in its schema shardkeeper: SELECT shard_alter_node({}); makes that anew.",
            crate::name::literal(node)
        ))
}
