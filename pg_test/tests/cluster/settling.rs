//! How the journal of a node is settled: only what the coordinator is known to have rolled back is undone, whatever has become
//! of the extension, of user mappings and of the server meanwhile.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::objects::settled;
use pg_test::server::DATABASE;
use pg_test::sql::{code, column, refused, rows};
use pg_test::visits::{SIGNATURE, TIMELINE, aborted};
use pg_test::{Cluster, Options, PATIENCE, eventually, visited};
use postgres::Client;

const PARENT: &str = "CREATE TABLE v (id bigint PRIMARY KEY);
    SELECT shard_create_parent('v', 'hash', 'id', modulus => 4, nodes => '{n1,n2}');
    INSERT INTO v SELECT generate_series(1, 100);";

fn all_there(client: &mut Client) -> Result<()> {
    assert_eq!(column(client, "SELECT count(*) FROM v")?, ["100"]);
    Ok(())
}

/// Puts its tables away by hand, on all servers.
fn clear(cluster: &Cluster) -> Result<()> {
    cluster.servers().try_for_each(|server| server.run("DROP TABLE IF EXISTS v CASCADE"))
}

#[test]
fn what_was_committed_stays_when_the_extension_comes_anew() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(2)?;
    let anew = "DROP EXTENSION shardkeeper; CREATE EXTENSION shardkeeper;";
    for sequence in [
        format!("{PARENT} {anew}"),
        format!("BEGIN; {PARENT} {anew} COMMIT"),
        format!("BEGIN; {PARENT} DROP EXTENSION shardkeeper; COMMIT; BEGIN; CREATE EXTENSION shardkeeper; COMMIT"),
    ] {
        client.batch_execute(&sequence)?;
        settled(&cluster, PATIENCE).with_context(|| sequence.clone())?;
        all_there(&mut client).with_context(|| sequence.clone())?;
        // What a session knew of parents went with the extension.
        assert_eq!(code(&mut client, r#"SELECT * FROM shard_locate('v', '{"id": 1}')"#)?, "42P01");
        let thrown = "SELECT count(*) FROM shardkeeper.trash";
        for node in cluster.nodes() {
            assert_eq!(node.value::<i64>(thrown)?, 0, "{sequence}");
        }
        clear(&cluster)?;
    }
    // The same, with what was rolled back.
    client.batch_execute(&format!("BEGIN; {PARENT} DROP EXTENSION shardkeeper; ROLLBACK"))?;
    settled(&cluster, PATIENCE)?;
    ensure!(!cluster.coordinator.has("v")? && !cluster.node(1).has("v")?);
    Ok(())
}

/// While nobody can look at the rows, the coordinator forgets its own row about the transaction.
#[test]
fn what_was_committed_stays_when_a_user_mapping_comes_back() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(2)?;
    cluster.servers().try_for_each(|server| server.run("CREATE ROLE other LOGIN SUPERUSER PASSWORD 'other'"))?;
    let grant = "SELECT shard_grant_node(n, 'other', 'other', 'other') FROM unnest('{n1,n2}'::text[]) AS n";
    client.batch_execute(grant)?;
    let worker = |set: &str| {
        cluster.coordinator.run(&format!("ALTER SYSTEM {set}"))?;
        cluster.coordinator.run("SELECT pg_reload_conf()")
    };
    worker("SET shardkeeper.worker = off")?;
    eventually("the worker rests", PATIENCE, || {
        Ok(cluster.coordinator.value::<String>("SHOW shardkeeper.worker")? == "off")
    })?;
    let mut other = cluster.coordinator.client_as("other", "other", DATABASE)?;
    other.batch_execute(PARENT)?;
    client.batch_execute("SET shardkeeper.allow_manual_ddl = on; DROP USER MAPPING FOR other SERVER n1; DROP USER MAPPING FOR other SERVER n2")?;
    worker("RESET shardkeeper.worker")?;
    eventually("the coordinator has forgotten", PATIENCE, || {
        Ok(cluster.coordinator.count("shardkeeper.transactions")? == 0)
    })?;
    ensure!(cluster.node(1).count("shardkeeper.journal")? > 0);
    client.batch_execute(grant)?;
    settled(&cluster, PATIENCE)?;
    all_there(&mut other)
}

/// One row in the journal of n1; its inverse makes a table named `undone_<name>`.
fn leave(cluster: &Cluster, name: &str, coordinator: &str, timeline: i32, xid: &str) -> Result<String> {
    let row = cluster.node(1).client()?.query_one(
        "INSERT INTO shardkeeper.journal (coordinator, timeline, lsn, transaction, xid, role, command, inverse, done_at)
         VALUES ($1, $2, '0/1', gen_random_uuid(), $3::text::xid8, 'app', $4, 'CREATE TABLE public.undone_' || $4 || ' ()', now() - interval '1 hour')
         RETURNING transaction::text",
        &[&coordinator, &timeline, &xid, &name],
    )?;
    Ok(row.get(0))
}

#[test]
fn only_what_is_known_to_be_rolled_back_is_undone() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(1)?;
    let node = cluster.node(1);
    node.run("GRANT CREATE ON SCHEMA public TO app")?;
    let row = client.query_one(&format!("SELECT {SIGNATURE}, {TIMELINE}"), &[])?;
    let (signature, timeline): (String, i32) = (row.get(0), row.get(1));
    let committed: String = client.query_one("SELECT pg_current_xact_id()::text", &[])?.get(0);
    let rolled_back = aborted(&mut client)?;
    let mut long = cluster.coordinator.client()?;
    long.batch_execute("BEGIN")?;
    let running: String = long.query_one("SELECT pg_current_xact_id()::text", &[])?.get(0);
    // As after a disk was set back: the number will be used, by another transaction.
    let future = running.parse::<u64>()? + 500;
    client.batch_execute("VACUUM (FREEZE)")?;
    assert_eq!(column(&mut client, "SELECT pg_xact_status('3') IS NULL")?, ["t"], "it is not old enough for this test");
    let mut ids = std::collections::BTreeMap::new();
    for (name, coordinator, timeline, xid) in [
        ("committed", signature.as_str(), timeline, committed.as_str()),
        ("rolled_back", &signature, timeline, &rolled_back),
        ("running", &signature, timeline, &running),
        ("future", &signature, timeline, &future.to_string()),
        ("old", &signature, timeline, "3"),
        ("restored", &signature, 9, &rolled_back),
        ("other", "17/5", timeline, &rolled_back),
    ] {
        ids.insert(name, leave(&cluster, name, coordinator, timeline, xid)?);
    }
    visited(&cluster.coordinator, DATABASE, node)?;
    while aborted(&mut client)?.parse::<u64>()? <= future {}
    visited(&cluster.coordinator, DATABASE, node)?;
    let left = "SELECT command FROM shardkeeper.journal ORDER BY 1";
    let undone = "SELECT relname FROM pg_class WHERE relname LIKE 'undone%' ORDER BY 1";
    let mut there = node.client()?;
    assert_eq!(column(&mut there, left)?, ["future", "old", "other", "restored", "running"]);
    assert_eq!(column(&mut there, undone)?, ["undone_rolled_back"]);
    // Each is reported with the commands that settle it.
    let found = rows(
        &mut client,
        "SELECT finding, hint FROM shard_check() WHERE node = 'n1' AND severity = 'warning' AND finding LIKE '%to be settled%'",
    )?;
    assert_eq!(found.len(), 5, "{found:?}");
    let told = |words: &str, name: &str| -> Result<(String, String)> {
        let row = found
            .iter()
            .find(|row| row[0].contains(words))
            .with_context(|| format!("{words} is not told: {found:?}"))?;
        let call = |how: &str| format!("SELECT shard_settle('n1', '{}', '{how}')", ids[name]);
        let calls = (call("keep"), call("undo"));
        ensure!(row[1].contains(&calls.0) && row[1].contains(&calls.1), "no command in {row:?}");
        Ok(calls)
    };
    let future = told("this coordinator does not know it: it was restored", "future")?;
    let old = told("too long ago", "old")?;
    let restored = told("of timeline 9, which this coordinator, on 1, does not know", "restored")?;
    let other = told("of another coordinator, 17/5", "other")?;
    let settle = |name: &str, how: &str| format!("SELECT shard_settle('n1', '{}', '{how}')", ids[name]);
    for how in ["keep", "undo"] {
        let error = refused(&mut client, &settle("running", how))?;
        assert_eq!(
            (error.code().code(), error.message()),
            ("55006", format!("transaction {running} still runs").as_str())
        );
    }
    for (call, wanted) in [
        (settle("committed", "undo"), "42704"),
        (settle("old", "maybe"), "22023"),
        (settle("old", "keep").replace("n1", "n7"), "42704"),
    ] {
        assert_eq!(code(&mut client, &call)?, wanted, "{call}");
    }
    // In the caller's transaction, as everything there.
    client.batch_execute(&format!("BEGIN; {}; ROLLBACK", old.1))?;
    assert_eq!(column(&mut there, undone)?, ["undone_rolled_back"]);
    for call in [&future.0, &old.1, &restored.0, &other.1] {
        assert_eq!(column(&mut client, call)?, ["1"], "{call}");
    }
    assert_eq!(column(&mut there, undone)?, ["undone_old", "undone_other", "undone_rolled_back"]);
    long.batch_execute("COMMIT")?;
    settled(&cluster, PATIENCE)?;
    assert_eq!(column(&mut there, undone)?, ["undone_old", "undone_other", "undone_rolled_back"]);
    Ok(())
}

/// A crash must not make the number free for another transaction, whose outcome would be taken for this one's.
#[test]
fn the_number_of_a_transaction_that_nodes_know_is_not_used_again() -> Result<()> {
    // Nobody else writes the log to disk meanwhile.
    let coordinator_settings = vec![("wal_writer_delay", "10s"), ("autovacuum", "off"), ("bgwriter_delay", "10s")];
    let cluster = Cluster::with(Options { nodes: 2, coordinator_settings, ..Options::default() })?;
    cluster.add_nodes()?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&format!("BEGIN; {PARENT}"))?;
    let number: String = client.query_one("SELECT pg_current_xact_id()::text", &[])?.get(0);
    cluster.coordinator.kill9()?;
    cluster.coordinator.start()?;
    let next: String = cluster.coordinator.client()?.query_one("SELECT pg_current_xact_id()::text", &[])?.get(0);
    ensure!(next.parse::<u64>()? > number.parse::<u64>()?, "{number} was used again: {next}");
    settled(&cluster, Duration::from_secs(10))
}
