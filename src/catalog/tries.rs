//! What went wrong with an operation, how often, and what it waits for.

use crate::error::{Error, Report, Result, sql_state_text};
use crate::pg::sql;
use pgrx::JsonB;
use serde_json::{Value, json};

fn document(report: Report) -> Value {
    let Report { code, message, detail, hint } = report;
    json!({"code": sql_state_text(code), "message": message, "detail": detail, "hint": hint})
}

/// Notes what went wrong. With `retry` the worker tries again after so many seconds; without, a person has to act. Why an
/// operation failed, or what of it stays, is told still while what it made cannot be removed.
pub fn failed(id: i64, error: Error, retry: Option<f64>, waits: Option<&str>) -> Result<()> {
    let error = document(error.into());
    sql::run(
        "UPDATE shardkeeper.operations
         SET error = CASE WHEN state = 'failed' AND error IS NOT NULL OR error ? 'stays'
                     THEN error || pg_catalog.jsonb_build_object('left', $2 ->> 'message') ELSE $2 END,
             failures = failures + 1, halted = $3 IS NULL,
             retry_at = pg_catalog.clock_timestamp() + $3 * '1 second'::interval,
             waits = $4, waits_since = CASE WHEN $4 IS NOT NULL THEN coalesce(waits_since, pg_catalog.clock_timestamp()) END
         WHERE id = $1",
        &[id.into(), JsonB(error).into(), retry.into(), waits.into()],
    )?;
    Ok(())
}

/// A group was given up, and not all that its operations did could be taken back. That stays told.
pub fn stays(id: i64, report: Report) -> Result<()> {
    sql::run(
        "UPDATE shardkeeper.operations SET error = $2 || pg_catalog.jsonb_build_object('stays', true) WHERE id = $1",
        &[id.into(), JsonB(document(report)).into()],
    )?;
    Ok(())
}

/// One more try failed for a reason that time does not cure; how many by now.
pub fn count_hopeless(id: i64) -> Result<i32> {
    let count = sql::one::<i32>(
        "UPDATE shardkeeper.operations SET hopeless = hopeless + 1 WHERE id = $1 RETURNING hopeless",
        &[id.into()],
    )?;
    Ok(count.unwrap_or_default())
}

/// The operation goes on asking for something that somebody has; no try has failed.
pub fn waits(id: i64, report: Report, holder: Option<&str>) -> Result<()> {
    let what = holder.map_or_else(|| report.message.clone(), str::to_string);
    sql::run(
        "UPDATE shardkeeper.operations SET error = $2, waits = $3,
             waits_since = coalesce(waits_since, pg_catalog.clock_timestamp()) WHERE id = $1",
        &[id.into(), JsonB(document(report)).into(), what.into()],
    )?;
    Ok(())
}

/// It has what it waited for.
pub fn waits_no_more(id: i64) -> Result<()> {
    sql::run(
        "UPDATE shardkeeper.operations SET error = NULL, waits = NULL, waits_since = NULL WHERE id = $1",
        &[id.into()],
    )?;
    Ok(())
}
