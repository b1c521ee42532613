//! One server that gets rows: changes collected for it, and brought there in transactions that note how far they came.

mod handed;
mod statements;

pub use handed::Change;

use crate::catalog::operation::Operation;
use crate::catalog::progress;
use crate::error::Result;
use crate::name::{QualifiedName, literal};
use crate::node::session::{self, Session};
use crate::pg::{role, sql};
use crate::reshard::outcome::Step;
use crate::reshard::server;
use pgrx::pg_sys::Oid;
use serde::Deserialize;
use shardkeeper_core::apply::{ApplyError, Batch, Outcome};
use shardkeeper_core::pgoutput::Value;
use shardkeeper_core::snapshot::Snapshot;
use shardkeeper_core::{Lsn, plan::LOCAL};
use std::collections::BTreeMap;

/// Changes that are collected before they are sent.
const MOST_CHANGES: usize = 5_000;
const MOST_BYTES: usize = 4 << 20;

/// A column that holds data of its own, with its type as SQL.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub data_type: String,
}

/// The table that takes the rows: the staged tree's root, the same on every server.
#[derive(Debug, Clone)]
pub struct Table {
    pub name: QualifiedName,
    pub columns: Vec<Column>,
    /// Columns that each server computes by itself.
    pub generated: Vec<String>,
    /// The places of the columns of the primary key, if there is a usable one.
    pub primary: Vec<usize>,
    /// There is another unique key, which updates one after the other could violate on the way.
    pub contested: bool,
    /// The coordinator's own.
    pub oid: Oid,
    pub role: Oid,
}

/// What a server has already.
#[derive(Debug, Default)]
pub struct Brought {
    /// The snapshot that each source was copied under, by its name.
    pub copied: BTreeMap<String, Snapshot>,
    /// How far each stream was applied, by the node that it comes from.
    pub applied: BTreeMap<String, Lsn>,
}

pub struct Target {
    pub node: String,
    /// `None` is the coordinator: what is done there is part of the worker's transaction.
    pub session: Option<Session>,
    pub brought: Brought,
    table: Table,
    /// What rows are looked for in. On a node the staged root; here the local leaves, as through the root each statement
    /// would reach the other servers too, by sessions that know nothing of ours.
    places: Vec<QualifiedName>,
    progress: String,
    operation: i64,
    begun: bool,
    batch: Option<Batch>,
    /// Old rows are told whole, as nothing shorter identifies them: changes are applied one by one.
    full: bool,
    key: Vec<usize>,
    bytes: usize,
    /// Per stream, the last commit of which values were handed over, if there was one since they were all forgotten.
    handed: BTreeMap<String, Option<Lsn>>,
}

#[derive(Deserialize)]
struct ProgressRow {
    source: String,
    snapshot: Option<String>,
    lsn: Option<String>,
}

impl Target {
    /// Opens the way to the server. Within a transaction.
    pub fn open(operation: &Operation, node: &str, table: &Table) -> Result<Self> {
        let session = match node {
            LOCAL => None,
            _ => Some(server::session(operation, node)?),
        };
        Ok(Self {
            node: node.to_string(),
            session,
            brought: Brought::default(),
            table: table.clone(),
            places: match node {
                LOCAL => local_leaves(operation),
                _ => vec![table.name.clone()],
            },
            progress: progress::table(operation, node),
            operation: operation.id,
            begun: false,
            batch: None,
            full: false,
            key: Vec::new(),
            bytes: 0,
            handed: BTreeMap::new(),
        })
    }

    /// Reads again what is there: after an error, what this process believes may be wrong.
    pub fn read_progress(&mut self) -> Result<()> {
        let query = format!(
            "SELECT json_build_object('source', source, 'snapshot', snapshot, 'lsn', lsn)::text FROM {} WHERE operation = $1 AND handed IS NULL",
            self.progress
        );
        let rows: Vec<ProgressRow> = match &mut self.session {
            None => sql::documents(&query, &[self.operation.into()])?,
            Some(session) => session::wait(session.documents(&query, &[&self.operation]))?,
        };
        self.brought = Brought::default();
        for ProgressRow { source, snapshot, lsn } in rows {
            match (snapshot.and_then(|text| text.parse().ok()), lsn.and_then(|text| text.parse().ok())) {
                (Some(snapshot), _) => drop(self.brought.copied.insert(source, snapshot)),
                (None, Some(lsn)) => drop(self.brought.applied.insert(source, lsn)),
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// What streams from these servers told before these positions was never to be brought.
    pub fn begins_at(&mut self, starts: &BTreeMap<String, String>) {
        for (node, start) in starts {
            if let Ok(start) = start.parse() {
                self.brought.applied.entry(stream_name(node)).or_insert(start);
            }
        }
    }

    /// Begins a transaction there, if none is open.
    pub fn begin(&mut self) -> Result<()> {
        if self.begun {
            return Ok(());
        }
        // A few keys against a large table that nobody has analyzed yet: always by index. What has no index seems so costly
        // then that each statement would be compiled first.
        const BEGIN: &str = "BEGIN; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off; SET LOCAL jit = off; SET LOCAL synchronous_commit = local; SET CONSTRAINTS ALL DEFERRED";
        if let Some(session) = &mut self.session {
            session::wait(session.run(BEGIN))?;
        }
        self.begun = true;
        Ok(())
    }

    /// Frees what copies that ended early have left: their rows are seen by nobody, and would fill a disk again and again.
    /// Where a source has arrived already, its rows stay, and the space is the next vacuum's.
    pub fn clear(&mut self) -> Result<()> {
        if !self.brought.copied.is_empty() {
            return Ok(());
        }
        for table in self.places.clone() {
            let query = format!(
                "SELECT (count(*) > 0)::text FROM pg_catalog.pg_partition_tree({}) WHERE isleaf AND pg_catalog.pg_relation_size(relid) > 0",
                table.regclass()
            );
            let clear = format!("TRUNCATE {table}");
            match &mut self.session {
                None => {
                    if sql::document(&query, &[])? == Some(true) {
                        role::acting_as(self.table.role, || sql::run(&clear, &[]))?;
                    }
                }
                Some(session) => session::wait(async {
                    match session.document(&query, &[]).await? {
                        Some(true) => session.run(&clear).await,
                        _ => Ok(()),
                    }
                })?,
            }
        }
        Ok(())
    }

    /// Takes away a source that was copied, part of the open transaction: what `condition` tells of it, or without one,
    /// everything. What nothing else is beside is [cleared](Self::clear) by the next copy.
    pub fn forget_copied(&mut self, source: &str, condition: Option<&str>) -> Step {
        self.begin()?;
        let which = match condition {
            Some(_) => format!("source = {}", literal(source)),
            None => "snapshot IS NOT NULL".into(),
        };
        let command = format!("DELETE FROM {} WHERE operation = {} AND {which}", self.progress, self.operation);
        match &mut self.session {
            None => sql::run(&command, &[]).map(|_| ())?,
            Some(session) => session::wait(session.run(&command))?,
        }
        match condition {
            Some(_) => drop(self.brought.copied.remove(source)),
            None => self.brought.copied.clear(),
        }
        match condition {
            Some(condition) if !self.brought.copied.is_empty() => self.delete_where(condition),
            _ => Ok(()),
        }
    }

    /// Notes, as part of the open transaction, that a source was copied.
    pub fn note_copied(&mut self, source: &str, snapshot: &str) -> Result<()> {
        self.note(source, "snapshot", snapshot)
    }

    fn note(&mut self, source: &str, column: &str, value: &str) -> Result<()> {
        let command = format!(
            "INSERT INTO {} (operation, source, {column}) VALUES ({}, {}, {value})
             ON CONFLICT (operation, source) DO UPDATE SET {column} = excluded.{column}",
            self.progress,
            self.operation,
            literal(source),
            value = literal(value)
        );
        match &mut self.session {
            None => sql::run(&command, &[]).map(|_| ()),
            Some(session) => session::wait(session.run(&command)),
        }
    }

    /// Ends the transaction. On the coordinator it ends with the worker's.
    pub fn commit(&mut self) -> Result<()> {
        if std::mem::take(&mut self.begun)
            && let Some(session) = &mut self.session
        {
            session::wait(session.run("COMMIT"))?;
        }
        Ok(())
    }

    /// How the next changes name their rows.
    pub fn identify(&mut self, key: &[usize], full: bool) -> Step {
        if self.key != key || self.full != full {
            self.flush()?;
            self.key = key.to_vec();
            self.full = full;
            self.batch = None;
        }
        Ok(())
    }

    pub fn insert(&mut self, row: Vec<Value>) -> Step {
        self.count(&row);
        if self.full {
            return self.rows(vec![row]);
        }
        let outcome = self.batch().insert(row);
        self.took(outcome)
    }

    pub fn update(&mut self, old: Option<Vec<Value>>, row: Vec<Value>) -> Step {
        self.count(&row);
        if self.full {
            let Some(old) = old else { return self.unexpected("an update without its old row") };
            self.delete_whole(&old)?;
            return self.rows(vec![row]);
        }
        let row = if self.table.contested { self.completed(old.as_deref(), row)? } else { row };
        match self.batch().update(old, row) {
            Err(ApplyError::NeedsOrder { old_key, mut new }) => {
                let unknown: Vec<usize> = (0..new.len()).filter(|at| new[*at] == Value::Unchanged).collect();
                let values = self.fetch(&old_key, &unknown)?;
                for (at, value) in unknown.into_iter().zip(values) {
                    new[at] = value;
                }
                self.delete(old_key)?;
                self.insert(new)
            }
            outcome => self.took(outcome),
        }
    }

    /// Values that the change leaves out, from the target's own row: then it can be deleted and inserted like others, and is
    /// not in the way of another one's unique key meanwhile.
    fn completed(&mut self, old: Option<&[Value]>, mut row: Vec<Value>) -> Step<Vec<Value>> {
        let unknown: Vec<usize> = (0..row.len()).filter(|at| row[*at] == Value::Unchanged).collect();
        let own = || self.key.iter().map(|at| row[*at].clone()).collect();
        let key: Vec<Value> = old.map_or_else(own, <[Value]>::to_vec);
        if unknown.is_empty() || self.batch().knows(&key) {
            return Ok(row);
        }
        let values = self.look(&key, &unknown)?;
        self.count(&values);
        for (at, value) in unknown.into_iter().zip(values) {
            row[at] = value;
        }
        Ok(row)
    }

    pub fn delete(&mut self, old: Vec<Value>) -> Step {
        self.count(&old);
        if self.full {
            return self.delete_whole(&old);
        }
        let outcome = self.batch().delete(old);
        self.took(outcome)
    }

    fn batch(&mut self) -> &mut Batch {
        self.batch.get_or_insert_with(|| Batch::new(self.key.clone()))
    }

    fn count(&mut self, values: &[Value]) {
        let size = |value: &Value| match value {
            Value::Text(bytes) | Value::Binary(bytes) => bytes.len() + 32,
            Value::Null | Value::Unchanged => 32,
        };
        self.bytes += values.iter().map(size).sum::<usize>();
    }

    fn took(&mut self, outcome: std::result::Result<(), ApplyError>) -> Step {
        if let Err(error) = outcome {
            return self.unexpected(&error.to_string());
        }
        let full = self.batch.as_ref().is_some_and(|batch| batch.len() >= MOST_CHANGES) || self.bytes >= MOST_BYTES;
        if full { self.flush() } else { Ok(()) }
    }

    /// Brings what was collected to the server, without committing it.
    pub fn flush(&mut self) -> Step {
        self.bytes = 0;
        let Some(batch) = self.batch.take().filter(|batch| !batch.is_empty()) else { return Ok(()) };
        self.begin()?;
        let Outcome { deletes, patches, rows } = batch.finish();
        if !deletes.is_empty() {
            self.deletes(&deletes)?;
        }
        for patch in patches {
            self.patch(&patch.key, patch.set)?;
        }
        if rows.is_empty() { Ok(()) } else { self.rows(rows) }
    }

    /// Notes how far the stream of `from` is applied with what was flushed.
    pub fn note_applied(&mut self, from: &str, lsn: Lsn) -> Result<()> {
        self.begin()?;
        self.note(&stream_name(from), "lsn", &lsn.to_string())?;
        self.brought.applied.insert(stream_name(from), lsn);
        Ok(())
    }

    pub fn applied(&self, from: &str) -> Lsn {
        self.brought.applied.get(&stream_name(from)).copied().unwrap_or_default()
    }
}

fn local_leaves(operation: &Operation) -> Vec<QualifiedName> {
    let tree = operation.plan.target_tree();
    let local = tree.leaves().filter(|leaf| leaf.node.as_deref().is_none_or(|node| node == LOCAL));
    local.map(|leaf| operation.staged(&leaf.name)).collect()
}

fn stream_name(node: &str) -> String {
    format!("stream of {node}")
}
