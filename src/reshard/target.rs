//! One server that gets rows: changes collected for it, and brought there in transactions that note how far they came.

use super::place::LONG;
use super::stage::progress_table;
use super::trouble::{Step, halt};
use crate::catalog::operation::Operation;
use crate::error::{Error, Report, Result};
use crate::name::{QualifiedName, ident, idents, literal};
use crate::node::own::{self, Session, Target as Way};
use crate::pg::copy_from::{self, Format};
use crate::pg::{role, sql};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use serde::Deserialize;
use shardkeeper_core::apply::{ApplyError, Batch, Outcome};
use shardkeeper_core::copy::text_row;
use shardkeeper_core::pgoutput::Value;
use shardkeeper_core::snapshot::Snapshot;
use shardkeeper_core::{Lsn, plan::LOCAL};
use std::collections::BTreeMap;
use std::pin::pin;
use tokio_postgres::types::ToSql;

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
            _ => {
                let way = Way::of(node, operation.role())?;
                Some(own::wait(Session::open(&way, LONG))?)
            }
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
            progress: progress_table(operation, node),
            operation: operation.id,
            begun: false,
            batch: None,
            full: false,
            key: Vec::new(),
            bytes: 0,
        })
    }

    /// Reads again what is there: after an error, what this process believes may be wrong.
    pub fn read_progress(&mut self) -> Result<()> {
        let query = format!(
            "SELECT json_build_object('source', source, 'snapshot', snapshot, 'lsn', lsn)::text FROM {} WHERE operation = $1",
            self.progress
        );
        let rows: Vec<ProgressRow> = match &mut self.session {
            None => sql::documents(&query, &[self.operation.into()])?,
            Some(session) => own::wait(session.rows(&query, &[&self.operation]))?
                .iter()
                .map(|row| Ok(serde_json::from_str(row.get(0))?))
                .collect::<Result<_>>()?,
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
        // A few keys against a large table that nobody has analyzed yet: always by index.
        const BEGIN: &str = "BEGIN; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off; SET LOCAL synchronous_commit = local";
        if let Some(session) = &mut self.session {
            own::wait(session.run(BEGIN))?;
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
                Some(session) => own::wait(async {
                    match session.document(&query, &[]).await? {
                        Some(true) => session.run(&clear).await,
                        _ => Ok(()),
                    }
                })?,
            }
        }
        Ok(())
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
            Some(session) => own::wait(session.run(&command)),
        }
    }

    /// Ends the transaction. On the coordinator it ends with the worker's.
    pub fn commit(&mut self) -> Result<()> {
        if std::mem::take(&mut self.begun)
            && let Some(session) = &mut self.session
        {
            own::wait(session.run("COMMIT"))?;
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

    pub fn delete(&mut self, old: Vec<Value>) -> Step {
        self.count(&old);
        if self.full {
            return self.delete_whole(&old);
        }
        let outcome = self.batch().delete(old);
        self.took(outcome)
    }

    /// Deletes the rows that a condition holds for: what TRUNCATE of a source took.
    pub fn delete_where(&mut self, condition: &str) -> Step {
        self.flush()?;
        self.begin()?;
        self.everywhere(|table| format!("DELETE FROM {table} WHERE {condition}"), &[], false)?;
        Ok(())
    }

    /// The text of these columns of the row with this key, for values that a change does not tell.
    pub fn fetch(&mut self, key: &[Value], columns: &[usize]) -> Step<Vec<Value>> {
        self.flush()?;
        self.begin()?;
        let list = columns.iter().map(|at| format!("{}::text", ident(&self.table.columns[*at].name)));
        let list = list.collect::<Vec<_>>().join(", ");
        let condition = self.key_condition();
        let params = texts(key)?;
        for table in self.places.clone() {
            let query = format!("SELECT pg_catalog.json_build_array({list})::text FROM {table} WHERE {condition}");
            let found: Option<Vec<Option<String>>> = match &mut self.session {
                None => {
                    let args: Vec<_> = params.iter().map(|text| text.as_deref().into()).collect();
                    role::acting_as(self.table.role, || sql::document(&query, &args))?
                }
                Some(session) => {
                    let args: Vec<&(dyn ToSql + Sync)> = params.iter().map(|text| text as _).collect();
                    own::wait(session.document(&query, &args))?
                }
            };
            if let Some(values) = found {
                let value = |text: Option<String>| text.map_or(Value::Null, |text| Value::Text(text.into_bytes()));
                return Ok(values.into_iter().map(value).collect());
            }
        }
        self.unexpected("a row that moves is not there").map(|()| Vec::new())
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

    fn key_condition(&self) -> String {
        let conditions = self.key.iter().enumerate().map(|(at, column)| {
            let Column { name, data_type } = &self.table.columns[*column];
            format!("{} = ${}::text::{data_type}", ident(name), at + 1)
        });
        conditions.collect::<Vec<_>>().join(" AND ")
    }

    fn deletes(&mut self, keys: &[Vec<Value>]) -> Step {
        let columns: Vec<&Column> = self.key.iter().map(|at| &self.table.columns[*at]).collect();
        let list = |part: &dyn Fn(usize, &Column) -> String, separator: &str| {
            columns.iter().enumerate().map(|(at, column)| part(at, column)).collect::<Vec<_>>().join(separator)
        };
        // Several arrays at once are a form of the grammar, not a function: a schema would hide it.
        let rest = format!(
            "AS t USING (SELECT {} FROM ROWS FROM ({}) AS u ({})) AS d WHERE {}",
            list(&|at, column| format!("k{at}::{} AS k{at}", column.data_type), ", "),
            list(&|at, _| format!("pg_catalog.unnest(${}::text[])", at + 1), ", "),
            list(&|at, _| format!("k{at}"), ", "),
            list(&|at, column| format!("t.{} = d.k{at}", ident(&column.name)), " AND "),
        );
        let mut arrays: Vec<Vec<Option<String>>> = vec![Vec::with_capacity(keys.len()); columns.len()];
        for key in keys {
            for (array, text) in arrays.iter_mut().zip(texts(key)?) {
                array.push(text);
            }
        }
        let mut deleted = 0;
        for table in &self.places {
            let command = format!("DELETE FROM {table} {rest}");
            deleted += match &mut self.session {
                None => {
                    let args: Vec<_> = arrays.iter().map(|array| array.clone().into()).collect();
                    role::acting_as(self.table.role, || sql::change(&command, &args))?
                }
                Some(session) => {
                    let args: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(|array| array as _).collect();
                    own::wait(session.with(async |client| client.execute(&command, &args).await))?
                }
            };
        }
        self.met(deleted, keys.len() as u64)
    }

    /// Sets columns of one row, none of its key.
    fn patch(&mut self, key: &[Value], set: Vec<(usize, Value)>) -> Step {
        self.begin()?;
        let assignments = set.iter().zip(key.len() + 1..).map(|((column, _), number)| {
            let Column { name, data_type } = &self.table.columns[*column];
            format!("{} = ${number}::text::{data_type}", ident(name))
        });
        let rest = format!("SET {} WHERE {}", assignments.collect::<Vec<_>>().join(", "), self.key_condition());
        let mut params = texts(key)?;
        params.extend(texts(set.iter().map(|(_, value)| value))?);
        let changed = self.everywhere(|table| format!("UPDATE {table} {rest}"), &params, true)?;
        self.met(changed, 1)
    }

    /// Deletes one of the rows that equal `row` in every column.
    fn delete_whole(&mut self, row: &[Value]) -> Step {
        self.begin()?;
        let conditions = self.table.columns.iter().enumerate().map(|(at, column)| {
            // As text: not every type has an equality.
            format!("{}::text IS NOT DISTINCT FROM ${}::text", ident(&column.name), at + 1)
        });
        let conditions = conditions.collect::<Vec<_>>().join(" AND ");
        let one = |table: &QualifiedName| {
            format!(
                "DELETE FROM {table} WHERE (tableoid, ctid) = (SELECT tableoid, ctid FROM {table} WHERE {conditions} LIMIT 1)"
            )
        };
        let deleted = self.everywhere(one, &texts(row)?, true)?;
        self.met(deleted, 1)
    }

    /// Runs a command on each place, or, for a single row, until it was found; the number of rows changed.
    fn everywhere(
        &mut self,
        command: impl Fn(&QualifiedName) -> String,
        params: &[Option<String>],
        single: bool,
    ) -> Result<u64> {
        let mut changed = 0;
        for table in &self.places {
            let command = command(table);
            changed += match &mut self.session {
                None => {
                    let args: Vec<_> = params.iter().map(|text| text.as_deref().into()).collect();
                    role::acting_as(self.table.role, || sql::change(&command, &args))?
                }
                Some(session) => {
                    let args: Vec<&(dyn ToSql + Sync)> = params.iter().map(|text| text as _).collect();
                    own::wait(session.with(async |client| client.execute(&command, &args).await))?
                }
            };
            if single && changed > 0 {
                break;
            }
        }
        Ok(changed)
    }

    fn rows(&mut self, rows: Vec<Vec<Value>>) -> Step {
        self.begin()?;
        let mut text = Vec::new();
        for row in &rows {
            text_row(&mut text, row.iter().map(bytes));
        }
        let names: Vec<String> = self.table.columns.iter().map(|column| column.name.clone()).collect();
        let copied = match &mut self.session {
            None => {
                let mut left = Some(text);
                role::acting_as(self.table.role, || {
                    copy_from::copy_into(self.table.oid, &names, Format::Text, &mut |out| {
                        Ok(left.take().map(|text| out.extend_from_slice(&text)).is_some())
                    })
                })?
            }
            Some(session) => {
                let command = format!("COPY {} ({}) FROM STDIN", self.table.name, idents(&names));
                own::wait(session.with(async |client| {
                    let sink = client.copy_in::<_, bytes::Bytes>(&command).await?;
                    let mut sink = pin!(sink);
                    futures_util::SinkExt::send(&mut sink, text.into()).await?;
                    sink.finish().await
                }))?
            }
        };
        self.met(copied, rows.len() as u64)
    }

    /// Every change meets exactly the rows that it met on its source; anything else means that the target is not what it
    /// should be, and nobody may be switched to it.
    fn met(&self, found: u64, expected: u64) -> Step {
        if found == expected {
            return Ok(());
        }
        halt(
            Report::new(
                Code::ERRCODE_DATA_CORRUPTED,
                format!("the copy on node {} is not what it should be", ident(&self.node)),
            )
            .detail(format!("Changes of {expected} rows found {found}."))
            .hint("Somebody else wrote to it. Cancel the operation; nothing was switched."),
        )
    }

    fn unexpected(&self, what: &str) -> Step {
        halt(
            Report::new(
                Code::ERRCODE_DATA_CORRUPTED,
                format!("a change cannot be applied on node {}", ident(&self.node)),
            )
            .detail(format!("The reason: {what}."))
            .hint("Cancel the operation; nothing was switched."),
        )
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

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::Text(bytes) | Value::Binary(bytes) => Some(bytes),
        Value::Null | Value::Unchanged => None,
    }
}

fn texts<'a>(values: impl IntoIterator<Item = &'a Value>) -> Result<Vec<Option<String>>> {
    let text = |value: &Value| match bytes(value) {
        None => Ok(None),
        Some(bytes) => String::from_utf8(bytes.to_vec()).map(Some).map_err(|_| {
            Error::from(Report::new(Code::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE, "a value of the stream is not UTF-8"))
        }),
    };
    values.into_iter().map(text).collect()
}
