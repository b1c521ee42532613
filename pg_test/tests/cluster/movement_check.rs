//! What people see of operations, and what they cannot do to tables while their data moves.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::sql::{column, refused, rows};
use pg_test::{Cluster, Options, eventually};
use postgres::Client;

const PATIENCE: Duration = Duration::from_secs(30);

/// Two nodes, and a table with a leaf on the coordinator and one on n1.
fn cluster(settings: &[(&'static str, &'static str)]) -> Result<(Cluster, Client)> {
    let mut coordinator_settings = vec![("max_worker_processes", "16")];
    coordinator_settings.extend(settings);
    let cluster = Cluster::with(Options { nodes: 2, coordinator_settings, ..Options::default() })?;
    cluster.add_nodes()?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(
        "CREATE TABLE t (id bigint PRIMARY KEY, note text);
         SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{local, n1}');
         INSERT INTO t SELECT i, 'note' FROM generate_series(1, 1000) AS i",
    )?;
    Ok((cluster, client))
}

/// Findings about operations, with their severity and hint.
fn findings(client: &mut Client) -> Result<Vec<String>> {
    column(
        client,
        "SELECT concat_ws(' | ', object, node, severity, finding, hint) FROM shard_check() WHERE area = 'operation'",
    )
}

fn eventually_found(client: &mut Client, words: &[&str]) -> Result<()> {
    let mut last = Vec::new();
    eventually(&format!("{words:?}"), PATIENCE, || {
        last = findings(client)?;
        Ok(last.iter().any(|finding| words.iter().all(|word| finding.contains(word))))
    })
    .with_context(|| last.join("\n"))
}

fn state(client: &mut Client) -> Result<String> {
    Ok(client.query_one("SELECT string_agg(state, ',' ORDER BY id) FROM shardkeeper.operations", &[])?.get(0))
}

#[test]
fn the_doctor_tells_what_operations_need() -> Result<()> {
    let (cluster, mut client) = cluster(&[])?;
    assert_eq!(findings(&mut client)?, Vec::<String>::new());

    // Paused before it begins: nothing is wrong.
    client.batch_execute("BEGIN; SELECT shard_move_partition('t_1', 'n2'); SELECT shard_pause(1); COMMIT")?;
    eventually_found(&mut client, &["t | ok", "operation 1 is paused in state planned", "shard_resume(1)"])?;
    client.batch_execute("SELECT shard_cancel(1)")?;
    eventually("it is over", PATIENCE, || Ok(findings(&mut client)?.is_empty()))?;

    // The role may no longer follow changes there.
    cluster.node(1).run("ALTER ROLE app NOREPLICATION")?;
    client.batch_execute("SELECT shard_move_partition('t_1', 'n2')")?;
    eventually_found(
        &mut client,
        &["warning", "operation 2 is preparing", "failed", "may not follow changes", "REPLICATION"],
    )?;
    let other = column(&mut client, "SELECT finding FROM shard_check('t') WHERE area = 'operation'")?;
    assert_eq!(other.len(), 1, "{other:?}");

    // Cleaning up does not end while a server is down.
    cluster.node(2).stop()?;
    client.batch_execute("SELECT shard_cancel(2)")?;
    eventually_found(&mut client, &["warning", "what operation 2 made is not all removed; it is cancelled"])?;
    cluster.node(2).start()?;
    eventually("it is over", Duration::from_secs(60), || Ok(findings(&mut client)?.is_empty()))
}

#[test]
fn the_doctor_finds_what_nobody_removes_any_more() -> Result<()> {
    let (cluster, mut client) = cluster(&[])?;
    let ours = "SELECT left(md5(shardkeeper.coordinator()), 6)";
    let ours = column(&mut client, ours)?.pop().context("a signature")?;
    let name = format!("shardkeeper_op_77_{ours}");
    cluster.node(1).run(&format!("CREATE SCHEMA {name}"))?;
    cluster.node(2).run(&format!("CREATE PUBLICATION {name}; CREATE SCHEMA shardkeeper_op_77_abcdef"))?;
    client.batch_execute(&format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')"))?;
    let found = findings(&mut client)?;
    let expected = [
        format!(
            "{name} | local | warning | the replication slot {name} belongs to no operation; log is kept for it | There, run SELECT pg_drop_replication_slot('{name}');"
        ),
        format!(
            "{name} | n1 | warning | the schema {name} belongs to no operation | There, run DROP SCHEMA {name} CASCADE;"
        ),
        format!(
            "{name} | n2 | warning | the publication {name} belongs to no operation | There, run DROP PUBLICATION {name};"
        ),
    ];
    assert_eq!(found, expected);
    client.batch_execute(&format!("SELECT pg_drop_replication_slot('{name}')"))?;
    Ok(())
}

#[test]
fn the_doctor_tells_of_a_lock_that_the_switch_waits_for() -> Result<()> {
    let (cluster, mut client) = cluster(&[])?;
    let mut reader = cluster.coordinator.client()?;
    client.batch_execute("BEGIN; SELECT shard_move_partition('t_0', 'n2'); SELECT shard_pause(1); COMMIT")?;
    reader.batch_execute("BEGIN; SELECT count(*) FROM t")?;
    client.batch_execute("SELECT shard_resume(1)")?;
    eventually_found(
        &mut client,
        &["warning", "operation 1 waits for its lock since", "nobody holds the parent for long", "pg_locks"],
    )?;

    // Meanwhile the tables stay as they are, and others are free.
    client.batch_execute(
        "CREATE TABLE other (id int); CREATE INDEX ON other (id); ALTER TABLE other ADD note text; DROP TABLE other;
         CREATE INDEX own ON t_0 (note); GRANT SELECT ON t TO app",
    )?;
    reader.batch_execute("SELECT 1")?;
    for change in [
        "ALTER TABLE t_0 ALTER note SET STATISTICS 10",
        "CREATE STATISTICS s ON id, note FROM t_0",
        "CREATE TRIGGER tr BEFORE INSERT ON t_0 FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "SELECT shard_drop_partition('t_0')",
        "SELECT shard_detach_partition('t_0')",
        "SELECT shard_release_parent('t')",
        "SELECT shard_move_partition('t_1', 'n2')",
    ] {
        let error = refused(&mut client, change).with_context(|| change.to_string())?;
        assert_eq!(error.code().code(), "55006", "{change}: {error:?}");
        assert_eq!(error.message(), "operation 1 runs on public.t", "{change}");
        assert_eq!(
            error.hint(),
            Some("Wait with SELECT shard_wait(1); or end it with SELECT shard_cancel(1);"),
            "{change}"
        );
    }
    reader.batch_execute("COMMIT")?;
    client.query_one("SELECT shard_wait(1, '60 s')", &[])?;
    assert_eq!(state(&mut client)?, "switched");
    client.batch_execute("SET shardkeeper.allow_manual_ddl = on; CREATE INDEX after ON t (note)")?;
    Ok(())
}

#[test]
fn tables_stay_as_they_are_while_their_data_moves() -> Result<()> {
    let (_cluster, mut client) = cluster(&[])?;
    client.batch_execute("SET shardkeeper.allow_manual_ddl = on; CREATE INDEX notes ON t (note)")?;
    // As if a worker had stopped in the middle.
    client.batch_execute(
        "BEGIN; SELECT shard_move_partition('t_0', 'n2'); SELECT shard_pause(1);
         UPDATE shardkeeper.operations SET state = 'catching_up'; COMMIT",
    )?;
    for change in [
        "ALTER TABLE t ADD COLUMN more int",
        "ALTER TABLE t RENAME TO other",
        "CREATE INDEX ON t (id, note)",
        "DROP INDEX notes",
        "CREATE POLICY p ON t USING (true)",
        "CREATE TABLE t_more PARTITION OF t FOR VALUES WITH (modulus 4, remainder 1)",
        "ALTER TABLE t DETACH PARTITION t_0",
        "DROP TABLE t_0",
        "DROP TABLE t",
        "SELECT shard_drop_parent('t')",
    ] {
        let error = refused(&mut client, change).with_context(|| change.to_string())?;
        // A partition that cannot be made is refused by Postgres first.
        if change.contains("PARTITION OF") && error.code().code() == "42P17" {
            continue;
        }
        assert_eq!(error.code().code(), "55006", "{change}: {error:?}");
        ensure!(error.hint().is_some_and(|hint| hint.contains("shard_cancel(1)")), "{change}");
    }
    // Where something has to be mended first, it may be mended.
    client.batch_execute(
        r#"UPDATE shardkeeper.operations SET state = 'preparing', error = '{"message": "no identity"}';
           ALTER TABLE t_0 REPLICA IDENTITY FULL;
           UPDATE shardkeeper.operations SET state = 'planned', error = NULL"#,
    )?;
    client.batch_execute("SELECT shard_cancel(1)")?;
    client.query_one("SELECT shard_wait(1, '60 s')", &[])?;
    client.batch_execute("DROP INDEX notes; ALTER TABLE t ADD COLUMN more int")?;
    Ok(())
}

#[test]
fn data_moves_in_utf8_databases_only() -> Result<()> {
    let cluster = Cluster::with(Options { nodes: 0, extension: false, ..Options::default() })?;
    cluster.coordinator.run("CREATE DATABASE latin ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")?;
    let mut client = cluster.coordinator.client_in("latin")?;
    client.batch_execute(
        "CREATE EXTENSION shardkeeper CASCADE; CREATE TABLE t (id int PRIMARY KEY);
         SELECT shard_create_parent('t', 'hash', 'id', modulus => 2)",
    )?;
    let error = refused(&mut client, "SELECT shard_set_modulus('t', 3)")?;
    assert_eq!(error.code().code(), "0A000");
    assert_eq!(error.message(), "data moves online in databases with encoding UTF8 only, not LATIN1");
    ensure!(error.hint().is_some());
    assert_eq!(rows(&mut client, "SELECT * FROM shard_operations")?, Vec::<Vec<String>>::new());
    Ok(())
}

#[test]
fn the_doctor_tells_of_operations_that_stand_still() -> Result<()> {
    let (cluster, mut client) = cluster(&[("max_slot_wal_keep_size", "32MB")])?;
    cluster.coordinator.configure(&[("shardkeeper.worker", "off")])?;
    cluster.coordinator.reload()?;
    client.batch_execute("SELECT shard_move_partition('t_0', 'n2')")?;
    client.batch_execute("UPDATE shardkeeper.operations SET changed_at = now() - interval '1 minute'")?;
    eventually_found(&mut client, &["warning", "operation 1 has no worker since 6", "max_worker_processes"])?;

    client.batch_execute(
        r#"UPDATE shardkeeper.operations SET state = 'verifying', halted = true,
               error = '{"message": "they differ", "detail": "In one key.", "hint": "Look at it."}'"#,
    )?;
    let found = findings(&mut client)?;
    let expected =
        "public.t | error | operation 1 stands still in state verifying: they differ: In one key. | Look at it.";
    assert_eq!(found, [expected]);

    // A slot that keeps nearly as much log as it may.
    client.batch_execute(
        "SELECT pg_create_logical_replication_slot(staging, 'pgoutput') FROM shardkeeper.operations;
         SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000)) FROM generate_series(1, 29)",
    )?;
    eventually_found(&mut client, &["t | local | warning", "MB of log are kept for operation 1, at most 32 MB"])?;
    client.batch_execute("SELECT shard_pause(1)")?;
    eventually_found(&mut client, &["MB of log are kept for operation 1, at most 32 MB", "shard_resume(1)"])?;
    client.batch_execute(
        "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000)) FROM generate_series(1, 60);
         SELECT pg_switch_wal(); CHECKPOINT",
    )?;
    eventually_found(&mut client, &["t | local | error", "lost its log to max_slot_wal_keep_size", "shard_cancel(1)"])?;

    cluster.coordinator.configure(&[("shardkeeper.worker", "on")])?;
    cluster.coordinator.reload()?;
    client.batch_execute("SELECT shard_cancel(1)")?;
    eventually("it is over", PATIENCE, || Ok(findings(&mut client)?.is_empty()))
}
