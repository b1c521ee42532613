//! The background workers are good neighbours: one per database, in nobody's way, and back after every crash.
use std::time::Duration;

use anyhow::Result;
use pg_test::{Cluster, Options, PATIENCE, eventually};

fn workers(cluster: &Cluster, database: &str) -> Result<i64> {
    cluster.coordinator.value(&format!(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'shardkeeper worker' AND datname = '{database}'"
    ))
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
    cluster.coordinator.restart()?;
    eventually("both have one", PATIENCE, || Ok(workers(&cluster, "app")? == 1 && workers(&cluster, "second")? == 1))?;
    std::thread::sleep(Duration::from_secs(3));
    let all: i64 =
        cluster.coordinator.value("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'shardkeeper worker'")?;
    assert_eq!(all, 2);
    cluster.coordinator.client_in("second")?.batch_execute("DROP EXTENSION shardkeeper")?;
    eventually("it left with the extension", PATIENCE, || Ok(workers(&cluster, "second")? == 0))
}

#[test]
fn a_database_can_be_dropped_and_copied_while_its_worker_runs() -> Result<()> {
    let cluster = with_worker(Options::default())?;
    cluster.coordinator.client_in("postgres")?.batch_execute("CREATE DATABASE copied TEMPLATE app")?;
    eventually("the worker is back", PATIENCE, || Ok(workers(&cluster, "app")? == 1))?;
    cluster.coordinator.client_in("postgres")?.batch_execute("DROP DATABASE app")?;
    std::thread::sleep(Duration::from_secs(4));
    assert!(!cluster.coordinator.log().contains("database \"app\" does not exist"), "{}", cluster.coordinator.log());
    Ok(())
}

#[test]
fn without_preload_the_worker_starts_on_demand() -> Result<()> {
    let cluster = with_worker(Options { preload: false, ..Options::default() })?;
    let finding: String = cluster
        .coordinator
        .value("SELECT finding FROM shard_check() WHERE area = 'worker' AND severity = 'warning'")?;
    assert!(finding.starts_with("the library is not preloaded"), "{finding}");
    Ok(())
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
    // Old enough that it is not taken for one that found nothing to do.
    std::thread::sleep(Duration::from_secs(6));
    let pid = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'shardkeeper worker'";
    let old: i32 = cluster.coordinator.value(pid)?;
    cluster.coordinator.run(&format!("SELECT pg_terminate_backend({old}, 3000)"))?;
    let successor = format!("SELECT EXISTS ({pid} AND pid <> {old})");
    eventually("another runs", PATIENCE, || cluster.coordinator.value(&successor))?;
    let start = std::time::Instant::now();
    cluster.coordinator.stop()?;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    Ok(())
}
