//! Reading a cursor to its end with the memory of one piece: what the rows need is freed after each fetch. (pgrx copies every
//! value to where it stays until the transaction ends.)

use pgrx::pg_sys;
use std::ffi::CString;

/// The first column of the next rows of an open cursor, as the bytes that a `bytea` has; NULLs are left out. Nothing: it was
/// at its end, and is closed.
pub fn next(name: &str, rows: i64) -> Vec<Vec<u8>> {
    let Ok(name) = CString::new(name) else { return Vec::new() };
    let mut found = Vec::new();
    // SAFETY: within a transaction. The portal is looked up by a NUL-terminated name and used while this SPI connection
    // is open; its column is a varlena, which SPI_getbinval points to within the fetched rows. All bytes are copied out
    // before SPI_finish frees those. An error unwinds to the caller's transaction, whose abort cleans up portal and SPI.
    unsafe {
        pg_sys::SPI_connect();
        let portal = pg_sys::SPI_cursor_find(name.as_ptr());
        if !portal.is_null() {
            pg_sys::SPI_cursor_fetch(portal, true, rows as std::ffi::c_long);
            if let Some(table) = pg_sys::SPI_tuptable.as_ref() {
                for at in 0..table.numvals as usize {
                    let mut is_null = true;
                    let value = pg_sys::SPI_getbinval(*table.vals.add(at), table.tupdesc, 1, &mut is_null);
                    if !is_null {
                        let plain = pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr());
                        found.push(pgrx::varlena::varlena_to_byte_slice(plain).to_vec());
                    }
                }
            }
            if found.is_empty() {
                pg_sys::SPI_cursor_close(portal);
            }
        }
        pg_sys::SPI_finish();
    }
    found
}
