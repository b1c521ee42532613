//! What an operation waits for, and who has it, is told at once; and whoever waits for nobody can cancel it at once.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_test::movement::{ends, field, filled, joined, nothing_is_left, reaches, told};
use pg_test::{Cluster, Keys, Server, eventually};
use postgres::Client;

const LIMIT: Duration = Duration::from_secs(60);
/// It used to take 15 and 20 seconds. The rest is for the machine.
const AT_ONCE: Duration = Duration::from_secs(8);

/// `t` with a leaf on n1 and one on the coordinator.
fn scene() -> Result<(Cluster, Client)> {
    let create = "SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1, local}')";
    filled(joined(2)?, Keys::Bigint, create, 500)
}

/// A session of an application called `report`, with its process.
fn report(server: &Server, begin: &str) -> Result<(Client, i32)> {
    let mut client = server.client()?;
    client.batch_execute("SET application_name = 'report'")?;
    client.batch_execute(begin)?;
    let pid = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    Ok((client, pid))
}

/// The view, the error and `shard_check` name whoever is in the way.
fn names(cluster: &Cluster, id: i64, limit: Duration, words: &[&str]) -> Result<()> {
    let of = format!("SELECT coalesce((SELECT waits_for FROM shard_progress WHERE id = {id}), '')");
    let mut last = String::new();
    eventually(&format!("{words:?}"), limit, || {
        last = cluster.coordinator.value(&of)?;
        Ok(words.iter().all(|word| last.contains(word)))
    })
    .with_context(|| format!("{last}\n{}", told(cluster)))?;
    let finding = "SELECT coalesce(string_agg(finding, ' '), '') FROM shard_check('t') WHERE area = 'operation'";
    for text in [field(cluster, id, "detail")?, cluster.coordinator.value(finding)?] {
        ensure!(words.iter().all(|word| text.contains(word)), "{words:?} not all in {text}");
    }
    let since = "SELECT coalesce(waits_since > now() - interval '1 minute', false) FROM shard_progress WHERE id =";
    ensure!(cluster.coordinator.value::<bool>(&format!("{since} {id}"))?);
    Ok(())
}

#[test]
fn who_holds_a_lock_that_the_switch_needs_is_named() -> Result<()> {
    let (cluster, mut client) = scene()?;
    let (mut holder, pid) = report(&cluster.coordinator, "BEGIN; LOCK TABLE t_1 IN ACCESS SHARE MODE")?;
    let id: i64 = client.query_one("SELECT shard_move_partition('t_0', 'n2')", &[])?.get(0);
    let process = format!("process {pid} on the coordinator");
    names(&cluster, id, LIMIT, &[&process, "application report", "AccessShareLock on", "t_1", "since 20"])?;
    holder.batch_execute("COMMIT")?;
    reaches(&cluster, id, "switched", LIMIT)?;
    ensure!(field(&cluster, id, "tries")? == "0", "{}", told(&cluster));
    client.execute("SELECT shard_finish($1)", &[&id])?;
    ends(&cluster, id, LIMIT)?;

    let (mut holder, pid) = report(cluster.node(2), "BEGIN; LOCK TABLE t_0 IN ROW EXCLUSIVE MODE")?;
    let id: i64 = client.query_one("SELECT shard_move_partition('t_0', 'n1')", &[])?.get(0);
    let process = format!("process {pid} on node n2");
    names(&cluster, id, LIMIT, &[&process, "application report", "RowExclusiveLock on", "t_0"])?;
    let cancelled = Instant::now();
    client.execute("SELECT shard_cancel($1)", &[&id])?;
    ends(&cluster, id, LIMIT)?;
    ensure!(cancelled.elapsed() < AT_ONCE, "{:?}", cancelled.elapsed());
    holder.batch_execute("COMMIT")?;
    nothing_is_left(&cluster)
}

#[test]
fn an_old_transaction_is_named_at_once_and_a_cancel_does_not_wait_for_it() -> Result<()> {
    let (cluster, mut client) = scene()?;
    let places = [(&cluster.coordinator, "t_1", "the coordinator"), (cluster.node(1), "t_0", "node n1")];
    for (server, leaf, place) in places {
        let (mut old, pid) = report(server, "BEGIN; SELECT pg_current_xact_id()")?;
        let id: i64 = client.query_one(&format!("SELECT shard_move_partition('{leaf}', 'n2')"), &[])?.get(0);
        let process = format!("process {pid} on {place}");
        // On a node, other roles' transactions are shown without their age.
        names(&cluster, id, AT_ONCE, &[&process, "application report"])?;
        ensure!(field(&cluster, id, "error")?.contains("is in the way of a consistent start"));
        let cancelled = Instant::now();
        client.execute("SELECT shard_cancel($1)", &[&id])?;
        ends(&cluster, id, LIMIT)?;
        ensure!(cancelled.elapsed() < AT_ONCE, "{place}: {:?}", cancelled.elapsed());
        ensure!(field(&cluster, id, "state")? == "cancelled", "{}", told(&cluster));

        // And it goes on when that transaction ends.
        let id: i64 = client.query_one(&format!("SELECT shard_move_partition('{leaf}', 'n2')"), &[])?.get(0);
        names(&cluster, id, AT_ONCE, &[&process])?;
        old.batch_execute("COMMIT")?;
        reaches(&cluster, id, "switched", LIMIT)?;
        client.execute("SELECT shard_finish($1)", &[&id])?;
        ends(&cluster, id, LIMIT)?;
    }
    nothing_is_left(&cluster)
}
