//! Clusters whose data moves: what operations are doing, and what they may have left behind.
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::cluster::{Cluster, Options, PATIENCE};
use crate::objects::{self, Objects};
use crate::sql::rows;
use crate::wait::eventually;
use crate::{Keys, Ledger, Then, Workload, matrix};
use postgres::Client;

/// A cluster whose servers can tell their changes, its nodes not yet added.
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
    Ok(cluster)
}

/// The same with its nodes added through their proxies.
pub fn joined_by_proxy(nodes: usize) -> Result<Cluster> {
    let cluster = cluster(nodes)?;
    cluster.add_nodes_by_proxy()?;
    Ok(cluster)
}

/// The same with its nodes added.
pub fn joined(nodes: usize) -> Result<Cluster> {
    let cluster = cluster(nodes)?;
    cluster.add_nodes()?;
    Ok(cluster)
}

/// The same with `t` made by `create`, and so many rows in it. What is dropped is destroyed at once.
pub fn filled(cluster: Cluster, keys: Keys, create: &str, rows: i64) -> Result<(Cluster, Client)> {
    cluster.coordinator.configure(&[("shardkeeper.trash_keep", "0")])?;
    cluster.coordinator.reload()?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(&keys.create_sql("t"))?;
    client.batch_execute(create)?;
    keys.load(&mut client, "t", rows)?;
    Ok((cluster, client))
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
        let limit = if matrix::is_full() { "30 min" } else { "90 s" };
        let wait = format!("SELECT shard_wait($1, '{limit}')");
        let state = client.query_one(&wait, &[&id]).map(|row| row.get::<_, String>(0));
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

/// Runs operations under load, each followed by a revert, and checks everything after each switch and each return.
pub fn there_and_back(cluster: &Cluster, table: &str, keys: Keys, workload: Workload, calls: &[&str]) -> Result<()> {
    let ledger = Ledger::start(cluster, table, keys, workload)?;
    let written = |more: usize| {
        let wanted = ledger.acknowledged() + more;
        eventually("clients write", Duration::from_secs(60), || Ok(ledger.acknowledged() >= wanted))
    };
    let mut client = cluster.coordinator.client()?;
    for call in calls {
        let id: i64 = client.query_one(&format!("SELECT {call}"), &[]).context(call.to_string())?.get(0);
        reaches(cluster, id, "switched", Duration::from_secs(90))?;
        written(300)?;
        ledger.check(cluster).context(call.to_string())?;
        client.execute("SELECT shard_revert($1)", &[&id]).context(call.to_string())?;
        let state = client.query_one("SELECT shard_wait($1, '90 s')", &[&id]).map(|row| row.get::<_, String>(0));
        ensure!(state.with_context(|| told(cluster))? == "reverted", "{call}: {}", told(cluster));
        written(200)?;
        ledger.check(cluster).with_context(|| format!("after the revert of {call}"))?;
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
    let last = &lines[lines.len().saturating_sub(100)..];
    format!("{operations:?}\n{}", last.join("\n"))
}

/// One column of `shard_operations` as text; empty where it is NULL.
pub fn field(cluster: &Cluster, operation: i64, column: &str) -> Result<String> {
    cluster
        .coordinator
        .value(&format!("SELECT coalesce({column}::text, '') FROM shard_operations WHERE id = {operation}"))
}

/// Waits until the operation is in `state`; another one that is final ends the wait.
pub fn reaches(cluster: &Cluster, operation: i64, state: &str, limit: Duration) -> Result<()> {
    eventually(&format!("operation {operation} is {state}"), limit, || {
        let now = field(cluster, operation, "state")?;
        if now != state && ["finished", "cancelled", "failed", "reverted"].contains(&now.as_str()) {
            bail!("operation {operation} is {now} instead of {state}");
        }
        Ok(now == state)
    })
    .with_context(|| told(cluster))
}

/// Waits until what went wrong last is told by a message with these words; the hint.
pub fn complains(cluster: &Cluster, operation: i64, words: &str, limit: Duration) -> Result<String> {
    eventually(&format!("operation {operation} says {words:?}"), limit, || {
        Ok(field(cluster, operation, "error")?.contains(words))
    })
    .with_context(|| told(cluster))?;
    field(cluster, operation, "hint")
}

/// Runs a call that moves leaves to the node, whose proxy is in between, and brings it to the moment after its switch at which
/// somebody reads the new `leaf`, so that the operation cannot tidy up. It can when the session that is returned ends.
pub fn switched_but_not_tidied(cluster: &Cluster, number: usize, call: &str, leaf: &str) -> Result<(i64, Client)> {
    const LIMIT: Duration = Duration::from_secs(60);
    let (node, proxy) = (cluster.node(number), cluster.proxy(number));
    let swap = proxy.stall_on(b"shardkeeper.relocate");
    let id: i64 = cluster.coordinator.value(&format!("SELECT {call}"))?;
    swap.wait_until_hit(LIMIT).with_context(|| told(cluster))?;
    // Between the switch and the first step after it.
    let commit = proxy.resume_until(b"COMMIT TRANSACTION", Then::StallAnswer);
    commit.wait_until_hit(LIMIT).with_context(|| told(cluster))?;
    // The node has been told to commit, which it does a moment later.
    eventually("the node has committed", PATIENCE, || node.has(leaf))?;
    let mut reader = node.client()?;
    reader.batch_execute(&format!("BEGIN; LOCK TABLE {leaf} IN ACCESS SHARE MODE"))?;
    proxy.resume();
    complains(cluster, id, "keep the lock of a new partition", LIMIT)?;
    Ok((id, reader))
}

/// Waits until everything that the operation made is gone.
pub fn ends(cluster: &Cluster, operation: i64, limit: Duration) -> Result<()> {
    eventually(&format!("operation {operation} is over"), limit, || {
        Ok(!field(cluster, operation, "ended_at")?.is_empty())
    })
    .with_context(|| told(cluster))
}

/// All that exists on the servers, once nothing is to be settled.
pub fn objects(cluster: &Cluster) -> Result<Objects> {
    objects::settled(cluster, PATIENCE)?;
    Objects::of_all(cluster)
}

/// All that exists is what was there before, but for the history of operations. What was replaced leaves the trash by the way.
pub fn is_as_before(cluster: &Cluster, before: &Objects) -> Result<()> {
    let differences = || -> Result<Vec<String>> {
        let mut changes = objects(cluster)?.changes_since(before);
        changes.retain(|line| !line.contains("row of shardkeeper.operation"));
        Ok(changes)
    };
    eventually("all objects are as before", PATIENCE, || Ok(differences()?.is_empty()))
        .with_context(|| differences().unwrap_or_default().join("\n"))
}

/// Mirrors are what their parents are.
pub fn mirrors_are_alike(cluster: &Cluster) -> Result<()> {
    let sql = "SELECT object, node, finding FROM shard_check() WHERE area = 'hierarchy' AND severity = 'error'";
    let found = rows(&mut cluster.coordinator.client()?, sql)?;
    ensure!(found.is_empty(), "shard_check finds {found:?}");
    Ok(())
}

/// Finished operations leave no slot, publication, schema or row behind, on any server, and mirrors that are like their parents.
pub fn nothing_is_left(cluster: &Cluster) -> Result<()> {
    let over = "SELECT count(*) FROM shardkeeper.operations WHERE ended_at IS NULL";
    eventually("all operations are over", Duration::from_secs(30), || Ok(cluster.coordinator.value::<i64>(over)? == 0))
        .with_context(|| told(cluster))?;
    let left = "SELECT concat_ws(', ', (SELECT string_agg(slot_name, ', ') FROM pg_replication_slots),
            (SELECT string_agg(pubname, ', ') FROM pg_publication),
            (SELECT string_agg(nspname, ', ') FROM pg_namespace WHERE nspname ~ '^shardkeeper_(op|old)_'))";
    for server in cluster.servers() {
        let found: String = server.value(left)?;
        ensure!(found.is_empty(), "left on {}: {found}", server.name);
    }
    ensure!(cluster.coordinator.count("shardkeeper.progress")? == 0);
    mirrors_are_alike(cluster)
}
