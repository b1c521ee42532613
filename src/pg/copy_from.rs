//! COPY FROM into a table of this database, with the bytes from a function of ours: Postgres's own, in this process, as
//! the first copy of a logical subscription does it.

use crate::error::{Error, Result};
use crate::pg::context::Context;
use crate::pg::{interrupt, transaction};
use pgrx::pg_sys::{self, AsPgCStr, Oid};
use pgrx::prelude::*;
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::panic::AssertUnwindSafe;
use std::ptr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// With the header; the trailer may be missing.
    Binary,
    Text,
}

/// Appends the next bytes, and returns false when these were the last.
pub type Source<'a> = &'a mut dyn FnMut(&mut Vec<u8>) -> Result<bool>;

/// Copies what `source` gives into `relation`, which may be partitioned, and returns the number of rows. `columns`
/// names the fields of a row; none at all stands for every column that is not generated, as in COPY.
///
/// The bytes are those that a client of `COPY … FROM STDIN` would send, its text in this process's client encoding.
/// Triggers fire, defaults are computed and constraints hold; privileges and row security are not looked at. After an
/// error, which is that of `source` if it gave one, the caller must roll its (sub)transaction back, as
/// `transaction::run` and `subtransaction::attempt` do.
pub fn copy_into(relation: Oid, columns: &[String], format: Format, source: Source<'_>) -> Result<u64> {
    let mut feed = Feed { source, bytes: Vec::new(), used: 0, ended: false, error: None };
    let outcome = {
        let _installed = Installed::new(&raw mut feed);
        PgTryBuilder::new(AssertUnwindSafe(|| Ok(copy(relation, columns, format))))
            .catch_others(|error| Err(transaction::report(error)))
            .catch_rust_panic(|error| Err(transaction::report(error)))
            .execute()
    };
    match feed.error {
        Some(error) => Err(error),
        None => outcome,
    }
}

/// What the callback works with: Postgres hands it nothing of ours.
struct Feed<'a> {
    source: Source<'a>,
    bytes: Vec<u8>,
    /// How many of `bytes` Postgres has already.
    used: usize,
    ended: bool,
    error: Option<Error>,
}

impl Feed<'_> {
    /// Between `least` and `most` bytes, fewer at the end only.
    fn read(&mut self, least: usize, most: usize) -> Result<&[u8]> {
        while !self.ended && self.bytes.len() - self.used < least {
            self.bytes.drain(..self.used);
            self.used = 0;
            self.ended = !(self.source)(&mut self.bytes)?;
            interrupt::check();
        }
        let from = self.used;
        self.used = self.bytes.len().min(from + most);
        Ok(&self.bytes[from..self.used])
    }
}

thread_local! {
    static FEED: Cell<*mut Feed<'static>> = const { Cell::new(ptr::null_mut()) };
}

/// The feed of the copy that runs; the one before comes back when it ends, for `source` may itself copy.
struct Installed(*mut Feed<'static>);

impl Installed {
    fn new(feed: *mut Feed<'_>) -> Self {
        Self(FEED.replace(feed.cast()))
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        FEED.set(self.0);
    }
}

/// Called by Postgres for more bytes.
#[pg_guard]
unsafe extern "C-unwind" fn read(out: *mut c_void, least: c_int, most: c_int) -> c_int {
    // SAFETY: Postgres calls this within `copy_into` only, while its feed is installed and not used otherwise.
    let feed = unsafe { &mut *FEED.get() };
    match feed.read(least.max(0) as usize, most.max(0) as usize) {
        Ok(bytes) => {
            // SAFETY: `out` has room for `most` bytes, and `bytes` are no more.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), out.cast(), bytes.len()) }
            bytes.len() as c_int
        }
        Err(error) => {
            // Postgres has to unwind too, so it is raised; `copy_into` returns the error itself.
            feed.error = Some(error);
            pgrx::error!("the source of COPY failed")
        }
    }
}

fn copy(relation: Oid, columns: &[String], format: Format) -> u64 {
    let context = Context::new(c"shardkeeper copy");
    // SAFETY: the sequence of Postgres's own callers: the relation is open and locked from before the parse state refers
    // to it until after the end of the copy; lists and strings are allocated in a context that outlives it. An error
    // leaves everything to the rollback.
    let rows = context.within(|| unsafe {
        let table = pg_sys::table_open(relation, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE);
        let state = pg_sys::make_parsestate(ptr::null_mut());
        let lock = pg_sys::RowExclusiveLock as c_int;
        pg_sys::addRangeTableEntryForRelation(state, table, lock, ptr::null_mut(), false, false);
        let mut options = ptr::null_mut();
        if format == Format::Binary {
            let value = pg_sys::makeString("binary".as_pg_cstr());
            let option = pg_sys::makeDefElem("format".as_pg_cstr(), value.cast(), -1);
            options = pg_sys::lappend(options, option.cast());
        }
        let copy = pg_sys::BeginCopyFrom(
            state,
            table,
            ptr::null_mut(),
            ptr::null(),
            false,
            Some(read),
            name_list(columns),
            options,
        );
        let rows = pg_sys::CopyFrom(copy);
        pg_sys::EndCopyFrom(copy);
        pg_sys::free_parsestate(state);
        pg_sys::table_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        rows
    });
    // SAFETY: within a transaction; commands that follow see the rows.
    unsafe { pg_sys::CommandCounterIncrement() }
    rows
}

/// Column names as COPY takes them, in the current memory context.
pub(super) fn name_list(columns: &[String]) -> *mut pg_sys::List {
    columns.iter().fold(ptr::null_mut(), |list, column| {
        // SAFETY: a copy of the name, NUL-terminated, becomes a node of a list; all live in the current context.
        unsafe { pg_sys::lappend(list, pg_sys::makeString(column.as_str().as_pg_cstr()).cast()) }
    })
}
