//! Operations while clients write: what each test of them begins with, and checks in the end.
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{Cluster, Keys, Ledger, Options, Workload, eventually};

/// A cluster whose servers can tell their changes.
pub fn cluster(nodes: usize) -> Result<Cluster> {
    let logical = vec![("wal_level", "logical"), ("max_replication_slots", "10"), ("max_worker_processes", "16")];
    let cluster = Cluster::with(Options {
        nodes,
        coordinator_settings: logical.clone(),
        node_settings: logical,
        ..Options::default()
    })?;
    for node in cluster.nodes() {
        node.run("ALTER ROLE app REPLICATION; GRANT CREATE ON DATABASE app TO app")?;
    }
    cluster.add_nodes()?;
    Ok(cluster)
}

/// Runs operations one after another while clients write, and checks everything after each.
pub fn under_load(cluster: &Cluster, table: &str, keys: Keys, workload: Workload, calls: &[&str]) -> Result<()> {
    let ledger = Ledger::start(cluster, table, keys, workload)?;
    let written = |more: usize| {
        let wanted = ledger.acknowledged() + more;
        eventually("clients write", Duration::from_secs(60), || Ok(ledger.acknowledged() >= wanted))
    };
    for call in calls {
        written(200)?;
        let mut client = cluster.coordinator.client()?;
        let id: i64 = client.query_one(&format!("SELECT {call}"), &[]).context(call.to_string())?.get(0);
        let state = client.query_one("SELECT shard_wait($1, '90 s')", &[&id]).map(|row| row.get::<_, String>(0));
        let state = state.with_context(|| told(cluster))?;
        ensure!(["switched", "finished"].contains(&state.as_str()), "{call}: {state}");
        written(200)?;
        ledger.check(cluster).context(call.to_string())?;
        if state == "switched" {
            client.execute("SELECT shard_finish($1)", &[&id])?;
        }
    }
    let outcome = ledger.stop()?;
    println!("{keys:?}: {outcome}");
    outcome.check(cluster)?;
    nothing_is_left(cluster)
}

/// What the servers know of operations, for a failure.
pub fn told(cluster: &Cluster) -> String {
    let operations = cluster.coordinator.value::<String>("SELECT string_agg(o::text, E'\n') FROM shard_operations o");
    let log = cluster.coordinator.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("shardkeeper")).collect();
    format!("{operations:?}\n{}", lines.join("\n"))
}

/// Finished operations leave no slot, publication, schema or row behind, on any server.
pub fn nothing_is_left(cluster: &Cluster) -> Result<()> {
    let over = "SELECT count(*) FROM shardkeeper.operations WHERE ended_at IS NULL";
    eventually("all operations are over", Duration::from_secs(30), || Ok(cluster.coordinator.value::<i64>(over)? == 0))
        .with_context(|| told(cluster))?;
    let left = "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)
        + (SELECT count(*) FROM pg_namespace WHERE nspname ~ '^shardkeeper_(op|old)_')";
    for server in cluster.nodes().iter().chain([&cluster.coordinator]) {
        let count: i64 = server.value(left)?;
        ensure!(count == 0, "{count} objects are left on {}", server.name);
    }
    ensure!(cluster.coordinator.value::<i64>("SELECT count(*) FROM shardkeeper.progress")? == 0);
    Ok(())
}
