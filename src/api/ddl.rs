//! What event triggers ask the library; see `sql/events.sql`. Nobody else may.

use crate::pg::ddl;
use crate::schema::manual_ddl;
use pgrx::Internal;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// The changes of a collected command that matter to other servers.
#[pg_extern(sql = r#"
CREATE FUNCTION shardkeeper.ddl_parts(command pg_ddl_command) RETURNS TABLE (partition oid, before text, words text, concern text)
VOLATILE STRICT LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
COMMENT ON FUNCTION shardkeeper.ddl_parts(pg_ddl_command) IS 'The changes of a command that matter to other servers';
REVOKE ALL ON FUNCTION shardkeeper.ddl_parts(pg_ddl_command) FROM PUBLIC;
"#)]
#[allow(clippy::type_complexity)]
fn ddl_parts(
    command: Internal,
) -> TableIterator<
    'static,
    (name!(partition, pg_sys::Oid), name!(before, Option<String>), name!(words, String), name!(concern, String)),
> {
    let parts = ddl::parts(&command).into_iter();
    TableIterator::new(
        parts.map(|part| (part.partition, part.before, part.words.to_string(), part.concern.word().to_string())),
    )
}

/// Refuses what a command did to managed tables, or follows it.
#[pg_extern(sql = r#"
CREATE FUNCTION shardkeeper.judge_change() RETURNS void
VOLATILE LANGUAGE c SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
COMMENT ON FUNCTION shardkeeper.judge_change() IS 'Refuses a command of a user that would make servers disagree';
REVOKE ALL ON FUNCTION shardkeeper.judge_change() FROM PUBLIC;
"#)]
fn judge_change() -> Result<(), ErrorReport> {
    Ok(manual_ddl::after_change()?)
}

/// Refuses what a command dropped of managed tables, or follows it.
#[pg_extern(sql = r#"
CREATE FUNCTION shardkeeper.judge_drop() RETURNS void
VOLATILE LANGUAGE c SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
COMMENT ON FUNCTION shardkeeper.judge_drop() IS 'Refuses a command of a user that dropped what would stay on nodes';
REVOKE ALL ON FUNCTION shardkeeper.judge_drop() FROM PUBLIC;
"#)]
fn judge_drop() -> Result<(), ErrorReport> {
    Ok(manual_ddl::after_drop()?)
}

/// The event trigger before `ALTER TABLE`. Names in the command are looked up as its caller does.
#[pg_extern(sql = r#"
CREATE FUNCTION shardkeeper.before_alter() RETURNS event_trigger
LANGUAGE c SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres' SET extra_float_digits = 1
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
COMMENT ON FUNCTION shardkeeper.before_alter() IS 'Refuses DETACH PARTITION CONCURRENTLY of managed partitions';
"#)]
fn before_alter(call: pg_sys::FunctionCallInfo) -> Result<(), ErrorReport> {
    Ok(manual_ddl::before_detach(&ddl::detaching(call))?)
}
