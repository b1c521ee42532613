//! Data moves while writers wait, where changes cannot be followed: servers with wal_level = replica, tables without a key.
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::movement::{complains, ends, field, nothing_is_left, reaches, told, under_load};
use pg_test::objects::settled;
use pg_test::server::ROLE;
use pg_test::sql::column;
use pg_test::{Cluster, Keys, Ledger, Objects, Options, PATIENCE, Server, Tolerate, Workload, eventually};
use postgres::Client;

const LIMIT: Duration = Duration::from_secs(60);
/// What the worker sends a node to fill the staging schema there.
const FILL: (usize, &str) = (2, "FROM STDIN (FORMAT binary)");
const MOVE: &str = "SELECT shard_move_partition('t_0', 'n2', mode => 'block_writes')";

/// Servers that cannot tell changes, and a role that may not follow any.
fn cluster(nodes: usize) -> Result<Cluster> {
    let settings = vec![("max_worker_processes", "16"), ("shardkeeper.trash_keep", "0")];
    let cluster = Cluster::with(Options { nodes, coordinator_settings: settings, ..Options::default() })?;
    for node in cluster.nodes() {
        node.run("ALTER ROLE app NOREPLICATION")?;
    }
    Ok(cluster)
}

fn workload() -> Workload {
    Workload { cancels: true, ..Workload::default() }
}

/// `t` without any key, with a leaf on n1 and one on the coordinator; nodes are reached through their proxies.
fn scene() -> Result<(Cluster, Client)> {
    let cluster = cluster(2)?;
    cluster.add_nodes_by_proxy()?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(
        "CREATE TABLE t (id bigint, note text);
         CREATE INDEX t_note ON t (note);
         SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1, local}');
         INSERT INTO t SELECT i, 'row' FROM generate_series(1, 1000) i; INSERT INTO t VALUES (1, 'row'), (NULL, NULL)",
    )?;
    Ok((cluster, client))
}

/// Begins the move and does `work` while it waits for the answer of a node to a statement.
fn amid(
    cluster: &Cluster,
    call: &str,
    (node, statement): (usize, &str),
    work: impl FnOnce(i64) -> Result<()>,
) -> Result<i64> {
    let hit = cluster.proxy(node).stall_on(statement.as_bytes());
    let id: i64 = cluster.coordinator.value(call)?;
    hit.wait_until_hit(PATIENCE).with_context(|| told(cluster))?;
    ensure!(field(cluster, id, "phase")? == "copying", "{}", told(cluster));
    work(id)?;
    cluster.proxy(node).resume();
    Ok(id)
}

/// Runs statements on a thread of its own; the code of the error, if there was one.
fn run_beside(mut client: Client, sql: &'static str) -> JoinHandle<Option<String>> {
    std::thread::spawn(move || {
        client
            .batch_execute(sql)
            .err()
            .map(|error| error.code().map_or_else(String::new, |code| code.code().to_owned()))
    })
}

fn waiters(server: &Server, count: i64) -> Result<()> {
    let query = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted";
    eventually(&format!("{count} wait on {}", server.name), PATIENCE, || Ok(server.value::<i64>(query)? == count))
}

fn finish(cluster: &Cluster, id: i64) -> Result<()> {
    reaches(cluster, id, "switched", LIMIT)?;
    cluster.coordinator.run(&format!("SELECT shard_finish({id})"))?;
    ends(cluster, id, LIMIT)?;
    nothing_is_left(cluster)
}

fn is_moved(cluster: &Cluster, rows: i64) -> Result<()> {
    let nodes =
        column(&mut cluster.coordinator.client()?, "SELECT node FROM shard_partitions WHERE is_leaf ORDER BY 1")?;
    ensure!(nodes == ["local", "n2"], "{nodes:?}");
    ensure!(cluster.coordinator.count("t")? == rows, "{} rows", cluster.coordinator.count("t")?);
    ensure!(cluster.node(2).count("t_0")? == cluster.coordinator.count("t_0")?);
    ensure!(cluster.node(2).value::<i64>("SELECT count(*) FROM pg_indexes WHERE tablename = 't_0'")? == 1);
    Ok(())
}

#[test]
fn hash_partitions_are_replaced_and_clients_wait() -> Result<()> {
    let cluster = cluster(3)?;
    cluster.add_nodes()?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&Keys::Bigint.create_sql("t"))?;
    client.batch_execute("SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{local, n1}')")?;
    Keys::Bigint.load(&mut client, "t", 5_000)?;
    let calls = [
        "shard_set_modulus('t', 3, nodes => '{local, n1, n2}', mode => 'block_writes')",
        "shard_set_modulus('t', 5, nodes => '{n1, n2, n3}', mode => 'block_writes')",
        "shard_drain_node('n3', mode => 'block_writes')",
        "shard_set_modulus('t', 2, nodes => '{local}', mode => 'block_writes')",
        "shard_move_partition('t_1', 'n1', mode => 'block_writes')",
        "shard_rebalance('t', 'count', nodes => '{n2, n3}', mode => 'block_writes')",
    ];
    under_load(&cluster, "t", Keys::Bigint, Workload { direct: 1, ..workload() }, &calls)?;
    let modes = column(&mut client, "SELECT DISTINCT mode FROM shard_operations WHERE part_of IS NOT NULL")?;
    assert_eq!(modes, ["block_writes"]);
    Ok(())
}

#[test]
fn pieces_change_and_clients_wait() -> Result<()> {
    let cluster = cluster(2)?;
    cluster.add_nodes()?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&Keys::TwoColumns.create_sql("t"))?;
    client.batch_execute(
        r#"SELECT shard_create_parent('t', '{"method": "list", "key": "region",
            "values": {"west": {"in": ["us", "eu"], "nodes": ["n1"]}, "cn": {"in": ["cn"], "nodes": ["n2"]}, "jp": ["jp"]}}')"#,
    )?;
    Keys::TwoColumns.load(&mut client, "t", 4_000)?;
    let calls = [
        r#"shard_split('t_west', '{"us": ["us"], "eu": ["eu"]}', nodes => '{n1, local}', mode => 'block_writes')"#,
        r#"shard_merge('{t_us, t_jp}', node => 'n2', mode => 'block_writes')"#,
        r#"shard_move_values('t_us_jp', 't_cn', '["jp"]', mode => 'block_writes')"#,
    ];
    under_load(&cluster, "t", Keys::TwoColumns, workload(), &calls)
}

#[test]
fn a_plain_table_becomes_a_parent_and_clients_wait() -> Result<()> {
    let cluster = cluster(2)?;
    cluster.add_nodes()?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&Keys::Text.create_sql("t"))?;
    Keys::Text.load(&mut client, "t", 5_000)?;
    let call =
        "shard_create_parent('t', 'hash', 'id', modulus => 3, nodes => '{local, n1, n2}', mode => 'block_writes')";
    under_load(&cluster, "t", Keys::Text, workload(), &[call])?;
    client.batch_execute(
        "CREATE TABLE bare (id int, note text); INSERT INTO bare SELECT i % 7 FROM generate_series(1, 100) i",
    )?;
    let call = "SELECT shard_create_parent('bare', 'hash', 'id', modulus => 2, nodes => '{n1, local}', mode => 'block_writes')";
    let id: i64 = client.query_one(call, &[])?.get(0);
    finish(&cluster, id)?;
    assert_eq!(cluster.coordinator.count("bare")?, 100);
    Ok(())
}

#[test]
fn readers_go_on_and_writers_wait_until_the_switch() -> Result<()> {
    let (cluster, _) = scene()?;
    let mut reads_first = cluster.coordinator.client()?;
    reads_first.batch_execute("BEGIN; SELECT count(*) FROM t")?;
    let mut reads = cluster.coordinator.client()?;
    reads.batch_execute("BEGIN; SELECT count(*) FROM t")?;
    let mut threads = Vec::new();
    let id = amid(&cluster, MOVE, FILL, |_| {
        ensure!(cluster.coordinator.count("t")? == 1002);
        ensure!(cluster.node(1).count("t")? > 0);
        threads.push(run_beside(cluster.coordinator.client()?, "INSERT INTO t VALUES (1001, 'here')"));
        threads.push(run_beside(cluster.node(1).client()?, "INSERT INTO t_0 SELECT id, 'there' FROM t_0 LIMIT 1"));
        threads.push(run_beside(reads_first, "INSERT INTO t VALUES (1002, 'late')"));
        waiters(&cluster.coordinator, 2)?;
        waiters(cluster.node(1), 1)
    })?;
    // It waits for the one that only reads.
    let cancelled = threads.pop().context("three threads")?.join();
    assert_eq!(cancelled.ok().flatten().as_deref(), Some("57014"));
    ensure!(threads.iter().all(|thread| !thread.is_finished()));
    ensure!(reads.query_one("SELECT count(*) FROM t", &[])?.get::<_, i64>(0) == 1002);
    reads.batch_execute("COMMIT")?;
    reaches(&cluster, id, "switched", LIMIT)?;
    let direct = threads.pop().context("two threads")?.join();
    // The table that it waited for is not a partition any more: it is in the schema of the replaced ones.
    let written = threads.pop().context("a thread")?.join();
    assert_eq!(written.ok(), Some(None));
    println!("the direct writer: {direct:?}");
    finish(&cluster, id)?;
    is_moved(&cluster, 1003)
}

#[test]
fn a_direct_writer_that_has_read_is_cancelled_where_that_is_allowed() -> Result<()> {
    let (cluster, _) = scene()?;
    let reads_first = |user| -> Result<Client> {
        let mut client = cluster.node(1).client_as(user, user, "app")?;
        client.batch_execute("BEGIN; SELECT count(*) FROM t_0")?;
        Ok(client)
    };
    let write = "INSERT INTO t_0 SELECT * FROM t_0 LIMIT 1";
    let mut thread = None;
    let id = amid(&cluster, MOVE, FILL, |_| {
        thread = Some(run_beside(reads_first(ROLE)?, write));
        waiters(cluster.node(1), 1)
    })?;
    assert_eq!(thread.context("a thread")?.join().ok().flatten().as_deref(), Some("57014"));
    finish(&cluster, id)?;
    is_moved(&cluster, 1002)?;

    let mut thread = None;
    let back = "SELECT shard_move_partition('t_0', 'n1', mode => 'block_writes')";
    let id = amid(&cluster, back, (1, FILL.1), |_| {
        let mut client = cluster.node(2).client()?;
        client.batch_execute("BEGIN; SELECT count(*) FROM t_0")?;
        thread = Some(run_beside(client, write));
        waiters(cluster.node(2), 1)
    })?;
    // Of a superuser; after a while writers are let through, and it begins again.
    let hint = complains(&cluster, id, "waits for the operation, and the operation for it", LIMIT)?;
    ensure!(hint.contains("pg_signal_backend"), "{hint}");
    assert_eq!(thread.context("a thread")?.join().ok(), Some(None));
    finish(&cluster, id)?;
    ensure!(cluster.coordinator.count("t")? >= 1002);
    Ok(())
}

#[test]
fn cancel_and_pause_end_the_copy_and_let_writers_go_on() -> Result<()> {
    let (cluster, mut client) = scene()?;
    settled(&cluster, PATIENCE)?;
    let before = Objects::of_all(&cluster)?;
    let mut reader = cluster.coordinator.client()?;
    reader.batch_execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")?;
    for wish in ["cancel", "pause"] {
        let writer = cluster.coordinator.client()?;
        let mut thread = None;
        // Everything is copied; the switch waits for the reader.
        let id = amid(&cluster, MOVE, (2, "hashtextextended"), |_| {
            thread = Some(run_beside(writer, "UPDATE t SET note = 'new' WHERE id = 7"));
            waiters(&cluster.coordinator, 1)
        })?;
        client.batch_execute(&format!("SELECT shard_{wish}({id})"))?;
        assert_eq!(thread.context("a thread")?.join().ok(), Some(None), "{}", told(&cluster));
        if wish == "pause" {
            reaches(&cluster, id, "paused", LIMIT)?;
            reader.batch_execute("COMMIT")?;
            client.batch_execute(&format!("SELECT shard_resume({id})"))?;
            finish(&cluster, id)?;
            is_moved(&cluster, 1002)?;
        } else {
            ends(&cluster, id, LIMIT)?;
            nothing_is_left(&cluster)?;
            settled(&cluster, PATIENCE)?;
            let mut changes = Objects::of_all(&cluster)?.changes_since(&before);
            changes.retain(|line| !line.contains("row of shardkeeper.operation"));
            ensure!(changes.is_empty(), "{}", changes.join("\n"));
        }
    }
    Ok(())
}

#[test]
fn a_writer_that_takes_long_is_waited_for_before_anything_is_copied() -> Result<()> {
    let (cluster, mut client) = scene()?;
    let mut writer = cluster.coordinator.client()?;
    writer.batch_execute("BEGIN; INSERT INTO t VALUES (1001)")?;
    let id: i64 = cluster.coordinator.value(MOVE)?;
    complains(&cluster, id, "nobody writes to the parent", LIMIT)?;
    // Others do not queue behind it for longer than the timeout.
    client.batch_execute("SET statement_timeout = '2s'; INSERT INTO t VALUES (1002)")?;
    writer.batch_execute("COMMIT")?;
    finish(&cluster, id)?;
    is_moved(&cluster, 1004)
}

#[test]
fn a_copy_that_is_changed_by_hand_is_never_switched_to() -> Result<()> {
    let (cluster, mut client) = scene()?;
    // At the last moment before it is compared.
    cluster.node(2).run(
        "CREATE FUNCTION tamper() RETURNS event_trigger LANGUAGE plpgsql AS $$
         DECLARE staging text := (SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname ~ '^shardkeeper_op_');
         BEGIN
             IF staging IS NULL THEN RETURN; END IF;
             EXECUTE format('UPDATE %s.t_0 SET note = ''other'' WHERE id = (SELECT max(id) FROM %s.t_0)', staging, staging);
         END$$;
         CREATE EVENT TRIGGER tamper ON ddl_command_end WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION tamper()",
    )?;
    let id: i64 = cluster.coordinator.value(MOVE)?;
    let hint = complains(&cluster, id, "is not equal to it", LIMIT)?;
    let detail = field(&cluster, id, "detail")?;
    ensure!(detail.contains("(1000,") && hint.contains("shard_cancel"), "{detail} {hint}");
    // Nobody waits meanwhile, and it begins anew when somebody has looked.
    client.batch_execute("INSERT INTO t VALUES (1001)")?;
    cluster.node(2).run("DROP EVENT TRIGGER tamper; DROP FUNCTION tamper")?;
    client.batch_execute(&format!("SELECT shard_resume({id})"))?;
    finish(&cluster, id)?;
    is_moved(&cluster, 1003)
}

/// Who dies amid which statement, sent to which node.
const FAULTS: [(&str, usize, &str); 9] = [
    ("worker", 1, "COPY (SELECT"),
    ("coordinator", 2, FILL.1),
    ("source", 2, FILL.1),
    ("target", 1, "COPY (SELECT"),
    ("worker killed", 2, "hashtextextended"),
    ("coordinator", 1, "ACCESS EXCLUSIVE"),
    ("source", 2, "COMMENT ON TABLE"),
    ("target", 1, "DETACH PARTITION"),
    ("network", 2, "ATTACH PARTITION"),
];

#[test]
fn a_fault_undoes_all_and_the_operation_begins_again() -> Result<()> {
    let cluster = cluster(2)?;
    cluster.add_nodes_by_proxy()?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&Keys::Bigint.create_sql("t"))?;
    client.batch_execute(
        "CREATE INDEX ON t (version);
         SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1, local}')",
    )?;
    Keys::Bigint.load(&mut client, "t", 2_000)?;
    let back = "SELECT shard_move_partition('t_0', 'n1', mode => 'block_writes')";
    let ledger = Ledger::start(
        &cluster,
        "t",
        Keys::Bigint,
        Workload { clients: 2, tolerate: Tolerate::Restarts, ..workload() },
    )?;
    for (victim, node, statement) in pg_test::matrix::take(4, &FAULTS) {
        let fault = format!("{victim} amid {statement}");
        let id =
            amid(&cluster, MOVE, (*node, *statement), |_| strike(&cluster, victim, *node)).context(fault.clone())?;
        reaches(&cluster, id, "switched", LIMIT).context(fault.clone())?;
        settled(&cluster, PATIENCE)?;
        let wanted = ledger.acknowledged() + 50;
        eventually("clients write", PATIENCE, || Ok(ledger.acknowledged() >= wanted))?;
        ledger.check(&cluster).context(fault.clone())?;
        finish(&cluster, id).context(fault.clone())?;
        let id: i64 = cluster.coordinator.value(back)?;
        finish(&cluster, id).context(fault)?;
    }
    let outcome = ledger.stop()?;
    println!("{outcome}");
    outcome.check(&cluster)
}

fn strike(cluster: &Cluster, victim: &str, node: usize) -> Result<()> {
    let worker = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'shardkeeper operation'";
    let (coordinator, proxy) = (&cluster.coordinator, cluster.proxy(node));
    let restart = |server: &Server| -> Result<()> {
        server.kill9()?;
        proxy.resume();
        server.start()
    };
    match victim {
        "worker" => coordinator.run(&format!("SELECT pg_terminate_backend(({worker}))")),
        "worker killed" => coordinator.crash_by(coordinator.value(worker)?, || proxy.resume()),
        "coordinator" => restart(coordinator),
        "source" => restart(cluster.node(1)),
        "target" => restart(cluster.node(2)),
        _ => {
            proxy.cut();
            proxy.resume();
            Ok(())
        }
    }
}

#[test]
fn progress_is_seen_from_outside() -> Result<()> {
    let (cluster, mut client) = scene()?;
    // A row takes a few milliseconds.
    client.batch_execute(
        "CREATE TABLE slow (id int, note text, CHECK (pg_sleep(0.005)::text = ''));
         INSERT INTO slow SELECT i, repeat('x', 2000) FROM generate_series(1, 800) i; ANALYZE slow",
    )?;
    let call = "SELECT shard_create_parent('slow', 'hash', 'id', modulus => 2, nodes => '{n1, local}', mode => 'block_writes')";
    let id: i64 = client.query_one(call, &[])?.get(0);
    let (tell, told_rows) = mpsc::channel();
    eventually("rows are counted", LIMIT, || {
        let row = client.query_one("SELECT phase, rows_done, rows_total FROM shard_progress WHERE id = $1", &[&id])?;
        let (phase, rows, total): (String, i64, Option<i64>) = (row.get(0), row.get(1), row.get(2));
        tell.send(rows)?;
        Ok(phase == "copying" && rows > 0 && total == Some(800))
    })?;
    println!("{:?}", told_rows.try_iter().last());
    finish(&cluster, id)
}

#[test]
fn a_group_whose_worker_ends_amid_its_parts_goes_on() -> Result<()> {
    let cluster = cluster(2)?;
    cluster.add_nodes()?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY);
         SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1, local}');
         INSERT INTO t SELECT generate_series(1, 1000)",
    )?;
    for (call, end) in [
        ("shard_set_modulus('t', 4, nodes => '{n1, local}', mode => 'block_writes')", "switched"),
        ("shard_drain_node('n1', mode => 'block_writes')", "finished"),
    ] {
        // No part gets further than its lock.
        let mut reader = cluster.coordinator.client()?;
        reader.batch_execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")?;
        let id: i64 = client.query_one(&format!("SELECT {call}"), &[])?.get(0);
        let amid = format!("SELECT count(*) > 0 FROM shard_operations WHERE part_of = {id}");
        eventually("a part is under way", LIMIT, || cluster.coordinator.value(&amid))?;
        let worker = format!("SELECT pid FROM pg_stat_activity WHERE application_name = 'shardkeeper operation {id}'");
        let first: i32 = cluster.coordinator.value(&worker)?;
        ensure!(cluster.coordinator.value::<bool>(&format!("SELECT pg_terminate_backend({first}, 10000)"))?);
        let successor = format!("SELECT EXISTS ({worker} AND pid <> {first})");
        eventually("another worker has taken it up", LIMIT, || cluster.coordinator.value(&successor))?;
        reader.batch_execute("ROLLBACK")?;
        reaches(&cluster, id, end, LIMIT).context(call)?;
        if end == "switched" {
            client.execute("SELECT shard_finish($1)", &[&id])?;
            ends(&cluster, id, LIMIT)?;
        }
        assert_eq!(cluster.coordinator.count("t")?, 1000);
    }
    nothing_is_left(&cluster)
}
