//! The copy: each source is read once, under one snapshot, and each of its rows goes to the server that will store it.
//!
//! A source is done when all servers have noted it; each notes it in the transaction that brings its rows. After a crash only
//! the sources that were not done are copied again, under a later snapshot: the changes before that one are left out when
//! catching up. All servers have a source under the same snapshot. Otherwise a row that moved from one of them to another in
//! between, with values that the change leaves out, would be known to none.

pub mod build_indexes;
pub mod rate_limit;

use self::build_indexes::finish_tables;
use self::rate_limit::Throttle;
use super::apply::Applier;
use super::apply::target::Target;
use super::lock_holders::wait_until_quiet;
use super::outcome::{Interruption, Step};
use super::prepare::staging::Staging;
use super::server::LONG;
use super::server::{self, BRIEF, Server};
use crate::catalog::operation::{self, Operation, Progress};
use crate::error::{Error, Report, Result};
use crate::name::{QualifiedName, idents, literal};
use crate::node::session::{self, Session};
use crate::pg::copy_from::{self, Format};
use crate::pg::copy_row_router::Router;
use crate::pg::copy_to::Reader;
use crate::pg::{progress, role, sql, transaction, worker};
use bytes::Bytes;
use futures_util::stream::Fuse;
use futures_util::{SinkExt, StreamExt};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::copy::{HEADER, Splitter, TRAILER};
use shardkeeper_core::operation::Requested;
use shardkeeper_core::plan::LOCAL;
use std::collections::HashMap;
use std::pin::Pin;
use std::time::{Duration, Instant};
use tokio_postgres::{CopyInSink, CopyOutStream};

/// What is taken from a source, or sent to a server, at a time.
const CHUNK: usize = 256 << 10;
/// How often a copy looks for what people ask.
const LOOK: Duration = Duration::from_secs(1);

pub fn copy(operation: &Operation) -> Step {
    let sources: Vec<(QualifiedName, String)> =
        operation.plan.source_leaves().map(|(name, node)| (name.clone(), node.to_string())).collect();
    let mut total = sizes(operation)?;
    transaction::run(|| operation::set_progress(operation.id, total))?;
    forget_halves(operation)?;
    let mut throttle = Throttle::new();
    for (name, node) in &sources {
        let rows = transaction_of(operation, &mut throttle, (name, node), total.rows_done)?;
        total.rows_done += rows;
        transaction::run(|| operation::set_progress(operation.id, total))?;
    }
    let staging = Staging::read(operation)?;
    for node in operation.plan.target_nodes() {
        let mut place = session::wait(Server::open(&node, operation.role(), LONG))?;
        finish_tables(&staging, &node, &mut place)?;
    }
    Ok(())
}

fn forget_halves(operation: &Operation) -> Step {
    if operation.plan.target_nodes().len() == 1 {
        return Ok(());
    }
    transaction::run_step(|| {
        Applier::open(operation)?.forget_halves(operation.plan.source_leaves().map(|(name, _)| name))
    })
}

/// How much there is to copy, as far as the servers know: their estimates of rows, and the bytes of the tables.
pub fn sizes(operation: &Operation) -> Result<Progress> {
    #[derive(serde::Deserialize)]
    struct Size {
        rows: Option<f64>,
        bytes: i64,
    }
    let mut total = Progress { rows_total: Some(0), bytes_total: Some(0), ..Progress::default() };
    for node in operation.plan.source_nodes() {
        let names = operation.plan.source_leaves().filter(|(_, place)| *place == node);
        let names = names.map(|(name, _)| literal(&name.to_string())).collect::<Vec<_>>().join(", ");
        let query = format!(
            // Of a table that was never analyzed nobody knows.
            "SELECT json_build_object('rows', CASE WHEN bool_or(c.reltuples < 0 AND pg_relation_size(c.oid) > 0) THEN NULL
                                              ELSE coalesce(sum(greatest(c.reltuples, 0)), 0) END,
                 'bytes', coalesce(sum(pg_table_size(c.oid)), 0))::text
             FROM unnest(ARRAY[{names}]) AS n JOIN pg_class c ON c.oid = n::regclass"
        );
        let size = session::wait(async {
            let mut place = Server::open(&node, operation.role(), BRIEF).await?;
            place.document::<Size>(&query, &[]).await
        })?;
        if let Some(Size { rows, bytes }) = size {
            total.rows_total = total.rows_total.zip(rows).map(|(before, rows)| before.saturating_add(rows as i64));
            total.bytes_total = total.bytes_total.map(|before| before.saturating_add(bytes));
        }
    }
    Ok(total)
}

/// Copies one source to the servers that lack it; the number of rows read.
fn transaction_of(
    operation: &Operation,
    throttle: &mut Throttle,
    (source, node): (&QualifiedName, &str),
    before: i64,
) -> Step<i64> {
    wait_until_quiet(operation, node)?;
    transaction::run_repeatable_read(&local(operation, &[source])?, || {
        let applier = Applier::open(operation)?;
        let name = source.to_string();
        match applier.targets.iter().all(|target| target.brought.copied.contains_key(&name)) {
            true => Ok(0),
            false => one_source(operation, applier, throttle, (source, node), before),
        }
    })
}

/// Those of these sources that are on the coordinator.
pub fn local(operation: &Operation, sources: &[&QualifiedName]) -> Result<Vec<Oid>> {
    let here = operation.plan.source_leaves().filter(|(name, node)| *node == LOCAL && sources.contains(name));
    let names: Vec<String> = here.map(|(name, _)| name.to_string()).collect();
    transaction::run(|| sql::column("SELECT n::regclass::oid FROM unnest($1::text[]) AS n ORDER BY 1", &[names.into()]))
}

/// The rows of a source as they come.
enum Inlet {
    Here(Reader),
    There { session: Box<Session>, stream: Pin<Box<Fuse<CopyOutStream>>>, splitter: Splitter },
}

/// The way of rows to a node.
struct Outlet {
    target: Target,
    sink: Option<Pin<Box<CopyInSink<Bytes>>>>,
    buffer: Vec<u8>,
}

/// A copy under way.
struct Pump<'a> {
    operation: &'a Operation,
    inlet: Inlet,
    router: Option<(Router, HashMap<Oid, usize>)>,
    outlets: Vec<Outlet>,
    rows: i64,
    looked: Instant,
    throttle: &'a mut Throttle,
}

/// Within a transaction; the number of rows read.
pub fn one_source(
    operation: &Operation,
    applier: Applier,
    throttle: &mut Throttle,
    (source, node): (&QualifiedName, &str),
    before: i64,
) -> Step<i64> {
    let table = applier.table.clone();
    let columns: Vec<String> = table.columns.iter().map(|column| column.name.clone()).collect();
    let (inlet, snapshot) = open(operation, applier.sources, source, node, &columns)?;
    let router = match operation.plan.target_nodes().len() {
        1 => None,
        _ => {
            let nodes: Vec<(Oid, String)> = super::apply::leaf_nodes(&table.name)?;
            let place = |node: &String| applier.targets.iter().position(|target| target.node == *node);
            let leaves = nodes.iter().filter_map(|(leaf, node)| Some((*leaf, place(node)?))).collect();
            Some((role::acting_as(table.role, || Router::open(table.oid, &columns))?, leaves))
        }
    };
    let outlets = applier.targets.into_iter().map(|target| Outlet { target, sink: None, buffer: Vec::new() }).collect();
    let mut pump = Pump { operation, inlet, router, outlets, rows: before, looked: Instant::now(), throttle };
    pump.begin(&table.name, &columns)?;
    let here = pump.outlets.iter().position(|outlet| outlet.target.session.is_none());
    match here {
        None => while pump.step()? {},
        Some(here) => {
            // Postgres asks for the rows that stay here; the others leave on the way.
            let mut interruption = None;
            let mut begun = false;
            let copied = role::acting_as(table.role, || {
                copy_from::copy_into(table.oid, &columns, Format::Binary, &mut |out| {
                    if !std::mem::replace(&mut begun, true) {
                        out.extend_from_slice(&HEADER);
                    }
                    let more = match pump.step() {
                        Ok(more) => more,
                        Err(found) => {
                            interruption = Some(found);
                            return Report::new(Code::ERRCODE_QUERY_CANCELED, "the copy ended early").into();
                        }
                    };
                    out.append(&mut pump.outlets[here].buffer);
                    if !more {
                        out.extend_from_slice(&TRAILER);
                    }
                    Ok(more)
                })
            });
            if let Some(found) = interruption {
                return Err(found);
            }
            copied?;
        }
    }
    pump.end(&source.to_string(), &snapshot)?;
    Ok(pump.rows - before)
}

fn open(
    operation: &Operation,
    mut sessions: std::collections::BTreeMap<String, Option<Session>>,
    source: &QualifiedName,
    node: &str,
    columns: &[String],
) -> Step<(Inlet, String)> {
    const SNAPSHOT: &str = "SELECT pg_catalog.pg_current_snapshot()::text";
    if node == LOCAL {
        let snapshot = sql::one::<String>(SNAPSHOT, &[])?.unwrap_or_default();
        let Some(oid) = sql::one::<Oid>("SELECT pg_catalog.to_regclass($1)::oid", &[source.to_string().into()])? else {
            return Err(gone(source).into());
        };
        return Ok((Inlet::Here(Reader::open(oid, columns)?), snapshot));
    }
    let mut session = match sessions.remove(node).flatten() {
        Some(session) => session,
        None => server::session(operation, node)?,
    };
    let command = format!("COPY (SELECT {} FROM ONLY {source}) TO STDOUT (FORMAT binary)", idents(columns));
    // The lock first: TRUNCATE would take the rows away from under the snapshot.
    let begin =
        format!("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; LOCK TABLE ONLY {source} IN ACCESS SHARE MODE");
    let (snapshot, stream) = session::wait(async {
        session.run(&begin).await?;
        let snapshot: Option<String> = session.one(SNAPSHOT, &[]).await?;
        let stream = session.with(async |client| client.copy_out(&command).await).await?;
        Ok((snapshot.unwrap_or_default(), stream))
    })?;
    Ok((
        Inlet::There { session: Box::new(session), stream: Box::pin(stream.fuse()), splitter: Splitter::new() },
        snapshot,
    ))
}

fn gone(source: &QualifiedName) -> Error {
    Report::new(Code::ERRCODE_UNDEFINED_TABLE, format!("partition {source} is gone")).into()
}

impl Pump<'_> {
    fn begin(&mut self, table: &QualifiedName, columns: &[String]) -> Result<()> {
        let command = format!("COPY {table} ({}) FROM STDIN (FORMAT binary)", idents(columns));
        for outlet in &mut self.outlets {
            outlet.target.begin()?;
            outlet.target.clear()?;
            if let Some(session) = &mut outlet.target.session {
                let sink = session::wait(session.with(async |client| client.copy_in(&command).await))?;
                outlet.sink = Some(Box::pin(sink));
                outlet.buffer.extend_from_slice(&HEADER);
            }
        }
        Ok(())
    }

    /// Takes some rows and sends them on, no faster than it may; `false` when there are no more.
    fn step(&mut self) -> Step<bool> {
        self.look()?;
        let more = self.take()?;
        for outlet in &mut self.outlets {
            if outlet.buffer.len() >= CHUNK || !more {
                outlet.send()?;
            }
        }
        loop {
            let rest = self.throttle.rest();
            if rest.is_zero() {
                return Ok(more);
            }
            worker::sleep(rest.min(LOOK));
            self.look()?;
        }
    }

    fn look(&mut self) -> Step {
        if self.looked.elapsed() < LOOK {
            return Ok(());
        }
        self.looked = Instant::now();
        progress::report_rows(self.rows);
        match operation::load(self.operation.id)?.is_none_or(|found| found.requested != Requested::Run) {
            true => Err(Interruption::Asked),
            false => Ok(()),
        }
    }

    fn take(&mut self) -> Step<bool> {
        let Pump { inlet, router, outlets, rows, throttle, .. } = self;
        let more = match inlet {
            Inlet::Here(reader) => {
                let (chunk, more) = reader.next();
                throttle.passed(chunk.len());
                // Whole rows without header, as the splitter wants them with one.
                let mut splitter = Splitter::new();
                splitter.feed(&HEADER);
                splitter.feed(chunk);
                route(&mut splitter, router, outlets, rows)?;
                more
            }
            Inlet::There { session, stream, splitter } => {
                let chunk = session::wait(session.with(async |_| {
                    let mut chunk = Vec::with_capacity(CHUNK + 8192);
                    while chunk.len() < CHUNK {
                        match stream.next().await {
                            Some(bytes) => chunk.extend_from_slice(&bytes?),
                            None => break,
                        }
                    }
                    Ok(chunk)
                }))?;
                throttle.passed(chunk.len());
                splitter.feed(&chunk);
                route(splitter, router, outlets, rows)?;
                if chunk.is_empty() {
                    splitter.end().map_err(wrong_bytes)?;
                }
                !chunk.is_empty()
            }
        };
        Ok(more)
    }

    fn end(&mut self, source: &str, snapshot: &str) -> Result<()> {
        for outlet in &mut self.outlets {
            if let (Some(mut sink), Some(session)) = (outlet.sink.take(), &mut outlet.target.session) {
                session::wait(session.with(async |_| {
                    sink.send(Bytes::from_static(&TRAILER)).await?;
                    sink.as_mut().finish().await
                }))?;
            }
            outlet.target.note_copied(source, snapshot)?;
        }
        self.outlets.iter_mut().try_for_each(|outlet| outlet.target.commit())
    }
}

impl Outlet {
    fn send(&mut self) -> Result<()> {
        let (Some(sink), Some(session)) = (&mut self.sink, &mut self.target.session) else { return Ok(()) };
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK + 8192)));
        session::wait(session.with(async |_| sink.send(bytes).await))
    }
}

fn route(
    splitter: &mut Splitter,
    router: &mut Option<(Router, HashMap<Oid, usize>)>,
    outlets: &mut [Outlet],
    rows: &mut i64,
) -> Step {
    while let Some(row) = splitter.next().map_err(wrong_bytes)? {
        *rows += 1;
        let at = match router {
            None => Some(0),
            Some((router, leaves)) => leaves.get(&router.leaf(row)?).copied(),
        };
        if let Some(at) = at {
            outlets[at].buffer.extend_from_slice(row.raw());
        }
    }
    Ok(())
}

fn wrong_bytes(error: shardkeeper_core::copy::CopyError) -> Error {
    Report::new(Code::ERRCODE_PROTOCOL_VIOLATION, "the rows of a source cannot be read")
        .detail(error.to_string())
        .into()
}
