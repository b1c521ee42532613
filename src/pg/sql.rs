//! Queries on the coordinator, in the caller's transaction. All commands of our own go through `run` and `change`, and
//! event triggers know them by that.

use super::{kept_plan, latest_snapshot, ours, process};
use crate::error::Result;
use pgrx::datum::DatumWithOid;
use pgrx::spi::{Spi, SpiClient, SpiTupleTable};
use pgrx::{FromDatum, IntoDatum};
use serde::de::DeserializeOwned;

/// Runs one statement, or several without parameters, and returns the number of rows.
pub fn run(sql: &str, args: &[DatumWithOid<'_>]) -> Result<usize> {
    let _ours = ours::enter();
    Spi::connect_mut(|client| Ok(client.update(sql, None, args)?.len()))
}

/// Runs one statement that changes rows, and returns how many.
pub fn change(sql: &str, args: &[DatumWithOid<'_>]) -> Result<u64> {
    let _ours = ours::enter();
    Spi::connect_mut(|client| {
        client.update(sql, None, args)?;
        Ok(latest_snapshot::processed())
    })
}

/// Runs statements without their notices and warnings: those about tables that the caller did not name, such as a
/// default partition on a node that is not scanned from here because its node checks it, would only puzzle.
pub fn run_quietly(sql: &str) -> Result<()> {
    let before = one::<String>("SELECT pg_catalog.current_setting('client_min_messages')", &[])?.unwrap_or_default();
    let set = |level: &str| run("SELECT pg_catalog.set_config('client_min_messages', $1, true)", &[level.into()]);
    set("error")?;
    run(sql, &[])?;
    set(&before)?;
    Ok(())
}

/// The first column of the first row; `None` when there is no row or the value is NULL.
pub fn one<T: FromDatum + IntoDatum>(sql: &str, args: &[DatumWithOid<'_>]) -> Result<Option<T>> {
    Spi::connect_mut(|client| {
        let table = execute(client, sql, Some(1), args)?;
        Ok(if table.is_empty() { None } else { table.first().get_one()? })
    })
}

/// The same, but the transaction gets no id of its own by it. A logical slot can be made in such a transaction only.
pub fn one_without_id<T: FromDatum + IntoDatum>(sql: &str, args: &[DatumWithOid<'_>]) -> Result<Option<T>> {
    Spi::connect(|client| {
        let table = client.select(sql, Some(1), args)?;
        Ok(if table.is_empty() { None } else { table.first().get_one()? })
    })
}

/// The first column of each row, NULLs left out.
pub fn column<T: FromDatum + IntoDatum>(sql: &str, args: &[DatumWithOid<'_>]) -> Result<Vec<T>> {
    Spi::connect_mut(|client| {
        let table = execute(client, sql, None, args)?;
        let mut values = Vec::with_capacity(table.len());
        for row in table {
            values.extend(row.get::<T>(1)?);
        }
        Ok(values)
    })
}

/// A SELECT that returns one text column of JSON documents, as typed rows, as things are now whatever snapshot the
/// transaction has.
pub fn documents<T: DeserializeOwned>(sql: &str, args: &[DatumWithOid<'_>]) -> Result<Vec<T>> {
    let texts = if process::may_write() && latest_snapshot::is_needed() {
        latest_snapshot::texts(sql, args)
    } else {
        column(sql, args)?
    };
    texts.iter().map(|text| Ok(serde_json::from_str(text)?)).collect()
}

/// The first JSON document of a query that only looks, as things are now. The transaction gets no id by it, so nobody waits
/// for its end.
pub fn glance<T: DeserializeOwned>(sql: &str, args: &[DatumWithOid<'_>]) -> Result<Option<T>> {
    Ok(latest_snapshot::texts(sql, args).first().map(|text| serde_json::from_str(text)).transpose()?)
}

/// The first JSON document of a query as `documents` takes it.
pub fn document<T: DeserializeOwned>(sql: &str, args: &[DatumWithOid<'_>]) -> Result<Option<T>> {
    Ok(documents(sql, args)?.into_iter().next())
}

/// The same for a large question that is asked often: it is planned once in a process.
pub fn kept_documents<T: DeserializeOwned>(sql: &'static str, args: &[DatumWithOid<'_>]) -> Result<Vec<T>> {
    kept_plan::texts(sql, args).iter().map(|text| Ok(serde_json::from_str(text)?)).collect()
}

/// The first document of `kept_documents`.
pub fn kept_document<T: DeserializeOwned>(sql: &'static str, args: &[DatumWithOid<'_>]) -> Result<Option<T>> {
    Ok(kept_documents(sql, args)?.into_iter().next())
}

/// With a snapshot of its own, so that what others committed while this transaction waited for a lock is seen. Where
/// nothing can be written anyway, with the snapshot of the statement.
///
/// The driver gives a transaction an id before a statement that may write. What only reads goes without: until a transaction with an
/// id has ended, no other one on this server can make a replication slot, and a copy may take hours.
fn execute<'conn>(
    client: &mut SpiClient<'conn>,
    sql: &str,
    limit: Option<i64>,
    args: &[DatumWithOid<'_>],
) -> Result<SpiTupleTable<'conn>> {
    if !process::may_write() {
        return Ok(client.select(sql, limit, args)?);
    }
    if only_reads(sql) && !latest_snapshot::has_id() {
        return Ok(latest_snapshot::with_own(|| client.select(sql, limit, args))?);
    }
    Ok(client.update(sql, limit, args)?)
}

/// A SELECT that locks no rows. What functions do that it calls is their own.
fn only_reads(sql: &str) -> bool {
    let is_select = sql.trim_start().get(..6).is_some_and(|word| word.eq_ignore_ascii_case("SELECT"));
    is_select
        && !["FOR UPDATE", "FOR NO KEY UPDATE", "FOR SHARE", "FOR KEY SHARE"].iter().any(|lock| sql.contains(lock))
}
