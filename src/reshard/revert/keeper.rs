//! The worker that keeps what switched operations replaced current, for all of them: it reads each shared stream once, and
//! brings each operation what is its own.
//!
//! It comes every few seconds, and looks at a stream only when the server's log has grown by so much that keeping it costs more
//! than reading it: nothing that is in the log is lost to a revert, which reads the rest by itself. An operation that cannot
//! be brought forward loses its way back alone.

use super::shared_slot;
use crate::background::log::Log;
use crate::catalog::operation::{self, Operation};
use crate::catalog::way_back;
use crate::error::{Error, Report, Result};
use crate::node::session::{self, ConnectionParams, Session, Timeouts};
use crate::pg::lock::{self, Single};
use crate::pg::{sql, transaction, worker};
use crate::reshard::apply::slot::{self, Slot};
use crate::reshard::apply::{Applier, Reading};
use crate::reshard::outcome::{self, Interruption, Step};
use crate::reshard::revert;
use crate::reshard::run;
use crate::reshard::server::{self, EVERY_ROW};
use serde::Deserialize;
use shardkeeper_core::Lsn;
use shardkeeper_core::operation::State;
use shardkeeper_core::pgoutput::Message;
use shardkeeper_core::plan::LOCAL;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of log from which on a stream is looked at: a segment, which a server keeps or removes as a whole.
const ENOUGH: i64 = 16 << 20;
/// Changes that are read at a time: each look decodes some of the log that was read before, and keeps others from the stream.
const LIMIT: i32 = 50_000;
/// Operations that changes are brought to at a time: each has a session with each of its servers.
const AT_ONCE: usize = 8;
/// Parents that are looked at in one go, in turn, whether they are what they were at the switch.
const SHAPES: usize = 8;
const SHAPES_TURN: u64 = 10;
/// The part of max_slot_wal_keep_size that is enough too, where that is small.
const SOME_OF_LIMIT: f64 = 0.25;
/// The part of max_slot_wal_keep_size that an operation which cannot be brought forward may make a server keep: beyond,
/// all that share the stream would lose their ways back.
const MUCH_OF_LIMIT: f64 = 0.8;

const LIMITS: Timeouts =
    Timeouts { statement: None, lock: Some(Duration::from_secs(2)), application_name: "shardkeeper keeper" };

pub fn run() {
    let mut log = Log::default();
    let settled = transaction::run(|| run::settings("shardkeeper keeper"));
    if let Err(error) = settled {
        return log.failure("ways back", error);
    }
    if !lock::become_single(Single::Keeper) {
        return;
    }
    match transaction::run(way_back::streams) {
        Ok(streams) => streams.into_iter().for_each(|(node, stream, oldest)| keep(&node, &stream, oldest, &mut log)),
        Err(error) => log.failure("ways back", error),
    }
    if let Err(error) = look_at_shapes() {
        log.failure("ways back", error);
    }
}

/// Reads a stream as far as the server's log reached.
fn keep(node: &str, stream: &str, oldest: i64, log: &mut Log) {
    loop {
        if lock::database_is_wanted() {
            return;
        }
        match look(node, stream, oldest) {
            Ok(true) => {}
            Ok(false) => return,
            // A node that is down is told of by the worker that visits it, and an operation in the way by its own row.
            Err(Interruption::Again(error) | Interruption::Halt(error) | Interruption::Fail(error)) => {
                if !is_passing(&error) {
                    log.failure("ways back", error);
                }
                return;
            }
            Err(Interruption::Asked) => return,
        }
    }
}

fn is_passing(error: &Error) -> bool {
    let Error::Report(report) = error else { return false };
    report.is_lock() || crate::error::sql_state_text(report.code).starts_with("08")
}

/// How a stream stands to its server's log.
#[derive(Deserialize)]
struct Standing {
    usable: bool,
    behind: Option<i64>,
    limit: Option<f64>,
    end: String,
}

const STANDING: &str = "SELECT json_build_object('usable', s.slot_name IS NOT NULL AND s.wal_status IS DISTINCT FROM 'lost',
        'behind', pg_wal_lsn_diff(e.at, s.confirmed_flush_lsn)::bigint, 'end', e.at,
        'limit', (SELECT nullif(setting, '-1')::float8 * 1048576 FROM pg_settings WHERE name = 'max_slot_wal_keep_size'))::text
    FROM (SELECT pg_current_wal_flush_lsn() AS at) AS e LEFT JOIN pg_replication_slots s ON s.slot_name = $1::text::name";

/// One look at a stream; `true` if there is more. Nobody else reads or changes it meanwhile.
fn look(node: &str, stream: &str, oldest: i64) -> Step<bool> {
    let Some(some) = transaction::run(|| operation::load(oldest))? else { return Ok(false) };
    let _held = shared_slot::hold(node, stream)?;
    let mut session = open(node, &some)?;
    // Where the log ends is asked before the operations are read. What others commit to an operation's tables before that
    // position, they commit after its switch, which is seen then.
    let standing: Option<Standing> = match &mut session {
        None => transaction::run(|| sql::document(STANDING, &[stream.into()]))?,
        Some(session) => session::wait(session.document(STANDING, &[&stream]))?,
    };
    let Some(Standing { usable, behind, limit, end }) = standing else { return Ok(false) };
    let end: Lsn = slot::parse(Some(end))?;
    let ids = transaction::run(|| way_back::users(node, stream))?;
    if !usable {
        let why =
            format!("Its replication slot on node {node} is gone, or has lost its log to max_slot_wal_keep_size.");
        // Those that have not switched yet see it by themselves.
        let mut lost = kept(&ids, node)?;
        lost.retain(|(operation, _)| operation.state == State::Switched);
        lost.iter().try_for_each(|(operation, _)| transaction::run(|| way_back::lose(operation.id, &why)))?;
        return Ok(false);
    }
    let behind = behind.unwrap_or_default();
    let enough = limit.map_or(ENOUGH, |limit| ENOUGH.min((limit * SOME_OF_LIMIT) as i64));
    if behind < enough {
        return Ok(false);
    }
    let users = kept(&ids, node)?;
    // One that is about to be reverted gets its own slot first, at the place where this one is.
    if users.iter().any(|(operation, _)| operation.state == State::Reverting || operation.rests) {
        return Ok(false);
    }
    let mut users: BTreeMap<i64, (Operation, Vec<u32>)> = users
        .into_iter()
        .filter(|(operation, _)| operation.state == State::Switched)
        .filter_map(|(operation, tables)| Some((operation.id, (revert::turned(&operation)?, tables))))
        .collect();
    let full = limit.is_some_and(|limit| behind as f64 > limit * MUCH_OF_LIMIT);
    let mut look = Look { node, slot: Slot { name: stream, publication: stream, upto: Some(end) }, end };
    claim(stream, session.as_mut())?;
    let told = look.survey(session.as_mut(), &users)?;
    if !told.whole {
        look.end = told.last;
    }
    let mut concerned: Vec<i64> = told.concerned.into_iter().collect();
    while !concerned.is_empty() {
        let some: Vec<i64> = concerned.drain(..concerned.len().min(AT_ONCE)).collect();
        bring(&look, session.as_mut(), &mut users, some, full)?;
    }
    transaction::run(|| slot::advance(stream, session.as_mut(), look.end))?;
    Ok(!told.whole)
}

fn open(node: &str, operation: &Operation) -> Result<Option<Session>> {
    if node == LOCAL {
        return Ok(None);
    }
    let way = transaction::run(|| ConnectionParams::of(node, operation.role()))?;
    session::wait(async {
        let mut session = Session::open(&way, LIMITS).await?;
        session.run(EVERY_ROW).await?;
        Ok(Some(session))
    })
}

/// These operations with their tables on the server.
fn kept(ids: &[i64], node: &str) -> Result<Vec<(Operation, Vec<u32>)>> {
    let mut found = Vec::new();
    for id in ids {
        let Some(operation) = transaction::run(|| operation::load(*id))? else { continue };
        if let Some(tables) = operation.streams.get(node).map(|shared| shared.tables.clone()) {
            found.push((operation, tables));
        }
    }
    Ok(found)
}

/// Who reads the slot is a worker of ours that is no more.
fn claim(stream: &str, session: Option<&mut Session>) -> Result<()> {
    const CLAIM: &str = "SELECT pg_catalog.pg_terminate_backend(active_pid)::text FROM pg_catalog.pg_replication_slots
         WHERE slot_name = $1::text::name AND active_pid <> pg_catalog.pg_backend_pid()";
    match session {
        None => transaction::run(|| sql::one::<String>(CLAIM, &[stream.into()]).map(drop)),
        Some(session) => session::wait(session.rows(CLAIM, &[&stream])).map(drop),
    }
}

struct Look<'a> {
    node: &'a str,
    slot: Slot<'a>,
    /// What commits at this position or later is not for this look.
    end: Lsn,
}

/// What a first look at the stream told.
struct Told {
    concerned: BTreeSet<i64>,
    /// The end of the last transaction.
    last: Lsn,
    whole: bool,
}

impl Look<'_> {
    /// Hands out what is in the stream for this look, in a transaction of its own.
    fn read(
        &self,
        session: Option<&mut Session>,
        mut each: impl FnMut(Message) -> Step,
        end: impl FnOnce() -> Step,
    ) -> Step<i32> {
        let mut messages = 0;
        transaction::run_step(|| {
            let mut late = false;
            slot::read(&self.slot, session, Some(LIMIT), |message| {
                messages += 1;
                if let Message::Begin { final_lsn, .. } = &message {
                    late = *final_lsn >= self.end;
                }
                if late { Ok(()) } else { each(message) }
            })?;
            end()
        })?;
        Ok(messages)
    }

    /// Which operations have changes.
    fn survey(&self, session: Option<&mut Session>, users: &BTreeMap<i64, (Operation, Vec<u32>)>) -> Step<Told> {
        let owners = owners(users.iter());
        let (mut concerned, mut last) = (BTreeSet::new(), Lsn::default());
        let each = |message: Message| {
            match message {
                Message::Commit { end_lsn, .. } => last = end_lsn,
                Message::Insert { relation, .. }
                | Message::Update { relation, .. }
                | Message::Delete { relation, .. } => {
                    concerned.extend(owners.get(&relation));
                }
                Message::Truncate { relations, .. } => {
                    concerned.extend(relations.iter().filter_map(|relation| owners.get(relation)));
                }
                _ => {}
            }
            Ok(())
        };
        let messages = self.read(session, each, || Ok(()))?;
        Ok(Told { concerned, last, whole: messages < LIMIT })
    }

    /// Brings these operations what is theirs. When one is in the way, its number too.
    fn apply(
        &self,
        session: Option<&mut Session>,
        users: &[&(Operation, Vec<u32>)],
    ) -> std::result::Result<(), (Option<i64>, Interruption)> {
        let at = std::cell::Cell::new(None);
        let mut flows: Vec<(&Operation, &Vec<u32>, Applier, Reading)> = Vec::new();
        for (back, tables) in users {
            let id = Some(back.id);
            revert::prepare_return(back).map_err(|interruption| (id, interruption))?;
            let applier = transaction::run(|| Applier::towards(back)).map_err(|error| (id, error.into()))?;
            flows.push((back, tables, applier, Reading::default()));
        }
        let flows = std::cell::RefCell::new(flows);
        let each = |message: Message| {
            for (back, tables, applier, reading) in flows.borrow_mut().iter_mut() {
                if slot::is_about(&message, tables) {
                    at.set(Some(back.id));
                    applier.take(back, self.node, reading, slot::narrowed(message.clone(), tables))?;
                    at.set(None);
                }
            }
            Ok(())
        };
        let end = || {
            for (back, _, applier, reading) in flows.borrow_mut().iter_mut() {
                at.set(Some(back.id));
                applier.settle(self.node, reading.applied)?;
                at.set(None);
            }
            Ok(())
        };
        self.read(session, each, end).map(drop).map_err(|interruption| (at.get(), interruption))
    }
}

fn owners<'a>(users: impl Iterator<Item = (&'a i64, &'a (Operation, Vec<u32>))>) -> HashMap<u32, i64> {
    users.flat_map(|(id, (_, tables))| tables.iter().map(|table| (*table, *id))).collect()
}

/// Brings these operations what is theirs; those that cannot go on lose their ways back, and the others go on without them.
/// `full`: the server cannot keep its log for much longer.
fn bring(
    look: &Look<'_>,
    mut session: Option<&mut Session>,
    users: &mut BTreeMap<i64, (Operation, Vec<u32>)>,
    mut ids: Vec<i64>,
    full: bool,
) -> Step {
    while !ids.is_empty() {
        let some: Vec<&(Operation, Vec<u32>)> = ids.iter().filter_map(|id| users.get(id)).collect();
        let (id, met) = match look.apply(session.as_deref_mut(), &some) {
            Ok(()) => {
                return Ok(ids.iter().try_for_each(|id| transaction::run(|| operation::recover(*id)))?);
            }
            Err((Some(id), met)) => (id, met),
            Err((None, met)) => return Err(met),
        };
        let Some((back, _)) = users.get(&id) else { return Err(met) };
        match met {
            Interruption::Fail(error) | Interruption::Halt(error) => {
                let why = Report::from(error).reason();
                transaction::run(|| way_back::lose(id, &why))?;
            }
            Interruption::Again(error) if full => {
                let why = "It could not be kept current, and its server could not keep more log for it";
                let why = format!("{why}: {}", Report::from(error).reason());
                transaction::run(|| way_back::lose(id, &why))?;
            }
            Interruption::Again(error) => {
                server::end_lost_sessions(back);
                outcome::note(back, Interruption::Again(error));
                // All that share the stream keep what is in it until that works again.
                return Err(Interruption::Asked);
            }
            Interruption::Asked => return Err(Interruption::Asked),
        }
        users.remove(&id);
        ids.retain(|other| *other != id);
    }
    Ok(())
}

/// An altered parent ends the way back, whether anybody writes to it or not.
fn look_at_shapes() -> Result<()> {
    let ids: BTreeSet<i64> = transaction::run(|| {
        let streams = way_back::streams()?;
        let users =
            streams.iter().map(|(node, stream, _)| way_back::users(node, stream)).collect::<Result<Vec<_>>>()?;
        Ok(users.into_iter().flatten().collect())
    })?;
    let ids: Vec<i64> = ids.into_iter().collect();
    let turn = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() / SHAPES_TURN) as usize;
    let first = (turn * SHAPES).checked_rem(ids.len()).unwrap_or_default();
    for id in ids.iter().cycle().skip(first).take(SHAPES.min(ids.len())) {
        let Some(operation) = transaction::run(|| operation::load(*id))? else { continue };
        let Some(back) = revert::turned(&operation).filter(|_| operation.state == State::Switched) else { continue };
        match revert::has_its_shape(&back) {
            Err(Interruption::Fail(error) | Interruption::Halt(error)) => {
                let why = Report::from(error).reason();
                transaction::run(|| way_back::lose(*id, &why))?;
            }
            Err(Interruption::Again(error)) => return Err(error),
            _ => {}
        }
        worker::reload_if_asked();
    }
    Ok(())
}
