//! Postgres's lists.

use pgrx::pg_sys;

/// # Safety
/// `list` is null or a valid list of pointers to `T`, for as long as the iterator is used.
pub(super) unsafe fn pointers<T>(list: *const pg_sys::List) -> impl Iterator<Item = *mut T> {
    // SAFETY: the caller vouches for the list; only as many are read as it has.
    let length = unsafe { list.as_ref() }.map_or(0, |list| list.length as usize);
    // SAFETY: as above.
    (0..length).map(move |at| unsafe { (*(*list).elements.add(at)).ptr_value.cast::<T>() })
}
