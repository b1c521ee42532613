//! What pgrx has no words for about settings.

use pgrx::pg_sys;
use std::ffi::CStr;

/// From here on a setting of this prefix that nobody has defined is an error, not a name that anything may be given to.
pub fn reserve(prefix: &CStr) {
    // SAFETY: the text is copied; called while the library is loaded, after its settings were defined.
    unsafe { pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) }
}
