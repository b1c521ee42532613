//! Faults amid operations: where in an operation, what happens to whom, and the scenes in which all of it is survived.
//!
//! A scene is a cluster with a ledger at work and one shape of operation that goes on there again and again. A case holds the
//! operation at a statement that only one of its states sends, lets something happen to a server or to the worker, and
//! wants all that is promised: the operation ends by itself, or by a cancel; no row is lost or doubled; nothing is left behind.
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::movement::{self, ends, field, nothing_is_left, reaches, told};
use crate::objects::{Objects, settled};
use crate::{Cluster, Keys, Ledger, PATIENCE, Server, Then, Workload, eventually};

mod shape;

pub use shape::{Shape, Side, Spot};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    Worker,
    Coordinator,
    /// The node that gives rows.
    Source,
    /// The node that gets rows.
    Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// As `pg_terminate_backend` ends the worker.
    Terminated,
    /// As `pg_cancel_backend` ends its statement.
    Cancelled,
    /// `kill -9`. Where it hits the worker, Postgres ends all sessions of the coordinator and begins anew.
    Killed,
    /// Stopped for half a minute, no connection closed, and continued.
    Frozen,
    /// The connections between coordinator and node; of the coordinator, those to all nodes.
    Cut,
}

/// How long a frozen server or worker stands still.
pub const FROST: Duration = Duration::from_secs(30);

/// One fault at one place.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub shape: Shape,
    pub spot: Spot,
    pub victim: Victim,
    pub fault: Fault,
    /// The node has run the statement when the fault comes.
    pub ran: bool,
    /// Somebody cancels the operation after the fault, instead of letting it go on.
    pub cancel: bool,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Case { shape, spot, victim, fault, ran, cancel } = self;
        let when = if *ran { "after" } else { "before" };
        let end = if *cancel { ", and a cancel" } else { "" };
        write!(f, "{shape:?}, {}: {victim:?} {fault:?} {when} the statement{end}", spot.state)
    }
}

/// A cluster of two nodes with clients at work, and an operation that happens there again and again.
pub struct Scene {
    pub cluster: Cluster,
    shape: Shape,
    /// The node that gives rows next; the other one gets them.
    pub source: usize,
    /// Counts the tables of conversions.
    tables: usize,
    workload: Workload,
    ledger: Option<Ledger>,
    /// What existed on all servers when the rows lay with this node as the next source.
    known: HashMap<usize, Objects>,
}

impl Scene {
    pub fn new(shape: Shape, workload: Workload) -> Result<Scene> {
        let cluster = movement::cluster(2)?;
        cluster.coordinator.configure(&[("shardkeeper.trash_keep", "0")])?;
        cluster.coordinator.reload()?;
        cluster.add_nodes_by_proxy()?;
        let mut scene = Scene { cluster, shape, source: 1, tables: 0, workload, ledger: None, known: HashMap::new() };
        if shape != Shape::Conversion {
            let mut client = scene.cluster.coordinator.client()?;
            client.batch_execute(&Keys::Bigint.create_sql("t"))?;
            client
                .batch_execute("SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1, local}')")?;
            Keys::Bigint.load(&mut client, "t", 2_000)?;
            scene.ledger = Some(scene.clients("t")?);
        }
        Ok(scene)
    }

    fn clients(&self, table: &str) -> Result<Ledger> {
        Ledger::start(&self.cluster, table, Keys::Bigint, self.workload.clone())
    }

    pub fn target(&self) -> usize {
        3 - self.source
    }

    fn number(&self, side: Side) -> usize {
        match side {
            Side::Source => self.source,
            Side::Target => self.target(),
        }
    }

    fn call(&self) -> String {
        self.shape.call(self.source, self.target(), &self.table())
    }

    fn table(&self) -> String {
        if self.shape == Shape::Conversion { format!("t{}", self.tables) } else { "t".into() }
    }

    pub fn begin(&self) -> Result<i64> {
        self.cluster.coordinator.value(&format!("SELECT {}", self.call()))
    }

    pub fn resume(&self) {
        (1..=2).for_each(|number| self.cluster.proxy(number).resume());
    }

    /// What the operation needs before it is called for.
    fn set_up(&mut self) -> Result<()> {
        match self.shape {
            Shape::FromNode => self.move_quietly(&format!("n{}", self.source)),
            Shape::Conversion => {
                self.tables += 1;
                let table = self.table();
                let mut client = self.cluster.coordinator.client()?;
                client.batch_execute(&Keys::Bigint.create_sql(&table))?;
                Keys::Bigint.load(&mut client, &table, 1_000)?;
                self.ledger = Some(self.clients(&table)?);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Takes the rows back, so that what exists can be compared.
    fn tear_down(&mut self) -> Result<()> {
        match self.shape {
            Shape::ToNode => self.move_quietly("local")?,
            Shape::Conversion => {
                let table = self.table();
                if let Some(ledger) = self.ledger.take() {
                    ledger.stop()?.check(&self.cluster)?;
                }
                let mut client = self.cluster.coordinator.client()?;
                let managed = "SELECT count(*) FROM shardkeeper.parents WHERE parent = $1::text::regclass";
                let managed: i64 = client.query_one(managed, &[&table])?.get(0);
                client.batch_execute(&match managed {
                    0 => format!("DROP TABLE {table}"),
                    _ => format!("SELECT shard_drop_parent('{table}')"),
                })?;
            }
            _ => {}
        }
        self.is_as_before()
    }

    fn move_quietly(&self, to: &str) -> Result<()> {
        let id: i64 = self.cluster.coordinator.value(&format!("SELECT shard_move_partition('t_1', '{to}')"))?;
        self.finish(id)
    }

    fn finish(&self, id: i64) -> Result<()> {
        reaches(&self.cluster, id, "switched", LIMIT)?;
        self.cluster.coordinator.run(&format!("SELECT shard_finish({id})"))?;
        ends(&self.cluster, id, LIMIT)
    }

    /// Compares with the last time that the rows lay here.
    fn is_as_before(&mut self) -> Result<()> {
        let layout = if self.shape.flips() { self.source } else { 0 };
        let look = |cluster: &Cluster| -> Result<Objects> {
            settled(cluster, PATIENCE)?;
            Objects::of_all(cluster)
        };
        let Some(before) = self.known.get(&layout) else {
            let found = look(&self.cluster)?;
            self.known.insert(layout, found);
            return Ok(());
        };
        let differences = || -> Result<Vec<String>> {
            let mut changes = look(&self.cluster)?.changes_since(before);
            changes.retain(|line| !PASSING.iter().any(|what| line.contains(what)));
            Ok(changes)
        };
        eventually("all objects are as before", PATIENCE, || Ok(differences()?.is_empty()))
            .with_context(|| differences().unwrap_or_default().join("\n"))
    }

    /// One fault, and all that is promised after it.
    pub fn survive(&mut self, case: &Case) -> Result<()> {
        if self.known.is_empty() {
            self.is_as_before()?;
        }
        self.set_up()?;
        let number = self.number(case.spot.side);
        let proxy = self.cluster.proxy(number);
        let then = match (case.fault == Fault::Cut && self.hits(case, number), case.ran) {
            (true, false) => Then::Cut,
            (true, true) => Then::CutAnswer,
            (false, false) => Then::Stall,
            (false, true) => Then::StallAnswer,
        };
        let statement = case.spot.statement.as_bytes();
        let (id, hit) = match case.spot.after {
            None => {
                let hit = proxy.on(statement, then);
                (self.begin()?, hit)
            }
            Some(first) => {
                let first = proxy.stall_on(first.as_bytes());
                let id = self.begin()?;
                first.wait_until_hit(LIMIT).with_context(|| told(&self.cluster))?;
                (id, proxy.resume_until(statement, then))
            }
        };
        hit.wait_until_hit(LIMIT).with_context(|| told(&self.cluster))?;
        let phase = field(&self.cluster, id, "phase")?;
        ensure!(phase == case.spot.state, "hit in {phase}");
        self.strike(case)?;
        if case.cancel {
            self.cluster.coordinator.run(&format!("SELECT shard_cancel({id})"))?;
        }
        self.resume();
        if case.cancel {
            ends(&self.cluster, id, LIMIT)?;
            let state = field(&self.cluster, id, "state")?;
            ensure!(state == "cancelled", "{state} instead of cancelled\n{}", told(&self.cluster));
            settled(&self.cluster, PATIENCE)?;
            self.clients_write()?;
            nothing_is_left(&self.cluster)?;
            if self.shape == Shape::FromNode {
                self.move_quietly("local")?;
            }
        } else {
            self.come_to_an_end(id)?;
        }
        self.tear_down()
    }

    fn hits(&self, case: &Case, number: usize) -> bool {
        self.victims(case.victim).contains(&number)
    }

    /// The nodes whose connections are cut with this victim.
    fn victims(&self, victim: Victim) -> Vec<usize> {
        match victim {
            Victim::Worker | Victim::Coordinator => vec![1, 2],
            Victim::Source => vec![self.source],
            Victim::Target => vec![self.target()],
        }
    }

    fn strike(&self, case: &Case) -> Result<()> {
        let coordinator = &self.cluster.coordinator;
        let server = match case.victim {
            Victim::Source => self.cluster.node(self.source),
            Victim::Target => self.cluster.node(self.target()),
            Victim::Worker | Victim::Coordinator => coordinator,
        };
        let worker = || -> Result<i32> {
            coordinator.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'shardkeeper operation'")
        };
        match (case.fault, case.victim) {
            (Fault::Terminated, _) => coordinator.run(&format!("SELECT pg_terminate_backend({})", worker()?)),
            (Fault::Cancelled, _) => coordinator.run(&format!("SELECT pg_cancel_backend({})", worker()?)),
            (Fault::Killed, Victim::Worker) => coordinator.crash_by(worker()?, || self.resume()),
            (Fault::Killed, _) => restart(server),
            (Fault::Frozen, victim) => {
                if victim == Victim::Worker {
                    coordinator.freeze_process(worker()?)?;
                } else {
                    server.freeze()?;
                }
                self.resume();
                std::thread::sleep(FROST);
                server.thaw()
            }
            (Fault::Cut, victim) => {
                self.victims(victim).into_iter().for_each(|number| self.cluster.proxy(number).cut());
                Ok(())
            }
        }
    }

    pub fn clients_write(&self) -> Result<()> {
        let Some(ledger) = &self.ledger else { return Ok(()) };
        let wanted = ledger.acknowledged() + 50;
        eventually("clients write", LIMIT, || Ok(ledger.acknowledged() >= wanted))
            .with_context(|| format!("{:?}", ledger.failures()))?;
        ledger.check(&self.cluster)
    }

    /// The operation switches, and is finished.
    pub fn come_to_an_end(&mut self, id: i64) -> Result<()> {
        reaches(&self.cluster, id, "switched", LIMIT)?;
        settled(&self.cluster, PATIENCE)?;
        self.clients_write()?;
        self.cluster.coordinator.run(&format!("SELECT shard_finish({id})"))?;
        ends(&self.cluster, id, LIMIT)?;
        self.source = self.target();
        nothing_is_left(&self.cluster)
    }

    /// Ends the clients, and wants every row as it was acknowledged.
    pub fn close(mut self) -> Result<()> {
        let Some(ledger) = self.ledger.take() else { return Ok(()) };
        let outcome = ledger.stop()?;
        println!("{outcome}");
        outcome.check(&self.cluster)
    }
}

/// What is not compared: the history of operations, counters, and the schema of the trash, which is made when it is needed.
const PASSING: [&str; 3] = ["row of shardkeeper.operation", "row of shardkeeper.parents", "schema shardkeeper_trash"];

/// A frozen server is met by retries that wait longer and longer, and the machine may be busy.
const LIMIT: Duration = Duration::from_secs(90);

pub fn restart(server: &Server) -> Result<()> {
    server.kill9()?;
    server.start()
}

/// Runs the cases, so many scenes at a time; all that failed are told together.
pub fn survive_all(cases: &[&Case], scenes: usize, workload: &Workload) -> Result<()> {
    let left: Mutex<VecDeque<&Case>> = Mutex::new(cases.iter().copied().collect());
    let failed: Mutex<Vec<String>> = Mutex::default();
    let name = std::thread::current().name().unwrap_or("faults").to_owned();
    std::thread::scope(|scope| -> Result<()> {
        for number in 1..=scenes.min(cases.len()) {
            let (left, failed) = (&left, &failed);
            let run = move || {
                while let Err(error) = some(left, workload) {
                    println!("{error:?}");
                    lock(failed).push(format!("{error:?}"));
                }
            };
            std::thread::Builder::new().name(format!("{name}.{number}")).spawn_scoped(scope, run)?;
        }
        Ok(())
    })?;
    let failed = failed.into_inner().unwrap_or_else(|e| e.into_inner());
    ensure!(failed.is_empty(), "{} of {} cases failed\n{}", failed.len(), cases.len(), failed.join("\n\n"));
    Ok(())
}

/// Takes cases until none is left, or until one fails: what a failure leaves is no ground for another.
fn some(left: &Mutex<VecDeque<&Case>>, workload: &Workload) -> Result<()> {
    let mut scene: Option<Scene> = None;
    loop {
        let Some(case) = lock(left).pop_front() else { break };
        let mut here = match scene.take() {
            Some(scene) if scene.shape == case.shape => scene,
            other => {
                other.map_or(Ok(()), Scene::close)?;
                Scene::new(case.shape, workload.clone())?
            }
        };
        let started = Instant::now();
        let outcome = here.survive(case);
        println!("{case}: {:.1?}", started.elapsed());
        outcome.with_context(|| format!("{case}\n{}", told(&here.cluster)))?;
        scene = Some(here);
    }
    scene.map_or(Ok(()), Scene::close)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
