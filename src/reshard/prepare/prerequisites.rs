//! What an operation asks of a server whose changes it will follow: checked before anything is made there.

use super::staging::Staging;
use crate::catalog::operation::Operation;
use crate::error::{Report, Result};
use crate::name::{QualifiedName, ident, literal};
use crate::node::channel::Channel;
use crate::node::session;
use crate::pg::{sql, transaction};
use crate::reshard::check;
use crate::reshard::outcome::Step;
use crate::reshard::revert::shared_slot;
use crate::reshard::server::{BRIEF, Server};
use pgrx::PgSqlErrorCode as Code;
use serde::Deserialize;
use shardkeeper_core::plan::LOCAL;

#[derive(Deserialize)]
struct Facts {
    wal_level: String,
    slots: i64,
    slots_used: i64,
    /// Those of them that ways back have, which make room for new operations.
    kept: Vec<String>,
    may_replicate: bool,
    may_publish: bool,
    /// Sources of whose changes nothing is logged.
    unlogged: Vec<String>,
    /// Sources whose changed rows could not be found again.
    without_identity: Vec<String>,
    /// Sources whose rows are identified by columns that the stream does not tell.
    untold_identity: Vec<String>,
    /// Sources whose identity does not tell where a row belongs.
    narrow_identity: Vec<String>,
    /// Sources of which the role does not see all rows.
    hidden: Vec<String>,
    /// Column, table and type, where values of the type cannot be read as binary.
    without_binary: Vec<(String, String, String)>,
    /// The same, where values mean something on one server only.
    homebound: Vec<(String, String, String)>,
    role: String,
}

/// The server can tell what changes in its sources, without breaking the writers of them.
pub fn check_source(operation: &Operation, staging: &Staging, node: &str) -> Step {
    let names: Vec<QualifiedName> = leaves_on(operation, node).cloned().collect();
    let key = match operation.plan.target_nodes().len() {
        // There is no choice of servers to be made.
        1 => Vec::new(),
        _ => staging.key_columns(),
    };
    let found = session::wait(async {
        let mut place = Server::open(node, operation.role(), BRIEF).await?;
        place.document::<Facts>(&facts(&names, &key, signature(operation)), &[]).await
    })?;
    let departs = operation.plan.target_nodes().iter().any(|target| target != node);
    Ok(found.map_or(Ok(()), |facts| judge(&facts, node, departs))?)
}

/// Why changes of these tables on the server could not be followed beside the operation. All that are kept there share a
/// slot; the first one leaves one for the next operation.
pub fn cannot_follow(operation: &Operation, node: &str, tables: &[QualifiedName]) -> Step<Option<Report>> {
    let key = match operation.plan.source_nodes().len() {
        1 => Vec::new(),
        _ => Staging::read(operation)?.key_columns(),
    };
    let found = session::wait(async {
        let mut place = Server::open(node, operation.role(), BRIEF).await?;
        place.document::<Facts>(&facts(tables, &key, signature(operation)), &[]).await
    })?;
    let Some(mut facts) = found else { return Ok(None) };
    if facts.kept.contains(&shared_slot::name(operation, node)?) {
        // It takes no more.
        facts.slots_used = 0;
    } else {
        facts.slots -= 1;
    }
    facts.kept.clear();
    let departs = operation.plan.source_nodes().iter().any(|source| source != node);
    Ok(judge(&facts, node, departs).err().map(Report::from))
}

/// The same for tables of the coordinator, in the caller's transaction. `departs`: some rows go to other servers.
///
/// Errors: 55000 no replica identity, or `wal_level` is not logical; 54000 all replication slots are used.
pub fn check_here(tables: &[QualifiedName], departs: bool) -> Result<()> {
    let found = sql::document::<Facts>(&facts(tables, &[], &check::signature()?), &[])?;
    found.map_or(Ok(()), |facts| judge(&facts, LOCAL, departs))
}

/// Why changes could not be brought back to the sources: a trigger that fires for what a worker writes would have its effects
/// twice, once by the new partitions and once by the old tables. What the parent gave to a source goes from it at the switch,
/// and what a leaf has of its own was refused; a plain table keeps its triggers.
pub fn cannot_return(operation: &Operation) -> Result<Option<Report>> {
    let tables = operation.plan.sources.iter().flat_map(|source| &source.tables);
    let here =
        tables.filter(|table| table.node.as_deref() == Some(LOCAL) || table.nodes_below.iter().any(|at| at == LOCAL));
    let names: Vec<String> = here.map(|table| table.name.to_string()).collect();
    let found: Option<(String, String)> = transaction::run(|| {
        sql::document(
            "SELECT pg_catalog.json_build_array(t.tgname, t.tgrelid::pg_catalog.regclass::text)::text
             FROM pg_catalog.unnest($1::text[]) AS source (name)
             JOIN pg_catalog.pg_trigger t ON t.tgrelid = pg_catalog.to_regclass(source.name)::oid
             WHERE t.tgenabled IN ('A', 'R') AND NOT t.tgisinternal AND t.tgparentid = 0
             ORDER BY t.tgrelid, t.tgname LIMIT 1",
            &[names.into()],
        )
    })?;
    Ok(found.map(|(trigger, table)| {
        Report::new(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("trigger {} of table {table} fires for replicated changes too", ident(&trigger)),
        )
    }))
}

fn signature(operation: &Operation) -> &str {
    operation.staging.rsplit('_').next().unwrap_or_default()
}

fn facts(tables: &[QualifiedName], key: &[String], signature: &str) -> String {
    let names = tables.iter().map(|name| literal(&name.to_string())).collect::<Vec<_>>().join(", ");
    let key = key.iter().map(|name| literal(name)).collect::<Vec<_>>().join(", ");
    let those = |condition: &str| {
        format!(
            "(SELECT coalesce(json_agg(c.oid::regclass::text ORDER BY c.oid), '[]') FROM unnest(ARRAY[{names}]) AS n
                 JOIN pg_class c ON c.oid = n::regclass
                 LEFT JOIN pg_index x ON x.indrelid = c.oid AND CASE c.relreplident WHEN 'd' THEN x.indisprimary WHEN 'i' THEN x.indisreplident END
                 CROSS JOIN LATERAL (SELECT coalesce(array_agg(a.attname::text), '{{}}') AS names, coalesce(bool_or(a.attgenerated <> ''), false) AS computed
                     FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1])) AS identity
                 WHERE {condition})"
        )
    };
    let columns = |condition: &str| {
        format!(
            "(SELECT coalesce(json_agg(json_build_array(a.attname, c.oid::regclass::text, format_type(t.oid, NULL)) ORDER BY c.oid, a.attnum), '[]')
                 FROM unnest(ARRAY[{names}]) AS n JOIN pg_class c ON c.oid = n::regclass
                 JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
                 JOIN pg_type t ON t.oid = a.atttypid
                 JOIN pg_type b ON b.oid IN (t.oid, t.typbasetype, t.typelem)
                 WHERE {condition})"
        )
    };
    format!(
        "SELECT json_build_object('wal_level', current_setting('wal_level'),
             'slots', current_setting('max_replication_slots')::bigint, 'slots_used', (SELECT count(*) FROM pg_replication_slots WHERE NOT (temporary AND slot_name ~ '^shardkeeper_.*_now$')),
             'kept', (SELECT coalesce(json_agg(slot_name), '[]') FROM pg_replication_slots WHERE slot_name ~ '^shardkeeper_back_.*_{signature}$' AND wal_status IS DISTINCT FROM 'lost'),
             'may_replicate', rolreplication OR rolsuper,
             'may_publish', has_database_privilege(current_database(), 'CREATE'), 'role', rolname,
             'unlogged', {unlogged}, 'without_identity', {without}, 'untold_identity', {untold}, 'narrow_identity', {narrow}, 'hidden', {hidden},
             'without_binary', {without_binary}, 'homebound', {homebound})::text
         FROM pg_roles WHERE rolname = current_user",
        unlogged = those("c.relpersistence <> 'p'"),
        without = those("c.relreplident <> 'f' AND x.indexrelid IS NULL"),
        // From 18 on, Postgres refuses updates then; before, it leaves the column out.
        untold = those(
            "identity.computed OR c.relreplident = 'f' AND current_setting('server_version_num')::int >= 180000
                 AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated = 'v')"
        ),
        narrow = those(&format!("c.relreplident = 'i' AND NOT identity.names @> ARRAY[{key}]::text[]")),
        hidden = those("row_security_active(c.oid)"),
        without_binary = columns("b.typsend = 0 OR b.typreceive = 0"),
        homebound = columns("b.typnamespace = 'pg_catalog'::regnamespace AND b.typname LIKE 'reg%'"),
    )
}

/// What the operation would wait for on the server before it begins, as far as that can be seen when it is planned.
pub fn foreseen(node: &str, tables: &[QualifiedName], departs: bool) -> Result<Option<Report>> {
    let question = facts(tables, &[], &check::signature()?);
    let found = match node {
        LOCAL => sql::document::<Facts>(&question, &[])?,
        _ => Channel::open(node)?.document::<Facts>(&question)?,
    };
    Ok(found.and_then(|facts| judge(&facts, node, departs).err().map(Report::from)))
}

/// How a command is run on the server from here.
fn alter(node: &str, command: &str) -> String {
    match node {
        LOCAL => format!("Run {command};"),
        _ => format!(
            "Run SELECT * FROM shard_run_on_nodes({}, {});",
            literal(command),
            literal(&format!("{{{}}}", ident(node)))
        ),
    }
}

fn judge(facts: &Facts, node: &str, departs: bool) -> Result<()> {
    let server = if node == LOCAL { "the coordinator".to_string() } else { format!("node {}", ident(node)) };
    let lacking = |code, message: String, detail: String, hint: String| -> Result<()> {
        Report::new(code, message).detail(detail).hint(hint).into()
    };
    let state = Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
    if let Some(table) = facts.unlogged.first() {
        return lacking(
            state,
            format!("{table} on {server} is not logged"),
            "Postgres tells no changes of an unlogged table.".into(),
            format!(
                "{} or let writers wait, with mode => 'block_writes'.",
                alter(node, &format!("ALTER TABLE {table} SET LOGGED"))
            ),
        );
    }
    if let Some(table) = facts.without_identity.first() {
        return lacking(
            state,
            format!("{table} on {server} has no replica identity"),
            "Without one, Postgres would refuse updates and deletes while the data moves.".into(),
            format!(
                "{} or give it a primary key, or let writers wait, with mode => 'block_writes'.",
                alter(node, &format!("ALTER TABLE {table} REPLICA IDENTITY FULL"))
            ),
        );
    }
    if let Some(table) = facts.untold_identity.first() {
        return lacking(
            state,
            format!("the replica identity of {table} on {server} has a generated column"),
            "Postgres does not tell such columns of a row that was changed.".into(),
            "Identify its rows by ordinary columns: by a primary key, or ALTER TABLE … REPLICA IDENTITY USING INDEX … there.".into(),
        );
    }
    if let Some(table) = facts.narrow_identity.first() {
        return lacking(
            state,
            format!("the replica identity of {table} on {server} lacks a column of the partition key"),
            "Where a row belongs could not be told when it is changed.".into(),
            format!(
                "{} or DEFAULT, where the primary key has it.",
                alter(node, &format!("ALTER TABLE {table} REPLICA IDENTITY FULL"))
            ),
        );
    }
    if let Some(table) = facts.hidden.first().filter(|_| node != LOCAL) {
        return lacking(
            state,
            format!("row security hides rows of {table} on {server} from role {}", ident(&facts.role)),
            "All rows have to be read.".into(),
            format!("Run ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY; there, or give the role BYPASSRLS."),
        );
    }
    if let Some((column, table, data_type)) = facts.without_binary.first() {
        return lacking(
            Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("column {} of {table} on {server} cannot be copied", ident(column)),
            format!("Its type {data_type} has no binary form."),
            "Change the type of the column, for example to text.".into(),
        );
    }
    if let Some((column, table, data_type)) = facts.homebound.first().filter(|_| departs) {
        return lacking(
            Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("column {} of {table} on {server} cannot move to another server", ident(column)),
            format!("Values of type {data_type} are numbers that mean something on one server only."),
            "Change the type of the column to text.".into(),
        );
    }
    if facts.wal_level != "logical" {
        return lacking(
            state,
            format!("wal_level of {server} is {}", facts.wal_level),
            "Changes can be followed with wal_level = logical only.".into(),
            "Set wal_level = logical there and restart it.".into(),
        );
    }
    if facts.slots_used - facts.kept.len() as i64 >= facts.slots {
        return lacking(
            Code::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            format!("{server} has no free replication slot"),
            format!("All {} of max_replication_slots are used.", facts.slots),
            "Drop one that nobody needs, or raise max_replication_slots there and restart it.".into(),
        );
    }
    if node != LOCAL && !(facts.may_replicate && facts.may_publish) {
        let (database, role) = ("the database", ident(&facts.role));
        return lacking(
            Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("role {role} may not follow changes on {server}"),
            format!("It needs REPLICATION, and CREATE on {database}."),
            format!("Run there ALTER ROLE {role} REPLICATION; and GRANT CREATE ON DATABASE … TO {role};"),
        );
    }
    Ok(())
}

pub fn leaves_on<'a>(operation: &'a Operation, node: &'a str) -> impl Iterator<Item = &'a QualifiedName> {
    operation.plan.source_leaves().filter(move |(_, place)| *place == node).map(|(name, _)| name)
}
