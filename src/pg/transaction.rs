//! Transactions of a background worker: an error ends the transaction, never the worker.

use crate::error::{Error, Report, Result};
use crate::pg::relation;
use pgrx::PgTryBuilder;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use std::panic::AssertUnwindSafe;

/// Runs `work` in a transaction of its own: committed when it returns `Ok`, rolled back otherwise.
pub fn run<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    run_at(None, &[], work)
}

/// The same for work that has errors of its own kind.
pub fn run_step<T, E: From<Error>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    run_at(None, &[], work)
}

/// The same, but all of `work` sees the database as it was when the transaction began, and these relations with the rows
/// that they had then: TRUNCATE takes rows away from older snapshots too, so the relations are locked against it before
/// the snapshot is taken.
pub fn run_repeatable_read<T, E: From<Error>>(
    relations: &[pg_sys::Oid],
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    run_at(Some(pg_sys::XACT_REPEATABLE_READ), relations, work)
}

/// Runs `work` with a snapshot of this moment, which has all that was committed before a lock was had. Within a transaction.
pub fn as_of_now<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    // SAFETY: within a transaction; the snapshot is popped after the work, and by the abort that follows an error of
    // Postgres.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
    let outcome = work();
    // SAFETY: what `work` pushed it has popped.
    unsafe { pg_sys::PopActiveSnapshot() };
    outcome
}

/// Whether the statement that calls us is part of something: a transaction block, a function or a DO block, or statements
/// that have written before it. To be asked before any query of our own.
pub fn is_part_of_more() -> bool {
    // SAFETY: the first two only read the state of this backend. The last does nothing but say that no relation of that name
    // is registered, or that nobody is connected to SPI, as PL/pgSQL is that runs a function.
    unsafe {
        pg_sys::IsTransactionBlock()
            || pg_sys::GetCurrentCommandId(false) > 0
            || pg_sys::SPI_unregister_relation(c"\u{1}".as_ptr()) != pg_sys::SPI_ERROR_UNCONNECTED
    }
}

/// Tells what was written so far, at once. ANALYZE counts rows that are there: told of them later, the server would add them
/// to its count once more. Outside a transaction.
pub fn tell_statistics() {
    // SAFETY: callable in any process that has reported its start, when no transaction is open.
    unsafe {
        if !pg_sys::IsTransactionOrTransactionBlock() {
            pg_sys::pgstat_report_stat(true);
        }
    }
}

/// The number that the next transaction of this server will get. It only grows.
pub fn next_number() -> u64 {
    // SAFETY: reads a counter in shared memory, under its lock.
    unsafe { pg_sys::ReadNextFullTransactionId().value }
}

fn run_at<T, E: From<Error>>(
    isolation: Option<u32>,
    relations: &[pg_sys::Oid],
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let attempt = AssertUnwindSafe(|| {
        // SAFETY: a worker is connected to its database and in no transaction when it calls this. The isolation level may
        // be set until the first snapshot, and the next transaction starts with the default again.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            if let Some(level) = isolation {
                pg_sys::XactIsoLevel = level as i32;
            }
        }
        relations.iter().copied().for_each(relation::lock_against_removal);
        // SAFETY: within the transaction; the snapshot leaves the stack before the commit.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) }
        let value = work()?;
        // SAFETY: as above; what `work` pushed it has popped.
        unsafe {
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
            // As a session does between two statements; once a second at most. A worker may live long, and autovacuum
            // has to know what it wrote.
            pg_sys::pgstat_report_stat(false);
        }
        Ok(value)
    });
    let outcome = PgTryBuilder::new(attempt)
        .catch_others(|error| Err(report(error).into()))
        .catch_rust_panic(|error| Err(report(error).into()))
        .execute();
    if outcome.is_err() {
        // SAFETY: ends whatever state the failed transaction is in; harmless when none was started. A slot that it was
        // making or reading is let go then, as a session's main loop does it.
        unsafe {
            pg_sys::AbortCurrentTransaction();
            if !pg_sys::MyReplicationSlot.is_null() {
                pg_sys::ReplicationSlotRelease();
            }
        }
    }
    outcome
}

/// An error of Postgres, or one of ours that became one, as a value.
pub(super) fn report(error: CaughtError) -> Error {
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
