//! The extension leaves: not before its operations have ended, and then with nothing left on servers that would cost them.
use std::time::Duration;

use anyhow::{Result, ensure};
use pg_test::movement::{ends, reaches};
use pg_test::objects::settled;
use pg_test::sql::{code, column, refused};
use pg_test::{Cluster, Options, PATIENCE};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn the_extension_is_not_dropped_amid_an_operation() -> Result<()> {
    // Not preloaded: the session that drops it has called nothing of ours before.
    let cluster = Cluster::with(Options { nodes: 2, preload: false, ..Options::default() })?;
    cluster.add_nodes()?;
    let coordinator = &cluster.coordinator;
    coordinator.run(
        "CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY);
         SELECT shard_create_parent('s.t', 'hash', 'id', modulus => 2, nodes => '{n1, local}');
         INSERT INTO s.t SELECT generate_series(1, 1000)",
    )?;
    settled(&cluster, PATIENCE)?;
    // It has to wait for this one.
    let mut reader = coordinator.client()?;
    reader.batch_execute("BEGIN; LOCK TABLE s.t IN ACCESS SHARE MODE")?;
    let id: i64 = coordinator.value("SELECT shard_move_partition('s.t_0', 'n2')")?;
    for drop in ["DROP EXTENSION shardkeeper", "DROP EXTENSION shardkeeper CASCADE", "DROP SCHEMA public CASCADE"] {
        let error = refused(&mut coordinator.patient()?, drop)?;
        assert_eq!(error.code().code(), "55006", "{drop}: {error}");
    }
    let error = refused(&mut coordinator.client()?, "DROP EXTENSION shardkeeper")?;
    assert_eq!(error.message(), format!("extension shardkeeper cannot be dropped before operation {id} has ended"));
    let hint = error.hint().unwrap_or_default();
    ensure!(hint.contains(&format!("SELECT shard_cancel({id});")), "{hint}");
    reader.batch_execute("ROLLBACK")?;
    // What it replaced is kept: it can be reverted, so it has not ended either.
    reaches(&cluster, id, "switched", LIMIT)?;
    let hint = refused(&mut coordinator.client()?, "DROP EXTENSION shardkeeper")?.hint().unwrap_or_default().to_owned();
    let finish = format!("SELECT shard_finish({id});");
    ensure!(hint.contains(&finish), "{hint}");
    coordinator.run(&finish)?;
    ends(&cluster, id, LIMIT)?;
    settled(&cluster, PATIENCE)?;
    let mut client = coordinator.client()?;
    client.batch_execute("DROP EXTENSION shardkeeper")?;
    assert_eq!(column(&mut client, "SELECT count(*) FROM s.t")?, ["1000"]);
    for server in cluster.servers() {
        let left = "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)
            + (SELECT count(*) FROM pg_namespace WHERE nspname ~ '^shardkeeper_(op|old)_')";
        assert_eq!(server.value::<i64>(left)?, 0, "{}", server.name);
    }
    assert_eq!(code(&mut client, "SELECT * FROM shard_check()")?, "42883");
    Ok(())
}

/// A second session with the node would wait for the first, and that for the end of the transaction.
#[test]
fn a_node_that_is_left_with_work_comes_back_in_another_transaction() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let mut client = cluster.coordinator.patient()?;
    let add = cluster.call_to_add(1, ", password => 'app'");
    let make = "CREATE TABLE t (id int PRIMARY KEY); SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1}')";
    client.batch_execute(&format!("{add}; {make}"))?;
    for between in ["", "DROP EXTENSION shardkeeper; CREATE EXTENSION shardkeeper;"] {
        client
            .batch_execute(&format!("BEGIN; SELECT shard_drop_parent('t'); SELECT shard_drop_node('n1'); {between}"))?;
        let error = refused(&mut client, &add)?;
        assert_eq!(error.code().code(), "55006");
        assert_eq!(error.message(), "node \"n1\" is a database that this transaction is still at work in");
        client.batch_execute("ROLLBACK")?;
    }
    // Without work there, it may.
    client.batch_execute("SELECT shard_drop_parent('t')")?;
    client.batch_execute(&format!("BEGIN; SELECT shard_drop_node('n1'); {add}; COMMIT"))?;
    client.batch_execute(make)?;
    // All at once, and all made again.
    client.batch_execute(
        "BEGIN; SELECT shard_drop_parent('t'); SELECT shard_drop_node('n1'); DROP EXTENSION shardkeeper; COMMIT",
    )?;
    client.batch_execute(&format!("CREATE EXTENSION shardkeeper; {add}; {make}; INSERT INTO t VALUES (1)"))?;
    settled(&cluster, PATIENCE)?;
    assert_eq!(column(&mut client, "SELECT count(*) FROM t")?, ["1"]);
    Ok(())
}
