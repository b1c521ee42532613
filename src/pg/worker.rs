//! Background workers: registration, signals, waiting, and the C entry points.

use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime, DynamicBackgroundWorker,
    SignalWakeFlags,
};
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use std::ptr::{addr_of_mut, read_volatile, write_volatile};
use std::sync::OnceLock;
use std::time::Duration;

/// `backend_type` in `pg_stat_activity`.
pub const LAUNCHER: &str = "shardkeeper launcher";
pub const WORKER: &str = "shardkeeper worker";
pub const OPERATION: &str = "shardkeeper operation";
pub const KEEPER: &str = "shardkeeper keeper";

/// What each kind of worker does once it is connected.
pub struct Entries {
    /// In no database.
    pub launcher: fn(),
    pub database: fn(),
    /// The number of the operation.
    pub operation: fn(i64),
    pub keeper: fn(),
}

/// Every process has them: they are handed down while the library is loaded.
static ENTRIES: OnceLock<Entries> = OnceLock::new();

/// Called when the library is loaded; at the server's start, when it is preloaded, the launcher is registered too.
pub fn register(entries: Entries) {
    let _ = ENTRIES.set(entries);

    // SAFETY: a plain flag of the process.
    if !unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        return;
    }
    BackgroundWorkerBuilder::new(LAUNCHER)
        .set_type(LAUNCHER)
        .set_library("shardkeeper")
        .set_function("shardkeeper_launcher_main")
        .enable_spi_access()
        // On a standby it starts with the promotion.
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(1)))
        .load();
}

/// A worker that was asked for.
pub struct Handle(DynamicBackgroundWorker);

impl Handle {
    pub fn is_running(&self) -> bool {
        matches!(self.0.pid(), Ok(_) | Err(BackgroundWorkerStatus::NotYetStarted))
    }
}

/// Asks for a worker in `database`; `None` when all slots of `max_worker_processes` are taken.
pub fn start(database: Oid) -> Option<Handle> {
    BackgroundWorkerBuilder::new(WORKER)
        .set_type(WORKER)
        .set_library("shardkeeper")
        .set_function("shardkeeper_worker_main")
        .enable_spi_access()
        .set_argument(database.into_datum())
        .load_dynamic()
        .ok()
        .map(Handle)
}

/// Asks for the worker of an operation in this database; `None` when all slots are taken.
pub fn start_operation(id: i64) -> Option<Handle> {
    BackgroundWorkerBuilder::new(&format!("{OPERATION} {id}"))
        .set_type(OPERATION)
        .set_library("shardkeeper")
        .set_function("shardkeeper_operation_main")
        .enable_spi_access()
        .set_argument(my_database().into_datum())
        .set_extra(&id.to_string())
        .load_dynamic()
        .ok()
        .map(Handle)
}

/// Asks for the worker that keeps what switched operations replaced current; `None` when all slots are taken.
pub fn start_keeper() -> Option<Handle> {
    BackgroundWorkerBuilder::new(KEEPER)
        .set_type(KEEPER)
        .set_library("shardkeeper")
        .set_function("shardkeeper_keeper_main")
        .enable_spi_access()
        .set_argument(my_database().into_datum())
        .load_dynamic()
        .ok()
        .map(Handle)
}

/// The C entry point of the launcher.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn shardkeeper_launcher_main(_argument: pg_sys::Datum) {
    take_signals();
    BackgroundWorker::connect_worker_to_spi_by_oid(None, None);
    if let Some(entries) = ENTRIES.get() {
        (entries.launcher)();
    }
}

/// The C entry point of the worker of one database.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn shardkeeper_worker_main(argument: pg_sys::Datum) {
    take_signals();
    // SAFETY: `start` passes an OID, never NULL.
    let database = unsafe { Oid::from_datum(argument, false) };
    BackgroundWorker::connect_worker_to_spi_by_oid(database, None);
    if let Some(entries) = ENTRIES.get() {
        (entries.database)();
    }
}

/// The C entry point of the worker of one operation.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn shardkeeper_operation_main(argument: pg_sys::Datum) {
    take_signals();
    // SAFETY: `start_operation` passes an OID, never NULL.
    let database = unsafe { Oid::from_datum(argument, false) };
    BackgroundWorker::connect_worker_to_spi_by_oid(database, None);
    if let (Some(entries), Ok(id)) = (ENTRIES.get(), BackgroundWorker::get_extra().parse()) {
        (entries.operation)(id);
    }
}

/// The C entry point of the worker that keeps what switched operations replaced current.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn shardkeeper_keeper_main(argument: pg_sys::Datum) {
    take_signals();
    // SAFETY: `start_keeper` passes an OID, never NULL.
    let database = unsafe { Oid::from_datum(argument, false) };
    BackgroundWorker::connect_worker_to_spi_by_oid(database, None);
    if let Some(entries) = ENTRIES.get() {
        (entries.keeper)();
    }
}

unsafe extern "C-unwind" {
    // The bindings wrap these in functions of Rust; a signal handler must be the C function itself.
    fn die(signal: i32);
    fn SignalHandlerForConfigReload(signal: i32);
}

/// As a backend takes them: `die` also ends a long statement, where pgrx's own handler only sets a flag.
fn take_signals() {
    #[cfg(not(feature = "pg18"))]
    use pg_sys::pqsignal;
    #[cfg(feature = "pg18")]
    use pg_sys::pqsignal_be as pqsignal;
    // SAFETY: signals are still blocked in a new worker; the handlers are the server's own and safe for signals.
    unsafe {
        pqsignal(pg_sys::SIGTERM as i32, Some(die));
        pqsignal(pg_sys::SIGHUP as i32, Some(SignalHandlerForConfigReload));
    }
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::empty());
}

/// Sleeps until the time is over or somebody wakes the process; ends with the postmaster.
pub fn sleep(time: Duration) {
    let milliseconds = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: MyLatch is set up before a worker's main function is called, and is the process's own.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, milliseconds, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pgrx::check_for_interrupts!();
}

/// Whether somebody wanted to end the sleep that is not slept now: the next one is over at once.
pub fn is_woken() -> bool {
    // SAFETY: MyLatch is set up before a worker's main function is called; its flag is a plain integer that others set.
    unsafe { read_volatile(&raw const (*pg_sys::MyLatch).is_set) != 0 }
}

/// Reads the configuration again when a SIGHUP asked for it.
pub fn reload_if_asked() {
    // SAFETY: the flag is a plain integer that a signal handler of this thread sets.
    unsafe {
        let pending = addr_of_mut!(pg_sys::ConfigReloadPending);
        if read_volatile(pending) != 0 {
            write_volatile(pending, 0);
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// The databases that sessions may connect to. Within a transaction.
pub fn databases() -> Vec<Oid> {
    let mut found = Vec::new();
    // SAFETY: pg_database is shared and can be read without being connected to a database; the relation is open and
    // locked during the scan, each tuple is read before the next one is asked for, and all is closed again.
    unsafe {
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let database = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            // A negative limit other than -1 marks a database whose DROP did not finish.
            if database.datallowconn && !database.datistemplate && database.datconnlimit >= -1 {
                found.push(database.oid);
            }
        }
        pg_sys::heap_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
    found
}

/// What `pg_stat_activity` shows for this process.
pub fn report_activity(what: &std::ffi::CStr, busy: bool) {
    let state = if busy { pg_sys::BackendState::STATE_RUNNING } else { pg_sys::BackendState::STATE_IDLE };
    // SAFETY: the text is copied before the call returns.
    unsafe { pg_sys::pgstat_report_activity(state, what.as_ptr()) }
}

/// The database of this process.
pub fn my_database() -> Oid {
    // SAFETY: a plain value, fixed once the process is connected.
    unsafe { pg_sys::MyDatabaseId }
}
