//! Calls while others read, write and call: none loses anything, and none waits for ever.
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_test::objects::settled;
use pg_test::sql::{code, column, refused};
use pg_test::{Cluster, Objects, PATIENCE, eventually};

const WAITS: &str = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted";

const ORDERS: &str = r#"
    CREATE TABLE orders (id int, region text, total int, PRIMARY KEY (id, region));
    SELECT shard_create_parent('orders', '{"method": "list", "key": "region", "values": {
        "us": {"in": ["US"], "nodes": ["n1"]}, "eu": {"in": ["EU"], "nodes": ["n2"]},
        "cn": {"in": ["CN"], "nodes": ["local"]}}}');
    INSERT INTO orders SELECT i, r, i FROM generate_series(1, 10) i, unnest('{US,EU,CN}'::text[]) r"#;

const EVENTS: &str = r#"
    CREATE TABLE events (id int, at date, note text, PRIMARY KEY (id, at));
    SELECT shard_create_parent('events', '{"method": "range", "key": "at", "interval": "1 month",
        "start": "2024-01-01", "end": "2024-03-01", "nodes": ["n1", "n2"]}');
    INSERT INTO events SELECT i, date '2024-01-01' + i FROM generate_series(1, 50) i"#;

#[test]
fn two_sessions_create_different_parents_on_the_same_nodes_at_once() -> Result<()> {
    let (cluster, mut first) = Cluster::joined(3)?;
    let mut second = cluster.coordinator.patient()?;
    first.batch_execute(&format!("BEGIN; {ORDERS}"))?;
    // While the first has not committed yet.
    second.batch_execute(EVENTS)?;
    first.batch_execute("COMMIT")?;
    assert_eq!(column(&mut first, "SELECT count(*) FROM orders")?, ["30"]);
    assert_eq!(column(&mut first, "SELECT count(*) FROM events")?, ["50"]);
    // Many at the very same time.
    let start = Barrier::new(6);
    let make = |number: usize| -> Result<()> {
        let mut client = cluster.coordinator.patient()?;
        client.batch_execute(&format!("CREATE TABLE t{number} (id int PRIMARY KEY)"))?;
        start.wait();
        client.batch_execute(&format!(
            "SELECT shard_create_parent('t{number}', 'hash', 'id', modulus => 8, nodes => '{{n3, n1, n2, local}}');
             INSERT INTO t{number} SELECT generate_series(1, 100)"
        ))?;
        Ok(())
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..6).map(|number| scope.spawn(move || make(number))).collect();
        all.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    for number in 0..6 {
        assert_eq!(column(&mut first, &format!("SELECT count(*) FROM t{number}"))?, ["100"]);
    }
    Ok(())
}

/// The schema is made on the nodes by the first call that needs it there.
#[test]
fn two_sessions_create_parents_in_a_schema_that_the_nodes_do_not_have_yet() -> Result<()> {
    let (cluster, mut first) = Cluster::joined(3)?;
    first.batch_execute("CREATE SCHEMA sales; CREATE TABLE sales.a (id int); CREATE TABLE sales.b (id int)")?;
    let call = |table: &str| {
        format!("SELECT shard_create_parent('sales.{table}', 'hash', 'id', modulus => 3, nodes => '{{n1, n2, n3}}')")
    };
    first.batch_execute(&format!("BEGIN; {}", call("a")))?;
    let (other, mut client) = (call("b"), cluster.coordinator.patient()?);
    let second = std::thread::spawn(move || client.batch_execute(&other));
    eventually("the second waits for the first or is done", PATIENCE, || {
        Ok(second.is_finished() || cluster.node(1).value(WAITS)? || cluster.coordinator.value(WAITS)?)
    })?;
    first.batch_execute("COMMIT")?;
    second.join().expect("no panic")?;
    let both = "SELECT count(*) FROM pg_class WHERE relnamespace = 'sales'::regnamespace AND relname IN ('a', 'b')";
    for node in cluster.nodes() {
        assert_eq!(node.value::<i64>(both)?, 2, "{}", node.name);
    }
    Ok(())
}

const MAKE_EVENTS: &str = "SELECT shard_create_parent('events', 'hash', 'id', modulus => 3, nodes => '{n1, n2, n3}')";

#[test]
fn rows_of_a_writer_that_a_call_had_to_wait_for_are_seen() -> Result<()> {
    let (cluster, mut writer) = Cluster::joined(3)?;
    writer.batch_execute("CREATE TABLE events (id int PRIMARY KEY)")?;
    writer.batch_execute("BEGIN; INSERT INTO events VALUES (1)")?;
    let mut client = cluster.coordinator.patient()?;
    let waiting = std::thread::spawn(move || refused(&mut client, MAKE_EVENTS));
    eventually("the call waits", PATIENCE, || cluster.coordinator.value(WAITS))?;
    writer.batch_execute("COMMIT")?;
    assert_eq!(waiting.join().expect("no panic")?.message(), "table public.events is not empty");
    Ok(())
}

/// The snapshot of a caller can be older than what the call must see.
#[test]
fn what_others_committed_meanwhile_counts_whatever_the_callers_snapshot_is() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(3)?;
    let mut other = cluster.coordinator.patient()?;
    client.batch_execute("CREATE TABLE events (id int PRIMARY KEY)")?;
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        // Rows that came after the snapshot must not be lost.
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT 1"))?;
        other.batch_execute("INSERT INTO events VALUES (1)")?;
        let operation: Option<i64> = client.query_one(MAKE_EVENTS, &[]).context(level)?.get(0);
        assert!(operation.is_some(), "{level}: the table was taken for an empty one");
        client.batch_execute("ROLLBACK; TRUNCATE events")?;
        // Nor a column.
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT 1"))?;
        other.batch_execute("ALTER TABLE events ADD COLUMN note text")?;
        if client.batch_execute(MAKE_EVENTS).is_ok() {
            client.batch_execute("COMMIT")?;
            client.batch_execute("INSERT INTO events (id, note) VALUES (1, 'kept')").context(level)?;
            client.batch_execute("SELECT shard_drop_parent('events')")?;
        } else {
            client.batch_execute("ROLLBACK; DROP TABLE events")?;
        }
        client.batch_execute("CREATE TABLE events (id int PRIMARY KEY)")?;
    }
    Ok(())
}

/// Adding asks nobody to wait: neither who reads all of it in an open transaction, nor who writes.
#[test]
fn readers_and_writers_go_on_while_a_partition_is_added() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(3)?;
    client.batch_execute(ORDERS)?;
    client.batch_execute(EVENTS)?;
    let mut reader = cluster.coordinator.patient()?;
    let mut writer = cluster.coordinator.patient()?;
    let mut there = cluster.node(1).client()?;
    let all = "SELECT count(*) FROM orders UNION ALL SELECT count(*) FROM events";
    reader.batch_execute(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {all}"))?;
    writer.batch_execute("BEGIN; UPDATE orders SET total = total + 1; UPDATE events SET note = 'new'")?;
    there.batch_execute("BEGIN; SELECT count(*) FROM orders; INSERT INTO orders VALUES (99, 'US', 1)")?;
    client.batch_execute("SET lock_timeout = '2s'")?;
    for call in [
        // On a node that has leaves, here, and on one that gets its first.
        r#"shard_add_partition('orders', '{"in": ["JP"], "label": "jp"}', 'n1')"#,
        r#"shard_add_partition('orders', '{"in": ["BR"], "label": "br"}', 'local')"#,
        r#"shard_add_partition('orders', '{"in": ["AR"], "label": "ar"}', 'n3')"#,
        r#"shard_add_partition('events', '{"from": "2024-03-01", "to": "2024-04-01"}', 'n2')"#,
    ] {
        client.batch_execute(&format!("SELECT {call}")).context(call)?;
    }
    client.batch_execute("INSERT INTO orders VALUES (1, 'JP', 1), (1, 'BR', 1), (1, 'AR', 1)")?;
    // They see what they saw, and write on.
    assert_eq!(column(&mut reader, "SELECT count(*) FROM orders WHERE region IN ('US', 'EU', 'CN')")?, ["30"]);
    writer.batch_execute(
        "UPDATE orders SET total = total + 1 WHERE region IN ('US', 'EU'); INSERT INTO orders VALUES (2, 'JP', 1); COMMIT",
    )?;
    there.batch_execute("COMMIT")?;
    reader.batch_execute("COMMIT")?;
    assert_eq!(column(&mut reader, "SELECT count(*) FROM orders")?, ["35"]);
    Ok(())
}

/// A drop has to wait for readers; where the caller does not want to, nothing has changed.
#[test]
fn a_call_that_would_wait_for_a_reader_gives_up_at_its_lock_timeout() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(3)?;
    client.batch_execute(ORDERS)?;
    settled(&cluster, PATIENCE)?;
    let before = Objects::of_all(&cluster)?;
    client.batch_execute("SET lock_timeout = '500ms'")?;
    // On the coordinator, with what that reads on the nodes, or on a node alone.
    for server in [&cluster.coordinator, cluster.node(1)] {
        let mut reader = server.client()?;
        reader.batch_execute("BEGIN; SELECT count(*) FROM orders")?;
        for call in
            ["shard_drop_partition('orders_us')", "shard_detach_partition('orders_us')", "shard_drop_parent('orders')"]
        {
            let start = Instant::now();
            assert_eq!(code(&mut client, &format!("SELECT {call}"))?, "55P03", "{call}, read on {}", server.name);
            assert!(start.elapsed() < Duration::from_secs(5), "{call} took {:?}", start.elapsed());
        }
        reader.batch_execute("COMMIT")?;
    }
    assert_eq!(Objects::of_all(&cluster)?.changes_since(&before), [""; 0]);
    Ok(())
}

/// Locks taken in an order of their own on several servers would wait for each other for ever: no server sees the circle.
#[test]
fn a_change_and_a_reader_never_wait_for_each_other() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(3)?;
    client.batch_execute(ORDERS)?;
    client.batch_execute(r#"SELECT shard_add_partition('orders', '{"default": true}', 'n1')"#)?;
    client.batch_execute("SET lock_timeout = 0; SET statement_timeout = 0")?;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    let detach = "shard_detach_partition('orders_us')";
    let drop = "shard_drop_partition('orders_us')";
    let add = r#"shard_add_partition('orders', '{"in": ["JP"]}', 'n2')"#;
    let mut circles = Vec::new();
    // What a reader has done so far in his transaction, the change, and what the reader does next.
    for (first, change, next) in [
        ("SELECT count(*) FROM orders WHERE region = 'EU'", detach, "SELECT count(*) FROM orders"),
        ("SELECT count(*) FROM orders WHERE region = 'EU'", drop, "SELECT count(*) FROM orders"),
        ("EXPLAIN SELECT * FROM orders", add, "SELECT count(*) FROM orders"),
        ("EXPLAIN SELECT * FROM orders_us", detach, "SELECT count(*) FROM orders_us"),
        ("EXPLAIN SELECT * FROM orders_us", "shard_drop_parent('orders')", "SELECT count(*) FROM orders_us"),
    ] {
        let mut reader = cluster.coordinator.client()?;
        reader.batch_execute(&format!("SET statement_timeout = '2s'; BEGIN; {first}"))?;
        let call = format!("BEGIN; SELECT {change}; ROLLBACK");
        let changing = std::thread::spawn(move || (client.batch_execute(&call), client));
        eventually("the change is done or waits here", PATIENCE, || {
            Ok(changing.is_finished() || cluster.coordinator.value(&format!("{WAITS} AND pid = {pid}"))?)
        })?;
        if let Err(error) = reader.batch_execute(next) {
            circles.push(format!("{first}; {change}; {next}: {error}"));
        }
        reader.batch_execute("ROLLBACK")?;
        let (changed, back) = changing.join().expect("no panic");
        changed?;
        client = back;
    }
    assert_eq!(circles, [""; 0]);
    Ok(())
}

/// Whoever looks at all hierarchies meets some that are just being made or dropped.
#[test]
fn looking_at_everything_while_parents_come_and_go_is_no_error() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(2)?;
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks: Vec<_> = ["shard_check()", "shard_partition_sizes()"]
            .map(|what| {
                let (cluster, done) = (&cluster, &done);
                scope.spawn(move || -> Result<usize> {
                    let (mut session, mut looks) = (cluster.coordinator.patient()?, 0);
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        session.query(&format!("SELECT * FROM {what}"), &[]).with_context(|| what.to_owned())?;
                        looks += 1;
                    }
                    Ok(looks)
                })
            })
            .into_iter()
            .collect();
        let made = (0..25).try_for_each(|at| {
            client.batch_execute(&format!(
                "CREATE TABLE p{at} (id int PRIMARY KEY);
                 SELECT shard_create_parent('p{at}', 'hash', 'id', modulus => 6, nodes => '{{local, n1, n2}}')"
            ))?;
            client.batch_execute(&format!("SELECT shard_drop_parent('p{at}', keep => '0')"))
        });
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for look in looks {
            let looks = look.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            ensure!(looks > 10, "{looks} looks");
        }
        Ok(made?)
    })
}
