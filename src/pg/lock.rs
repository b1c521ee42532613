//! Locks that SQL cannot take or see.

use crate::pg::worker;
use pgrx::pg_sys;
use std::time::{Duration, Instant};

/// What only one process of a database may be.
#[derive(Clone, Copy)]
pub enum Single {
    Worker,
    /// In no database.
    Launcher,
    /// The worker of the operation with that number.
    Operation(u32),
    /// Who reads from the stream that ways back share, or changes it; by a hash of its name.
    Stream(u32),
    /// Who keeps the sources of switched operations current.
    Keeper,
}

impl Single {
    /// Two of the fields that tell locks apart.
    fn fields(self) -> (u32, u32) {
        match self {
            Single::Worker => (1, 0),
            Single::Launcher => (2, 0),
            Single::Operation(number) => (3, number),
            Single::Stream(hash) => (4, hash),
            Single::Keeper => (5, 0),
        }
    }
}

/// Marks our locks among the advisory ones; SQL itself uses 1 and 2, so nobody can take ours away by mistake or on purpose.
const OURS: u16 = 0x5348;

/// Takes the lock until the process ends; `false` when another process has it.
pub fn become_single(what: Single) -> bool {
    // SAFETY: MyDatabaseId is a plain value, fixed once the process is connected.
    let tag = tag(what, unsafe { pg_sys::MyDatabaseId });
    // SAFETY: the tag is a live local, copied by the callee; a session lock needs no transaction.
    let result = unsafe { pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as i32, true, true) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// A lock that is let go when this is dropped.
pub struct Held(pg_sys::LOCKTAG);

/// Waits for the lock so long; not in a queue, so that it deadlocks with nobody. `None`: another process has it still.
pub fn hold(what: Single, patience: Duration) -> Option<Held> {
    let start = Instant::now();
    loop {
        if become_single(what) {
            // SAFETY: as in `become_single`.
            return Some(Held(tag(what, unsafe { pg_sys::MyDatabaseId })));
        }
        if start.elapsed() >= patience {
            return None;
        }
        worker::sleep(Duration::from_millis(20));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: the tag is alive, and the lock was taken by it in this mode for the session, which has it still.
        unsafe { pg_sys::LockRelease(&self.0, pg_sys::ExclusiveLock as i32, true) };
    }
}

/// Whether some process has the lock in `database`. For a moment it is taken here: who needs it tries again.
pub fn is_taken(what: Single, database: pg_sys::Oid) -> bool {
    let tag = tag(what, database);
    let mode = pg_sys::ShareLock as i32;
    // SAFETY: as above; what was taken is released at once, by the same tag and mode.
    unsafe {
        if pg_sys::LockAcquire(&tag, mode, true, true) == pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL {
            return true;
        }
        pg_sys::LockRelease(&tag, mode, true);
    }
    false
}

fn tag(what: Single, database: pg_sys::Oid) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        locktag_field1: database.to_u32(),
        locktag_field2: what.fields().0,
        locktag_field3: what.fields().1,
        locktag_field4: OURS,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: USER_LOCK_METHOD,
    }
}

/// `pg_locks.classid` and `objsubid` of that lock.
pub fn single_in_pg_locks(what: Single) -> (u32, u16) {
    (what.fields().0, OURS)
}

/// Whether somebody waits until nobody is connected to this database: DROP DATABASE, or CREATE DATABASE with it as template.
pub fn database_is_wanted() -> bool {
    // SAFETY: as above.
    let database = unsafe { pg_sys::MyDatabaseId };
    let tag = pg_sys::LOCKTAG {
        locktag_field1: 0,
        locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
        locktag_field3: database.to_u32(),
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: DEFAULT_LOCK_METHOD,
    };
    // The lock that every session takes on its database while it connects.
    let mode = pg_sys::RowExclusiveLock as i32;
    // SAFETY: the tag is a live local, copied by the callee; the lock is released at once, by the same tag and mode.
    unsafe {
        if pg_sys::LockAcquire(&tag, mode, true, true) == pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL {
            return true;
        }
        pg_sys::LockRelease(&tag, mode, true);
    }
    false
}

const DEFAULT_LOCK_METHOD: u8 = 1;
const USER_LOCK_METHOD: u8 = 2;
