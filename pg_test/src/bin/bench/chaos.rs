//! Everything at once: operations of every kind, calls, allowed DDL, and servers and workers that are killed, frozen and cut off,
//! all at random, while clients write. At the end every acknowledged write is there exactly once, every tree is complete, and
//! nothing is left over.
mod calls;
mod dice;
mod end;
mod fate;
mod tally;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use pg_test::{Cluster, Keys, Ledger, Options, Tolerate, Workload};

use crate::Report;
use calls::Caller;
use dice::Dice;
use fate::Fate;
use tally::Tally;

pub const NODES: usize = 4;
const ROWS: i64 = 2_000;
/// Side by side, so that a call comes amid others.
const CALLERS: u64 = 3;
const MINUTES: u64 = 5;
/// A frozen server, a switch that waits for it, and a restart come one after the other.
const PATIENCE: Duration = Duration::from_secs(180);

/// What clients write to, and how it begins.
const TABLES: [(&str, Keys, &str); 5] = [
    ("a", Keys::Bigint, "SELECT shard_create_parent('a', 'hash', 'id', modulus => 3, nodes => '{local, n1, n2}')"),
    (
        "b",
        Keys::TwoColumns,
        r#"SELECT shard_create_parent('b', '{"method": "list", "key": "region",
               "values": {"us": ["us"], "eu": ["eu"], "asia": ["cn", "jp"]},
               "partitions": {"method": "hash", "key": "id", "modulus": 2, "nodes": ["n3", "local", "n4"]}}')"#,
    ),
    ("c", Keys::Text, "SELECT shard_create_parent('c', 'hash', 'id', modulus => 2, nodes => '{local}')"),
    (
        "d",
        Keys::Bigint,
        r#"SELECT shard_create_parent('d', '{"method": "range", "key": "id", "nodes": ["n2", "local"],
               "bounds": ["MINVALUE", 500, 1000, 1500], "default": {"nodes": ["n1"]}}')"#,
    ),
    (
        "e",
        Keys::TwoColumns,
        r#"SELECT shard_create_parent('e', '{"method": "list", "key": "region", "nodes": ["n4", "local"],
               "values": {"west": ["us", "eu"], "east": ["cn", "jp"]}}')"#,
    ),
];

pub fn run(report: &Report) -> Result<()> {
    let seed =
        report.seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_secs()));
    let minutes = report.minutes.unwrap_or(MINUTES);
    eprintln!("chaos for {minutes} minutes with seed {seed}");
    let cluster = scene()?;
    let ledgers = clients(&cluster)?;
    let tally = Tally::default();
    let (stop, until) = (AtomicBool::new(false), Instant::now() + Duration::from_secs(minutes * 60));
    let amid = std::thread::scope(|scope| {
        let mut hands: Vec<ScopedJoinHandle<'_, Result<()>>> = Vec::new();
        for number in 0..CALLERS {
            let caller = Caller::new(&cluster, &tally, Dice::new(seed, number));
            hands.push(scope.spawn(|| caller.run(until, &stop)));
        }
        let fate = Fate::new(&cluster, &tally, Dice::new(seed, CALLERS));
        hands.push(scope.spawn(|| fate.run(until, &stop)));
        let ended = hands.into_iter().map(|hand| {
            let ended = hand.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")));
            stop.store(ended.is_err() || stop.load(Ordering::Relaxed), Ordering::Relaxed);
            ended
        });
        ended.collect::<Vec<_>>().into_iter().collect::<Result<Vec<()>>>()
    });
    tally.print(report);
    amid.context("amid the chaos")?;
    end::settle(&cluster)?;
    let outcomes = ledgers.into_iter().map(Ledger::stop).collect::<Result<Vec<_>>>()?;
    let mut acknowledged = 0;
    for outcome in outcomes {
        eprintln!("{outcome}");
        acknowledged += outcome.acknowledged();
        outcome.check(&cluster)?;
    }
    report.case("acknowledged transactions", acknowledged as f64, "transactions", None);
    end::check(&cluster)
}

fn scene() -> Result<Cluster> {
    let settings = vec![
        ("wal_level", "logical"),
        ("max_replication_slots", "40"),
        ("max_wal_senders", "40"),
        ("max_worker_processes", "32"),
        ("deadlock_timeout", "200ms"),
    ];
    let cluster = Cluster::with(Options {
        nodes: NODES,
        coordinator_settings: [settings.clone(), vec![("shardkeeper.trash_keep", "0")]].concat(),
        node_settings: settings,
        ..Options::default()
    })?;
    for node in cluster.nodes() {
        node.run("ALTER ROLE app REPLICATION; GRANT CREATE ON DATABASE app TO app")?;
    }
    cluster.add_nodes_by_proxy()?;
    Ok(cluster)
}

fn clients(cluster: &Cluster) -> Result<Vec<Ledger>> {
    let mut client = cluster.coordinator.client()?;
    let workload = Workload {
        clients: 2,
        think: Duration::from_millis(5),
        tolerate: Tolerate::SplitCommits,
        cancels: true,
        patience: PATIENCE,
        ..Workload::default()
    };
    for (table, keys, create) in TABLES {
        client.batch_execute(&keys.create_sql(table))?;
        client.batch_execute(create)?;
        keys.load(&mut client, table, ROWS)?;
    }
    TABLES.iter().map(|(table, keys, _)| Ledger::start(cluster, table, *keys, workload.clone())).collect()
}
