//! Locks on relations, held until the end of the transaction.

use pgrx::pg_sys;

/// ACCESS EXCLUSIVE. Waits as any lock does: `lock_timeout`, cancel and deadlock detection apply.
pub fn lock_exclusive(relation: pg_sys::Oid) {
    lock(relation, pg_sys::AccessExclusiveLock)
}

/// ACCESS SHARE: only TRUNCATE, DROP and the like wait.
pub fn lock_against_removal(relation: pg_sys::Oid) {
    lock(relation, pg_sys::AccessShareLock)
}

/// SHARE UPDATE EXCLUSIVE: readers and writers go on, other changes of the same table wait.
pub fn lock_against_changes(relation: pg_sys::Oid) {
    lock(relation, pg_sys::ShareUpdateExclusiveLock)
}

fn lock(relation: pg_sys::Oid, mode: u32) {
    // SAFETY: takes a plain OID and a valid lock mode; raises instead of returning on failure, and the lock is released
    // with the transaction.
    unsafe { pg_sys::LockRelationOid(relation, mode as pg_sys::LOCKMODE) }
}
