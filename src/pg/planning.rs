//! Plans that change foreign partitions, on Postgres 18.
//!
//! There (seen in 18.4) the executor drops the result tables that pruning rules out when a statement begins, and then takes what
//! a foreign data wrapper noted for each table by its old place: a prepared statement with a generic plan crashes the server, or
//! sends one partition's command to another. Such plans are pruned while they run instead, which leaves the result tables alone.

use super::list::pointers;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::{c_char, c_int};

thread_local! {
    static BEFORE: Cell<pg_sys::planner_hook_type> = const { Cell::new(None) };
}

pub fn register() {
    // SAFETY: called once from _PG_init; a server process has a single thread. The hook that was there is called by ours.
    unsafe {
        BEFORE.set(pg_sys::planner_hook);
        pg_sys::planner_hook = Some(plan);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn plan(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: hands on exactly what the server gave us; what comes back is a plan that is nobody else's yet, a tree of nodes that
    // are looked at as what their tags say.
    unsafe {
        let planned = match BEFORE.get() {
            Some(before) => before(query, text, options, parameters),
            None => pg_sys::standard_planner(query, text, options, parameters),
        };
        if let Some(planned) = planned.as_mut()
            && !planned.partPruneInfos.is_null()
            && (changes_foreign(planned.planTree)
                || pointers::<pg_sys::Plan>(planned.subplans).any(|subplan| changes_foreign(subplan)))
        {
            for info in pointers::<pg_sys::PartitionPruneInfo>(planned.partPruneInfos) {
                prune_later(info, &mut planned.unprunableRelids);
            }
        }
        planned
    }
}

/// # Safety
/// `node` is null or a plan.
unsafe fn changes_foreign(node: *const pg_sys::Plan) -> bool {
    // SAFETY: the caller vouches for the node; a ModifyTable is one where the tag says so.
    unsafe {
        if node.is_null() || (*node).type_ != pg_sys::NodeTag::T_ModifyTable {
            return false;
        }
        let modify = &*node.cast::<pg_sys::ModifyTable>();
        !modify.fdwDirectModifyPlans.is_null()
            || pointers::<pg_sys::List>(modify.fdwPrivLists).any(|private| !private.is_null())
    }
}

/// `stay` are the tables that are there from the beginning of a statement.
///
/// # Safety
/// `info` is null or belongs to a plan that nobody else has yet, and so does the set.
unsafe fn prune_later(info: *mut pg_sys::PartitionPruneInfo, stay: &mut *mut pg_sys::Bitmapset) {
    // SAFETY: the caller vouches for the plan; the lists' elements are of these types, and the map has nparts entries.
    unsafe {
        let Some(info) = info.as_ref() else { return };
        for hierarchy in pointers::<pg_sys::List>(info.prune_infos) {
            for table in pointers::<pg_sys::PartitionedRelPruneInfo>(hierarchy) {
                let Some(table) = table.as_mut() else { continue };
                // The steps of the later pruning contain those of the first, where there are any.
                let first = std::mem::replace(&mut table.initial_pruning_steps, std::ptr::null_mut());
                if first.is_null() {
                    continue;
                }
                let parts = usize::try_from(table.nparts).unwrap_or(0);
                for leaf in std::slice::from_raw_parts(table.leafpart_rti_map, parts).iter().filter(|leaf| **leaf > 0) {
                    *stay = pg_sys::bms_add_member(*stay, *leaf);
                }
                if table.exec_pruning_steps.is_null() {
                    table.exec_pruning_steps = first;
                }
            }
        }
    }
}
