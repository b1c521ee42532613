//! Work that may fail without failing its caller's transaction.

use super::sql;
use crate::error::{Report, Result};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode as Code, PgTryBuilder};
use std::cell::Cell;
use std::panic::AssertUnwindSafe;

/// Runs `work` in a subtransaction: kept when it returns `Ok`, rolled back when it returns or raises an error. A cancel
/// or a shutdown is raised again, for it is meant for the whole statement.
pub fn attempt<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Report> {
    within(true, work)
}

fn within<T>(keep: bool, work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Report> {
    // SAFETY: within a transaction, as all SQL functions are; the context and resource owner that the subtransaction
    // replaces are put back on both ways out, as PL/pgSQL does.
    let (context, owner) = unsafe {
        let saved = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(saved.0);
        saved
    };
    let ended = Cell::new(false);
    let outcome = PgTryBuilder::new(AssertUnwindSafe(|| {
        let done = work().map_err(Report::from)?;
        if keep {
            // SAFETY: ends exactly the subtransaction begun above. It can raise, as servers are told of the end and may be
            // gone: then the subtransaction still stands, and is rolled back below.
            unsafe { pg_sys::ReleaseCurrentSubTransaction() };
            ended.set(true);
        }
        Ok(done)
    }))
    .catch_others(|error| Err(report(error)))
    .catch_rust_panic(|error| Err(report(error)))
    .execute();
    // SAFETY: ends the subtransaction begun above where it still stands.
    unsafe {
        if !ended.get() {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
    }
    if let Err(report) = &outcome
        && matches!(report.code, Code::ERRCODE_QUERY_CANCELED | Code::ERRCODE_ADMIN_SHUTDOWN)
    {
        pgrx::pg_sys::panic::ErrorReport::from(crate::error::Error::from(report.clone()))
            .report(pgrx::PgLogLevel::ERROR);
    }
    outcome
}

/// How often what changes while it is read is read again.
const LOOKS: usize = 5;
/// Less than `deadlock_timeout`: whoever looks gives way before anybody who works is made to.
const LOCK: &str = "SET LOCAL lock_timeout = '300ms'";

/// Decides on what others may change meanwhile: a table that was named by a catalog may be gone when it is opened. Then
/// everything is read again. Locks are kept.
pub fn steady<T>(read: impl Fn() -> Result<T>) -> Result<T> {
    again(true, read)
}

/// Only looks, at many tables, and lets them go at once: nobody who changes them has to wait for the end of the statement, and
/// none of them is waited for long while others are held. The last time it waits as the caller would.
pub fn look<T>(look: impl Fn() -> Result<T>) -> Result<T> {
    again(false, look)
}

fn again<T>(keep: bool, work: impl Fn() -> Result<T>) -> Result<T> {
    let passes = |code| {
        matches!(
            code,
            Code::ERRCODE_INTERNAL_ERROR
                | Code::ERRCODE_UNDEFINED_TABLE
                | Code::ERRCODE_UNDEFINED_OBJECT
                | Code::ERRCODE_UNDEFINED_COLUMN
                | Code::ERRCODE_T_R_DEADLOCK_DETECTED
        ) || !keep && code == Code::ERRCODE_LOCK_NOT_AVAILABLE
    };
    for _ in 1..LOOKS {
        let once = || {
            if !keep {
                sql::run(LOCK, &[])?;
            }
            work()
        };
        match within(keep, once) {
            Ok(seen) => return Ok(seen),
            Err(report) if passes(report.code) => {}
            Err(report) => return report.into(),
        }
    }
    Ok(within(keep, work)?)
}

pub(super) fn report(error: CaughtError) -> Report {
    match error {
        CaughtError::PostgresError(found)
        | CaughtError::ErrorReport(found)
        | CaughtError::RustPanic { ereport: found, .. } => Report {
            code: found.sql_error_code(),
            message: found.message().to_string(),
            detail: found.detail().map(str::to_string),
            hint: found.hint().map(str::to_string),
        },
    }
}
