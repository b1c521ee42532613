//! Which parents this backend knows to be managed, so that a look-up costs no query.
//!
//! Postgres tells every backend when a relation changes; `forget_everywhere` makes use of that when a parent stops being
//! managed. What is not known is asked again, so only a stale yes would be wrong.

use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;

thread_local! {
    static KNOWN: RefCell<HashSet<pg_sys::Oid>> = RefCell::new(HashSet::new());
    static LISTENING: Cell<bool> = const { Cell::new(false) };
    /// `shardkeeper.parents`. When it goes, with the extension, nothing is managed any more.
    static CATALOG: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
}

pub fn is_known(parent: pg_sys::Oid) -> bool {
    KNOWN.with_borrow(|known| known.contains(&parent))
}

pub fn remember(parent: pg_sys::Oid) {
    // SAFETY: two look-ups by name in the system catalogs, within a transaction.
    CATALOG.set(unsafe {
        let schema = pg_sys::get_namespace_oid(c"shardkeeper".as_ptr(), true);
        pg_sys::get_relname_relid(c"parents".as_ptr(), schema)
    });
    if !LISTENING.get() {
        // SAFETY: registers a plain function for the life of the backend; it touches only this module's own memory.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(forget), pg_sys::Datum::null()) };
        LISTENING.set(true);
    }
    KNOWN.with_borrow_mut(|known| known.insert(parent));
}

/// Every backend forgets the parent when this transaction commits, and this one at once.
pub fn forget_everywhere(parent: pg_sys::Oid) {
    KNOWN.with_borrow_mut(|known| known.remove(&parent));
    // SAFETY: queues an invalidation for an existing relation; raises if there is none.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(parent) }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn forget(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    KNOWN.with_borrow_mut(|known| {
        if relation == pg_sys::InvalidOid || relation == CATALOG.get() {
            known.clear();
        } else {
            known.remove(&relation);
        }
    });
}
