//! Many operations that are kept for a revert: they share one replication slot per server and one worker, and none is in the
//! way of another.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_test::movement::{ends, field, joined, nothing_is_left, reaches, told};
use pg_test::objects::settled;
use pg_test::sql::{code, column};
use pg_test::{Cluster, PATIENCE, Server, eventually};
use postgres::Client;

const LIMIT: Duration = Duration::from_secs(60);
const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots";

fn id(client: &mut Client, call: &str) -> Result<i64> {
    Ok(client.query_one(&format!("SELECT {call}"), &[]).context(call.to_string())?.get(0))
}

/// Nothing is left to do after the switch but to keep what it replaced.
fn tidy(cluster: &Cluster) -> Result<()> {
    let busy = "SELECT count(*) FROM shardkeeper.operations WHERE ended_at IS NULL AND (state <> 'switched' OR NOT targets_cleaned)";
    eventually("operations are tidy", LIMIT, || Ok(cluster.coordinator.value::<i64>(busy)? == 0))
        .with_context(|| told(cluster))
}

/// Log that has nothing to do with anything, enough for the worker to look.
fn much_log(server: &Server) -> Result<()> {
    server.run("SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000)) FROM generate_series(1, 20)")
}

fn decodings(server: &Server) -> usize {
    server.log().lines().filter(|line| line.contains("logical decoding")).count()
}

#[test]
fn many_tables_are_converted_one_after_the_other_and_all_can_be_reverted() -> Result<()> {
    const TABLES: usize = 22;
    let cluster = joined(1)?;
    let mut client = cluster.coordinator.patient()?;
    let mut ids = Vec::new();
    let mut times = Vec::new();
    for at in 0..TABLES {
        client.batch_execute(&format!(
            "CREATE TABLE c{at} (id int PRIMARY KEY, v int); INSERT INTO c{at} SELECT i, 0 FROM generate_series(1, 50) AS i"
        ))?;
        let start = Instant::now();
        let call = format!("shard_create_parent('c{at}', 'hash', 'id', modulus => 2, nodes => '{{local, n1}}')");
        let id = id(&mut client, &call)?;
        reaches(&cluster, id, "switched", LIMIT)?;
        times.push(start.elapsed());
        ids.push(id);
    }
    println!("{times:?}");
    // Where nothing else runs, each takes less than 2 s.
    ensure!(times.iter().max() < Some(&Duration::from_secs(10)), "{times:?}");
    tidy(&cluster)?;
    for server in cluster.servers() {
        assert_eq!(server.value::<i64>(SLOTS)?, 1, "{}", server.name);
    }
    assert_eq!(cluster.coordinator.value::<i64>("SELECT count(*) FROM shard_operations WHERE revertible")?, 22);

    for at in [0, 11, 21] {
        client.batch_execute(&format!(
            "INSERT INTO c{at} SELECT i, 1 FROM generate_series(51, 60) AS i; UPDATE c{at} SET v = 2 WHERE id <= 10;
             DELETE FROM c{at} WHERE id BETWEEN 11 AND 15"
        ))?;
    }
    for server in [cluster.node(1), &cluster.coordinator] {
        server.kill9()?;
        server.start()?;
    }
    let mut client = cluster.coordinator.patient()?;
    settled(&cluster, PATIENCE)?;
    // Two at a time.
    for at in [0, 21] {
        client.execute("SELECT shard_revert($1)", &[&ids[at]])?;
    }
    for at in [0, 21] {
        ends(&cluster, ids[at], LIMIT)?;
        assert_eq!(field(&cluster, ids[at], "state")?, "reverted", "{}", told(&cluster));
        let kind: String =
            cluster.coordinator.value(&format!("SELECT relkind::text FROM pg_class WHERE oid = 'c{at}'::regclass"))?;
        let rows: String = cluster.coordinator.value(&format!("SELECT concat_ws(' ', count(*), sum(v)) FROM c{at}"))?;
        assert_eq!((kind.as_str(), rows.as_str()), ("r", "55 30"));
    }
    // The others are kept as before, until one after the other is finished.
    for server in cluster.servers() {
        assert_eq!(server.value::<i64>(SLOTS)?, 1, "{}", server.name);
    }
    client.execute("SELECT shard_finish($1)", &[&ids[1]])?;
    ends(&cluster, ids[1], LIMIT)?;
    client.execute("SELECT shard_revert($1)", &[&ids[11]])?;
    ends(&cluster, ids[11], LIMIT)?;
    assert_eq!(field(&cluster, ids[11], "state")?, "reverted", "{}", told(&cluster));
    assert_eq!(cluster.coordinator.value::<i64>("SELECT sum(v) FROM c11")?, 30);
    client.batch_execute("SELECT shard_finish(id) FROM shard_operations WHERE state = 'switched'")?;
    nothing_is_left(&cluster)
}

#[test]
fn one_worker_keeps_all_current_and_a_failing_one_loses_its_way_alone() -> Result<()> {
    let cluster = joined(2)?;
    let mut client = cluster.coordinator.patient()?;
    let mut ids = Vec::new();
    for table in ["a", "b", "c"] {
        client.batch_execute(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, v int);
             SELECT shard_create_parent('{table}', 'hash', 'id', modulus => 1, nodes => '{{n1}}');
             INSERT INTO {table} SELECT i, 0 FROM generate_series(1, 100) AS i"
        ))?;
        ids.push(id(&mut client, &format!("shard_move_partition('{table}_0', 'n2')"))?);
    }
    ids.iter().try_for_each(|id| reaches(&cluster, *id, "switched", LIMIT))?;
    tidy(&cluster)?;
    let node = cluster.node(2);
    assert_eq!(node.value::<i64>(SLOTS)?, 1);
    let position = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots";
    let old = |at: usize| -> Result<String> {
        let staging = cluster
            .coordinator
            .value::<String>(&format!("SELECT staging::text FROM shardkeeper.operations WHERE id = {}", ids[at]))?;
        Ok(staging.replace("shardkeeper_op_", "shardkeeper_old_"))
    };

    // Little changes: the worker comes, and looks at no slot.
    client.batch_execute(
        "UPDATE a SET v = 1 WHERE id <= 10; DELETE FROM a WHERE id = 20; UPDATE b SET v = 1 WHERE id = 1",
    )?;
    let (before, lines) = (node.value::<String>(position)?, decodings(node) + decodings(&cluster.coordinator));
    let keeper = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'shardkeeper keeper'";
    let mut came = std::collections::BTreeSet::new();
    eventually("the worker came twice", LIMIT, || {
        came.extend(client.query(keeper, &[])?.iter().map(|row| row.get::<_, i32>(0)));
        Ok(came.len() >= 2)
    })?;
    assert_eq!(decodings(node) + decodings(&cluster.coordinator), lines);
    assert_eq!(node.value::<String>(position)?, before);

    // Somebody wrote to what is kept for b; c is not what it was.
    cluster.node(1).run(&format!("DELETE FROM {}.b_0 WHERE id = 1", old(1)?))?;
    client.batch_execute("SET shardkeeper.allow_manual_ddl = on; ALTER TABLE c ADD CONSTRAINT later CHECK (v > -1)")?;
    much_log(node)?;
    let revertible = |at: usize| field(&cluster, ids[at], "revertible");
    eventually("b and c have no way back", LIMIT, || Ok(revertible(1)? == "false" && revertible(2)? == "false"))
        .with_context(|| told(&cluster))?;
    let current = format!("SELECT concat_ws(' ', count(*), sum(v)) FROM {}.a_0", old(0)?);
    eventually("a is current", LIMIT, || Ok(cluster.node(1).value::<String>(&current)? == "99 10"))
        .with_context(|| told(&cluster))?;
    eventually("the slot has moved on", LIMIT, || Ok(node.value::<String>(position)? != before))?;
    ensure!(field(&cluster, ids[2], "detail")?.contains("was changed since"), "{}", told(&cluster));
    let findings =
        column(&mut client, "SELECT finding FROM shard_check() WHERE area = 'operation' AND object = 'public.b'")?;
    ensure!(findings.iter().any(|finding| finding.contains("it cannot be reverted: ")), "{findings:?}");
    assert_eq!(code(&mut client, &format!("SELECT shard_revert({})", ids[1]))?, "55000");

    // What the worker has brought already, and what it has not.
    assert_eq!(revertible(0)?, "true");
    client.batch_execute("UPDATE a SET v = 1 WHERE id > 95; INSERT INTO a VALUES (101, 1)")?;
    tidy(&cluster)?;
    cluster.node(1).kill9()?;
    cluster.node(1).start()?;
    settled(&cluster, PATIENCE)?;
    client.execute("SELECT shard_revert($1)", &[&ids[0]])?;
    ends(&cluster, ids[0], LIMIT)?;
    assert_eq!(field(&cluster, ids[0], "state")?, "reverted", "{}", told(&cluster));
    assert_eq!(cluster.coordinator.value::<String>("SELECT concat_ws(' ', count(*), sum(v)) FROM a")?, "100 16");
    client.batch_execute("SELECT shard_finish(id) FROM shard_operations WHERE state = 'switched'")?;
    client.batch_execute("ALTER TABLE c DROP CONSTRAINT later")?;
    nothing_is_left(&cluster)
}

#[test]
fn a_new_operation_takes_the_slot_of_what_is_kept() -> Result<()> {
    let cluster = joined(2)?;
    let mut client = cluster.coordinator.patient()?;
    for (table, node) in [("a", "n1"), ("b", "n2")] {
        client.batch_execute(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, v int);
             SELECT shard_create_parent('{table}', 'hash', 'id', modulus => 1, nodes => '{{{node}}}');
             INSERT INTO {table} SELECT i, 0 FROM generate_series(1, 100) AS i"
        ))?;
    }
    let kept = id(&mut client, "shard_move_partition('a_0', 'n2')")?;
    reaches(&cluster, kept, "switched", LIMIT)?;
    tidy(&cluster)?;
    cluster.node(2).run("SELECT pg_create_physical_replication_slot('taken_' || i) FROM generate_series(1, 9) AS i")?;
    let plan = column(&mut client, "SELECT action FROM shard_plan_move_partition('b_0', 'n1')")?;
    ensure!(plan.iter().any(|step| step.ends_with(&format!("cannot be reverted any more: {kept}"))), "{plan:?}");
    assert_eq!(field(&cluster, kept, "revertible")?, "true");
    let new = id(&mut client, "shard_move_partition('b_0', 'n1')")?;
    reaches(&cluster, new, "switched", LIMIT)?;
    let why =
        format!("Operation {new} needed its replication slot on node n2: all 10 of max_replication_slots were used.");
    ensure!(field(&cluster, kept, "detail")?.contains(&why), "{}", told(&cluster));
    let findings =
        column(&mut client, "SELECT finding FROM shard_check() WHERE area = 'operation' AND object = 'public.a'")?;
    ensure!(findings.iter().any(|finding| finding.contains(&why)), "{findings:?}");
    assert_eq!(field(&cluster, new, "revertible")?, "true");
    tidy(&cluster)?;
    assert_eq!(cluster.node(2).value::<i64>(SLOTS)?, 9);
    cluster.node(2).run("SELECT pg_drop_replication_slot('taken_' || i) FROM generate_series(1, 9) AS i")?;
    client.execute("SELECT shard_revert($1)", &[&new])?;
    ends(&cluster, new, LIMIT)?;
    assert_eq!(field(&cluster, new, "state")?, "reverted", "{}", told(&cluster));
    client.execute("SELECT shard_finish($1)", &[&kept])?;
    nothing_is_left(&cluster)
}
