//! The coordinator's own write-ahead log.

use pgrx::pg_sys;
use shardkeeper_core::Lsn;

/// Writes the log to disk up to `end`, the end of a record. Transactions that committed before without waiting for the disk
/// are safe then, and seen by logical decoding.
pub fn flush(end: Lsn) {
    // SAFETY: writes the log of this server, which is no standby: workers run on none.
    unsafe { pg_sys::XLogFlush(end.0) }
}
