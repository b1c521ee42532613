//! User mappings, made without a statement: SQL text with a password in it could be logged or shown.

use crate::error::{Report, Result};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CString;

/// Creates the mapping of `role`. The caller must own the server, or it is the caller's own mapping and the caller may
/// use the server.
pub fn create_mapping(server: &str, role: &str, options: &[(String, String)]) -> Result<()> {
    let (server, role) = (c_string(server)?, c_string(role)?);
    let options = c_strings(options)?;
    // SAFETY: the node is allocated by Postgres with its tag; every pointer in it is to a palloc'd copy or to a string
    // that lives until the call has returned. CreateUserMapping checks rights and option names, and raises on its own.
    unsafe {
        let mut statement =
            PgBox::<pg_sys::CreateUserMappingStmt>::alloc_node(pg_sys::NodeTag::T_CreateUserMappingStmt);
        statement.user = role_spec(&role);
        statement.servername = pg_sys::pstrdup(server.as_ptr());
        statement.options = definitions(&options, pg_sys::DefElemAction::DEFELEM_UNSPEC);
        pg_sys::CreateUserMapping(statement.into_pg());
        pg_sys::CommandCounterIncrement();
    }
    Ok(())
}

/// Sets options of an existing mapping; `known` are the names of those that it has.
pub fn alter_mapping(server: &str, role: &str, known: &[String], options: &[(String, String)]) -> Result<()> {
    let (server, role) = (c_string(server)?, c_string(role)?);
    let (set, add): (Vec<_>, Vec<_>) = options.iter().cloned().partition(|(name, _)| known.contains(name));
    let (set, add) = (c_strings(&set)?, c_strings(&add)?);
    // SAFETY: as in create_mapping.
    unsafe {
        let mut statement = PgBox::<pg_sys::AlterUserMappingStmt>::alloc_node(pg_sys::NodeTag::T_AlterUserMappingStmt);
        statement.user = role_spec(&role);
        statement.servername = pg_sys::pstrdup(server.as_ptr());
        statement.options = pg_sys::list_concat(
            definitions(&set, pg_sys::DefElemAction::DEFELEM_SET),
            definitions(&add, pg_sys::DefElemAction::DEFELEM_ADD),
        );
        pg_sys::AlterUserMapping(statement.into_pg());
        pg_sys::CommandCounterIncrement();
    }
    Ok(())
}

/// # Safety
/// Within a transaction, with a current memory context that outlives the use of the result.
unsafe fn role_spec(role: &CString) -> *mut pg_sys::RoleSpec {
    // SAFETY: allocates a tagged node and a copy of a NUL-terminated string.
    unsafe {
        let mut spec = PgBox::<pg_sys::RoleSpec>::alloc_node(pg_sys::NodeTag::T_RoleSpec);
        spec.roletype = pg_sys::RoleSpecType::ROLESPEC_CSTRING;
        spec.rolename = pg_sys::pstrdup(role.as_ptr());
        spec.location = -1;
        spec.into_pg()
    }
}

/// # Safety
/// As for `role_spec`.
unsafe fn definitions(options: &[(CString, CString)], action: pg_sys::DefElemAction::Type) -> *mut pg_sys::List {
    let mut list = std::ptr::null_mut();
    for (name, value) in options {
        // SAFETY: copies of NUL-terminated strings; a NULL list is the empty list.
        unsafe {
            let value = pg_sys::makeString(pg_sys::pstrdup(value.as_ptr()));
            let definition = pg_sys::makeDefElem(pg_sys::pstrdup(name.as_ptr()), value.cast(), -1);
            (*definition).defaction = action;
            list = pg_sys::lappend(list, definition.cast());
        }
    }
    list
}

fn c_strings(options: &[(String, String)]) -> Result<Vec<(CString, CString)>> {
    options.iter().map(|(name, value)| Ok((c_string(name)?, c_string(value)?))).collect()
}

/// Postgres text never holds a NUL, JSON may.
fn c_string(text: &str) -> Result<CString> {
    match CString::new(text) {
        Ok(text) => Ok(text),
        Err(_) => {
            Report::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "an option contains a NUL character").into()
        }
    }
}
