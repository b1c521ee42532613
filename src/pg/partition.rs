//! A partitioned table as Postgres's relation cache has it: its key, its partitions, and which of them takes a key.

use super::attribute::attribute;
use crate::error::{Report, Result};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys;
use std::ffi::CStr;
use std::ptr::NonNull;

/// Postgres's `PartitionKeyData`, whose header the bindings leave out. The same from 15 to 18, except that the strategy
/// grew from a char to an enum of four bytes in 16.
#[repr(C)]
pub(super) struct PartitionKey {
    #[cfg(feature = "pg15")]
    strategy: std::ffi::c_char,
    #[cfg(not(feature = "pg15"))]
    strategy: u32,
    pub(super) partnatts: i16,
    pub(super) partattrs: *mut pg_sys::AttrNumber,
    pub(super) partexprs: *mut pg_sys::List,
    partopfamily: *mut pg_sys::Oid,
    partopcintype: *mut pg_sys::Oid,
    partsupfunc: *mut pg_sys::FmgrInfo,
    partcollation: *mut pg_sys::Oid,
    parttypid: *mut pg_sys::Oid,
}

unsafe extern "C-unwind" {
    fn RelationGetPartitionKey(relation: pg_sys::Relation) -> *mut PartitionKey;
}

/// Most columns that a partition key can have (`PARTITION_MAX_KEYS`).
pub(super) const MAX_KEYS: usize = 32;

/// A key with room for as many columns as there may be.
pub(super) struct Key {
    pub(super) values: [pg_sys::Datum; MAX_KEYS],
    pub(super) nulls: [bool; MAX_KEYS],
}

impl Key {
    pub(super) fn new() -> Self {
        Self { values: [pg_sys::Datum::null(); MAX_KEYS], nulls: [true; MAX_KEYS] }
    }

    pub(super) fn set(&mut self, at: usize, (value, null): (pg_sys::Datum, bool)) {
        (self.values[at], self.nulls[at]) = (value, null);
    }
}

/// A relation open for reading; closed when dropped, its lock kept until the transaction ends.
pub(super) struct Opened(pg_sys::Relation);

impl Opened {
    pub(super) fn open(relation: pg_sys::Oid) -> Self {
        // SAFETY: raises if there is no such relation; otherwise the pointer is valid until relation_close.
        Self(unsafe { pg_sys::relation_open(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE) })
    }

    pub(super) fn is_partitioned(&self) -> bool {
        // SAFETY: the relation is open.
        unsafe { (*(*self.0).rd_rel).relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE }
    }

    pub(super) fn name(&self) -> String {
        // SAFETY: the name of an open relation is NUL-terminated.
        unsafe { CStr::from_ptr((*(*self.0).rd_rel).relname.data.as_ptr()) }.to_string_lossy().into_owned()
    }

    fn oid(&self) -> pg_sys::Oid {
        // SAFETY: the relation is open.
        unsafe { (*self.0).rd_id }
    }

    pub(super) fn descriptor(&self) -> pg_sys::TupleDesc {
        // SAFETY: the relation is open, and its descriptor with it.
        unsafe { (*self.0).rd_att }
    }

    /// The number of attributes, dropped ones included.
    pub(super) fn width(&self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.descriptor()).natts as usize }
    }

    /// The column of that number, from 1 to `width`.
    pub(super) fn column(&self, number: pg_sys::AttrNumber) -> &pg_sys::FormData_pg_attribute {
        assert!(number > 0 && number as usize <= self.width(), "no attribute {number}");
        // SAFETY: there is such an attribute; it stays while the relation is open and locked.
        unsafe { attribute(self.descriptor(), number) }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: opened by `open` and closed once; NoLock keeps the lock.
        unsafe { pg_sys::relation_close(self.0, pg_sys::NoLock as pg_sys::LOCKMODE) }
    }
}

/// A partitioned table with its key and its partitions as they were when it was opened.
pub(super) struct Partitioned {
    table: Opened,
    key: NonNull<PartitionKey>,
    descriptor: NonNull<pg_sys::PartitionDescData>,
}

impl Partitioned {
    /// Errors: 42809 it is not partitioned.
    pub(super) fn open(relation: pg_sys::Oid) -> Result<Self> {
        let table = Opened::open(relation);
        if !table.is_partitioned() {
            return Report::new(Code::ERRCODE_WRONG_OBJECT_TYPE, format!("{} is not partitioned", table.name())).into();
        }
        // SAFETY: the relation is open and partitioned, so it has both.
        let (key, descriptor) = unsafe {
            (
                pg_sys::ffi::pg_guard_ffi_boundary(|| RelationGetPartitionKey(table.0)),
                pg_sys::RelationGetPartitionDesc(table.0, true),
            )
        };
        match (NonNull::new(key), NonNull::new(descriptor)) {
            (Some(key), Some(descriptor)) => Ok(Self { table, key, descriptor }),
            _ => Report::new(Code::ERRCODE_INTERNAL_ERROR, format!("{} has no partition key", table.name())).into(),
        }
    }

    pub(super) fn table(&self) -> &Opened {
        &self.table
    }

    fn key(&self) -> &PartitionKey {
        // SAFETY: the relation cache keeps what it handed out while the relation is open, also when it is rebuilt.
        unsafe { self.key.as_ref() }
    }

    fn descriptor(&self) -> &pg_sys::PartitionDescData {
        // SAFETY: as above; a rebuilt descriptor stands beside the old one.
        unsafe { self.descriptor.as_ref() }
    }

    /// For each part of the key, its column; `None` is an expression.
    pub(super) fn columns(&self) -> impl Iterator<Item = Option<pg_sys::AttrNumber>> + '_ {
        let count = usize::try_from(self.key().partnatts).unwrap_or(0).min(MAX_KEYS);
        // SAFETY: partattrs has partnatts entries.
        let numbers = unsafe { std::slice::from_raw_parts(self.key().partattrs, count) };
        numbers.iter().map(|&number| (number > 0).then_some(number))
    }

    /// The expressions of the key, in their order.
    pub(super) fn expressions(&self) -> *mut pg_sys::List {
        self.key().partexprs
    }

    pub(super) fn len(&self) -> usize {
        usize::try_from(self.descriptor().nparts).unwrap_or(0)
    }

    pub(super) fn oid(&self, at: usize) -> pg_sys::Oid {
        assert!(at < self.len(), "no partition {at}");
        // SAFETY: oids has nparts entries.
        unsafe { *self.descriptor().oids.add(at) }
    }

    pub(super) fn is_leaf(&self, at: usize) -> bool {
        assert!(at < self.len(), "no partition {at}");
        // SAFETY: is_leaf has nparts entries.
        unsafe { *self.descriptor().is_leaf.add(at) }
    }

    /// Which partition, by its place in the order of the bounds, takes the key.
    pub(super) fn of(&self, key: &mut Key) -> Result<usize> {
        if let Some(bounds) = NonNull::new(self.descriptor().boundinfo) {
            // SAFETY: the bounds are those of this key's relation, and live with the descriptor.
            let found = unsafe { search(self.key(), bounds.as_ref(), &mut key.values, &mut key.nulls) };
            // SAFETY: as above.
            let at = if found < 0 { unsafe { bounds.as_ref() }.default_index } else { found };
            if let Ok(at) = usize::try_from(at)
                && at < self.len()
            {
                return Ok(at);
            }
        }
        Report::new(Code::ERRCODE_CHECK_VIOLATION, format!("no partition of {} accepts the key", self.table.name()))
            .detail(format!("Partition key of the row contains {}.", self.describe(key)))
            .hint("Make a partition for it, or a default one: with SELECT shard_add_partition(…), or in the spec when shard_create_parent is called.")
            .into()
    }

    /// `(region, ordered_at) = (eu, 2026-01-01)`, as Postgres tells of a row without a partition.
    fn describe(&self, key: &Key) -> String {
        let count = usize::try_from(self.key().partnatts).unwrap_or(0).min(MAX_KEYS);
        let shown = (0..count).map(|at| match key.nulls[at] {
            true => "null".to_string(),
            // SAFETY: parttypid has partnatts entries, and the value that is not null is one of that type.
            false => unsafe {
                let (mut output, mut varlena) = (pg_sys::InvalidOid, false);
                pg_sys::getTypeOutputInfo(*self.key().parttypid.add(at), &mut output, &mut varlena);
                CStr::from_ptr(pg_sys::OidOutputFunctionCall(output, key.values[at])).to_string_lossy().into_owned()
            },
        });
        let shown = shown.collect::<Vec<_>>().join(", ");
        // SAFETY: the relation is open and partitioned; what comes back is a string of its own.
        let columns = unsafe { CStr::from_ptr(pg_sys::pg_get_partkeydef_columns(self.table.oid(), true)) };
        format!("({}) = ({shown})", columns.to_string_lossy())
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
