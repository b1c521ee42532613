//! The comparison: sources under one snapshot each, and targets that have exactly the transactions which these snapshots
//! see. Nothing is locked; writers go on, and what they do meanwhile is applied afterwards.

use super::apply::Applier;
use super::apply::slot;
use super::apply::target::Column;
use super::outcome::{Step, halt};
use super::server;
use super::{copy, lock_holders};
use crate::catalog::operation::Operation;
use crate::error::{Error, Report, Result};
use crate::name::{QualifiedName, ident};
use crate::node::session::{self, Session};
use crate::pg::{sql, transaction};
use pgrx::PgSqlErrorCode as Code;
use serde::Deserialize;
use shardkeeper_core::plan::LOCAL;
use shardkeeper_core::snapshot::Snapshot;
use std::collections::{BTreeMap, HashMap};

const BUCKETS: u32 = 1024;
/// Keys that an error names.
const NAMED: usize = 3;
/// Two transactions can commit in one order and be seen in the other, for a moment: then another snapshot is taken.
const ATTEMPTS: usize = 20;

/// Compares; on return the targets equal the sources as they were a moment ago.
pub fn verify(operation: &Operation) -> Step {
    for _ in 0..ATTEMPTS {
        // What was applied already must be seen by the snapshots too, and a commit is in the log before others see it.
        for node in operation.plan.source_nodes() {
            lock_holders::wait_until_quiet(operation, &node)?;
        }
        let sources: Vec<&QualifiedName> = operation.plan.source_leaves().map(|(name, _)| name).collect();
        if transaction::run_repeatable_read(&copy::local(operation, &sources)?, || compare(operation))? {
            return Ok(());
        }
    }
    Err(Error::from(Report::new(
        Code::ERRCODE_OBJECT_IN_USE,
        "no snapshot of the sources had its transactions in the order of their commits",
    ))
    .into())
}

/// Compares while nobody can write to the sources, within the transaction that keeps writers out.
pub fn verify_locked(operation: &Operation) -> Step {
    let mut applier = Applier::open(operation)?;
    let (mut views, _) = views(operation)?;
    differ(operation, &mut applier, &mut views)?;
    // Their locks are in the way of the switch.
    let sessions = views.values_mut().filter_map(|view| view.session.as_mut());
    for session in sessions.chain(applier.targets.iter_mut().filter_map(|target| target.session.as_mut())) {
        session::wait(session.run("ROLLBACK"))?;
    }
    Ok(())
}

/// A source server's snapshot and the session that has it; `None` is the worker's own transaction.
struct View {
    session: Option<Session>,
}

/// What each source server shows now, and as which snapshot.
fn views(operation: &Operation) -> Result<(BTreeMap<String, View>, BTreeMap<String, Snapshot>)> {
    const SNAPSHOT: &str = "SELECT pg_catalog.pg_current_snapshot()::text";
    let (mut views, mut snapshots) = (BTreeMap::new(), BTreeMap::new());
    for node in operation.plan.source_nodes() {
        let (session, text) = match node.as_str() {
            LOCAL => (None, sql::one::<String>(SNAPSHOT, &[])?),
            _ => {
                let mut session = server::session(operation, &node)?;
                let leaves = operation.plan.source_leaves().filter(|(_, place)| *place == node);
                let leaves: Vec<String> = leaves.map(|(leaf, _)| format!("ONLY {leaf}")).collect();
                // The locks first: TRUNCATE would take rows away from under the snapshot.
                let begin = format!(
                    "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; LOCK TABLE {} IN ACCESS SHARE MODE",
                    leaves.join(", ")
                );
                let text = session::wait(async {
                    session.run(&begin).await?;
                    session.one::<String>(SNAPSHOT, &[]).await
                })?;
                (Some(session), text)
            }
        };
        let Some(snapshot) = text.and_then(|text| text.parse().ok()) else {
            return Report::new(Code::ERRCODE_INTERNAL_ERROR, "the server told no snapshot").into();
        };
        snapshots.insert(node.clone(), snapshot);
        views.insert(node, View { session });
    }
    Ok((views, snapshots))
}

/// `false` when the snapshots cannot be used.
fn compare(operation: &Operation) -> Step<bool> {
    let mut applier = Applier::open(operation)?;
    let (mut views, snapshots) = views(operation)?;
    applier.as_of = snapshots;
    for node in operation.plan.source_nodes() {
        slot::claim(operation, &node, applier.sources.get_mut(&node).and_then(Option::as_mut))?;
        slot::end_of_log(applier.sources.get_mut(&node).and_then(Option::as_mut))?;
        if !applier.up_to_date(operation, &node)? {
            return Ok(false);
        }
    }
    differ(operation, &mut applier, &mut views)?;
    Ok(true)
}

/// Ends with an error where sources and targets differ.
fn differ(operation: &Operation, applier: &mut Applier, views: &mut BTreeMap<String, View>) -> Step {
    let expressions = Expressions::of(operation, applier)?;
    let mut differences: HashMap<u32, (i64, i128)> = HashMap::new();
    for (leaf, node) in operation.plan.source_leaves() {
        let session = views.get_mut(node).and_then(|view| view.session.as_mut());
        for bucket in ask::<Bucket>(session, &expressions.buckets(leaf))? {
            let entry = differences.entry(bucket.bucket).or_default();
            *entry = (entry.0.wrapping_add(bucket.rows), entry.1.wrapping_add(bucket.sum()?));
        }
    }
    for (leaf, node) in target_leaves(operation) {
        for bucket in ask::<Bucket>(session_of(applier, &node)?, &expressions.buckets(&leaf))? {
            let entry = differences.entry(bucket.bucket).or_default();
            *entry = (entry.0.wrapping_sub(bucket.rows), entry.1.wrapping_sub(bucket.sum()?));
        }
    }
    let differing = differences.iter().filter(|(_, difference)| **difference != (0, 0)).map(|(bucket, _)| *bucket);
    match differing.min() {
        None => Ok(()),
        Some(bucket) => name_keys(operation, applier, views, &expressions, bucket),
    }
}

fn session_of<'a>(applier: &'a mut Applier, node: &str) -> Result<Option<&'a mut Session>> {
    let target = applier.targets.iter_mut().find(|target| target.node == node);
    let Some(session) = target.and_then(|target| target.session.as_mut()) else { return Ok(None) };
    session::wait(session.run("ROLLBACK; BEGIN"))?;
    Ok(Some(session))
}

fn target_leaves(operation: &Operation) -> Vec<(QualifiedName, String)> {
    let tree = operation.plan.target_tree();
    let leaf = |leaf: &shardkeeper_core::plan::Partition| {
        (operation.staged(&leaf.name), leaf.node.clone().unwrap_or_else(|| LOCAL.to_string()))
    };
    tree.leaves().map(leaf).collect()
}

#[derive(Debug, Deserialize)]
struct Bucket {
    bucket: u32,
    rows: i64,
    sum: String,
}

impl Bucket {
    fn sum(&self) -> Result<i128> {
        self.sum.parse().map_err(|_| {
            Report::new(Code::ERRCODE_INTERNAL_ERROR, format!("a checksum cannot be read: {}", self.sum)).into()
        })
    }
}

/// What rows are hashed by.
struct Expressions {
    key: String,
    row: String,
}

impl Expressions {
    fn of(operation: &Operation, applier: &Applier) -> Result<Self> {
        let key = identity(operation, &applier.table.columns)?;
        let list = |columns: &[&Column]| columns.iter().map(|c| ident(&c.name)).collect::<Vec<_>>().join(", ");
        let all: Vec<&Column> = applier.table.columns.iter().collect();
        Ok(Self { key: format!("ROW({})::text", list(&key)), row: format!("ROW({})::text", list(&all)) })
    }

    fn bucket(&self) -> String {
        format!("(pg_catalog.hashtextextended({}, 0) & {})", self.key, BUCKETS - 1)
    }

    fn buckets(&self, table: &QualifiedName) -> String {
        format!(
            "SELECT json_build_object('bucket', b, 'rows', n, 'sum', s::text)::text FROM (
                 SELECT {} AS b, count(*) AS n, sum(pg_catalog.hashtextextended({}, 1)::numeric) AS s FROM ONLY {table} GROUP BY 1) AS sums",
            self.bucket(),
            self.row
        )
    }

    fn rows(&self, table: &QualifiedName, bucket: u32) -> String {
        format!(
            "SELECT json_build_array({key}, pg_catalog.hashtextextended({row}, 1)::text)::text FROM ONLY {table} WHERE {} = {bucket} LIMIT 200000",
            self.bucket(),
            key = self.key,
            row = self.row
        )
    }
}

/// The columns of the primary key, or all.
fn identity<'a>(operation: &Operation, columns: &'a [Column]) -> Result<Vec<&'a Column>> {
    let keys = super::convert::source_table::OperationTable::read(operation)?.table.keys;
    let primary = keys.iter().find(|key| key.primary);
    Ok(match primary {
        Some(key) => columns.iter().filter(|column| key.columns.contains(&column.name)).collect(),
        None => columns.iter().collect(),
    })
}

fn ask<T: serde::de::DeserializeOwned>(session: Option<&mut Session>, query: &str) -> Result<Vec<T>> {
    match session {
        // As the worker itself: row security could hide rows from their owner. What it runs is Postgres's own.
        None => sql::column::<String>(query, &[])?.iter().map(|text| Ok(serde_json::from_str(text)?)).collect(),
        Some(session) => session::wait(session.documents(query, &[])),
    }
}

/// Ends with the error that names the first keys of a bucket that differs.
fn name_keys(
    operation: &Operation,
    applier: &mut Applier,
    views: &mut BTreeMap<String, View>,
    expressions: &Expressions,
    bucket: u32,
) -> Step {
    let mut wanted: BTreeMap<(String, String), i64> = BTreeMap::new();
    for (leaf, node) in operation.plan.source_leaves() {
        let session = views.get_mut(node).and_then(|view| view.session.as_mut());
        for row in ask::<(String, String)>(session, &expressions.rows(leaf, bucket))? {
            *wanted.entry(row).or_default() += 1;
        }
    }
    for (leaf, node) in target_leaves(operation) {
        for row in ask::<(String, String)>(session_of(applier, &node)?, &expressions.rows(&leaf, bucket))? {
            *wanted.entry(row).or_default() -= 1;
        }
    }
    let mut keys: BTreeMap<&str, i64> = BTreeMap::new();
    for ((key, _), difference) in wanted.iter().filter(|(_, difference)| **difference != 0) {
        *keys.entry(key).or_default() += difference;
    }
    let told = keys.iter().take(NAMED).map(|(key, difference)| match difference {
        0 => format!("{key} differs"),
        1.. => format!("{key} is missing in the copy"),
        _ => format!("{key} is in the copy only"),
    });
    halt(
        Report::new(Code::ERRCODE_DATA_CORRUPTED, format!("the copy of {} is not equal to it", operation.plan.above))
            .detail(format!("Keys of the first part that differs: {}.", told.collect::<Vec<_>>().join("; ")))
            .hint(format!(
                "Nothing was switched. Find out who wrote to the schema {} on the nodes, and run SELECT shard_cancel({});",
                ident(&operation.staging),
                operation.id
            )),
    )
}
