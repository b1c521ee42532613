//! Commands that changed a name by which the way to a node is found: its server, the foreign table that commands go through, or
//! the schema of these.

use crate::catalog::node::KNOWN_NODES;
use crate::error::{Report, Result};
use crate::name::literal;
use crate::pg::{role, sql};
use pgrx::PgSqlErrorCode as Code;
use serde::Deserialize;

#[derive(Deserialize)]
struct Renamed {
    /// As it was called before, which it is again when the command is undone.
    what: String,
    node: Option<String>,
}

const RENAMED: &str = "
    said AS (
        SELECT d.classid, d.objid, p.before, p.concern
        FROM pg_event_trigger_ddl_commands() AS d CROSS JOIN LATERAL shardkeeper.ddl_parts(d.command) AS p
        WHERE p.concern IN ('name', 'schema') AND p.before IS NOT NULL
    )
    SELECT json_build_object('what', 'server ' || quote_ident(n.name), 'node', n.name)::text
    FROM said s JOIN known_nodes n ON n.name = s.before WHERE s.classid = 'pg_foreign_server'::regclass
    UNION ALL
    SELECT json_build_object('what', 'foreign table shardkeeper_nodes.' || quote_ident(n.name), 'node', n.name)::text
    FROM said s JOIN pg_class c ON c.oid = s.objid JOIN pg_namespace a ON a.oid = c.relnamespace
    CROSS JOIN LATERAL (SELECT CASE s.concern WHEN 'name' THEN s.before ELSE c.relname END AS name, CASE s.concern WHEN 'name' THEN a.nspname ELSE s.before END AS schema) AS o
    JOIN known_nodes n ON n.name = o.name AND o.schema = 'shardkeeper_nodes'
    WHERE s.classid = 'pg_class'::regclass
    UNION ALL
    SELECT json_build_object('what', 'schema ' || s.before)::text
    FROM said s WHERE s.classid = 'pg_namespace'::regclass AND s.before IN ('shardkeeper_nodes', 'shardkeeper_trash')";

/// Errors: 0A000 calls would not find the node any more.
pub fn judge_all() -> Result<()> {
    let query = format!("WITH {KNOWN_NODES}, {RENAMED}");
    let renamed = role::as_extension_owner(|| sql::documents::<Renamed>(&query, &[]))?;
    renamed.first().map_or(Ok(()), judge)
}

fn judge(renamed: &Renamed) -> Result<()> {
    let what = &renamed.what;
    let report =
        Report::new(Code::ERRCODE_FEATURE_NOT_SUPPORTED, format!("cannot rename {what} because nodes are found by it"));
    match &renamed.node {
        Some(node) => report.hint(format!(
            "For another name, empty the node with SELECT shard_drain_node({0}); then run SELECT shard_drop_node({0}); and add it under that name.",
            literal(node)
        )),
        None => report.hint("It keeps its name as long as the extension is there."),
    }
    .into()
}
