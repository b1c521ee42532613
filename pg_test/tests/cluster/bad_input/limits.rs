//! Many levels, many leaves, more than a server can lock, and a call that is cancelled.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_test::Options;
use pg_test::sql::{column, refused, rows};

use super::Scene;

#[test]
fn six_levels_work() -> Result<()> {
    let mut scene = Scene::new(2)?;
    scene.client.batch_execute(
        r#"CREATE TABLE deep (day date, region text, id int, kind text, at timestamptz, big bigint,
                             PRIMARY KEY (day, region, id, kind, at, big));
           SELECT shard_create_parent('deep', '{"method": "range", "key": "day", "interval": "1 year", "start": "2024-01-01", "end": "2026-01-01", "nodes": ["local", "n1", "n2"],
             "partitions": {"method": "list", "key": "region", "values": {"eu": ["eu"], "us": ["us"]},
             "partitions": {"method": "hash", "key": "id", "modulus": 2,
             "partitions": {"method": "list", "key": "kind", "values": {"a": ["a"]}, "default": true,
             "partitions": {"method": "range", "key": "at", "bounds": ["MINVALUE", "2025-01-01", "MAXVALUE"],
             "partitions": {"method": "range", "key": "big", "step": 500, "end": 1000}}}}}}');
           INSERT INTO deep SELECT date '2024-01-01' + i % 730, CASE i % 2 WHEN 0 THEN 'eu' ELSE 'us' END, i, CASE i % 3 WHEN 0 THEN 'a' ELSE 'b' END,
             timestamptz '2024-01-01Z' + i * interval '1 day', i FROM generate_series(0, 999) i"#,
    )?;
    let seen = rows(&mut scene.client, "SELECT leaves, levels FROM shard_parents WHERE parent = 'deep'::regclass")?;
    assert_eq!(seen, [["64", "6"]]);
    assert_eq!(column(&mut scene.client, "SELECT count(*) FROM deep")?, ["1000"]);
    let lost = "SELECT count(*) FROM deep d, shard_locate('deep', to_jsonb(d)) l WHERE l.partition <> d.tableoid";
    assert_eq!(column(&mut scene.client, lost)?, ["0"]);
    // A wrong row is refused on the node, six levels down.
    let leaf = rows(
        &mut scene.client,
        "SELECT d.tableoid::regclass, p.node FROM deep d JOIN shard_partitions p ON p.partition = d.tableoid WHERE p.node = 'n1' LIMIT 1",
    )?;
    let wrong = format!("INSERT INTO {0} SELECT day, region, id, kind, at, big + 500 FROM {0} LIMIT 1", leaf[0][0]);
    assert_eq!(refused(&mut scene.cluster.node(1).client()?, &wrong)?.code().code(), "23514");
    scene.client.batch_execute("SELECT shard_drop_parent('deep')")?;
    Ok(())
}

/// Levels below each other, the first one included.
fn nested(depth: usize) -> String {
    (1..depth).fold(r#"{"method": "hash", "key": "id", "modulus": 1}"#.to_owned(), |below, _| {
        format!(
            r#"{{"method": "hash", "key": "id", "modulus": 1, "name": "{{parent}}{{label}}", "partitions": {below}}}"#
        )
    })
}

#[test]
fn sixteen_levels_are_the_most() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute("CREATE TABLE t (id int)")?;
    let call = |depth| format!("SELECT shard_create_parent('t', '{}')", nested(depth));
    let path = format!("${}", ".partitions".repeat(16));
    scene.refuses(&[(&call(17), "22023", &format!("{path}: the levels are nested too deeply"), "")])?;
    scene.refuses(&[(&call(100), "22023", &format!("{path}: the levels are nested too deeply"), "")])?;
    scene.client.batch_execute(&call(16))?;
    scene.client.batch_execute("INSERT INTO t VALUES (1)")?;
    Ok(())
}

#[test]
fn two_thousand_leaves_are_one_call() -> Result<()> {
    let settings = vec![("max_locks_per_transaction", "256")];
    let mut scene = Scene::with(Options {
        nodes: 3,
        coordinator_settings: settings.clone(),
        node_settings: settings,
        ..Options::default()
    })?;
    let start = Instant::now();
    scene.client.batch_execute(
        r#"CREATE TABLE many (day date, id int, PRIMARY KEY (day, id));
           SELECT shard_create_parent('many', '{"method": "range", "key": "day", "interval": "1 day", "start": "2024-01-01", "end": "2026-09-27", "nodes": ["n1", "n2", "n3"],
             "partitions": {"method": "hash", "key": "id", "modulus": 2}}')"#,
    )?;
    println!("2,000 leaves took {:?}", start.elapsed());
    let seen = rows(&mut scene.client, "SELECT leaves, levels FROM shard_parents WHERE parent = 'many'::regclass")?;
    assert_eq!(seen, [["2000", "2"]]);
    scene
        .client
        .batch_execute("INSERT INTO many SELECT date '2024-01-01' + i % 1000, i FROM generate_series(1, 3000) i")?;
    assert_eq!(column(&mut scene.client, "SELECT count(*) FROM many")?, ["3000"]);
    scene.client.batch_execute("SELECT shard_drop_parent('many')")?;
    Ok(())
}

const SMALL: [(&str, &str); 3] =
    [("max_locks_per_transaction", "10"), ("max_connections", "10"), ("max_worker_processes", "8")];
const MANY: &str = r#"{"method": "hash", "key": "id", "modulus": 2000, "nodes": ["n1", "n2"]}"#;

fn more_than_can_be_locked(options: Options, server: &str) -> Result<()> {
    let mut scene = Scene::with(options)?;
    scene.client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, name text)")?;
    let message = format!("the lock table of {server} is too small for this many partitions in one transaction");
    let start = Instant::now();
    scene.refuses(&[
        (&format!("SELECT shard_create_parent('t', '{MANY}')"), "53400", &message, "Set max_locks_per_transaction to "),
        (&format!("SELECT shard_plan_parent('t', '{MANY}')"), "53400", &message, "Set max_locks_per_transaction to "),
    ])?;
    ensure!(start.elapsed() < Duration::from_secs(10), "told before anything starts, not after {:?}", start.elapsed());
    // The setting that the hint names is enough.
    let error = refused(&mut scene.client, &format!("SELECT shard_create_parent('t', '{MANY}')"))?;
    let hint = error.hint().context("there is a hint")?;
    let word = hint.split(' ').find_map(|word| word.parse::<u32>().ok()).with_context(|| hint.to_owned())?;
    for small in scene.cluster.servers().filter(|small| (small.name == "coordinator") == (server == "local")) {
        small.configure(&[("max_locks_per_transaction", word.to_string())])?;
        small.restart()?;
    }
    let mut client = scene.cluster.coordinator.client()?;
    client.batch_execute(&format!("SELECT shard_create_parent('t', '{MANY}')"))?;
    assert_eq!(column(&mut client, "SELECT leaves FROM shard_parents")?, ["2000"]);
    Ok(())
}

#[test]
fn more_leaves_than_the_coordinator_can_lock_are_told_first() -> Result<()> {
    let large = vec![("max_locks_per_transaction", "256")];
    let options =
        Options { nodes: 2, coordinator_settings: SMALL.to_vec(), node_settings: large, ..Options::default() };
    more_than_can_be_locked(options, "local")
}

#[test]
fn more_leaves_than_a_node_can_lock_are_told_first() -> Result<()> {
    let large = vec![("max_locks_per_transaction", "256")];
    let small = SMALL.iter().copied().chain([("max_wal_senders", "5")]).collect();
    let options = Options { nodes: 2, coordinator_settings: large, node_settings: small, ..Options::default() };
    more_than_can_be_locked(options, "node n1")
}
