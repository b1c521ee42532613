//! Who acts: the caller, or for the extension's own tables the extension's owner.

use crate::error::{Report, Result};
use crate::pg::sql;
use pgrx::pg_sys;
use pgrx::prelude::*;

/// Runs `work` with the rights of the extension's owner: only for the extension's own catalog, after the caller's
/// rights were checked. The caller's identity is restored also when `work` raises.
pub fn as_extension_owner<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let owner = extension_owner();
    let _restore = Identity::switch_to(owner);
    work()
}

/// Runs `work` as `role`: what a worker does to a table, it does with the rights of the table's owner, so that no code of
/// that owner (a check, an index expression) ever runs with more.
pub fn acting_as<T>(role: pg_sys::Oid, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let _restore = Identity::switch_to(role);
    work()
}

fn extension_owner() -> pg_sys::Oid {
    // SAFETY: get_extension_oid only reads the catalog, inside the caller's transaction; the name is a constant
    // NUL-terminated string.
    let extension = unsafe { pg_sys::get_extension_oid(c"shardkeeper".as_ptr(), true) };
    sql::one::<pg_sys::Oid>(
        "SELECT extowner FROM pg_catalog.pg_extension WHERE oid OPERATOR(pg_catalog.=) $1",
        &[extension.into()],
    )
    .ok()
    .flatten()
    .unwrap_or(pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID))
}

/// The identity to go back to. With the owner's rights comes a pinned search_path: an operator of the caller's own must
/// not be run by the owner.
struct Identity {
    user: pg_sys::Oid,
    context: i32,
    settings: i32,
}

impl Identity {
    fn switch_to(user: pg_sys::Oid) -> Self {
        let mut saved = Identity { user: pg_sys::InvalidOid, context: 0, settings: 0 };
        // SAFETY: these functions only read and set the backend's current identity and settings; the pointers are to
        // live locals and constants. SECURITY_LOCAL_USERID_CHANGE keeps SET ROLE out until the identity is restored; the
        // setting is undone with the nesting level that it was made in.
        unsafe {
            saved.settings = pg_sys::NewGUCNestLevel();
            pg_sys::set_config_option(
                c"search_path".as_ptr(),
                c"pg_catalog, pg_temp".as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
            pg_sys::GetUserIdAndSecContext(&mut saved.user, &mut saved.context);
            pg_sys::SetUserIdAndSecContext(user, saved.context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
        }
        saved
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        // SAFETY: restores what switch_to read from this same backend.
        unsafe {
            pg_sys::AtEOXact_GUC(false, self.settings);
            pg_sys::SetUserIdAndSecContext(self.user, self.context)
        }
    }
}

/// The role that runs the current statement.
pub fn current() -> pg_sys::Oid {
    // SAFETY: only reads the backend's identity.
    unsafe { pg_sys::GetUserId() }
}

pub fn is_superuser(role: pg_sys::Oid) -> bool {
    // SAFETY: only looks in the catalog cache, inside the caller's transaction.
    unsafe { pg_sys::superuser_arg(role) }
}

/// Errors: 42704 no such role.
pub fn name(role: pg_sys::Oid) -> Result<String> {
    match Spi::get_one_with_args::<String>(
        "SELECT rolname::text FROM pg_catalog.pg_roles WHERE oid = $1",
        &[role.into()],
    )? {
        Some(name) => Ok(name),
        None => Report::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("role with OID {} does not exist", role.to_u32()),
        )
        .into(),
    }
}
