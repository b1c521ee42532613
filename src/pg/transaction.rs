//! Transactions of a background worker: an error ends the transaction, never the worker.

use crate::error::{Error, Report, Result};
use pgrx::PgTryBuilder;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use std::panic::AssertUnwindSafe;

/// Runs `work` in a transaction of its own: committed when it returns `Ok`, rolled back otherwise.
pub fn run<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let attempt = AssertUnwindSafe(|| {
        // SAFETY: a worker is connected to its database and in no transaction when it calls this; a transaction is
        // started before a snapshot is taken, and the snapshot leaves the stack before the commit.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        let value = work()?;
        // SAFETY: as above; what `work` pushed it has popped.
        unsafe {
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
        }
        Ok(value)
    });
    let outcome = PgTryBuilder::new(attempt)
        .catch_others(|error| Err(report(error)))
        .catch_rust_panic(|error| Err(report(error)))
        .execute();
    if outcome.is_err() {
        // SAFETY: ends whatever state the failed transaction is in; harmless when none was started.
        unsafe { pg_sys::AbortCurrentTransaction() }
    }
    outcome
}

fn report(error: CaughtError) -> Error {
    match error {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. } => {
            let mut out = Report::new(report.sql_error_code(), report.message());
            out.detail = report.detail().map(String::from);
            out.hint = report.hint().map(String::from);
            out.into()
        }
    }
}
