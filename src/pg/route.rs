//! Which leaf stores a key: Postgres's own partition descriptors and comparison functions, level by level.
//!
//! The descriptors come from the relation cache, which Postgres keeps in step with every change, so nothing is cached
//! here; each level costs one binary search.

use crate::error::{Report, Result};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::{self, AsPgCStr};
use std::ffi::CStr;

/// Postgres's `PartitionKeyData`, whose header the bindings leave out. The same from 15 to 18, except that the strategy
/// grew from a char to an enum of four bytes in 16.
#[repr(C)]
struct PartitionKey {
    #[cfg(feature = "pg15")]
    strategy: std::ffi::c_char,
    #[cfg(not(feature = "pg15"))]
    strategy: u32,
    partnatts: i16,
    partattrs: *mut pg_sys::AttrNumber,
    partexprs: *mut pg_sys::List,
    partopfamily: *mut pg_sys::Oid,
    partopcintype: *mut pg_sys::Oid,
    partsupfunc: *mut pg_sys::FmgrInfo,
    partcollation: *mut pg_sys::Oid,
}

unsafe extern "C-unwind" {
    fn RelationGetPartitionKey(relation: pg_sys::Relation) -> *mut PartitionKey;
}

/// Most columns that a partition key can have (`PARTITION_MAX_KEYS`).
const MAX_KEYS: usize = 32;

/// Values by column name, as text; `None` is NULL.
pub trait Row {
    fn value(&self, column: &str) -> Option<Option<&str>>;
}

/// The leaf below `root` that stores `row`.
///
/// Errors: 22023 a key column has no value given; 23514 no partition accepts it; those of the types' input functions.
pub fn leaf(root: pg_sys::Oid, row: &impl Row) -> Result<pg_sys::Oid> {
    let mut table = root;
    loop {
        match Opened::open(table).partition_of(row)? {
            Child::Leaf(leaf) => return Ok(leaf),
            Child::Partitioned(child) => table = child,
        }
    }
}

/// The partitions of a partitioned table in the order of their bounds, the default one last.
pub fn in_order(table: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let opened = Opened::open(table);
    // SAFETY: the relation is open; for one that is not partitioned there is no descriptor to ask for.
    unsafe {
        if (*(*opened.0).rd_rel).relkind as u8 != pg_sys::RELKIND_PARTITIONED_TABLE {
            return Vec::new();
        }
        let descriptor = &*pg_sys::RelationGetPartitionDesc(opened.0, true);
        (0..descriptor.nparts as usize).map(|at| *descriptor.oids.add(at)).collect()
    }
}

/// Whether the relation has a column of that name.
pub fn has_column(relation: pg_sys::Oid, column: &str) -> bool {
    let Ok(name) = std::ffi::CString::new(column) else { return false };
    // SAFETY: looks the name up in the system cache; the string is NUL-terminated and outlives the call.
    unsafe { pg_sys::get_attnum(relation, name.as_ptr()) > 0 }
}

enum Child {
    Leaf(pg_sys::Oid),
    Partitioned(pg_sys::Oid),
}

/// A relation open for reading; closed when dropped, its lock kept until the transaction ends.
struct Opened(pg_sys::Relation);

impl Opened {
    fn open(relation: pg_sys::Oid) -> Self {
        // SAFETY: raises if there is no such relation; otherwise the pointer is valid until relation_close.
        Self(unsafe { pg_sys::relation_open(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE) })
    }

    fn partition_of(&self, row: &impl Row) -> Result<Child> {
        let mut values = [pg_sys::Datum::null(); MAX_KEYS];
        let mut nulls = [true; MAX_KEYS];
        // SAFETY: the relation is open and partitioned, as the caller found it as the root or as a child that is not a
        // leaf; its key and descriptor live in the relation cache while it is open.
        let (key, descriptor) = unsafe {
            let key = pg_sys::ffi::pg_guard_ffi_boundary(|| RelationGetPartitionKey(self.0));
            if key.is_null() {
                return Report::new(Code::ERRCODE_WRONG_OBJECT_TYPE, format!("{} is not partitioned", self.name()))
                    .into();
            }
            (&*key, &*pg_sys::RelationGetPartitionDesc(self.0, true))
        };
        self.form_key(key, row, &mut values, &mut nulls)?;
        // SAFETY: boundinfo is null only without partitions; oids and is_leaf have nparts entries.
        unsafe {
            if descriptor.nparts > 0 {
                let bounds = &*descriptor.boundinfo;
                let found = search(key, bounds, &mut values, &mut nulls);
                let at = if found < 0 { bounds.default_index } else { found };
                if at >= 0 && at < descriptor.nparts {
                    let oid = *descriptor.oids.add(at as usize);
                    let leaf = *descriptor.is_leaf.add(at as usize);
                    return Ok(if leaf { Child::Leaf(oid) } else { Child::Partitioned(oid) });
                }
            }
        }
        Report::new(Code::ERRCODE_CHECK_VIOLATION, format!("no partition of {} accepts the key", self.name()))
            .hint("Add one with SELECT shard_add_partition(…).")
            .into()
    }

    fn form_key(
        &self,
        key: &PartitionKey,
        row: &impl Row,
        values: &mut [pg_sys::Datum],
        nulls: &mut [bool],
    ) -> Result<()> {
        let count = usize::try_from(key.partnatts).unwrap_or(0).min(MAX_KEYS);
        let mut expressions = None;
        for at in 0..count {
            // SAFETY: partattrs has partnatts entries.
            let attribute = unsafe { *key.partattrs.add(at) };
            (values[at], nulls[at]) = if attribute > 0 {
                self.column(attribute, row)?
            } else {
                let evaluated = match expressions.take() {
                    Some(list) => list,
                    None => self.expressions(key, row)?.into_iter(),
                };
                let mut evaluated = evaluated;
                let next = evaluated.next().unwrap_or((pg_sys::Datum::null(), true));
                expressions = Some(evaluated);
                next
            };
        }
        Ok(())
    }

    /// The value of a column, through its type's input function.
    fn column(&self, attribute: pg_sys::AttrNumber, row: &impl Row) -> Result<(pg_sys::Datum, bool)> {
        // SAFETY: the descriptor has an entry for every attribute of a key, and its name is NUL-terminated.
        let (name, type_id, modifier) = unsafe {
            let attribute = &*attribute_of((*self.0).rd_att, attribute);
            (CStr::from_ptr(attribute.attname.data.as_ptr()).to_string_lossy(), attribute.atttypid, attribute.atttypmod)
        };
        match row.value(&name) {
            None => Report::new(
                Code::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("the key lacks column {}", crate::name::ident(&name)),
            )
            .detail(format!("It is part of the partition key of {}.", self.name()))
            .into(),
            Some(None) => Ok((pg_sys::Datum::null(), true)),
            // SAFETY: the input function of the column's own type gets a NUL-terminated copy in the current context.
            Some(Some(text)) => unsafe {
                let (mut input, mut parameter) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
                pg_sys::getTypeInputInfo(type_id, &mut input, &mut parameter);
                let datum =
                    pg_sys::OidInputFunctionCall(input, text.replace('\0', "").as_pg_cstr(), parameter, modifier);
                Ok((datum, false))
            },
        }
    }

    /// All expressions of the key, evaluated over a row that has the given columns.
    fn expressions(&self, key: &PartitionKey, row: &impl Row) -> Result<Vec<(pg_sys::Datum, bool)>> {
        // SAFETY: the slot is made for this relation's descriptor and filled before it is used; expressions come from
        // the relation cache; the executor state lives in the current memory context and is freed with it, so that the
        // results stay valid for the caller.
        unsafe {
            let descriptor = (*self.0).rd_att;
            let slot = pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsVirtual);
            if let Some(clear) = (*(*slot).tts_ops).clear {
                pg_sys::ffi::pg_guard_ffi_boundary(|| clear(slot));
            }
            for at in 1..=(*descriptor).natts as pg_sys::AttrNumber {
                let dropped = (*attribute_of(descriptor, at)).attisdropped;
                let given = !dropped && {
                    let name = CStr::from_ptr((*attribute_of(descriptor, at)).attname.data.as_ptr()).to_string_lossy();
                    row.value(&name).is_some()
                };
                let (value, null) = if given { self.column(at, row)? } else { (pg_sys::Datum::null(), true) };
                *(*slot).tts_values.add(at as usize - 1) = value;
                *(*slot).tts_isnull.add(at as usize - 1) = null;
            }
            pg_sys::ExecStoreVirtualTuple(slot);
            let state = pg_sys::CreateExecutorState();
            let context = pg_sys::MakePerTupleExprContext(state);
            (*context).ecxt_scantuple = slot;
            let mut results = Vec::new();
            for at in 0..(*key.partexprs).length as usize {
                let node = (*(*key.partexprs).elements.add(at)).ptr_value.cast::<pg_sys::Expr>();
                let prepared = pg_sys::ExecPrepareExpr(node, state);
                let mut null = false;
                if let Some(evaluate) = (*prepared).evalfunc {
                    let value = pg_sys::ffi::pg_guard_ffi_boundary(|| evaluate(prepared, context, &mut null));
                    results.push((value, null));
                }
            }
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            Ok(results)
        }
    }

    fn name(&self) -> String {
        // SAFETY: the name of an open relation is NUL-terminated.
        unsafe { CStr::from_ptr((*(*self.0).rd_rel).relname.data.as_ptr()) }.to_string_lossy().into_owned()
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: opened by `open` and closed once; NoLock keeps the lock.
        unsafe { pg_sys::relation_close(self.0, pg_sys::NoLock as pg_sys::LOCKMODE) }
    }
}

/// # Safety
/// `descriptor` is valid and has an attribute of that number.
unsafe fn attribute_of(
    descriptor: pg_sys::TupleDesc,
    number: pg_sys::AttrNumber,
) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: the caller vouches for both; since 18 the attributes follow the array of their compact form.
    #[cfg(feature = "pg18")]
    unsafe {
        let natts = (*descriptor).natts as usize;
        let first = (*descriptor).compact_attrs.as_ptr().add(natts).cast::<pg_sys::FormData_pg_attribute>();
        first.add(number as usize - 1)
    }
    // SAFETY: as above; before 18 the attributes are an array at the end of the descriptor.
    #[cfg(not(feature = "pg18"))]
    unsafe {
        (*descriptor).attrs.as_ptr().add(number as usize - 1)
    }
}

/// The index of the partition, or a negative number, as `get_partition_for_tuple` finds it.
///
/// # Safety
/// `key` and `bounds` belong to the same open relation; `values` and `nulls` hold its key.
unsafe fn search(
    key: &PartitionKey,
    bounds: &pg_sys::PartitionBoundInfoData,
    values: &mut [pg_sys::Datum],
    nulls: &mut [bool],
) -> i32 {
    let info = std::ptr::from_ref(bounds).cast_mut();
    let mut equal = false;
    // SAFETY: the caller vouches for key and bounds; offsets are used only within the arrays that Postgres sized for
    // them: `indexes` has nindexes entries, and for ranges one more than there are datums.
    unsafe {
        match bounds.strategy as u8 {
            b'h' => {
                let natts = i32::from(key.partnatts);
                let hash = pg_sys::compute_partition_hash_value(
                    natts,
                    key.partsupfunc,
                    key.partcollation,
                    values.as_mut_ptr(),
                    nulls.as_mut_ptr(),
                );
                *bounds.indexes.add((hash % bounds.nindexes as u64) as usize)
            }
            b'l' if nulls[0] => bounds.null_index,
            b'l' => {
                let at =
                    pg_sys::partition_list_bsearch(key.partsupfunc, key.partcollation, info, values[0], &mut equal);
                if at >= 0 && equal { *bounds.indexes.add(at as usize) } else { -1 }
            }
            _ if nulls[..key.partnatts as usize].contains(&true) => -1,
            _ => {
                let at = pg_sys::partition_range_datum_bsearch(
                    key.partsupfunc,
                    key.partcollation,
                    info,
                    i32::from(key.partnatts),
                    values.as_mut_ptr(),
                    &mut equal,
                );
                *bounds.indexes.add((at + 1) as usize)
            }
        }
    }
}
