//! A snapshot from before a switch does not see the rows that were moved: who reads with one is told, and reads again.
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::movement::{joined, reaches, told};
use pg_test::sql::{code, refused};
use pg_test::{Cluster, PATIENCE, eventually};
use postgres::Client;

const ROWS: i64 = 1_000;
const LIMIT: Duration = Duration::from_secs(60);

/// `t` with a leaf on n1 and one on n2, and `u` on n2 alone.
fn scene() -> Result<(Cluster, Client)> {
    let cluster = joined(2)?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{{n1, n2}}');
         CREATE TABLE u (id int PRIMARY KEY); SELECT shard_create_parent('u', 'hash', 'id', modulus => 1, nodes => '{{n2}}');
         CREATE TABLE w (id int PRIMARY KEY); SELECT shard_create_parent('w', 'hash', 'id', modulus => 1, nodes => '{{n2}}');
         INSERT INTO t SELECT g, 'a' FROM generate_series(1, {ROWS}) AS g; INSERT INTO u VALUES (1);
         CREATE FUNCTION counted() RETURNS bigint STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM t); END'"
    ))?;
    Ok((cluster, client))
}

fn moved(cluster: &Cluster, leaf: &str, node: &str) -> Result<()> {
    let id: i64 =
        cluster.coordinator.value(&format!("SELECT shard_move_partition('{leaf}', '{node}', keep => '0')"))?;
    reaches(cluster, id, "finished", LIMIT)
}

fn all_rows(client: &mut Client) -> Result<()> {
    let found: i64 = client.query_one("SELECT count(*) FROM t", &[])?.get(0);
    ensure!(found == ROWS, "{found} rows");
    Ok(())
}

#[test]
fn a_transaction_whose_snapshot_is_older_than_a_switch_is_told_instead_of_missing_rows() -> Result<()> {
    let (cluster, mut client) = scene()?;
    let mut readers = Vec::new();
    for statement in [
        "SELECT count(*) FROM t",
        "SELECT count(*) FROM t_0",
        "COPY t_0 TO '/dev/null'",
        "UPDATE t SET v = 'b'",
        "DELETE FROM t",
        "SELECT counted()",
        "DECLARE c CURSOR FOR SELECT * FROM t",
        "CREATE TABLE copied AS SELECT * FROM t",
    ] {
        let mut reader = cluster.coordinator.client()?;
        reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class")?;
        readers.push((reader, statement));
    }
    moved(&cluster, "t_0", "local")?;
    for (mut reader, statement) in readers {
        let error = refused(&mut reader, statement).with_context(|| statement.to_string())?;
        ensure!(error.code().code() == "40001", "{statement}: {error:?}");
        ensure!(error.message() == "could not serialize access to t_0: its rows were moved meanwhile", "{error:?}");
        // Once more, as it says, it is right.
        reader.batch_execute("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ")?;
        all_rows(&mut reader)?;
    }
    all_rows(&mut client)
}

#[test]
fn a_statement_that_had_its_snapshot_before_it_waited_for_the_switch_is_told() -> Result<()> {
    let (cluster, mut client) = scene()?;
    cluster.coordinator.configure(&[("shardkeeper.switch_lock_timeout", "30s")])?;
    cluster.coordinator.reload()?;
    let mut clients = Vec::new();
    for statement in [
        "COPY (SELECT count(*) FROM t) TO '/dev/null'",
        "COPY (UPDATE t SET v = 'b' RETURNING 1) TO '/dev/null'",
        "EXECUTE s",
    ] {
        let mut client = cluster.coordinator.client()?;
        client.batch_execute("PREPARE s AS SELECT count(*) FROM t")?;
        clients.push((statement, client));
    }
    let (mut reader, mut late) = (cluster.coordinator.client()?, cluster.coordinator.client()?);
    reader.batch_execute("BEGIN; SELECT count(*) FROM t")?;
    let id: i64 = client.query_one("SELECT shard_move_partition('t_0', 'local')", &[])?.get(0);
    let waiting = |mode: &str| {
        format!("SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND mode = '{mode}' AND NOT granted")
    };
    let switch = waiting("AccessExclusiveLock");
    eventually("the switch waits for its lock", LIMIT, || Ok(cluster.coordinator.value::<i64>(&switch)? == 1))
        .with_context(|| told(&cluster))?;
    let threads: Vec<_> = clients
        .into_iter()
        .map(|(statement, mut client)| (statement, thread::spawn(move || code(&mut client, statement))))
        .collect();
    let rest = format!("SELECT ({}) + ({})", waiting("AccessShareLock"), waiting("RowExclusiveLock"));
    eventually("the statements wait behind it", PATIENCE, || Ok(cluster.coordinator.value::<i64>(&rest)? == 3))?;
    let counting = thread::spawn(move || all_rows(&mut late));
    eventually("one more", PATIENCE, || Ok(cluster.coordinator.value::<i64>(&rest)? == 4))?;
    reader.batch_execute("COMMIT")?;
    for (statement, thread) in threads {
        let code = thread.join().map_err(|_| anyhow::anyhow!("{statement} panicked"))?;
        ensure!(code.as_deref().is_ok_and(|code| code == "40001"), "{statement}: {code:?}");
    }
    // An ordinary statement takes its snapshot after its locks.
    counting.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    reaches(&cluster, id, "switched", LIMIT)?;
    all_rows(&mut client)
}

#[test]
fn a_stable_function_does_not_read_with_a_snapshot_from_before_the_switch() -> Result<()> {
    let (cluster, mut client) = scene()?;
    client.batch_execute("SELECT pg_advisory_lock(1)")?;
    let mut reader = cluster.coordinator.client()?;
    let reading = thread::spawn(move || code(&mut reader, "SELECT pg_advisory_lock(1), counted()"));
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    eventually("the statement has begun", PATIENCE, || Ok(cluster.coordinator.value::<i64>(waits)? == 1))?;
    moved(&cluster, "t_0", "local")?;
    client.batch_execute("SELECT pg_advisory_unlock(1)")?;
    let code = reading.join().map_err(|_| anyhow::anyhow!("panicked"))?;
    ensure!(code.as_deref().is_ok_and(|code| code == "40001"), "{code:?}");
    Ok(())
}

/// `postgres_fdw` reads a node in one snapshot for a whole transaction, also at READ COMMITTED.
#[test]
fn a_transaction_that_was_at_a_node_before_a_leaf_came_there_is_told() -> Result<()> {
    let (cluster, mut client) = scene()?;
    let mut was_there = cluster.coordinator.client()?;
    was_there.batch_execute("BEGIN; SELECT * FROM u")?;
    let mut was_elsewhere = cluster.coordinator.client()?;
    was_elsewhere.batch_execute("BEGIN; SELECT count(*) FROM pg_class")?;
    let mut writers = Vec::new();
    for statement in
        ["UPDATE u SET id = id WHERE id = 2", "INSERT INTO u VALUES (3)", "COPY u FROM '/dev/null'", "TRUNCATE w"]
    {
        let mut writer = cluster.coordinator.client()?;
        writer.batch_execute(&format!("BEGIN; {statement}"))?;
        writers.push((statement, writer));
    }
    moved(&cluster, "t_0", "n2")?;
    ensure!(code(&mut was_there, "SELECT count(*) FROM t")? == "40001");
    for (statement, mut writer) in writers {
        ensure!(code(&mut writer, "UPDATE t SET v = 'c'")? == "40001", "{statement}");
    }
    all_rows(&mut was_elsewhere)?;
    was_elsewhere.batch_execute("SELECT * FROM u")?;
    all_rows(&mut was_elsewhere)?;
    was_there.batch_execute("ROLLBACK; BEGIN; SELECT * FROM u")?;
    all_rows(&mut was_there)?;
    all_rows(&mut client)
}

/// A plain table that became a parent, and the parent that became a plain table again.
#[test]
fn a_conversion_and_its_way_back_are_told_too() -> Result<()> {
    let (cluster, mut client) = scene()?;
    client.batch_execute(&format!(
        "CREATE TABLE plain (id int PRIMARY KEY); INSERT INTO plain SELECT g FROM generate_series(1, {ROWS}) AS g"
    ))?;
    let count = "SELECT count(*) FROM plain";
    let mut before = cluster.coordinator.client()?;
    before.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")?;
    let call = "SELECT shard_create_parent('plain', 'hash', 'id', modulus => 2, nodes => '{local}')";
    let id: i64 = client.query_one(call, &[])?.get(0);
    reaches(&cluster, id, "switched", LIMIT)?;
    ensure!(code(&mut before, count)? == "40001");
    client.batch_execute("INSERT INTO plain VALUES (-1)")?;
    before.batch_execute("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")?;
    client.execute("SELECT shard_revert($1)", &[&id])?;
    reaches(&cluster, id, "reverted", LIMIT)?;
    ensure!(code(&mut before, count)? == "40001");
    let found: i64 = client.query_one(count, &[])?.get(0);
    ensure!(found == ROWS + 1, "{found}");
    Ok(())
}
