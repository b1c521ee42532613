//! Expressions in a partition key, evaluated over rows that need not have every column.

use super::partition::Opened;
use crate::error::Result;
use pgrx::pg_sys::{self, AttrNumber, Datum};

/// Expressions made ready for rows of one relation, which stays open for as long.
pub(super) struct Expressions {
    state: *mut pg_sys::EState,
    context: *mut pg_sys::ExprContext,
    slot: *mut pg_sys::TupleTableSlot,
    prepared: Vec<*mut pg_sys::ExprState>,
    /// The columns that they refer to.
    columns: Vec<AttrNumber>,
    results: Vec<(Datum, bool)>,
}

impl Expressions {
    /// `None` for an empty list.
    pub(super) fn prepare(table: &Opened, list: *mut pg_sys::List) -> Option<Self> {
        // SAFETY: a list of the relation cache, valid while the table is open; its elements are expressions.
        let nodes: Vec<*mut pg_sys::Expr> = unsafe {
            let list = list.as_ref()?;
            (0..list.length as usize).map(|at| (*list.elements.add(at)).ptr_value.cast()).collect()
        };
        // SAFETY: all lives in the current memory context or below it, and is released by `drop`; the slot has the
        // table's own descriptor, and starts with a value for every attribute.
        unsafe {
            let state = pg_sys::CreateExecutorState();
            let context = pg_sys::MakePerTupleExprContext(state);
            let slot = pg_sys::MakeSingleTupleTableSlot(table.descriptor(), &raw const pg_sys::TTSOpsVirtual);
            (*context).ecxt_scantuple = slot;
            for at in 0..table.width() {
                *(*slot).tts_values.add(at) = Datum::null();
                *(*slot).tts_isnull.add(at) = true;
            }
            pg_sys::ExecStoreVirtualTuple(slot);
            let prepared = nodes.iter().map(|&node| pg_sys::ExecPrepareExpr(node, state)).collect();
            let columns = columns_of(list, table);
            Some(Self { state, context, slot, prepared, columns, results: Vec::with_capacity(nodes.len()) })
        }
    }

    pub(super) fn columns(&self) -> &[AttrNumber] {
        &self.columns
    }

    /// Evaluates all over a row whose values `value` gives; what the results point to lives in the current memory
    /// context, in that of `value`'s results, or as long as `self`.
    pub(super) fn evaluate(&mut self, mut value: impl FnMut(AttrNumber) -> Result<(Datum, bool)>) -> Result<()> {
        for &number in &self.columns {
            let (value, null) = value(number)?;
            // SAFETY: the arrays have an entry for every attribute.
            unsafe {
                *(*self.slot).tts_values.add(number as usize - 1) = value;
                *(*self.slot).tts_isnull.add(number as usize - 1) = null;
            }
        }
        self.results.clear();
        for &prepared in &self.prepared {
            let mut null = false;
            // SAFETY: prepared expressions have an evaluation function; it reads the slot that the context refers to.
            unsafe {
                if let Some(evaluate) = (*prepared).evalfunc {
                    let context = self.context;
                    let value = pg_sys::ffi::pg_guard_ffi_boundary(|| evaluate(prepared, context, &mut null));
                    self.results.push((value, null));
                }
            }
        }
        Ok(())
    }

    /// Of the last evaluation, in the order of the expressions.
    pub(super) fn results(&self) -> impl Iterator<Item = (Datum, bool)> + '_ {
        self.results.iter().copied()
    }
}

impl Drop for Expressions {
    fn drop(&mut self) {
        // After an error the rollback releases them, whatever state they are in.
        if !std::thread::panicking() {
            // SAFETY: made by `prepare`, released once.
            unsafe {
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
                pg_sys::FreeExecutorState(self.state);
            }
        }
    }
}

/// The columns that the expressions of a partition key refer to, all of them if one refers to the whole row.
///
/// # Safety
/// `list` is a valid list of expressions over `table`.
unsafe fn columns_of(list: *mut pg_sys::List, table: &Opened) -> Vec<AttrNumber> {
    let mut found = std::ptr::null_mut();
    let mut numbers = Vec::new();
    // SAFETY: the caller vouches for the list, whose columns are of relation 1; the set is ours.
    unsafe {
        pg_sys::pull_varattnos(list.cast(), 1, &mut found);
        let mut member = -1;
        loop {
            member = pg_sys::bms_next_member(found, member);
            if member < 0 {
                break;
            }
            numbers.push((member + pg_sys::FirstLowInvalidHeapAttributeNumber) as AttrNumber);
        }
    }
    if numbers.contains(&0) {
        numbers = (1..=table.width() as AttrNumber).filter(|&number| !table.column(number).attisdropped).collect();
    }
    numbers.retain(|&number| number > 0);
    numbers
}
