//! What `pg_stat_progress_copy` shows of this process: visible to others while its transaction goes on.

use pgrx::pg_sys;

/// `PROGRESS_COPY_TUPLES_PROCESSED`, the same from 15 to 18.
const TUPLES_PROCESSED: i32 = 2;

/// Shows how many rows were copied.
pub fn report_rows(rows: i64) {
    // SAFETY: both only write this process's own entry of the statistics; there is one while it is connected.
    unsafe {
        pg_sys::pgstat_progress_start_command(pg_sys::ProgressCommandType::PROGRESS_COMMAND_COPY, pg_sys::InvalidOid);
        pg_sys::pgstat_progress_update_param(TUPLES_PROCESSED, rows);
    }
}
