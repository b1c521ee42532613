//! The attributes of a relation's row type, which lie elsewhere since version 18.

use pgrx::pg_sys;
use std::borrow::Cow;
use std::ffi::CStr;

/// # Safety
/// `descriptor` is valid for `'a` and has an attribute of that number, from 1.
pub(super) unsafe fn attribute<'a>(
    descriptor: pg_sys::TupleDesc,
    number: pg_sys::AttrNumber,
) -> &'a pg_sys::FormData_pg_attribute {
    // SAFETY: the caller vouches for both; since 18 the attributes follow the array of their compact form.
    #[cfg(feature = "pg18")]
    unsafe {
        let natts = (*descriptor).natts as usize;
        let first = (*descriptor).compact_attrs.as_ptr().add(natts).cast::<pg_sys::FormData_pg_attribute>();
        &*first.add(number as usize - 1)
    }
    // SAFETY: as above; before 18 the attributes are an array at the end of the descriptor.
    #[cfg(not(feature = "pg18"))]
    unsafe {
        &*(*descriptor).attrs.as_ptr().add(number as usize - 1)
    }
}

pub(super) fn name(attribute: &pg_sys::FormData_pg_attribute) -> Cow<'_, str> {
    // SAFETY: the name of an attribute is NUL-terminated.
    unsafe { CStr::from_ptr(attribute.attname.data.as_ptr()) }.to_string_lossy()
}
