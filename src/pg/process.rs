//! What concerns the server process as a whole.

/// Rust backtraces are for developers: with `RUST_BACKTRACE` in the server's environment they would end up in the
/// DETAIL of every error a user reads.
pub fn no_backtraces() {
    // SAFETY: called from _PG_init; a server process has a single thread, so nobody reads the environment meanwhile.
    unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") }
}

/// Whether a transaction identifier can be had here: not on a standby, and not in a parallel query.
pub fn may_write() -> bool {
    // SAFETY: both only read the state of this backend and of the server.
    unsafe { !pgrx::pg_sys::RecoveryInProgress() && !pgrx::pg_sys::IsInParallelMode() }
}

/// Ends the sleep of a process of this server, if it is still there.
pub fn wake(pid: i32) {
    // SAFETY: the entry stays in shared memory whatever becomes of its process; setting the latch of another one that has
    // taken the entry since does no harm, as sleepers look again why they woke.
    unsafe {
        let entry = pgrx::pg_sys::BackendPidGetProc(pid);
        if !entry.is_null() {
            pgrx::pg_sys::SetLatch(&raw mut (*entry).procLatch);
        }
    }
}
