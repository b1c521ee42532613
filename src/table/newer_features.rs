//! What a table is made of that a server of an older major version has no word for.

use super::definition::TableDefinition;
use crate::error::{Report, Result};
use crate::name::ident;
use pgrx::PgSqlErrorCode as Code;

/// Storage parameters of tables that came after Postgres 15, with the version that brought them.
const PARAMETERS: [(&str, i32); 2] =
    [("autovacuum_vacuum_max_threshold", 18), ("vacuum_max_eager_freeze_failure_rate", 18)];

struct Newer {
    /// A noun with its name.
    what: String,
    /// The major version that brought it.
    since: i32,
    instead: &'static str,
}

/// `version` is the node's `server_version_num`.
///
/// Errors: 0A000 it could not have such a table.
pub fn refuse(node: &str, version: i32, table: &TableDefinition) -> Result<()> {
    let Some(Newer { what, since, instead }) = found(table).find(|newer| newer.since > version / 10_000) else {
        return Ok(());
    };
    Report::new(
        Code::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("node {} cannot have {what} of {}", ident(node), table.name),
    )
    .detail(format!("Postgres knows that from version {since} on; the node runs {}.", version / 10_000))
    .hint(format!("{instead}, take nodes of version {since}, or upgrade this one."))
    .into()
}

fn found(table: &TableDefinition) -> impl Iterator<Item = Newer> {
    let computed = table.columns.iter().filter(|column| column.generated == "v").map(|column| Newer {
        what: format!("the virtual generated column {}", ident(&column.name)),
        since: 18,
        instead: "Make the column STORED",
    });
    let periods = table.keys.iter().filter(|key| key.constraint.as_ref().is_some_and(|words| is_of_periods(words)));
    let periods = periods.map(|key| Newer {
        what: format!("{} {}, which is WITHOUT OVERLAPS,", key.what(), ident(&key.name)),
        since: 18,
        instead: "Drop the constraint",
    });
    let parameters = PARAMETERS.into_iter().filter_map(|(parameter, since)| {
        let is_it = |option: &&String| name_of(option) == parameter;
        let option = table.options.iter().find(is_it)?;
        let what = format!("the storage parameter {}", option.split('=').next().unwrap_or_default());
        Some(Newer { what, since, instead: "RESET the parameter" })
    });
    computed.chain(periods).chain(parameters)
}

fn is_of_periods(words: &str) -> bool {
    words.contains(" WITHOUT OVERLAPS)")
}

/// A parameter is the same one of the table and of what it has for long values.
fn name_of(option: &str) -> &str {
    let name = option.split('=').next().unwrap_or_default();
    name.strip_prefix("toast.").unwrap_or(name)
}
