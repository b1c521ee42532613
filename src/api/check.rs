//! `shard_check`.

use crate::check;
use crate::pg::regclass::Regclass;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// What is wrong, and what to do about it. No severity above `ok` means healthy.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
pub(crate) fn shard_check(
    parent: default!(Option<Regclass>, "NULL"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(area, String),
            name!(object, Option<String>),
            name!(node, Option<String>),
            name!(severity, String),
            name!(finding, String),
            name!(hint, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let rows = check::all(parent.map(|parent| parent.0))?;
    Ok(TableIterator::new(rows.into_iter().map(|row| {
        let finding = row.finding;
        (row.area.to_string(), row.object, row.node, finding.severity.word().to_string(), finding.finding, finding.hint)
    })))
}

extension_sql!(
    "-- Everybody may ask: nodes are asked with the caller's own user mappings.
COMMENT ON FUNCTION shard_check(regclass) IS
    'What is wrong and what to do about it; no severity above ok means healthy';",
    name = "check",
    requires = [shard_check]
);
