//! Requests that reach a process while it waits for something outside Postgres.

use pgrx::pg_sys;
use std::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

/// Ctrl-C, a timeout or a termination asks for an end: `check` will raise.
pub fn is_ending() -> bool {
    // SAFETY: the flags are plain integers that signal handlers of this same thread write; a volatile read of a live
    // static is always valid.
    unsafe {
        read_volatile(addr_of!(pg_sys::QueryCancelPending)) != 0 || read_volatile(addr_of!(pg_sys::ProcDiePending)) != 0
    }
}

/// The process itself is to end, not only its statement.
pub fn is_terminated() -> bool {
    // SAFETY: as above.
    unsafe { read_volatile(addr_of!(pg_sys::ProcDiePending)) != 0 }
}

/// A cancel that was passed on to where the work was, and came too late there: it is not one for what comes next.
pub fn forget_cancel() {
    // SAFETY: as above; a request that comes right now would be forgotten too, as any that comes at the end of a statement.
    unsafe { write_volatile(addr_of_mut!(pg_sys::QueryCancelPending), 0) }
}

/// Does what Postgres asks of every process from time to time, and raises when the process or the query should end.
pub fn check() {
    pgrx::check_for_interrupts!();
}
