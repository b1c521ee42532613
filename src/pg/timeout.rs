//! An end for functions of the server that wait on their own, as `statement_timeout` is one for statements.

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use std::ffi::c_int;
use std::ptr::{addr_of_mut, write_volatile};
use std::time::Duration;

/// `STATEMENT_TIMEOUT` of Postgres's `TimeoutId`, the same from 15 to 18. Every process with a database has its handler,
/// and a background worker also handles the SIGINT that it sends.
const STATEMENT_TIMEOUT: c_int = 3;

unsafe extern "C-unwind" {
    fn enable_timeout_after(id: c_int, milliseconds: c_int);
    fn enable_timeout_at(id: c_int, time: pg_sys::TimestampTz);
    fn disable_timeout(id: c_int, keep_indicator: bool);
    fn get_timeout_active(id: c_int) -> bool;
    fn get_timeout_indicator(id: c_int, reset_indicator: bool) -> bool;
    fn get_timeout_finish_time(id: c_int) -> pg_sys::TimestampTz;
}

/// While it lives, the process raises 57014 at its next wait or check for interrupts once the time is over.
pub struct Deadline {
    /// When the statement's own timeout would end it.
    before: Option<pg_sys::TimestampTz>,
}

/// Sets the deadline; an earlier one that is already set stays.
pub fn deadline(time: Duration) -> Deadline {
    let milliseconds = c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX).max(1);
    // SAFETY: the timeout is registered in every process with a database; the calls change its schedule only.
    unsafe {
        let now = pg_sys::GetCurrentTimestamp();
        pg_guard_ffi_boundary(|| {
            let before = get_timeout_active(STATEMENT_TIMEOUT).then(|| get_timeout_finish_time(STATEMENT_TIMEOUT));
            let end = now.saturating_add(i64::from(milliseconds) * 1000);
            if before.is_none_or(|before| end < before) {
                enable_timeout_after(STATEMENT_TIMEOUT, milliseconds);
            }
            Deadline { before }
        })
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        // SAFETY: as in `deadline`; the flag is a plain integer that a signal handler of this thread sets.
        unsafe {
            pg_guard_ffi_boundary(|| {
                disable_timeout(STATEMENT_TIMEOUT, true);
                // It struck after the last check: what comes next must not be cancelled for it.
                if get_timeout_indicator(STATEMENT_TIMEOUT, true) {
                    write_volatile(addr_of_mut!(pg_sys::QueryCancelPending), 0);
                }
                if let Some(time) = self.before {
                    enable_timeout_at(STATEMENT_TIMEOUT, time);
                }
            })
        }
    }
}
