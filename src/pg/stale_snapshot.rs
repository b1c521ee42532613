//! Statements that would not see rows which a table got when it took the place of another one.
//!
//! Rows that were moved carry the number of the transaction that brought them. A snapshot from before the switch does not see
//! those, and that there are none but them in the new table is nowhere written: the statement would find too few rows, and no
//! error. A statement at READ COMMITTED usually has its snapshot from after its locks, but `COPY (…)`, `EXECUTE` and functions
//! that are STABLE have it from before; a transaction at REPEATABLE READ has it from its beginning; and postgres_fdw reads a node
//! in one snapshot for the whole transaction. All of these are told to begin again.

use super::key_router;
use super::list::pointers;
use crate::error::{Error, Report};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ffi::CStr;

/// Where it stands which tables came by a switch: schema and name of a table whose first column is their number. Each row counts
/// by the transaction that wrote it.
pub type Moved = (&'static CStr, &'static CStr);

thread_local! {
    static BEFORE: Cell<pg_sys::ExecutorCheckPerms_hook_type> = const { Cell::new(None) };
    static MOVED: Cell<Option<Moved>> = const { Cell::new(None) };
    static TOUCHED: RefCell<Touched> = RefCell::new(Touched::default());
}

/// The tables that the transaction has come to whose rows may be on other servers, and what was running then.
#[derive(Default)]
struct Touched {
    transaction: pg_sys::LocalTransactionId,
    tables: HashSet<u32>,
    first: Option<Running>,
}

/// Which transactions a snapshot does not see: a copy that may outlive it.
struct Running {
    xmin: pg_sys::TransactionId,
    xmax: pg_sys::TransactionId,
    between: Vec<pg_sys::TransactionId>,
    /// Some are not listed.
    is_incomplete: bool,
}

/// From now on, statements of this process are looked at when they begin.
pub fn register(moved: Moved) {
    MOVED.set(Some(moved));
    // SAFETY: called once from _PG_init; a server process has a single thread. The hook that was there is called by ours.
    unsafe {
        BEFORE.set(pg_sys::ExecutorCheckPerms_hook);
        pg_sys::ExecutorCheckPerms_hook = Some(look);
    }
}

/// This process moves rows itself, and knows what it sees.
pub fn pass_over() {
    MOVED.set(None);
}

/// The transaction empties the table, for which no permissions of a query are checked.
pub(super) fn truncates(relation: pg_sys::Oid) {
    let Some(snapshot) = active().filter(|_| MOVED.get().is_some()) else { return };
    TOUCHED.with_borrow_mut(|touched| {
        touched.follow();
        touched.add(&[relation], snapshot);
    });
}

#[cfg(feature = "pg15")]
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn look(tables: *mut pg_sys::List, raise: bool) -> bool {
    // SAFETY: hands on exactly what the server gave us: a list of range table entries.
    unsafe {
        let allowed = BEFORE.get().is_none_or(|before| before(tables, raise));
        check(tables);
        allowed
    }
}

#[cfg(not(feature = "pg15"))]
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn look(tables: *mut pg_sys::List, rights: *mut pg_sys::List, raise: bool) -> bool {
    // SAFETY: as above.
    unsafe {
        let allowed = BEFORE.get().is_none_or(|before| before(tables, rights, raise));
        check(tables);
        allowed
    }
}

/// The snapshot that the statement reads with.
fn active() -> Option<&'static pg_sys::SnapshotData> {
    // SAFETY: plain globals of this backend; the active snapshot stays while the statement begins, and no longer is it used.
    let snapshot = unsafe { pg_sys::ActiveSnapshotSet().then(|| &*pg_sys::GetActiveSnapshot()) };
    snapshot.filter(|snapshot| snapshot.snapshot_type == pg_sys::SnapshotType::SNAPSHOT_MVCC)
}

/// Called when a statement has all its locks, before it reads.
///
/// # Safety
/// `tables` is null or a list of range table entries.
unsafe fn check(tables: *mut pg_sys::List) {
    let (Some(moved), Some(snapshot)) = (MOVED.get(), active()) else { return };
    TOUCHED.with_borrow_mut(Touched::follow);
    let (mut hidden, mut later, mut remote) = (Vec::new(), Vec::new(), Vec::new());
    // SAFETY: the caller vouches for the list.
    for entry in unsafe { pointers::<pg_sys::RangeTblEntry>(tables) } {
        // SAFETY: as above.
        let entry = unsafe { &*entry };
        if entry.rtekind != pg_sys::RTEKind::RTE_RELATION {
            continue;
        }
        match changed(entry.relid) {
            Some((b'r', number)) if is_hidden(number, snapshot) => hidden.push(entry.relid),
            Some((b'f', number)) => {
                remote.push(entry.relid);
                if TOUCHED.with_borrow(|touched| touched.is_later(number)) {
                    later.push(entry.relid);
                }
            }
            // Rows that are inserted find their leaves below it, which are not listed.
            Some((b'p', _)) => remote.push(entry.relid),
            _ => {}
        }
    }
    if !(hidden.is_empty() && later.is_empty()) {
        for (relation, number) in switched(moved) {
            let is_stale = hidden.contains(&relation) && is_hidden(number, snapshot)
                || later.contains(&relation)
                    && TOUCHED.with_borrow(|touched| touched.is_later(number) && touched.was_at(server(relation)));
            if is_stale {
                refuse(relation);
            }
        }
    }
    TOUCHED.with_borrow_mut(|touched| touched.add(&remote, snapshot));
}

/// All tables that came by a switch lately, with the numbers of the switches: as it is now, not as the statement would see it.
/// Without a query, which would begin like the statement itself, and which a parallel worker may not make.
fn switched((schema, name): Moved) -> Vec<(pg_sys::Oid, pg_sys::TransactionId)> {
    let mut found = Vec::new();
    // SAFETY: look-ups in the system catalogs within a transaction. The table is opened and closed with the lock of a reader, its
    // scan begun and ended; a tuple is valid until the next one, and its first column is an OID that is never null.
    unsafe {
        let namespace = pg_sys::get_namespace_oid(schema.as_ptr(), true);
        let oid = pg_sys::get_relname_relid(name.as_ptr(), namespace);
        if namespace == pg_sys::InvalidOid || oid == pg_sys::InvalidOid {
            return found;
        }
        let table = pg_sys::table_open(oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        // Of a table that is no system catalog, a null snapshot means a new one.
        let scan =
            pg_sys::systable_beginscan(table, pg_sys::InvalidOid, false, std::ptr::null_mut(), 0, std::ptr::null_mut());
        while let Some(tuple) = pg_sys::systable_getnext(scan).as_ref() {
            let header = tuple.t_data;
            let column = header.cast::<u8>().add(usize::from((*header).t_hoff)).cast::<pg_sys::Oid>();
            found.push((column.read_unaligned(), written_by(header)));
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
    }
    found
}

fn refuse(relation: pg_sys::Oid) {
    // SAFETY: a look-up within a transaction; what comes back is a string, or null.
    let name = unsafe {
        let name = pg_sys::get_rel_name(relation);
        if name.is_null() { "a table".into() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
    };
    let report = Report::new(
        Code::ERRCODE_T_R_SERIALIZATION_FAILURE,
        format!("could not serialize access to {name}: its rows were moved meanwhile"),
    )
    .detail("The snapshot is older than the switch and would not see all of them.")
    .hint("Try the transaction again.");
    ErrorReport::from(Error::from(report)).report(pgrx::PgLogLevel::ERROR);
}

/// The kind of a relation, and the transaction that its row in `pg_class` is of: a switch writes it, and little else does.
fn changed(relation: pg_sys::Oid) -> Option<(u8, pg_sys::TransactionId)> {
    // SAFETY: a look-up in the system cache within a transaction; the tuple is valid until it is released, its header is what the
    // heap has, and a row of pg_class begins with its fixed columns.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as i32, pg_sys::Datum::from(relation));
        let header = tuple.as_ref()?.t_data;
        let kind =
            (*header.cast::<u8>().add(usize::from((*header).t_hoff)).cast::<pg_sys::FormData_pg_class>()).relkind;
        let number = written_by(header);
        pg_sys::ReleaseSysCache(tuple);
        Some((kind as u8, number))
    }
}

/// # Safety
/// `header` is that of a tuple in a table.
unsafe fn written_by(header: pg_sys::HeapTupleHeader) -> pg_sys::TransactionId {
    let frozen = (pg_sys::HEAP_XMIN_COMMITTED | pg_sys::HEAP_XMIN_INVALID) as u16;
    // SAFETY: the caller vouches for it.
    unsafe {
        match (*header).t_infomask & frozen == frozen {
            true => pg_sys::FrozenTransactionId,
            false => (*header).t_choice.t_heap.t_xmin,
        }
    }
}

fn is_normal(number: pg_sys::TransactionId) -> bool {
    number >= pg_sys::FirstNormalTransactionId
}

fn precedes(a: pg_sys::TransactionId, b: pg_sys::TransactionId) -> bool {
    // SAFETY: compares two numbers.
    unsafe { pg_sys::TransactionIdPrecedes(a, b) }
}

fn is_own(number: pg_sys::TransactionId) -> bool {
    // SAFETY: looks at the state of this backend's transaction.
    unsafe { pg_sys::TransactionIdIsCurrentTransactionId(number) }
}

/// The transaction had not committed when the snapshot was taken.
fn is_hidden(number: pg_sys::TransactionId, snapshot: &pg_sys::SnapshotData) -> bool {
    if !is_normal(number) || precedes(number, snapshot.xmin) || is_own(number) {
        return false;
    }
    // SAFETY: the snapshot is of the MVCC kind and active.
    unsafe { pg_sys::XidInMVCCSnapshot(number, std::ptr::from_ref(snapshot).cast_mut()) }
}

fn server(relation: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: the relation is a foreign table that the statement has locked.
    unsafe { (*pg_sys::GetForeignTable(relation)).serverid }
}

impl Touched {
    /// What was touched in another transaction does not count.
    fn follow(&mut self) {
        // SAFETY: a backend that runs a statement has its entry among the processes.
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let now = unsafe { (*pg_sys::MyProc).lxid };
        // SAFETY: as above.
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let now = unsafe { (*pg_sys::MyProc).vxid.lxid };
        if self.transaction != now {
            *self = Self { transaction: now, ..Self::default() };
        }
    }

    fn add(&mut self, tables: &[pg_sys::Oid], snapshot: &pg_sys::SnapshotData) {
        if !tables.is_empty() {
            self.first.get_or_insert_with(|| Running::of(snapshot));
            self.tables.extend(tables.iter().map(|table| table.to_u32()));
        }
    }

    /// Committed after the transaction came to its first foreign table.
    fn is_later(&self, number: pg_sys::TransactionId) -> bool {
        self.first.as_ref().is_some_and(|first| !is_own(number) && first.hides(number))
    }

    /// The transaction has been at that server, whose session has had its snapshot since.
    fn was_at(&self, wanted: pg_sys::Oid) -> bool {
        self.tables.iter().map(|table| pg_sys::Oid::from(*table)).any(|table| match changed(table) {
            Some((b'f', _)) => server(table) == wanted,
            Some((b'p', _)) => has_leaf_on(table, wanted),
            _ => false,
        })
    }
}

/// Whether a partitioned table has a leaf on the server.
fn has_leaf_on(table: pg_sys::Oid, wanted: pg_sys::Oid) -> bool {
    key_router::in_order(table).into_iter().any(|below| match changed(below) {
        Some((b'f', _)) => server(below) == wanted,
        Some((b'p', _)) => has_leaf_on(below, wanted),
        _ => false,
    })
}

impl Running {
    fn of(snapshot: &pg_sys::SnapshotData) -> Self {
        let list = |numbers: *mut pg_sys::TransactionId, count: usize| match numbers.is_null() || count == 0 {
            true => Vec::new(),
            // SAFETY: the snapshot's arrays have as many numbers as it says.
            false => unsafe { std::slice::from_raw_parts(numbers, count) }.to_vec(),
        };
        let mut between = list(snapshot.xip, snapshot.xcnt as usize);
        between.extend(list(snapshot.subxip, usize::try_from(snapshot.subxcnt).unwrap_or(0)));
        let is_incomplete = snapshot.suboverflowed || snapshot.takenDuringRecovery;
        Self { xmin: snapshot.xmin, xmax: snapshot.xmax, between, is_incomplete }
    }

    fn hides(&self, number: pg_sys::TransactionId) -> bool {
        if !is_normal(number) || precedes(number, self.xmin) {
            return false;
        }
        !precedes(number, self.xmax) || self.is_incomplete || self.between.contains(&number)
    }
}
