//! A memory context of our own, for what Postgres's functions allocate while they work on many rows.

use pgrx::pg_sys;
use std::ffi::CStr;
use std::ptr::addr_of_mut;

/// Freed when dropped, and at the end of the (sub)transaction at the latest, which it must not outlive.
pub(super) struct Context(pg_sys::MemoryContext);

impl Context {
    pub(super) fn new(name: &'static CStr) -> Self {
        // SAFETY: within a transaction, so that its context exists; the name is static, as Postgres keeps the pointer.
        Self(unsafe {
            pg_sys::AllocSetContextCreateInternal(
                pg_sys::CurTransactionContext,
                name.as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        })
    }

    /// What `work` allocates lives here.
    pub(super) fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        // SAFETY: the context lives as long as `self`; the one before is put back also when `work` raises.
        let _restore = unsafe { Restore::new(addr_of_mut!(pg_sys::CurrentMemoryContext), self.0) };
        work()
    }

    pub(super) fn as_ptr(&self) -> pg_sys::MemoryContext {
        self.0
    }

    /// Frees all that was allocated here: nothing of it may be used any more.
    pub(super) fn reset(&self) {
        // SAFETY: the context is valid; the callers are this module's neighbours, which keep no pointer into it.
        unsafe { pg_sys::MemoryContextReset(self.0) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // After an error what lives here may still be referred to until the rollback, which then frees it.
        if !std::thread::panicking() {
            // SAFETY: made by `new`, and still there, as the transaction is.
            unsafe { pg_sys::MemoryContextDelete(self.0) }
        }
    }
}

/// Sets a variable of the process, and sets it back when dropped.
pub(super) struct Restore<T: Copy> {
    variable: *mut T,
    before: T,
}

impl<T: Copy> Restore<T> {
    /// # Safety
    /// `variable` is one of this process's single thread and lives for ever; both values are valid for it until then.
    pub(super) unsafe fn new(variable: *mut T, value: T) -> Self {
        // SAFETY: the caller vouches for it.
        let before = unsafe { variable.replace(value) };
        Self { variable, before }
    }
}

impl<T: Copy> Drop for Restore<T> {
    fn drop(&mut self) {
        // SAFETY: as the caller of `new` vouched.
        unsafe { self.variable.write(self.before) }
    }
}
