//! What is about to be dropped, however it comes to it: by name, with CASCADE, with its schema or its owner; or emptied.

use super::stale_snapshot;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::CStr;

type Objection = fn();

thread_local! {
    static BEFORE: Cell<pg_sys::object_access_hook_type> = const { Cell::new(None) };
    static OBJECTION: Cell<Option<Objection>> = const { Cell::new(None) };
}

/// Calls `objection` before the table of operations is dropped, which goes only with the extension. It raises if that must
/// not be; the table can still be read then.
pub fn register(objection: Objection) {
    OBJECTION.set(Some(objection));
    // SAFETY: called once from _PG_init; a server process has a single thread. The hook that was there is called by ours.
    unsafe {
        BEFORE.set(pg_sys::object_access_hook);
        pg_sys::object_access_hook = Some(look);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn look(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub: std::ffi::c_int,
    argument: *mut std::ffi::c_void,
) {
    if let Some(before) = BEFORE.get() {
        // SAFETY: hands on exactly what the server gave us.
        unsafe { before(access, class, object, sub, argument) }
    }
    if access == pg_sys::ObjectAccessType::OAT_TRUNCATE {
        stale_snapshot::truncates(object);
    }
    let is_table = access == pg_sys::ObjectAccessType::OAT_DROP && class == pg_sys::RelationRelationId && sub == 0;
    if is_table
        && is_named(object, c"shardkeeper", c"operations")
        && let Some(objection) = OBJECTION.get()
    {
        objection();
    }
}

fn is_named(relation: pg_sys::Oid, schema: &CStr, name: &CStr) -> bool {
    // SAFETY: look-ups in the system catalogs within a transaction; what they return is a string of the current memory
    // context, or null where nothing is found.
    unsafe {
        let found = pg_sys::get_rel_name(relation);
        if found.is_null() || CStr::from_ptr(found) != name {
            return false;
        }
        let found = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(relation));
        !found.is_null() && CStr::from_ptr(found) == schema
    }
}
