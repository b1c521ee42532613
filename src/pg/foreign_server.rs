//! Foreign servers as Postgres knows them.

use pgrx::pg_sys;
use std::collections::BTreeMap;
use std::ffi::CStr;

/// A foreign server: its name and its options.
#[derive(Debug, Clone, Default)]
pub struct Server {
    pub name: String,
    pub options: BTreeMap<String, String>,
}

/// The server that stores a foreign table; `None` for any other relation.
pub fn server_of(relation: pg_sys::Oid) -> Option<Server> {
    // SAFETY: both look-ups go through the system cache; a foreign table always has a server, and its name and options
    // are NUL-terminated strings in the current memory context.
    unsafe {
        if pg_sys::get_rel_relkind(relation) as u8 != pg_sys::RELKIND_FOREIGN_TABLE {
            return None;
        }
        let server = &*pg_sys::GetForeignServer(pg_sys::GetForeignServerIdByRelId(relation));
        let mut options = BTreeMap::new();
        let length = if server.options.is_null() { 0 } else { (*server.options).length as usize };
        for at in 0..length {
            let option = (*(*server.options).elements.add(at)).ptr_value.cast::<pg_sys::DefElem>();
            let value = pg_sys::defGetString(option);
            options.insert(text((*option).defname), text(value));
        }
        Some(Server { name: text(server.servername), options })
    }
}

/// # Safety
/// `string` is a valid NUL-terminated string.
unsafe fn text(string: *const std::ffi::c_char) -> String {
    // SAFETY: the caller vouches for the string.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}

/// The port that this server listens on.
pub fn own_port() -> i32 {
    // SAFETY: a plain global that is set at the server's start.
    unsafe { pg_sys::PostPortNumber }
}

/// The database that this session is connected to.
pub fn own_database() -> String {
    // SAFETY: MyDatabaseId is fixed for the session; the name is a palloc'd NUL-terminated string, or null if the
    // database were gone.
    unsafe {
        let name = pg_sys::get_database_name(pg_sys::MyDatabaseId);
        if name.is_null() { String::new() } else { text(name) }
    }
}
