//! The worker of one database: visits its nodes in turn, for as long as the extension is there.

use super::visit::{Node, Peer};
use crate::background::log::Log;
use crate::catalog::node::{self, Mapping};
use crate::catalog::{operation, way_back};
use crate::error::{Report, Result};
use crate::guc;
use crate::node::in_doubt::Coordinator;
use crate::node::session::{self, ConnectionParams};
use crate::node::trash;
use crate::pg::lock::{self, Single};
use crate::pg::settings;
use crate::pg::worker::Handle;
use crate::pg::{sql, transaction, worker};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::time::{Duration, Instant};

/// DROP DATABASE waits five seconds for everybody to leave.
const LOOK_AT_LOCKS: Duration = Duration::from_secs(1);
/// While nodes are visited, a wake-up is seen after that time.
const LOOK_AT_LATCH: Duration = Duration::from_millis(50);
/// After local trash could not be dropped.
const TRASH_AGAIN: Duration = Duration::from_secs(60);
/// Between two looks at what changed in tables whose predecessors are kept.
const KEEP: Duration = Duration::from_secs(10);

/// `None` is a node that is being visited.
type Nodes = BTreeMap<String, Option<Node>>;
type Visits = FuturesUnordered<Pin<Box<dyn Future<Output = Node>>>>;

/// What one look at the database says.
enum Look {
    Leave,
    Idle,
    Work { coordinator: Coordinator, peers: BTreeMap<String, Vec<Peer>> },
}

pub fn run() {
    let mut log = Log::default();
    match transaction::run(settle_in) {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => return log.trouble("worker", error),
    }
    let mut nodes = Nodes::new();
    let mut visits = Visits::new();
    let mut trash_next = Instant::now();
    let mut operations = HashMap::new();
    let mut keeper = Keeper { handle: None, next: Instant::now() };
    loop {
        worker::reload_if_asked();
        if lock::database_is_wanted() {
            return;
        }
        match transaction::run(look) {
            Ok(Look::Leave) => return,
            Ok(Look::Idle) => nodes.clear(),
            Ok(Look::Work { coordinator, peers }) => {
                start_visits(&mut nodes, &mut visits, &coordinator, peers);
                start_operations(&mut operations, &mut log);
                keeper.start(&mut log);
                if trash_next <= Instant::now() {
                    trash_next = empty_trash(&mut log);
                }
                log.fine("worker");
            }
            Err(error) => log.trouble("worker", error),
        }
        worker::report_activity(c"", false);
        let pause = guc::heal_interval().min(LOOK_AT_LOCKS);
        if wait(&mut nodes, &mut visits, pause).is_err() {
            return;
        }
    }
}

/// First steps in the database; `false` when there is nothing to do here, or somebody does it already.
fn settle_in() -> Result<bool> {
    settings::settle_worker()?;
    Ok(is_installed()? && become_single())
}

/// The launcher holds the lock for a moment when it looks who has it.
fn become_single() -> bool {
    (0..5).any(|attempt| {
        if attempt > 0 {
            worker::sleep(Duration::from_millis(20));
        }
        lock::become_single(Single::Worker)
    })
}

fn is_installed() -> Result<bool> {
    let found =
        sql::one::<bool>("SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'shardkeeper')", &[])?;
    Ok(found == Some(true))
}

fn look() -> Result<Look> {
    if !is_installed()? {
        return Ok(Look::Leave);
    }
    if !guc::worker_enabled() {
        return Ok(Look::Idle);
    }
    Ok(Look::Work { coordinator: Coordinator::read()?, peers: peers()? })
}

/// For each node the remote roles and how to become them. A mapping that cannot be used is shard_check's to report.
fn peers() -> Result<BTreeMap<String, Vec<Peer>>> {
    let mut peers: BTreeMap<String, Vec<Peer>> = BTreeMap::new();
    for Mapping { node, role, trusted, options } in node::mappings()? {
        let known = peers.entry(node.clone()).or_default();
        if role.is_none() {
            continue;
        }
        let excused = trusted || options.get("password_required").is_some_and(|value| value == "false");
        let Ok(mut target) = ConnectionParams::from_options(&node, options) else { continue };
        target.must_use_password = !excused;
        match known.iter_mut().find(|peer| peer.user == target.user) {
            Some(peer) => peer.targets.push(target),
            None => known.push(Peer::new(target.user.clone(), vec![target])),
        }
    }
    Ok(peers)
}

fn start_visits(nodes: &mut Nodes, visits: &mut Visits, coordinator: &Coordinator, peers: BTreeMap<String, Vec<Peer>>) {
    let now = Instant::now();
    nodes.retain(|name, _| peers.contains_key(name));
    for (name, wanted) in peers {
        let place = nodes.entry(name.clone()).or_insert_with(|| Some(Node::new(name)));
        if let Some(node) = place {
            node.set_peers(wanted);
        }
        if let Some(node) = place.take_if(|node| node.is_due(now)) {
            visits.push(Box::pin(node.visit(coordinator.clone(), guc::heal_interval())));
        }
    }
}

/// Starts a worker for each operation that needs one and has none.
fn start_operations(running: &mut HashMap<i64, Handle>, log: &mut Log) {
    running.retain(|_, handle| handle.is_running());
    let wanting = match transaction::run(operation::wanting) {
        Ok(wanting) => wanting,
        Err(error) => return log.trouble("operations", error),
    };
    for id in wanting {
        if running.contains_key(&id) {
            continue;
        }
        match worker::start_operation(id) {
            Some(handle) => {
                running.insert(id, handle);
                log.fine("operations");
            }
            None => {
                let full = Report::new(
                    pgrx::PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                    format!("operation {id} finds no free background worker"),
                )
                .hint("Raise max_worker_processes and restart the coordinator.");
                log.trouble("operations", full.into());
            }
        }
    }
}

/// The worker that keeps what switched operations replaced current. It comes for one look, and leaves.
struct Keeper {
    handle: Option<Handle>,
    next: Instant,
}

impl Keeper {
    fn start(&mut self, log: &mut Log) {
        if self.next > Instant::now() || self.handle.as_ref().is_some_and(Handle::is_running) {
            return;
        }
        self.handle = None;
        self.next = Instant::now() + KEEP;
        match transaction::run(way_back::any_is_open) {
            Ok(false) => return,
            // Where there is no background worker free, log is kept a little longer.
            Ok(true) => self.handle = worker::start_keeper(),
            Err(error) => return log.trouble("ways back", error),
        }
        log.fine("ways back");
    }
}

/// Drives the visits for a while, or sleeps when there are none. Whoever has something to do for us ends the wait.
fn wait(nodes: &mut Nodes, visits: &mut Visits, pause: Duration) -> Result<()> {
    let end = Instant::now() + pause;
    while !visits.is_empty() {
        let moment = end.min(Instant::now() + LOOK_AT_LATCH);
        // A node may have been dropped meanwhile.
        if let Some(Some(node)) = session::wait_until(moment, visits.next())?
            && let Some(place) = nodes.get_mut(&node.name)
        {
            *place = Some(node);
        }
        if worker::is_woken() || Instant::now() >= end {
            return Ok(());
        }
    }
    worker::sleep(end.saturating_duration_since(Instant::now()));
    Ok(())
}

fn empty_trash(log: &mut Log) -> Instant {
    let errors = trash::empty_local().unwrap_or_else(|error| vec![error]);
    if errors.is_empty() {
        log.fine("trash");
        return Instant::now();
    }
    for error in errors {
        log.trouble("trash", error);
    }
    Instant::now() + TRASH_AGAIN
}
