//! What values of a type can do: be hashed, be put in order.

use pgrx::pg_sys;

/// Hash partitioning can have keys of this type.
pub fn can_hash(data_type: pg_sys::Oid) -> bool {
    // SAFETY: the entry that is returned is valid until the session ends; a type that does not exist raises an error.
    let entry = unsafe { &*pg_sys::lookup_type_cache(data_type, pg_sys::TYPECACHE_HASH_EXTENDED_PROC as i32) };
    entry.hash_extended_proc != pg_sys::InvalidOid
}

/// The operators of a type that range and list partitions are told apart by.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    pub less: pg_sys::Oid,
    pub equal: pg_sys::Oid,
}

/// `None` for a type without an order; arrays, ranges and rows have one if their elements do.
pub fn order(data_type: pg_sys::Oid) -> Option<Order> {
    let wanted = pg_sys::TYPECACHE_CMP_PROC | pg_sys::TYPECACHE_LT_OPR | pg_sys::TYPECACHE_EQ_OPR;
    // SAFETY: as above.
    let entry = unsafe { &*pg_sys::lookup_type_cache(data_type, wanted as i32) };
    let has_all = [entry.cmp_proc, entry.lt_opr, entry.eq_opr].iter().all(|oid| *oid != pg_sys::InvalidOid);
    has_all.then_some(Order { less: entry.lt_opr, equal: entry.eq_opr })
}
