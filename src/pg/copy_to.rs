//! COPY TO in the binary format out of a table of this database, row by row through the types' send functions.

use crate::error::{Report, Result};
use crate::pg::attribute::attribute;
use crate::pg::context::Context;
use crate::pg::{copy_from, interrupt};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Datum, FmgrInfo, Oid};
use std::ffi::{CStr, c_int};

/// A chunk is complete when it has this many bytes; the row that reaches them is never cut.
const CHUNK: usize = 128 * 1024;

/// A buffer that a huge row has blown up to more than this is given back.
const KEEP: usize = 4 * 1024 * 1024;

/// All rows of exactly one table, under the snapshot that is active when it is opened, in chunks of whole rows: those of
/// the binary format without its header and trailer, with text in this process's client encoding. Privileges and row
/// security are not looked at. It lives within one transaction.
pub struct Reader {
    scan: Scan,
    chunk: Vec<u8>,
    rows: u64,
    context: Context,
    /// The send functions live here.
    _functions: Context,
}

impl Reader {
    /// Without `columns`: all that are not generated, as in COPY.
    ///
    /// Errors: 42809 a relation without rows of its own; 42703 no such column.
    pub fn open(relation: Oid, columns: &[String]) -> Result<Self> {
        let functions = Context::new(c"shardkeeper send functions");
        let scan = functions.within(|| Scan::begin(relation, columns, &functions))?;
        Ok(Self {
            scan,
            chunk: Vec::with_capacity(CHUNK + CHUNK / 4),
            rows: 0,
            context: Context::new(c"shardkeeper copy"),
            _functions: functions,
        })
    }

    /// The next rows; the last chunk comes with `false`.
    pub fn next(&mut self) -> (&[u8], bool) {
        interrupt::check();
        self.chunk.clear();
        self.chunk.shrink_to(KEEP);
        let Self { scan, chunk, rows, context, .. } = self;
        let more = scan.fill(chunk, rows, context);
        (&self.chunk, more)
    }
}

/// A column to send: where it is in the row, from 0, and how its bytes are made.
struct Field {
    at: usize,
    output: Output,
}

enum Output {
    /// Values of a fixed size, made here as their send functions make them.
    Two,
    Four,
    Eight,
    Function(FmgrInfo),
}

impl Output {
    fn of(column: &pg_sys::FormData_pg_attribute, context: &Context) -> Self {
        match column.atttypid {
            pg_sys::INT2OID => Self::Two,
            pg_sys::INT4OID | pg_sys::FLOAT4OID | pg_sys::DATEOID | pg_sys::OIDOID => Self::Four,
            pg_sys::INT8OID | pg_sys::FLOAT8OID | pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID => Self::Eight,
            other => {
                let (mut function, mut varlena) = (pg_sys::InvalidOid, false);
                // SAFETY: the function that it finds is looked up in a context that lives as long as the scan.
                unsafe {
                    pg_sys::getTypeBinaryOutputInfo(other, &mut function, &mut varlena);
                    let mut found = FmgrInfo::default();
                    pg_sys::fmgr_info_cxt(function, &mut found, context.as_ptr());
                    Self::Function(found)
                }
            }
        }
    }
}

/// A sequential scan; its relation stays locked until the transaction ends.
struct Scan {
    table: pg_sys::Relation,
    scan: pg_sys::TableScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    next: NextSlot,
    end: unsafe extern "C-unwind" fn(pg_sys::TableScanDesc),
    fields: Vec<Field>,
    /// How many leading columns of a row are needed.
    width: c_int,
}

/// The options of `table_beginscan`, which is not in the bindings.
const SEQUENTIAL: u32 = pg_sys::ScanOptions::SO_TYPE_SEQSCAN
    | pg_sys::ScanOptions::SO_ALLOW_STRAT
    | pg_sys::ScanOptions::SO_ALLOW_SYNC
    | pg_sys::ScanOptions::SO_ALLOW_PAGEMODE;

type NextSlot = unsafe extern "C-unwind" fn(
    pg_sys::TableScanDesc,
    pg_sys::ScanDirection::Type,
    *mut pg_sys::TupleTableSlot,
) -> bool;

unsafe extern "C-unwind" {
    // The functions themselves: those of the bindings set up an error boundary for every call.
    fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, attributes: c_int);
    fn MemoryContextReset(context: pg_sys::MemoryContext);
    fn SendFunctionCall(function: *mut FmgrInfo, value: Datum) -> *mut pg_sys::bytea;
}

impl Scan {
    fn begin(relation: Oid, columns: &[String], context: &Context) -> Result<Self> {
        // SAFETY: the relation is open and locked; lists live in the caller's context, send functions in `context`, and
        // the descriptor with the open relation. Attribute numbers are those that COPY itself accepts.
        unsafe {
            let table = pg_sys::relation_open(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            let methods = (*table).rd_tableam.as_ref();
            let found = methods.and_then(|found| Some((found.scan_begin?, found.scan_getnextslot?, found.scan_end?)));
            let Some((start, next, end)) = found else {
                let name = CStr::from_ptr((*(*table).rd_rel).relname.data.as_ptr()).to_string_lossy().into_owned();
                pg_sys::relation_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
                return Report::new(Code::ERRCODE_WRONG_OBJECT_TYPE, format!("{name} stores no rows itself")).into();
            };
            let numbers = pg_sys::CopyGetAttnums((*table).rd_att, table, copy_from::name_list(columns));
            let count = numbers.as_ref().map_or(0, |list| list.length as usize);
            let mut fields = Vec::with_capacity(count);
            for at in 0..count {
                let number = (*(*numbers).elements.add(at)).int_value;
                let column = attribute((*table).rd_att, number as pg_sys::AttrNumber);
                fields.push(Field { at: number as usize - 1, output: Output::of(column, context) });
            }
            let width = fields.iter().map(|field| field.at as c_int + 1).max().unwrap_or(0);
            let slot = pg_sys::table_slot_create(table, std::ptr::null_mut());
            let (snapshot, none, whole) = (pg_sys::GetActiveSnapshot(), std::ptr::null_mut(), std::ptr::null_mut());
            let scan = pg_guard_ffi_boundary(|| start(table, snapshot, 0, none, whole, SEQUENTIAL));
            Ok(Self { table, scan, slot, next, end, fields, width })
        }
    }
}

impl Scan {
    /// Appends rows until the chunk is complete; false after the last one.
    fn fill(&mut self, out: &mut Vec<u8>, rows: &mut u64, context: &Context) -> bool {
        let row = context.as_ptr();
        let Self { scan, slot, next, fields, width, .. } = self;
        let (scan, slot, next, width) = (*scan, *slot, *next, *width);
        let count = (fields.len() as i16).to_be_bytes();
        // SAFETY: an error that Postgres raises jumps over the frame of this closure, which owns nothing that has to be
        // dropped. Scan, slot and functions are valid as `begin` made them; the slot has its first `width` values once
        // they are taken out of the tuple, which stays pinned until the next one is asked for. The memory context of rows
        // is current only while a row is appended, and nothing in it is used afterwards; the boundary sets the context
        // back after an error.
        unsafe {
            pg_guard_ffi_boundary(|| {
                while out.len() < CHUNK {
                    if !next(scan, pg_sys::ScanDirection::ForwardScanDirection, slot) {
                        return false;
                    }
                    if c_int::from((*slot).tts_nvalid) < width {
                        slot_getsomeattrs_int(slot, width);
                    }
                    let before = pg_sys::CurrentMemoryContext;
                    pg_sys::CurrentMemoryContext = row;
                    out.extend_from_slice(&count);
                    for field in fields.iter_mut() {
                        if *(*slot).tts_isnull.add(field.at) {
                            out.extend_from_slice(&(-1i32).to_be_bytes());
                        } else {
                            field.output.append(*(*slot).tts_values.add(field.at), out);
                        }
                    }
                    pg_sys::CurrentMemoryContext = before;
                    *rows += 1;
                    // After each row, so that the same few cached pages serve all of them.
                    MemoryContextReset(row);
                }
                true
            })
        }
    }
}

impl Output {
    /// Length and bytes of a value.
    ///
    /// # Safety
    /// Within an error boundary; the value is of the column that this was made for.
    #[inline]
    unsafe fn append(&mut self, value: Datum, out: &mut Vec<u8>) {
        match self {
            Self::Two => append(&(value.value() as u16).to_be_bytes(), out),
            Self::Four => append(&(value.value() as u32).to_be_bytes(), out),
            Self::Eight => append(&(value.value() as u64).to_be_bytes(), out),
            // SAFETY: as the caller vouches; a send function returns a bytea with a header of four bytes.
            Self::Function(function) => unsafe {
                let bytes = SendFunctionCall(function, value);
                let data = pgrx::vardata_4b(bytes).cast::<u8>();
                append(std::slice::from_raw_parts(data, pgrx::varsize_4b(bytes) - pg_sys::VARHDRSZ), out);
            },
        }
    }
}

#[inline]
fn append(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
    out.extend_from_slice(bytes);
}

impl Drop for Scan {
    fn drop(&mut self) {
        // After an error the rollback releases them, whatever state they are in.
        if !std::thread::panicking() {
            // SAFETY: all three are as `begin` made them and are released once; NoLock keeps the lock.
            unsafe {
                pg_guard_ffi_boundary(|| (self.end)(self.scan));
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
                pg_sys::relation_close(self.table, pg_sys::NoLock as pg_sys::LOCKMODE);
            }
        }
    }
}
