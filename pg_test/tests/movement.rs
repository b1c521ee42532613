//! Data moves online: nothing is lost, nothing doubled, and nothing is left behind.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::movement::{self, nothing_is_left, told};
use pg_test::{Cluster, Keys, Ledger, Workload, eventually};

/// With its nodes added.
fn cluster(nodes: usize) -> Result<Cluster> {
    let cluster = movement::cluster(nodes)?;
    cluster.add_nodes()?;
    Ok(cluster)
}

/// Runs operations one after another while clients write, and checks everything after each.
fn under_load(cluster: &Cluster, table: &str, keys: Keys, workload: Workload, calls: &[&str]) -> Result<()> {
    let ledger = Ledger::start(cluster, table, keys, workload)?;
    let written = |more: usize| {
        let wanted = ledger.acknowledged() + more;
        eventually("clients write", Duration::from_secs(60), || Ok(ledger.acknowledged() >= wanted))
    };
    for call in calls {
        written(200)?;
        let mut client = cluster.coordinator.client()?;
        let id: i64 = client.query_one(&format!("SELECT {call}"), &[]).context(call.to_string())?.get(0);
        let state = client.query_one("SELECT shard_wait($1, '60 s')", &[&id]).map(|row| row.get::<_, String>(0));
        let state = state.with_context(|| told(cluster))?;
        ensure!(state == "switched", "{call}: {state}");
        written(200)?;
        ledger.check(cluster).context(call.to_string())?;
        client.execute("SELECT shard_finish($1)", &[&id])?;
    }
    let outcome = ledger.stop()?;
    println!("{keys:?}: {outcome}");
    outcome.check(cluster)?;
    nothing_is_left(cluster)
}

#[test]
fn a_modulus_changes_while_clients_write() -> Result<()> {
    let cluster = cluster(3)?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&Keys::Bigint.create_sql("t"))?;
    client.batch_execute("SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{local, n1}')")?;
    Keys::Bigint.load(&mut client, "t", 5_000)?;
    let calls = [
        "shard_set_modulus('t', 3, nodes => '{local, n1, n2}')",
        "shard_set_modulus('t', 5, nodes => '{n1, n2, n3}')",
        "shard_set_modulus('t', 2, nodes => '{local}')",
        "shard_set_modulus('t', 4)",
    ];
    under_load(&cluster, "t", Keys::Bigint, Workload::default(), &calls)
}

#[test]
fn a_leaf_moves_while_clients_write() -> Result<()> {
    let cluster = cluster(2)?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&Keys::Text.create_sql("t"))?;
    client.batch_execute("SELECT shard_create_parent('t', 'hash', 'id', modulus => 2)")?;
    Keys::Text.load(&mut client, "t", 5_000)?;
    let calls = [
        "shard_move_partition('t_0', 'n1')",
        "shard_move_partition('t_0', 'n2')",
        "shard_move_partition('t_1', 'n2')",
        "shard_move_partition('t_0', 'local')",
    ];
    under_load(&cluster, "t", Keys::Text, Workload { direct: 1, ..Workload::default() }, &calls)
}
