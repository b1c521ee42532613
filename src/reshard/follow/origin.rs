//! Values that a change leaves out because they are the same as before: usually the row that leaves one target has them, and
//! otherwise the row itself, in its source.

use super::layout::Layout;
use crate::catalog::operation::Operation;
use crate::error::Result;
use crate::node::own;
use crate::pg::{role, sql};
use crate::reshard::place;
use crate::reshard::target::{Table, lookup, texts, values};
use shardkeeper_core::pgoutput::Value;
use shardkeeper_core::plan::LOCAL;
use tokio_postgres::types::ToSql;

/// These columns of a changed row as its source on `node` has them now; `None` when it has no row of that key any more. Where
/// they were changed since, the stream brings that later.
pub fn now(
    operation: &Operation,
    node: &str,
    layout: &Layout,
    table: &Table,
    row: &[Value],
    columns: &[usize],
) -> Result<Option<Vec<Value>>> {
    let query = lookup(&layout.name, table, &layout.key, columns);
    let key = texts(layout.key.iter().map(|at| &row[*at]))?;
    let found = match node {
        LOCAL => {
            let args: Vec<_> = key.iter().map(|text| text.as_deref().into()).collect();
            role::acting_as(table.role, || sql::document(&query, &args))?
        }
        _ => {
            let args: Vec<&(dyn ToSql + Sync)> = key.iter().map(|text| text as _).collect();
            own::wait(place::session(operation, node)?.document(&query, &args))?
        }
    };
    Ok(found.map(values))
}
