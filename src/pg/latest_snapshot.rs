//! Reading with the latest snapshot: what a call decides by must be as it is now, also in a transaction at REPEATABLE READ
//! or above, whose own snapshot may be older than the locks it takes.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use std::ffi::{CStr, CString};

/// Whether queries of this transaction see only what was committed before its first one.
pub fn is_needed() -> bool {
    // SAFETY: a plain global of this backend.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// The first column of each row of a SELECT as text, NULLs left out.
pub fn texts(query: &str, args: &[DatumWithOid<'_>]) -> Vec<String> {
    let Ok(query) = CString::new(query) else { return Vec::new() };
    let mut types: Vec<pg_sys::Oid> = args.iter().map(|arg| arg.oid()).collect();
    let mut values: Vec<pg_sys::Datum> =
        args.iter().map(|arg| arg.datum().map_or(pg_sys::Datum::null(), |datum| datum.sans_lifetime())).collect();
    let nulls: Vec<std::ffi::c_char> =
        args.iter().map(|arg| if arg.datum().is_some() { b' ' } else { b'n' } as std::ffi::c_char).collect();
    // SAFETY: the arrays have one entry per argument and outlive the call; read_only makes SPI use the active snapshot,
    // which is the one pushed here and popped after the query. The result is copied out before SPI_finish frees it. An
    // error unwinds to the caller's transaction, whose abort cleans up snapshot and SPI.
    unsafe {
        pg_sys::SPI_connect();
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        pg_sys::SPI_execute_with_args(
            query.as_ptr(),
            types.len() as i32,
            types.as_mut_ptr(),
            values.as_mut_ptr(),
            nulls.as_ptr(),
            true,
            0,
        );
        pg_sys::PopActiveSnapshot();
        let found = first_column();
        pg_sys::SPI_finish();
        found
    }
}

/// The first column of what the last statement returned, as text, NULLs left out.
///
/// # Safety
/// Within `SPI_connect`.
pub(super) unsafe fn first_column() -> Vec<String> {
    let mut found = Vec::new();
    // SAFETY: SPI_tuptable is NULL or the result of the last statement of this connection, with as many rows as it says.
    unsafe {
        let Some(table) = pg_sys::SPI_tuptable.as_ref() else { return found };
        for at in 0..table.numvals as usize {
            let text = pg_sys::SPI_getvalue(*table.vals.add(at), table.tupdesc, 1);
            if !text.is_null() {
                found.push(CStr::from_ptr(text).to_string_lossy().into_owned());
            }
        }
    }
    found
}

/// Whether this transaction has written, or was about to.
pub fn has_id() -> bool {
    // SAFETY: reads the state of this backend.
    unsafe { pg_sys::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId }
}

/// Does `work` with a new snapshot, as a statement of its own has it.
pub fn with_own<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: within a transaction; the snapshot is popped after the work, and by the abort that follows an error of Postgres.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
    let outcome = work();
    // SAFETY: what `work` pushed it has popped.
    unsafe { pg_sys::PopActiveSnapshot() };
    outcome
}

/// The number of rows that the last statement through SPI touched.
pub fn processed() -> u64 {
    // SAFETY: a plain global of this backend, set by SPI_execute.
    unsafe { pg_sys::SPI_processed }
}
