//! The coordinator's own write-ahead log.

use pgrx::pg_sys;
use shardkeeper_core::Lsn;

/// Writes the log to disk up to `end`, the end of a record. Transactions that committed before without waiting for the disk
/// are safe then, and seen by logical decoding.
pub fn flush(end: Lsn) {
    // SAFETY: writes the log of this server, which is no standby: workers run on none.
    unsafe { pg_sys::XLogFlush(end.0) }
}

/// Writes to disk what this transaction has logged so far: from then on its number is used, whatever crashes.
pub fn flush_own() {
    // SAFETY: reads a variable of this backend: the end of the last record that its transaction wrote, 0 where there is none.
    unsafe { pg_sys::XLogFlush(pg_sys::XactLastRecEnd) }
}
