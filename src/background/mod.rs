//! Background workers as those see them who have something to be done there: starting, waking and finding them, and what they
//! write into the server's log.

pub mod log;

use crate::error::Result;
use crate::pg::lock::{self, Single};
use crate::pg::{process, sql, worker};
use pgrx::{PgXactCallbackEvent, register_xact_callback};
use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    static ASKED: Cell<bool> = const { Cell::new(false) };
    static LOOKED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Sees to it that after the current transaction this database's worker looks at what there is to do, also where nothing is
/// preloaded.
pub fn ensure_running() -> Result<()> {
    if ASKED.get() {
        return Ok(());
    }
    let database = worker::my_database();
    let running = holder(Single::Worker, database)?;
    ASKED.set(true);
    register_xact_callback(PgXactCallbackEvent::Commit, move || {
        ASKED.set(false);
        match running {
            Some(pid) => process::wake(pid),
            // Where there is no slot left, shard_check says so.
            None => drop(worker::start(database)),
        }
    });
    register_xact_callback(PgXactCallbackEvent::Abort, || ASKED.set(false));
    Ok(())
}

/// Starts this database's worker if it has none, whatever becomes of the current transaction. Asks at most once a second.
pub fn ensure_now() -> Result<()> {
    let recent = LOOKED.get().is_some_and(|looked| looked.elapsed() < Duration::from_secs(1));
    if recent || !process::may_write() {
        return Ok(());
    }
    LOOKED.set(Some(Instant::now()));
    if is_running()? {
        return Ok(());
    }
    // Where there is no slot left, shard_check says so.
    let _ = worker::start(worker::my_database());
    Ok(())
}

/// The same without a query, and so without a transaction id.
pub fn ensure_quietly() {
    let database = worker::my_database();
    if process::may_write() && !lock::is_taken(Single::Worker, database) {
        // Where there is no slot left, shard_check says so.
        let _ = worker::start(database);
    }
}

/// Whether this database has its worker now.
pub fn is_running() -> Result<bool> {
    holds(Single::Worker, worker::my_database())
}

/// Whether the library is preloaded, so that workers start with the server.
pub fn has_launcher() -> Result<bool> {
    holds(Single::Launcher, pgrx::pg_sys::InvalidOid)
}

fn holds(what: Single, database: pgrx::pg_sys::Oid) -> Result<bool> {
    Ok(holder(what, database)?.is_some())
}

/// The process that is the single one.
fn holder(what: Single, database: pgrx::pg_sys::Oid) -> Result<Option<i32>> {
    let (class, subid) = lock::single_in_pg_locks(what);
    sql::one::<i32>(
        "SELECT pid FROM pg_catalog.pg_locks
         WHERE locktype = 'advisory' AND granted AND classid = $1 AND objid = 0 AND objsubid = $2 AND database = coalesce($3, 0)",
        &[pgrx::pg_sys::Oid::from(class).into(), i16::from_ne_bytes(subid.to_ne_bytes()).into(), database.into()],
    )
}
