//! What a DROP command is about to drop, as an event trigger sees it before anything is gone.
//!
//! Only here: Postgres's own error for something that is still used comes too early for other triggers, and tells people to
//! use CASCADE, which would take columns out of tables that are kept to be brought back.

use crate::error::Result;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// Hands the objects of a DROP to `shardkeeper.refuse_if_kept`.
#[pg_extern(
    sql = "CREATE FUNCTION shardkeeper.before_drop() RETURNS event_trigger LANGUAGE c AS '@MODULE_PATHNAME@', '@FUNCTION_NAME@';",
    requires = ["catalog"]
)]
fn before_drop(fcinfo: pg_sys::FunctionCallInfo) -> std::result::Result<(), ErrorReport> {
    Ok(hand_on(dropped(fcinfo))?)
}

fn hand_on(objects: Vec<(pg_sys::Oid, pg_sys::Oid)>) -> Result<()> {
    if objects.is_empty() {
        return Ok(());
    }
    let (classes, objects): (Vec<_>, Vec<_>) = objects.into_iter().unzip();
    crate::pg::sql::run(
        "SELECT shardkeeper.refuse_if_kept($1::pg_catalog.oid[], $2::pg_catalog.oid[])",
        &[classes.into(), objects.into()],
    )?;
    Ok(())
}

/// Class and number of each object that the command names and that is there.
fn dropped(fcinfo: pg_sys::FunctionCallInfo) -> Vec<(pg_sys::Oid, pg_sys::Oid)> {
    let mut found = Vec::new();
    // SAFETY: Postgres calls this with a valid fcinfo, whose context is EventTriggerData if it fires as an event trigger; its
    // parse tree, and each node, is looked at as what its tag says. Objects that are not relations leave `relation` null,
    // and the triggers are made for commands on such objects only.
    unsafe {
        let data = (*fcinfo).context.cast::<pg_sys::EventTriggerData>();
        if data.is_null() || (*data).type_ != pg_sys::NodeTag::T_EventTriggerData || (*data).parsetree.is_null() {
            return found;
        }
        let tree = (*data).parsetree;
        if (*tree).type_ != pg_sys::NodeTag::T_DropStmt {
            return found;
        }
        let command = &*tree.cast::<pg_sys::DropStmt>();
        let length = if command.objects.is_null() { 0 } else { (*command.objects).length };
        for at in 0..length {
            let object = (*(*command.objects).elements.offset(at as isize)).ptr_value.cast::<pg_sys::Node>();
            let mut relation: pg_sys::Relation = std::ptr::null_mut();
            let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            let address = pg_sys::get_object_address(command.removeType, object, &mut relation, lock, true);
            if address.objectId != pg_sys::InvalidOid {
                found.push((address.classId, address.objectId));
            }
        }
    }
    found
}
