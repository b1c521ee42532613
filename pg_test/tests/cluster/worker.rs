//! The background workers are good neighbours: one per database, in nobody's way, and back after every crash.
use std::time::Duration;

use anyhow::{Result, ensure};
use pg_test::movement::{ends, joined, reaches};
use pg_test::{Cluster, Options, PATIENCE, eventually};

const WORKERS: &str = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'shardkeeper worker'";

fn workers(cluster: &Cluster, database: &str) -> Result<i64> {
    cluster.coordinator.value(&format!("SELECT count(*) FROM ({WORKERS} AND datname = '{database}') w"))
}

/// Transactions that somebody has finished there: in a database to which nobody connects, the workers that looked into it.
fn looks(cluster: &Cluster, database: &str) -> Result<i64> {
    let sql = "SELECT xact_commit FROM pg_stat_database WHERE datname = $1";
    Ok(cluster.coordinator.client_in("postgres")?.query_one(sql, &[&database])?.get(0))
}

/// Waits until the launcher has looked at all databases: a worker of its has been in a new one.
fn launcher_has_looked(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.coordinator.client_in("postgres")?.batch_execute(&format!("CREATE DATABASE {name}"))?;
    eventually("the launcher has found the new database", PATIENCE, || Ok(looks(cluster, name)? > 0))
}

fn with_worker(options: Options) -> Result<Cluster> {
    let cluster = Cluster::with(Options { nodes: 1, ..options })?;
    cluster.add_nodes()?;
    eventually("the worker runs", PATIENCE, || Ok(workers(&cluster, "app")? == 1))?;
    Ok(cluster)
}

#[test]
fn every_database_with_the_extension_has_one_worker_and_no_other_has() -> Result<()> {
    let cluster = with_worker(Options::default())?;
    cluster.coordinator.run("CREATE DATABASE second")?;
    cluster.coordinator.run("CREATE DATABASE third")?;
    cluster.coordinator.client_in("second")?.batch_execute("CREATE EXTENSION shardkeeper CASCADE")?;
    let before = looks(&cluster, "third")?;
    cluster.coordinator.restart()?;
    eventually("both have one", PATIENCE, || Ok(workers(&cluster, "app")? == 1 && workers(&cluster, "second")? == 1))?;
    eventually("the launcher has tried another", PATIENCE, || Ok(looks(&cluster, "third")? > before))?;
    eventually("no other stays", PATIENCE, || Ok(cluster.coordinator.client()?.query(WORKERS, &[])?.len() == 2))?;
    cluster.coordinator.client_in("second")?.batch_execute("DROP EXTENSION shardkeeper")?;
    eventually("it left with the extension", PATIENCE, || Ok(workers(&cluster, "second")? == 0))
}

#[test]
fn a_database_can_be_dropped_and_copied_while_its_worker_runs() -> Result<()> {
    let cluster = with_worker(Options::default())?;
    cluster.coordinator.hang_up();
    cluster.coordinator.client_in("postgres")?.batch_execute("CREATE DATABASE copied TEMPLATE app")?;
    eventually("the worker is back", PATIENCE, || Ok(workers(&cluster, "app")? == 1))?;
    eventually("the copy has one too", PATIENCE, || Ok(workers(&cluster, "copied")? == 1))?;
    launcher_has_looked(&cluster, "second_look")?;
    let mut client = cluster.coordinator.client_in("postgres")?;
    let dropped: u32 = client.query_one("SELECT oid FROM pg_database WHERE datname = 'app'", &[])?.get(0);
    cluster.coordinator.hang_up();
    client.batch_execute("DROP DATABASE app")?;
    // The launcher is no earlier with another worker that ended after that of the dropped database.
    client.batch_execute(&format!("SELECT pg_terminate_backend(pid, 3000) FROM ({WORKERS}) w"))?;
    eventually("the copy has a worker again", PATIENCE, || Ok(client.query(WORKERS, &[])?.len() == 1))?;
    launcher_has_looked(&cluster, "third_look")?;
    let log = cluster.coordinator.log();
    assert!(!log.contains(&format!("database {dropped} does not exist")), "{log}");
    Ok(())
}

#[test]
fn without_preload_the_worker_starts_on_demand() -> Result<()> {
    let cluster = with_worker(Options { preload: false, ..Options::default() })?;
    // Its process can be seen a moment before it is at work.
    let told = "SELECT coalesce(bool_or(finding LIKE 'the library is not preloaded%'), false) FROM shard_check()
                WHERE area = 'worker' AND severity = 'warning'";
    eventually("it is told", PATIENCE, || cluster.coordinator.value(told))
}

#[test]
fn the_worker_is_back_after_a_crash_and_heeds_the_kill_switch() -> Result<()> {
    let cluster = with_worker(Options::default())?;
    cluster.coordinator.kill9()?;
    cluster.coordinator.start()?;
    eventually("the worker runs", PATIENCE, || Ok(workers(&cluster, "app")? == 1))?;
    cluster.coordinator.configure(&[("shardkeeper.worker", "off")])?;
    cluster.coordinator.reload()?;
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shardkeeper worker'";
    eventually("it lets go of the node", PATIENCE, || Ok(cluster.node(1).value::<i64>(sessions)? == 0))?;
    let finding: String = cluster.coordinator.value("SELECT finding FROM shard_check() WHERE area = 'worker'")?;
    assert!(finding.starts_with("the worker is switched off"), "{finding}");
    cluster.coordinator.configure(&[("shardkeeper.worker", "on")])?;
    cluster.coordinator.reload()?;
    eventually("it works again", PATIENCE, || Ok(cluster.node(1).value::<i64>(sessions)? == 1))
}

#[test]
fn a_terminated_worker_ends_at_once_and_another_takes_its_place() -> Result<()> {
    let cluster = with_worker(Options::default())?;
    launcher_has_looked(&cluster, "first_look")?;
    let old: i32 = cluster.coordinator.value(WORKERS)?;
    cluster.coordinator.run(&format!("SELECT pg_terminate_backend({old}, 3000)"))?;
    let successor = format!("SELECT EXISTS ({WORKERS} AND pid <> {old})");
    eventually("another runs", PATIENCE, || cluster.coordinator.value(&successor))?;
    let start = std::time::Instant::now();
    cluster.coordinator.stop()?;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    Ok(())
}

/// A process that was connected to nodes ends like any other, whatever it was doing there.
#[test]
fn processes_with_sessions_on_nodes_end_without_harm_to_the_server() -> Result<()> {
    let cluster = joined(2)?;
    let mut witness = cluster.coordinator.client()?;
    witness.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY);
         SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1, local}');
         INSERT INTO t SELECT generate_series(1, 1000)",
    )?;
    let ours =
        "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE backend_type LIKE 'shardkeeper%'";
    for (node, keep) in [("n2", "1 day"), ("local", "0"), ("n1", "1 day"), ("n2", "0")] {
        let call = format!("SELECT shard_move_partition('t_0', '{node}', keep => '{keep}')");
        let id: i64 = witness.query_one(&call, &[])?.get(0);
        // Amid it, right after its end, and while it is kept.
        witness.query_one(ours, &[])?;
        reaches(&cluster, id, if keep == "0" { "finished" } else { "switched" }, Duration::from_secs(60))?;
        witness.query_one(ours, &[])?;
        let mut user = cluster.coordinator.client()?;
        user.batch_execute("SELECT count(*) FROM shard_check(); SELECT count(*) FROM shard_run_on_nodes('SELECT 1')")?;
        let pid: i32 = user.query_one("SELECT pg_backend_pid()", &[])?.get(0);
        ensure!(witness.query_one("SELECT pg_terminate_backend($1, 10000)", &[&pid])?.get::<_, bool>(0));
        if keep != "0" {
            witness.execute("SELECT shard_finish($1)", &[&id])?;
            reaches(&cluster, id, "finished", Duration::from_secs(60))?;
        }
    }
    // A crash of one process would have taken this session along.
    ensure!(witness.query_one("SELECT count(*) FROM t", &[])?.get::<_, i64>(0) == 1000);
    Ok(())
}

/// The worker looks once a second by itself: half of the operations would begin half a second later than that.
#[test]
fn an_operation_begins_with_the_commit_of_its_call() -> Result<()> {
    let cluster = joined(1)?;
    cluster.coordinator.configure(&[("shardkeeper.heal_interval", "10s")])?;
    cluster.coordinator.reload()?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY); SELECT shard_create_parent('t', 'hash', 'id', modulus => 1, nodes => '{local}')",
    )?;
    let mut waits = Vec::new();
    for node in ["n1", "local"].into_iter().cycle().take(9) {
        let id: i64 = client.query_one(&format!("SELECT shard_move_partition('t_0', '{node}')"), &[])?.get(0);
        let committed: f64 = client.query_one("SELECT extract(epoch FROM clock_timestamp())::float8", &[])?.get(0);
        reaches(&cluster, id, "switched", PATIENCE)?;
        let first = "SELECT extract(epoch FROM min(at))::float8 FROM shardkeeper.operation_log WHERE operation = $1 AND state = 'preparing'";
        waits.push(client.query_one(first, &[&id])?.get::<_, f64>(0) - committed);
        client.execute("SELECT shard_finish($1)", &[&id])?;
        ends(&cluster, id, PATIENCE)?;
    }
    waits.sort_by(f64::total_cmp);
    ensure!(waits[waits.len() / 2] < 0.25, "seconds from the commit to the first step: {waits:?}");
    Ok(())
}
