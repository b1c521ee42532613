//! What coordinators leave on nodes when they are gone: `shard_reset_node` takes it away, and nothing else.
use anyhow::{Result, ensure};
use pg_test::sql::{code, column, refused, rows};
use pg_test::visits::SIGNATURE;
use pg_test::{Cluster, Snapshot};
use postgres::Client;

const PARENTS: &str = "CREATE TABLE full_one (id int PRIMARY KEY); CREATE TABLE empty_one (id int PRIMARY KEY);
    SELECT shard_create_parent('full_one', 'hash', 'id', modulus => 2, nodes => '{n1}');
    SELECT shard_create_parent('empty_one', 'hash', 'id', modulus => 2, nodes => '{n1}');
    INSERT INTO full_one SELECT generate_series(1, 10)";

/// A database of the coordinator's server as a test suite makes it, with the node.
fn suite(cluster: &Cluster) -> Result<(Client, String)> {
    cluster.coordinator.run("DROP DATABASE IF EXISTS suite WITH (FORCE)")?;
    cluster.coordinator.run("CREATE DATABASE suite")?;
    let mut client = cluster.coordinator.client_in("suite")?;
    client.batch_execute("CREATE EXTENSION shardkeeper CASCADE")?;
    client.batch_execute(&cluster.call_to_add(1, ", password => 'app'"))?;
    let signature = client.query_one(&format!("SELECT {SIGNATURE}"), &[])?.get(0);
    Ok((client, signature))
}

fn plan(client: &mut Client, arguments: &str) -> Result<Vec<String>> {
    column(
        client,
        &format!(
            "SELECT object || ': ' || action FROM shard_plan_reset_node('n1' {arguments}) WHERE object !~ '^journal'"
        ),
    )
}

#[test]
fn a_database_that_is_made_again_has_its_node_again() -> Result<()> {
    let (cluster, mut live) = Cluster::joined(1)?;
    let node = cluster.node(1);
    // Others on the node: a coordinator that is alive, and the node's own tables.
    live.batch_execute(
        "CREATE TABLE live (id int PRIMARY KEY); SELECT shard_create_parent('live', 'hash', 'id', modulus => 2, nodes => '{n1}')",
    )?;
    let mut app = node.client_as("app", "app", "app")?;
    app.batch_execute("CREATE TABLE mine (id int) PARTITION BY HASH (id); CREATE TABLE mine_0 PARTITION OF mine FOR VALUES WITH (MODULUS 1, REMAINDER 0)")?;
    let (mut first, gone) = suite(&cluster)?;
    first.batch_execute(PARENTS)?;
    assert_eq!(
        plan(&mut first, "")?,
        ["table public.live: stays: coordinator ".to_owned()
            + &live.query_one(&format!("SELECT {SIGNATURE}"), &[])?.get::<_, String>(0)
            + " made it"]
    );
    drop(first);
    // What an operation would have left there.
    let mark: String = live.query_one("SELECT left(md5($1), 6)", &[&gone])?.get(0);
    let (staging, attic) = (format!("shardkeeper_op_7_{mark}"), format!("shardkeeper_old_7_{mark}"));
    app.batch_execute(&format!(
        "CREATE SCHEMA {staging}; CREATE TABLE {staging}.shardkeeper_progress (operation bigint); CREATE TABLE {staging}.t (id int);
         CREATE SCHEMA {attic}; CREATE TABLE {attic}.t AS SELECT 1 AS id; CREATE PUBLICATION {staging} FOR TABLE {staging}.t;
         INSERT INTO shardkeeper.switches (staging) VALUES ('{staging}')"
    ))?;
    node.run(&format!("SELECT pg_create_logical_replication_slot('{staging}', 'pgoutput')"))?;
    node.run("ALTER ROLE app REPLICATION")?;
    let (mut client, _) = suite(&cluster)?;
    let error = refused(&mut client, PARENTS)?;
    assert_eq!(error.code().code(), "42P07");
    ensure!(error.hint().is_some_and(|hint| hint.contains("SELECT * FROM shard_plan_reset_node('n1')")), "{error:?}");
    let stays = "stays, as it has rows: including_data => true takes it too";
    assert_eq!(
        plan(&mut client, "")?.into_iter().filter(|line| !line.contains("public.live")).collect::<Vec<_>>(),
        [
            format!("schema {attic}: {stays}"),
            format!("table public.full_one: {stays}"),
            format!("write fence of {staging}: opened"),
            format!("publication {staging}: dropped"),
            format!("schema {staging}: dropped; its tables to the trash"),
            "table public.empty_one: dropped, as it is empty".into(),
            format!("replication slot {staging}: dropped"),
        ]
    );
    let there = Snapshot::take(&cluster)?;
    plan(&mut client, ", including_data => true")?;
    there.is_unchanged(&cluster)?;
    client.batch_execute("SELECT shard_reset_node('n1')")?;
    let left = |words: &str| -> Result<bool> {
        let sql = format!("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = '{words}') OR EXISTS (SELECT FROM pg_publication WHERE pubname = '{words}')
             OR EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{words}') OR EXISTS (SELECT FROM shardkeeper.switches WHERE staging = '{words}')");
        node.value(&sql)
    };
    ensure!(!left(&staging)? && left(&attic)? && node.has("full_one")? && !node.has("empty_one")?);
    // As part of a transaction, it can be taken back.
    client.batch_execute("BEGIN; SELECT shard_reset_node('n1', including_data => true); ROLLBACK")?;
    assert_eq!(node.count("full_one")?, 10);
    client.batch_execute("SELECT shard_reset_node('n1', including_data => true)")?;
    ensure!(!left(&attic)?);
    client.batch_execute(PARENTS)?;
    assert_eq!(rows(&mut client, "SELECT count(*) FROM full_one")?, [["10"]]);
    // With what is in use, nothing happens, whether it is managed or not.
    client.batch_execute("SELECT shard_release_parent('empty_one')")?;
    assert_eq!(column(&mut client, "SELECT shard_reset_node('n1', including_data => true)")?, ["0"]);
    ensure!(node.has("mine_0")? && node.has("live")? && node.has("empty_one")? && node.count("full_one")? == 10);
    Ok(())
}

#[test]
fn what_another_coordinator_made_goes_only_when_it_is_named() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(1)?;
    let node = cluster.node(1);
    node.client_as("app", "app", "app")?.batch_execute(
        "CREATE TABLE far (id int) PARTITION BY HASH (id); SELECT shardkeeper.note_mirror('public.far', '17/5')",
    )?;
    assert_eq!(plan(&mut client, "")?, ["table public.far: stays: coordinator 17/5 made it"]);
    assert_eq!(column(&mut client, "SELECT shard_reset_node('n1', including_data => true)")?, ["0"]);
    let own: String = client.query_one(&format!("SELECT {SIGNATURE}"), &[])?.get(0);
    for (call, wanted) in [
        (format!("SELECT shard_reset_node('n1', coordinator => '{own}')"), "22023"),
        ("SELECT shard_reset_node('n1', coordinator => 'it')".to_owned(), "22023"),
        ("SELECT shard_reset_node('n9')".to_owned(), "42704"),
        ("SELECT shard_reset_node(NULL)".to_owned(), "22004"),
    ] {
        assert_eq!(code(&mut client, &call)?, wanted, "{call}");
    }
    assert_eq!(column(&mut client, "SELECT shard_reset_node('n1', coordinator => '17/5')")?, ["1"]);
    ensure!(!node.has("far")?);
    Ok(())
}
