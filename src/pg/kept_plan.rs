//! Plans that this process keeps. Planning a large question about catalogs takes three quarters of its time, and one that is
//! asked while writers wait has been asked before.

use super::{latest_snapshot, process};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_char};

/// A question and the types of its arguments.
type Key = (&'static str, Vec<pg_sys::Oid>);

thread_local! {
    static PLANS: RefCell<HashMap<Key, pg_sys::SPIPlanPtr>> = RefCell::new(HashMap::new());
}

/// The first column of each row of a SELECT as text, NULLs left out, as things are now whatever snapshot the transaction has.
/// Postgres plans again by itself when a table or a setting that the plan rests on changes.
pub fn texts(query: &'static str, args: &[DatumWithOid<'_>]) -> Vec<String> {
    let types = args.iter().map(DatumWithOid::oid).collect();
    let mut values: Vec<pg_sys::Datum> =
        args.iter().map(|arg| arg.datum().map_or(pg_sys::Datum::null(), |datum| datum.sans_lifetime())).collect();
    let nulls: Vec<c_char> = args.iter().map(|arg| if arg.datum().is_some() { b' ' } else { b'n' } as c_char).collect();
    let writes = process::may_write();
    let latest = writes && latest_snapshot::is_needed();
    // SAFETY: the arrays have one entry per argument of the plan and outlive the call. The snapshot that is pushed is popped
    // after the query, and the result copied out before SPI_finish frees it; an error unwinds to the caller's transaction, whose
    // abort cleans up both.
    unsafe {
        pg_sys::SPI_connect();
        let plan = plan((query, types));
        if latest {
            pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        }
        pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), nulls.as_ptr(), latest || !writes, 0);
        if latest {
            pg_sys::PopActiveSnapshot();
        }
        let found = latest_snapshot::first_column();
        pg_sys::SPI_finish();
        found
    }
}

/// The plan, made now if it is not kept yet.
///
/// # Safety
/// Within `SPI_connect`.
unsafe fn plan(key: Key) -> pg_sys::SPIPlanPtr {
    if let Some(kept) = PLANS.with_borrow(|plans| plans.get(&key).copied()) {
        return kept;
    }
    let (query, mut types) = key.clone();
    // A text of ours has no zero in it; without a text Postgres says so.
    let query = CString::new(query).unwrap_or_default();
    // SAFETY: `types` has as many entries as it is said to have; a plan that is kept lives as long as the process.
    let made = unsafe {
        let made = pg_sys::SPI_prepare_cursor(
            query.as_ptr(),
            types.len() as i32,
            types.as_mut_ptr(),
            pg_sys::CURSOR_OPT_GENERIC_PLAN as i32,
        );
        pg_sys::SPI_keepplan(made);
        made
    };
    PLANS.with_borrow_mut(|plans| plans.insert(key, made));
    made
}
