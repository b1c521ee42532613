//! A copy of the coordinator's database on the same server, made with it as the template amid its operations: they stay the
//! original's, whatever the copy does.
use std::time::Duration;

use anyhow::{Result, ensure};
use pg_test::movement::{complains, field, joined, nothing_is_left, reaches, told};
use pg_test::sql::{column, refused, rows};
use pg_test::{Cluster, PATIENCE, eventually};
use postgres::Client;

const LIMIT: Duration = Duration::from_secs(60);
/// The worker looks at operations every second, and at those that are kept every ten.
const LOOKS: Duration = Duration::from_secs(12);

const TABLES: &str = "
    CREATE TABLE kept (id int PRIMARY KEY, note text);
    SELECT shard_create_parent('kept', 'hash', 'id', modulus => 2, nodes => '{local, n1}');
    CREATE TABLE amid (id int PRIMARY KEY, note text);
    SELECT shard_create_parent('amid', 'hash', 'id', modulus => 2, nodes => '{n1, local}');
    INSERT INTO kept SELECT i, 'x' FROM generate_series(1, 100) AS i;
    INSERT INTO amid SELECT i, 'x' FROM generate_series(1, 100) AS i";

/// All that operations have on a server, in whatever database.
const TRACES: &str = "SELECT name FROM (
        SELECT 'slot ' || slot_name AS name FROM pg_replication_slots
        UNION ALL SELECT 'publication ' || pubname FROM pg_publication
        UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname ~ '^shardkeeper_(op|old)_'
        UNION ALL SELECT 'table ' || oid::regclass FROM pg_class
                  WHERE relkind IN ('r', 'p') AND relnamespace::regnamespace::text ~ '^shardkeeper_(op|old)_') AS t ORDER BY name";

fn call(client: &mut Client, call: &str) -> Result<i64> {
    Ok(client.query_one(&format!("SELECT {call}"), &[])?.get(0))
}

fn traces(cluster: &Cluster) -> Result<Vec<Vec<String>>> {
    cluster.servers().map(|server| column(&mut server.client()?, TRACES)).collect()
}

/// An operation that keeps a table on the coordinator, one that keeps one on a node and has a publication on the coordinator,
/// and one that is paused before its switch.
fn scene() -> Result<(Cluster, [i64; 3])> {
    let cluster = joined(2)?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(TABLES)?;
    let here = call(&mut client, "shard_move_partition('kept_0', 'n1')")?;
    reaches(&cluster, here, "switched", LIMIT)?;
    let there = call(&mut client, "shard_move_partition('kept_1', 'local')")?;
    reaches(&cluster, there, "switched", LIMIT)?;
    let mut reader = cluster.coordinator.client()?;
    reader.batch_execute("BEGIN; LOCK TABLE amid IN ACCESS SHARE MODE")?;
    let amid = call(&mut client, "shard_move_partition('amid_0', 'n2')")?;
    complains(&cluster, amid, "nobody holds the parent", LIMIT)?;
    client.execute("SELECT shard_pause($1)", &[&amid])?;
    let busy = "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'shardkeeper operation')
                     + (SELECT count(*) FROM shardkeeper.operations WHERE state = 'switched' AND NOT targets_cleaned)";
    eventually("nobody works", PATIENCE, || Ok(cluster.coordinator.value::<i64>(busy)? == 0))?;
    Ok((cluster, [here, there, amid]))
}

/// Nobody may be connected to the template.
fn copy(cluster: &Cluster) -> Result<Client> {
    cluster.coordinator.hang_up();
    cluster.coordinator.client_in("postgres")?.batch_execute("CREATE DATABASE copied TEMPLATE app")?;
    let workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'shardkeeper worker'";
    eventually("original and copy have a worker", PATIENCE, || Ok(cluster.coordinator.value::<i64>(workers)? == 2))?;
    let mut client = cluster.coordinator.client_in("copied")?;
    client.batch_execute("SET lock_timeout = '5s'; SET statement_timeout = '20s'")?;
    Ok(client)
}

#[test]
fn operations_stay_with_the_original_of_a_copied_database() -> Result<()> {
    let (cluster, all) = scene()?;
    let [_, there, amid] = all;
    let before = traces(&cluster)?;
    let mut copy = copy(&cluster)?;

    // The copy leaves them alone.
    let rows_there = "SELECT id, state, requested, failures, error FROM shardkeeper.operations ORDER BY id";
    let copied = rows(&mut copy, rows_there)?;
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'copied' AND backend_type ~ '^shardkeeper (operation|keeper)'";
    let end = std::time::Instant::now() + LOOKS;
    while std::time::Instant::now() < end {
        ensure!(cluster.coordinator.value::<i64>(others)? == 0, "{}", told(&cluster));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(rows(&mut copy, rows_there)?, copied);
    assert_eq!(traces(&cluster)?, before);

    // They cannot be steered from there, and are in nobody's way.
    for (id, call) in [(amid, "shard_resume"), (amid, "shard_pause"), (amid, "shard_wait"), (there, "shard_revert")] {
        let error = refused(&mut copy, &format!("SELECT {call}({id})"))?;
        assert_eq!(error.code().code(), "55000", "{error:?}");
        assert_eq!(error.message(), format!("operation {id} belongs to another database that this one is a copy of"));
        ensure!(error.hint().is_some_and(|hint| hint.contains(&format!("SELECT shard_cancel({id});"))), "{error:?}");
    }
    assert_eq!(column(&mut copy, "SELECT count(*) FROM shardkeeper.moving()")?, ["0"]);
    copy.batch_execute("BEGIN; SELECT shard_move_partition('amid_1', 'n1'); ROLLBACK")?;
    copy.batch_execute("BEGIN; DROP EXTENSION shardkeeper; ROLLBACK")?;

    // `shard_check` names each, with what takes it away.
    let found =
        "SELECT hint FROM shard_check() WHERE finding LIKE 'operation % belongs to another database%' ORDER BY finding";
    let hints = column(&mut copy, found)?;
    assert_eq!(hints.len(), all.len(), "{hints:?}");
    copy.batch_execute(&format!("SELECT shard_finish({there})"))?;
    for hint in column(&mut copy, found)? {
        let command = hint.trim_start_matches("Run ").split_once(';').map_or("", |(command, _)| command);
        copy.batch_execute(command)?;
    }
    assert_eq!(column(&mut copy, "SELECT finding FROM shard_check() WHERE area = 'operation'")?, [""; 0]);
    let left = "SELECT name FROM (
            SELECT pubname::text AS name FROM pg_publication
            UNION ALL SELECT nspname FROM pg_namespace WHERE nspname ~ '^shardkeeper_(op|old)_'
            UNION ALL SELECT conname FROM pg_constraint WHERE conname ~ '^shardkeeper_(op_|attach)'
            UNION ALL SELECT id::text FROM shardkeeper.operations) AS t";
    assert_eq!(column(&mut copy, left)?, [""; 0]);
    for table in ["kept", "amid"] {
        assert_eq!(column(&mut copy, &format!("SELECT count(*) FROM {table}"))?, ["100"], "{table}");
    }

    // The original has lost nothing by all this.
    assert_eq!(traces(&cluster)?, before);
    let mut client = cluster.coordinator.patient()?;
    client.execute("SELECT shard_resume($1)", &[&amid])?;
    reaches(&cluster, amid, "switched", LIMIT)?;
    client.execute("SELECT shard_revert($1)", &[&there])?;
    eventually("it is reverted", LIMIT, || Ok(field(&cluster, there, "state")? == "reverted"))?;
    for id in all.iter().filter(|id| **id != there) {
        client.execute("SELECT shard_finish($1)", &[id])?;
    }
    nothing_is_left(&cluster)?;
    for table in ["kept", "amid"] {
        assert_eq!(column(&mut client, &format!("SELECT count(*) FROM {table}"))?, ["100"], "{table}");
    }
    Ok(())
}
