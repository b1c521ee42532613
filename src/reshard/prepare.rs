//! The first step: everything is checked, the stage is built, and, unless writers will wait, changes of the sources begin to
//! be kept.

use super::place::{BRIEF, Place};
use super::stage::Stage;
use super::subject::Subject;
use super::trouble::{Step, fail};
use super::{sweep, switch};
use crate::catalog::operation::Operation;
use crate::catalog::parent;
use crate::error::{Error, Report, Result};
use crate::hierarchy::build::Blueprint;
use crate::hierarchy::create::{self, create_schema, discard, fitted};
use crate::hierarchy::grants;
use crate::hierarchy::managed::Managed;
use crate::hierarchy::script::Script;
use crate::hierarchy::survey::{self, Load, Survey};
use crate::hierarchy::way::Way;
use crate::name::{QualifiedName, ident, literal};
use crate::node::own;
use crate::pg::{deadline, role, sql, transaction};
use pgrx::PgSqlErrorCode as Code;
use serde::Deserialize;
use shardkeeper_core::operation::Mode;
use shardkeeper_core::plan::LOCAL;
use std::time::Duration;

/// A slot waits for the transactions that run when it is made.
const SLOT_PATIENCE: Duration = Duration::from_secs(15);

pub fn prepare(operation: &Operation) -> Step {
    let follows = operation.mode == Mode::Online;
    if !follows {
        // The way back of a switch that was half made leads through what is removed here.
        switch::undo_halves(operation)?;
    }
    sweep::way_back(operation)?;
    sweep::stage(operation)?;
    if !operation.converts() {
        as_planned(operation)?;
    }
    let stage = Stage::read(operation)?;
    for node in operation.plan.source_nodes().iter().filter(|_| follows) {
        check_source(operation, &stage, node)?;
    }
    build_here(operation, &stage)?;
    for node in operation.plan.target_nodes().iter().filter(|node| *node != LOCAL) {
        build_on(operation, &stage, node)?;
    }
    for node in operation.plan.source_nodes().iter().filter(|_| follows) {
        let tables: Vec<QualifiedName> = leaves_on(operation, node).cloned().collect();
        publish(operation, node, &operation.stage, &tables)?;
    }
    Ok(())
}

/// The partitions are still those that the plan was made for.
fn as_planned(operation: &Operation) -> Step {
    let managed = transaction::run(|| role::acting_as(operation.role(), || Managed::read(operation.parent())))?;
    for table in operation.plan.sources.iter().flat_map(|source| &source.tables) {
        let found = managed.members.iter().find(|member| member.name == table.name);
        let same = found.is_some_and(|member| {
            member.is_leaf() == table.node.is_some() && table.node.as_deref().is_none_or(|node| node == member.node())
        });
        if !same {
            return fail(
                Report::new(
                    Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!("partition {} is not what it was when the operation was called for", table.name),
                )
                .hint("Call for the operation again."),
            );
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct Facts {
    wal_level: String,
    slots: i64,
    slots_used: i64,
    may_replicate: bool,
    may_publish: bool,
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
fn check_source(operation: &Operation, stage: &Stage, node: &str) -> Step {
    let names: Vec<QualifiedName> = leaves_on(operation, node).cloned().collect();
    let key = match operation.plan.target_nodes().len() {
        // There is no choice of servers to be made.
        1 => Vec::new(),
        _ => stage.key_columns(),
    };
    let found = own::wait(async {
        let mut place = Place::open(node, operation.role(), BRIEF).await?;
        place.document::<Facts>(&facts(&names, &key), &[]).await
    })?;
    let departs = operation.plan.target_nodes().iter().any(|target| target != node);
    Ok(found.map_or(Ok(()), |facts| judge(&facts, node, departs))?)
}

/// Why changes of these tables on the server could not be followed beside the operation; the next operation shall find a
/// slot too.
pub fn cannot_follow(operation: &Operation, node: &str, tables: &[QualifiedName]) -> Step<Option<Report>> {
    let key = match operation.plan.source_nodes().len() {
        1 => Vec::new(),
        _ => Stage::read(operation)?.key_columns(),
    };
    let found = own::wait(async {
        let mut place = Place::open(node, operation.role(), BRIEF).await?;
        place.document::<Facts>(&facts(tables, &key), &[]).await
    })?;
    let Some(mut facts) = found else { return Ok(None) };
    facts.slots -= 1;
    let departs = operation.plan.source_nodes().iter().any(|source| source != node);
    Ok(judge(&facts, node, departs).err().map(Report::from))
}

/// The same for tables of the coordinator, in the caller's transaction. `departs`: some rows go to other servers.
///
/// Errors: 55000 no replica identity, or `wal_level` is not logical; 54000 all replication slots are used.
pub fn check_here(tables: &[QualifiedName], departs: bool) -> Result<()> {
    let found = sql::document::<Facts>(&facts(tables, &[]), &[])?;
    found.map_or(Ok(()), |facts| judge(&facts, LOCAL, departs))
}

fn facts(tables: &[QualifiedName], key: &[String]) -> String {
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
             'slots', current_setting('max_replication_slots')::bigint, 'slots_used', (SELECT count(*) FROM pg_replication_slots),
             'may_replicate', rolreplication OR rolsuper,
             'may_publish', has_database_privilege(current_database(), 'CREATE'), 'role', rolname,
             'without_identity', {without}, 'untold_identity', {untold}, 'narrow_identity', {narrow}, 'hidden', {hidden},
             'without_binary', {without_binary}, 'homebound', {homebound})::text
         FROM pg_roles WHERE rolname = current_user",
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

fn judge(facts: &Facts, node: &str, departs: bool) -> Result<()> {
    let server = if node == LOCAL { "the coordinator".to_string() } else { format!("node {}", ident(node)) };
    let lacking = |code, message: String, detail: String, hint: String| -> Result<()> {
        Report::new(code, message).detail(detail).hint(hint).into()
    };
    let state = Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
    if let Some(table) = facts.without_identity.first() {
        return lacking(
            state,
            format!("{table} on {server} has no replica identity"),
            "Without one, Postgres would refuse updates and deletes while the data moves.".into(),
            format!("Give the table a primary key, or run ALTER TABLE {table} REPLICA IDENTITY FULL; there."),
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
            format!("Run ALTER TABLE {table} REPLICA IDENTITY DEFAULT; or FULL; there."),
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
    if facts.slots_used >= facts.slots {
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

fn leaves_on<'a>(operation: &'a Operation, node: &'a str) -> impl Iterator<Item = &'a QualifiedName> {
    operation.plan.source_leaves().filter(move |(_, place)| *place == node).map(|(name, _)| name)
}

fn build_here(operation: &Operation, stage: &Stage) -> Result<()> {
    let commands = stage.local_commands();
    transaction::run(|| {
        // The owner may have no right to make schemas; what is in it is the owner's.
        let owner = role::name(operation.role())?;
        sql::run(&format!("CREATE SCHEMA {} AUTHORIZATION {}", ident(&operation.stage), ident(&owner)), &[])?;
        role::acting_as(operation.role(), || sql::run_quietly(&commands.join(";\n")))
    })
}

fn build_on(operation: &Operation, stage: &Stage, node: &str) -> Result<()> {
    let survey = if operation.converts() { look(operation, node)? } else { way(operation, node)? };
    // Others get their rights at the switch.
    let commands = stage.node_commands(node, &survey);
    own::wait(async {
        let mut place = Place::open(node, operation.role(), BRIEF).await?;
        place.run(&commands.join(";\n")).await
    })
}

/// Where a whole mirror will be made, nothing is in the way.
fn look(operation: &Operation, node: &str) -> Result<Survey> {
    transaction::run(|| {
        let subject = Subject::read(operation)?;
        role::acting_as(operation.role(), || create::survey_on(&subject.table, &operation.plan.target_tree(), node))
    })
}

/// The mirror on the node down to the table whose partitions change, in one transaction with the coordinator's catalog.
pub fn way(operation: &Operation, node: &str) -> Result<Survey> {
    transaction::run(|| {
        role::acting_as(operation.role(), || {
            let (managed, _) = Managed::open(operation.parent())?;
            let plan = &operation.plan;
            let Some(above) = managed.members.iter().find(|member| member.name == plan.above) else {
                return parent::not_managed(operation.parent());
            };
            let way = Way { managed: &managed, above, labels: &plan.labels };
            let missing = way.missing_on(node)?;
            let names: Vec<String> = missing.iter().map(|(member, _)| member.name.name.clone()).collect();
            let load = Load { leaves: 0, foreign: 0, partitioned: names.len() };
            let survey = survey::check_node(node, &managed.table, &names, load)?;
            let Some((first, _)) = missing.first() else { return Ok(survey) };
            let table = fitted(&managed.table, &survey);
            let keys = managed.keys()?;
            let blueprint = Blueprint { table: &table, keys: &keys, mixed: true };
            let mut commands = Vec::new();
            if !survey.has_schema {
                commands.extend(create_schema(&table.name.schema));
            }
            commands.extend(way.make(&blueprint, &missing)?);
            let made: Vec<QualifiedName> = missing.iter().map(|(member, _)| member.name.clone()).collect();
            let rights = grants::wanted(managed.root, node)?;
            commands.extend(grants::commands(&rights, &survey.role, survey.owns_schema, &made)?);
            let away = discard(&first.name);
            let inverse = match first.parent() {
                Some(parent) => {
                    let parent = &managed.member(parent)?.name;
                    format!("ALTER TABLE {parent} DETACH PARTITION {};\n{away}", first.name)
                }
                None => away,
            };
            let mut script = Script::default();
            script.on_node(node, commands, inverse);
            script.run()?;
            parent::add_mirror(managed.root, node, &rights)?;
            Ok(survey)
        })
    })
}

/// From here on, all changes of the sources on this server are kept until the operation is over.
///
/// Under `name`, by a publication of these tables and a slot.
pub fn publish(operation: &Operation, node: &str, name: &str, tables: &[QualifiedName]) -> Result<()> {
    let told = own::wait(async {
        let mut place = Place::open(node, operation.role(), BRIEF).await?;
        place.document::<bool>(&tells_computed(tables), &[]).await
    })?;
    let how = if told == Some(true) { " WITH (publish_generated_columns = stored)" } else { "" };
    let tables = tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let publication = format!("CREATE PUBLICATION {} FOR TABLE {tables}{how}", ident(name));
    let slot = format!(
        "SELECT slot_name::text FROM pg_catalog.pg_create_logical_replication_slot({}, 'pgoutput')",
        literal(name)
    );
    let made = if node == LOCAL {
        // As the server's own superuser: the owner need not have REPLICATION.
        transaction::run(|| sql::run_quietly(&publication))?;
        transaction::run(|| {
            let _deadline = deadline::deadline(SLOT_PATIENCE);
            // Only a transaction without an id of its own can make a slot. It waits for the ends of transactions, which
            // count as locks.
            sql::one_without_id::<String>("SELECT pg_catalog.set_config('lock_timeout', '0', true)", &[])?;
            sql::one_without_id::<String>(&slot, &[]).map(|_| ())
        })
    } else {
        own::wait(async {
            let mut place = Place::open(node, operation.role(), BRIEF).await?;
            place.run(&publication).await?;
            place.run("SET lock_timeout = 0").await?;
            place.run(&slot).await
        })
    };
    made.map_err(|error| explain(operation, node, error))
}

/// From Postgres 18 on, whole rows can be told only with what is computed in them; without, writers would be refused.
fn tells_computed(tables: &[QualifiedName]) -> String {
    let names = tables.iter().map(|table| literal(&table.to_string())).collect::<Vec<_>>().join(", ");
    format!(
        "SELECT (current_setting('server_version_num')::int >= 180000 AND EXISTS (
             SELECT FROM unnest(ARRAY[{names}]) AS n JOIN pg_class c ON c.oid = n::regclass
             JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relreplident = 'f' AND a.attgenerated = 's'))::text"
    )
}

/// A slot that was waited for in vain waited for an old transaction.
fn explain(operation: &Operation, node: &str, error: Error) -> Error {
    let report = Report::from(error);
    if report.code == Code::ERRCODE_QUERY_CANCELED { blocked(operation, node) } else { report.into() }
}

/// An old transaction is in the way; which one, as far as can be told.
pub fn blocked(operation: &Operation, node: &str) -> Error {
    let query = "SELECT json_build_object('who', who, 'since', to_char(since, 'YYYY-MM-DD HH24:MI:SS TZ'), 'role', role)::text FROM (
             SELECT 'process ' || pid, xact_start, usename, backend_xid FROM pg_stat_activity
             WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
             UNION ALL SELECT 'prepared transaction ' || quote_literal(gid), prepared, owner, transaction FROM pg_prepared_xacts
         ) AS open (who, since, role, xid) ORDER BY age(xid) DESC LIMIT 1";
    #[derive(Deserialize)]
    struct Blocker {
        who: String,
        since: Option<String>,
        role: Option<String>,
    }
    let found = own::wait(async {
        let mut place = Place::open(node, operation.role(), BRIEF).await?;
        place.document::<Blocker>(query, &[]).await
    });
    let waited = Report::new(
        Code::ERRCODE_OBJECT_IN_USE,
        format!("an open transaction on node {} is in the way of a consistent start", ident(node)),
    );
    match found {
        Ok(Some(Blocker { who, since, role })) => waited
            .detail(format!(
                "The oldest one is of {who}, role {}, since {}.",
                role.unwrap_or_default(),
                since.unwrap_or_default()
            ))
            .hint("It goes on by itself when that transaction ends."),
        _ => waited.hint("It goes on by itself when that transaction ends."),
    }
    .into()
}
