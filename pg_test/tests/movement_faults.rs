//! An operation outlives what happens to its servers: whatever dies in whatever state, it goes on by itself, and nothing
//! is lost, doubled or left behind.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_test::movement::{self, complains, ends, field, nothing_is_left, reaches, told};
use pg_test::objects::settled;
use pg_test::{Cluster, Keys, Ledger, PATIENCE, Server, Then, Tolerate, Workload, eventually, matrix};

/// The server that a statement of a state goes to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Source,
    Target,
}

/// Each state with a statement that no other sends.
const STATES: [(&str, Side, &str); 7] = [
    ("preparing", Side::Source, "pg_create_logical_replication_slot"),
    ("copying", Side::Source, "COPY (SELECT"),
    ("catching_up", Side::Source, "pg_logical_slot_peek_binary_changes"),
    ("verifying", Side::Target, "hashtextextended"),
    ("ready", Side::Source, "CREATE SCHEMA IF NOT EXISTS"),
    ("switching", Side::Source, "LOCK TABLE ONLY"),
    ("switched", Side::Target, "DROP CONSTRAINT IF EXISTS"),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    /// The worker of the operation, ended as `pg_terminate_backend` does it.
    Worker,
    /// Its statement is cancelled, as `pg_cancel_backend` does it.
    Statement,
    /// The worker ended with SIGKILL: Postgres then ends all its sessions and begins anew.
    WorkerKilled,
    Coordinator,
    Source,
    Target,
    /// The connections to the node of the statement.
    Network,
}

const VICTIMS: [Victim; 7] = [
    Victim::Worker,
    Victim::Statement,
    Victim::WorkerKilled,
    Victim::Coordinator,
    Victim::Source,
    Victim::Target,
    Victim::Network,
];

/// Which state, who dies, and whether the node has run the statement before that.
type Case = ((&'static str, Side, &'static str), Victim, bool);

fn cases() -> Vec<Case> {
    let states = STATES.iter().flat_map(|state| VICTIMS.iter().map(move |victim| (*state, *victim)));
    // Neighbours are of different states, so that those which a day takes are.
    let mut cases: Vec<Case> =
        states.flat_map(|(state, victim)| [false, true].map(|ran| (state, victim, ran))).collect();
    let count = cases.len();
    cases = (0..count).map(|at| cases[at * 13 % count]).collect();
    cases
}

/// The parent's leaf `t_0` moves from one node to the other and back.
struct Scene {
    cluster: Cluster,
    source: usize,
}

impl Scene {
    fn new() -> Result<Scene> {
        let cluster = movement::cluster(2)?;
        cluster.add_nodes_by_proxy()?;
        let mut client = cluster.coordinator.client()?;
        client.batch_execute(&Keys::Bigint.create_sql("t"))?;
        client.batch_execute("SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1, local}')")?;
        Keys::Bigint.load(&mut client, "t", 2_000)?;
        Ok(Scene { cluster, source: 1 })
    }

    fn target(&self) -> usize {
        3 - self.source
    }

    fn number(&self, side: Side) -> usize {
        match side {
            Side::Source => self.source,
            Side::Target => self.target(),
        }
    }

    fn begin(&self) -> Result<i64> {
        self.cluster.coordinator.value(&format!("SELECT shard_move_partition('t_0', 'n{}')", self.target()))
    }

    fn resume(&self) {
        (1..=2).for_each(|number| self.cluster.proxy(number).resume());
    }

    /// One fault, and all that is promised after it.
    fn survive(&mut self, ledger: &Ledger, case: &Case) -> Result<()> {
        let ((state, side, statement), victim, ran) = *case;
        let number = self.number(side);
        let then = match (victim == Victim::Network, ran) {
            (true, false) => Then::Cut,
            (true, true) => Then::CutAnswer,
            (false, false) => Then::Stall,
            (false, true) => Then::StallAnswer,
        };
        let hit = self.cluster.proxy(number).on(statement.as_bytes(), then);
        let id = self.begin()?;
        hit.wait_until_hit(PATIENCE).with_context(|| told(&self.cluster))?;
        let phase = field(&self.cluster, id, "phase")?;
        ensure!(phase == state, "hit in {phase} instead of {state}");
        self.strike(victim)?;
        self.resume();
        self.come_to_an_end(ledger, id)
    }

    fn strike(&self, victim: Victim) -> Result<()> {
        let worker = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'shardkeeper operation'";
        match victim {
            Victim::Worker => {
                let pid: i32 = self.cluster.coordinator.value(worker)?;
                self.cluster.coordinator.run(&format!("SELECT pg_terminate_backend({pid})"))
            }
            Victim::Statement => {
                let pid: i32 = self.cluster.coordinator.value(worker)?;
                self.cluster.coordinator.run(&format!("SELECT pg_cancel_backend({pid})"))
            }
            Victim::WorkerKilled => {
                let mut witness = self.cluster.coordinator.client()?;
                let pid: i32 = self.cluster.coordinator.value(worker)?;
                self.cluster.coordinator.kill_process(pid)?;
                self.resume();
                eventually("all sessions have ended", PATIENCE, || Ok(witness.batch_execute("").is_err()))?;
                eventually("the coordinator is there again", PATIENCE, || {
                    Ok(self.cluster.coordinator.value::<i32>("SELECT 1").is_ok())
                })
            }
            Victim::Coordinator => restart(&self.cluster.coordinator),
            Victim::Source => restart(self.cluster.node(self.source)),
            Victim::Target => restart(self.cluster.node(self.target())),
            Victim::Network => Ok(()),
        }
    }

    fn clients_write(&self, ledger: &Ledger) -> Result<()> {
        let wanted = ledger.acknowledged() + 50;
        eventually("clients write", PATIENCE, || Ok(ledger.acknowledged() >= wanted))
            .with_context(|| format!("{:?}", ledger.failures()))?;
        ledger.check(&self.cluster)
    }

    fn come_to_an_end(&mut self, ledger: &Ledger, id: i64) -> Result<()> {
        let limit = Duration::from_secs(60);
        reaches(&self.cluster, id, "switched", limit)?;
        settled(&self.cluster, PATIENCE)?;
        self.clients_write(ledger)?;
        self.cluster.coordinator.run(&format!("SELECT shard_finish({id})"))?;
        ends(&self.cluster, id, limit)?;
        self.source = self.target();
        nothing_is_left(&self.cluster)
    }
}

fn restart(server: &Server) -> Result<()> {
    server.kill9()?;
    server.start()
}

fn workload() -> Workload {
    Workload { clients: 2, tolerate: Tolerate::Restarts, ..Workload::default() }
}

#[test]
fn an_operation_survives_a_fault_in_each_state() -> Result<()> {
    let cases = cases();
    let mut left = matrix::take(4, &cases).into_iter().peekable();
    let mut failed = Vec::new();
    // What a failure leaves is no ground for another case.
    while left.peek().is_some() {
        let mut scene = Scene::new()?;
        let ledger = Ledger::start(&scene.cluster, "t", Keys::Bigint, workload())?;
        let before = failed.len();
        while let Some(case) = left.next_if(|_| failed.len() == before) {
            let ((state, ..), victim, ran) = *case;
            let name = format!("{state}, {victim:?}, {} the statement", if ran { "after" } else { "before" });
            let started = Instant::now();
            let outcome = scene.survive(&ledger, case);
            println!("{name}: {:.1?}", started.elapsed());
            if let Err(error) = outcome {
                failed.push(format!("{name}: {error:?}\n{}", told(&scene.cluster)));
            }
        }
        if failed.len() == before {
            let outcome = ledger.stop()?;
            println!("{outcome}");
            outcome.check(&scene.cluster)?;
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    Ok(())
}

/// What happens when the source has committed the switch, and the target may not have.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Split {
    /// The target's COMMIT is lost.
    Cut,
    /// The answer to it is lost.
    CutAnswer,
    /// The target never gets its COMMIT: the coordinator dies.
    KillCoordinator,
    /// The same, and somebody cancels before the source can be reached.
    KillCoordinatorAndCancel,
    /// The target dies before its COMMIT.
    KillTarget,
}

#[test]
fn a_switch_that_only_some_servers_have_made_is_undone_and_made_again() -> Result<()> {
    let mut scene = Scene::new()?;
    let ledger =
        Ledger::start(&scene.cluster, "t", Keys::Bigint, Workload { tolerate: Tolerate::SplitCommits, ..workload() })?;
    let splits =
        [Split::Cut, Split::KillCoordinatorAndCancel, Split::CutAnswer, Split::KillTarget, Split::KillCoordinator];
    for split in matrix::take(2, &splits) {
        let started = Instant::now();
        scene.split(&ledger, *split).with_context(|| format!("{split:?}"))?;
        println!("{split:?}: {:.1?}", started.elapsed());
    }
    let outcome = ledger.stop()?;
    println!("{outcome}");
    outcome.check(&scene.cluster)
}

impl Scene {
    fn split(&mut self, ledger: &Ledger, split: Split) -> Result<()> {
        let target = self.target();
        let proxy = self.cluster.proxy(target);
        let swaps = proxy.stall_on(b"SET SCHEMA");
        let id = self.begin()?;
        swaps.wait_until_hit(PATIENCE).with_context(|| told(&self.cluster))?;
        // The parent is locked: no client commits now.
        proxy.resume();
        let commits = proxy.on(
            b"COMMIT TRANSACTION",
            match split {
                Split::Cut => Then::Cut,
                Split::CutAnswer => Then::CutAnswer,
                _ => Then::Stall,
            },
        );
        commits.wait_until_hit(PATIENCE).with_context(|| told(&self.cluster))?;
        let source = self.cluster.node(self.source);
        eventually("the source has committed", PATIENCE, || Ok(!source.has("t_0")?))?;
        match split {
            Split::Cut | Split::CutAnswer => {}
            Split::KillCoordinator | Split::KillCoordinatorAndCancel => {
                self.cluster.coordinator.kill9()?;
                // What is held back never arrives.
                proxy.cut();
                if split == Split::KillCoordinator {
                    self.cluster.coordinator.start()?;
                } else {
                    self.cluster.proxy(self.source).cut();
                    self.cluster.coordinator.start()?;
                    self.cluster.coordinator.run(&format!("SELECT shard_cancel({id})"))?;
                    complains(&self.cluster, id, "node", PATIENCE)?;
                    self.resume();
                    ends(&self.cluster, id, PATIENCE * 2)?;
                    ensure!(field(&self.cluster, id, "state")? == "cancelled");
                    settled(&self.cluster, PATIENCE)?;
                    self.clients_write(ledger)?;
                    return nothing_is_left(&self.cluster);
                }
            }
            Split::KillTarget => restart(self.cluster.node(target))?,
        }
        self.resume();
        self.come_to_an_end(ledger, id)
    }
}
