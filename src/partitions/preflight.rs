//! What must be known of a node before anything is made there: does it fit, is there room, is nothing in the way.

use crate::error::{Report, Result};
use crate::name::{QualifiedName, ident, literal};
use crate::node::channel::Channel;
use crate::pg::sql;
use crate::table::definition::TableDefinition;
use crate::table::newer_features;
use crate::table::required_types::{self, Preparation};
use pgrx::PgSqlErrorCode as Code;
use serde::Deserialize;
use shardkeeper_core::plan::LOCAL;

#[derive(Debug, Deserialize)]
pub struct Preflight {
    pub version: i32,
    pub has_schema: bool,
    pub may_create: bool,
    pub owns_schema: bool,
    pub existing: Vec<String>,
    /// Those of `existing` that are partitions of the parent's mirror.
    mirrored: Vec<String>,
    /// Names of statistics objects that are taken.
    pub statistics: Vec<String>,
    pub tablespaces: Vec<String>,
    pub role: String,
    pub room: i64,
    pub setting: i64,
    /// What the tables need there and is missing.
    #[serde(skip)]
    pub needs: Preparation,
}

/// How many objects a call makes on one server.
#[derive(Debug, Clone, Copy, Default)]
pub struct Load {
    pub leaves: usize,
    pub foreign: usize,
    pub partitioned: usize,
}

impl Load {
    /// Entries in the lock table that the call holds until it commits: each new relation is locked, a table's TOAST
    /// relation and its index too.
    fn locks(self, table: &TableDefinition, unique_keys: bool) -> i64 {
        let indexes = table.keys.iter().filter(|key| unique_keys || !key.unique).count();
        let leaf = 1 + table.keys.len() + if table.has_toast { 2 } else { 0 };
        (self.leaves * leaf + self.foreign + self.partitioned * (1 + indexes)) as i64
    }
}

/// Asks the node, and refuses what would fail there later.
pub fn check_node(node: &str, table: &TableDefinition, new_tables: &[String], load: Load) -> Result<Preflight> {
    // They come with the mirror's own table.
    let is_whole = new_tables.contains(&table.name.name);
    let statistics = table.statistics.iter().filter(|s| is_whole && s.name.schema == table.name.schema);
    let statistics: Vec<&str> = statistics.map(|s| s.name.name.as_str()).collect();
    let query = question(&table.name, new_tables.iter().map(String::as_str), &statistics);
    let Some(mut survey) = Channel::open(node)?.document::<Preflight>(&query)? else {
        return Report::new(Code::ERRCODE_FDW_ERROR, format!("node {} did not answer", ident(node))).into();
    };
    let (channel, node) = (node, ident(node));
    if survey.version < 150_000 {
        return Report::new(Code::ERRCODE_FEATURE_NOT_SUPPORTED, format!("node {node} runs a server older than 15"))
            .detail(format!("Its server_version_num is {}.", survey.version))
            .into();
    }
    newer_features::refuse(channel, survey.version, table)?;
    if let Some(name) = survey.mirrored.first().filter(|_| !is_whole) {
        return Report::new(
            Code::ERRCODE_DUPLICATE_TABLE,
            format!("relation {} already exists on node {node}", table.name.sibling(name.clone())),
        )
        .detail(format!("It is a partition of {} there, and may have rows; here it was dropped by hand.", table.name))
        .hint(format!(
            "Leave it there: SELECT * FROM shard_check({}) says how it comes back. If it comes from a call that failed seconds ago, it goes away by itself.",
            literal(&table.name.to_string())
        ))
        .into();
    }
    if let Some(name) = survey.existing.first() {
        let name = QualifiedName::new(table.name.schema.clone(), name.clone());
        return Report::new(Code::ERRCODE_DUPLICATE_TABLE, format!("relation {name} already exists on node {node}"))
            .detail(format!("Names to be used that are taken there: {}.", survey.existing.len()))
            .hint(format!("Rename or drop it there. If it comes from a call that failed seconds ago, it goes away by itself; if from a coordinator that is gone, see SELECT * FROM shard_plan_reset_node({}).", literal(channel)))
            .into();
    }
    if let Some(name) = survey.statistics.first() {
        let name = table.name.sibling(name.clone());
        return Report::new(
            Code::ERRCODE_DUPLICATE_OBJECT,
            format!("statistics object {name} already exists on node {node}"),
        )
        .detail(format!("The one of {} would get its name.", table.name))
        .hint(format!("There, run ALTER STATISTICS {name} RENAME TO …; or DROP STATISTICS {name};"))
        .into();
    }
    if !survey.may_create {
        return Report::new(
            Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!(
                "role {} may not create tables in schema {} on node {node}",
                ident(&survey.role),
                ident(&table.name.schema)
            ),
        )
        .hint(format!(
            "On that server run GRANT CREATE ON {} TO {};",
            if survey.has_schema {
                format!("SCHEMA {}", ident(&table.name.schema))
            } else {
                "DATABASE …".to_string()
            },
            ident(&survey.role)
        ))
        .into();
    }
    room(&format!("node {node}"), survey.room, survey.setting, load.locks(table, true))?;
    survey.needs = required_types::prepare(channel, table.oid(), &table.name.schema, survey.has_schema)?;
    Ok(survey)
}

/// The same for the coordinator, where names are only checked for those that the rebuilt table does not free itself.
pub fn check_local(table: &TableDefinition, new_tables: &[String], load: Load, mixed: bool) -> Result<()> {
    let query = question(&table.name, new_tables.iter().map(String::as_str), &[]);
    let Some(survey) = sql::document::<Preflight>(&query, &[])? else { return Ok(()) };
    if let Some(name) = survey.existing.first() {
        return Report::new(
            Code::ERRCODE_DUPLICATE_TABLE,
            format!("relation {} already exists", table.name.sibling(name.clone())),
        )
        .detail(format!("Names of partitions that are taken: {}.", survey.existing.len()))
        .hint("Rename it, or give the partitions other names with \"name\" in the spec.")
        .into();
    }
    room(LOCAL, survey.room, survey.setting, load.locks(table, !mixed))
}

fn room(server: &str, room: i64, setting: i64, needed: i64) -> Result<()> {
    if needed <= room {
        return Ok(());
    }
    let enough = ((needed + 500) as f64 * setting as f64 / room.max(1) as f64).ceil() as i64;
    Report::new(
        Code::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        format!("the lock table of {server} is too small for this many partitions in one transaction"),
    )
    .detail(format!("The call needs {needed} locks there, and the server has room for {room}, with max_locks_per_transaction = {setting}."))
    .hint(format!("Set max_locks_per_transaction to {enough} or more there and restart it, or make fewer partitions now and the others with shard_add_partition in further transactions."))
    .into()
}

fn question<'a>(root: &QualifiedName, names: impl Iterator<Item = &'a str>, statistics: &[&str]) -> String {
    let names = names.map(literal).collect::<Vec<_>>().join(", ");
    let statistics = statistics.iter().map(|name| literal(name)).collect::<Vec<_>>().join(", ");
    let (schema, root) = (literal(&root.schema), literal(&root.to_string()));
    format!(
        "SELECT json_build_object(
            'version', current_setting('server_version_num')::int,
            'has_schema', n.oid IS NOT NULL,
            'may_create', CASE WHEN n.oid IS NULL THEN has_database_privilege(current_database(), 'CREATE')
                               ELSE has_schema_privilege(n.oid, 'CREATE') END,
            'owns_schema', coalesce(pg_has_role(n.nspowner, 'USAGE'), true),
            'existing', (SELECT coalesce(json_agg(relname), '[]') FROM pg_class
                         WHERE relnamespace = n.oid AND relname = ANY (ARRAY[{names}]::name[])),
            'mirrored', (SELECT coalesce(json_agg(relname ORDER BY relname), '[]') FROM pg_class
                         WHERE relnamespace = n.oid AND relname = ANY (ARRAY[{names}]::name[]) AND relispartition
                           AND to_regclass({root}) IN (SELECT pg_partition_ancestors(oid))),
            'statistics', (SELECT coalesce(json_agg(stxname), '[]') FROM pg_statistic_ext
                           WHERE stxnamespace = n.oid AND stxname = ANY (ARRAY[{statistics}]::name[])),
            'tablespaces', (SELECT json_agg(spcname) FROM pg_tablespace),
            'role', current_user,
            'setting', current_setting('max_locks_per_transaction')::bigint,
            'room', current_setting('max_locks_per_transaction')::bigint
                * (current_setting('max_connections')::bigint + current_setting('max_worker_processes')::bigint
                   + current_setting('max_wal_senders')::bigint + current_setting('max_prepared_transactions')::bigint + 1
                   + coalesce(current_setting('autovacuum_worker_slots', true), current_setting('autovacuum_max_workers'))::bigint)
                - (SELECT count(*) FROM pg_locks WHERE NOT fastpath))::text
         FROM (SELECT 1) AS one LEFT JOIN pg_namespace n ON n.nspname = {schema}"
    )
}
