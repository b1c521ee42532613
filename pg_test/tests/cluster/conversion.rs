//! A populated table becomes a parent online: clients go on, nothing is lost, and all that its user put on it is kept.
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::movement::{joined, told};
use pg_test::sql::{column, refused, rows};
use pg_test::{Cluster, Keys, Ledger, Options, Server, Workload, eventually};
use postgres::Client;

/// Calls for the operation and waits until it has switched.
fn convert(cluster: &Cluster, call: &str) -> Result<i64> {
    let mut client = cluster.coordinator.client()?;
    let id: Option<i64> = client.query_one(call, &[]).context(call.to_string())?.get(0);
    let id = id.context("no operation")?;
    let state = client.query_one("SELECT shard_wait($1, '60 s')", &[&id]).map(|row| row.get::<_, String>(0));
    let state = state.with_context(|| told(cluster))?;
    ensure!(state == "switched", "{call}: {state}");
    Ok(id)
}

/// Operations that are over leave no slot, publication, schema or row behind, on any server.
fn nothing_is_left(cluster: &Cluster) -> Result<()> {
    let over = "SELECT count(*) FROM shardkeeper.operations WHERE ended_at IS NULL";
    eventually("all operations are over", Duration::from_secs(30), || Ok(cluster.coordinator.value::<i64>(over)? == 0))
        .with_context(|| told(cluster))?;
    let left = "SELECT (SELECT count(*) FROM pg_replication_slots)
        + (SELECT count(*) FROM pg_publication WHERE pubname ~ '^shardkeeper_')
        + (SELECT count(*) FROM pg_namespace WHERE nspname ~ '^shardkeeper_(op|old)_')";
    for server in cluster.nodes().iter().chain([&cluster.coordinator]) {
        let count: i64 = server.value(left)?;
        ensure!(count == 0, "{count} objects are left on {}", server.name);
    }
    ensure!(cluster.coordinator.value::<i64>("SELECT count(*) FROM shardkeeper.progress")? == 0);
    Ok(())
}

fn under_load(cluster: &Cluster, table: &str, keys: Keys, count: i64, call: &str) -> Result<()> {
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&format!("CREATE SCHEMA sales; {}", keys.create_sql(table)))?;
    keys.load(&mut client, table, count)?;
    let ledger = Ledger::start(cluster, table, keys, Workload::default())?;
    let written = |more: usize| {
        let wanted = ledger.acknowledged() + more;
        eventually("clients write", Duration::from_secs(60), || Ok(ledger.acknowledged() >= wanted))
    };
    written(200)?;
    let id = convert(cluster, call)?;
    written(200)?;
    ledger.check(cluster).context(call.to_string())?;
    client.execute("SELECT shard_finish($1)", &[&id])?;
    written(100)?;
    let outcome = ledger.stop()?;
    println!("{keys:?}: {outcome}");
    outcome.check(cluster)?;
    nothing_is_left(cluster)
}

#[test]
fn a_table_becomes_a_hash_parent_over_three_servers_while_clients_write() -> Result<()> {
    let call = "SELECT shard_create_parent('t', 'hash', 'id', modulus => 3, nodes => '{local, n1, n2}')";
    under_load(&joined(2)?, "t", Keys::Bigint, 50_000, call)
}

#[test]
fn a_table_becomes_a_tree_of_three_levels_while_clients_write() -> Result<()> {
    let call = r#"SELECT shard_create_parent('sales.t', '{
        "method": "range", "key": "id", "bounds": ["MINVALUE", 2000, "MAXVALUE"],
        "partitions": {"method": "list", "key": "region", "values": {"west": ["us", "eu"], "east": ["cn", "jp"]},
            "partitions": {"method": "hash", "key": ["region", "id"], "modulus": 2, "nodes": ["local", "n1", "n2"]}}}')"#;
    under_load(&joined(2)?, "sales.t", Keys::TwoColumns, 5_000, call)
}

#[test]
fn a_table_becomes_a_parent_on_its_own_server_while_clients_write() -> Result<()> {
    let call = "SELECT shard_create_parent('t', 'hash', 'id', modulus => 4)";
    under_load(&joined(0)?, "t", Keys::Uuid, 5_000, call)
}

#[test]
fn cancel_leaves_the_table_as_it_was() -> Result<()> {
    let cluster = joined(1)?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i FROM generate_series(1, 500) i",
    )?;
    let before = dump(&cluster.coordinator)?;
    // It waits for the end of this one.
    let mut other = cluster.coordinator.client()?;
    let mut open = other.transaction()?;
    open.batch_execute("INSERT INTO t VALUES (0)")?;
    let call = "SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{local, n1}')";
    let id: i64 = client.query_one(call, &[])?.get(0);
    assert_eq!(refused(&mut client, call)?.code().code(), "55006");
    client.execute("SELECT shard_cancel($1)", &[&id])?;
    open.commit()?;
    assert_eq!(client.query_one("SELECT shard_wait($1, '60 s')", &[&id])?.get::<_, String>(0), "cancelled");
    nothing_is_left(&cluster)?;
    assert_eq!(dump(&cluster.coordinator)?, before);
    assert_eq!(client.query_one("SELECT count(*), min(id) FROM t", &[])?.get::<_, i64>(0), 501);
    let there = "SELECT count(*) FROM pg_class WHERE relname ~ '^t(_|$)'";
    assert_eq!(cluster.node(1).value::<i64>(there)?, 0);
    Ok(())
}

#[test]
fn a_table_that_changes_meanwhile_does_not_become_a_parent() -> Result<()> {
    let cluster = joined(0)?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 500)")?;
    client.batch_execute("BEGIN")?;
    let id: i64 = client.query_one("SELECT shard_create_parent('t', 'hash', 'id', modulus => 2)", &[])?.get(0);
    // From the call on, and not only from the first step.
    client.batch_execute("SAVEPOINT before")?;
    let error = refused(&mut client, "ALTER TABLE t ADD COLUMN more int")?;
    assert_eq!((error.code().code(), error.message()), ("55006", format!("operation {id} runs on public.t").as_str()));
    // Where nobody refuses it, it is found.
    client.batch_execute(
        "ROLLBACK TO before; SET LOCAL session_replication_role = replica; ALTER TABLE t ADD COLUMN more int; COMMIT",
    )?;
    let error = refused(&mut client, &format!("SELECT shard_wait({id}, '60 s')"))?;
    assert_eq!((error.code().code(), error.message()), ("55000", "table public.t was changed while its rows moved"));
    nothing_is_left(&cluster)?;
    // A view would go on to show the old table.
    client.batch_execute("BEGIN")?;
    let id: i64 = client.query_one("SELECT shard_create_parent('t', 'hash', 'id', modulus => 2)", &[])?.get(0);
    client.batch_execute("CREATE VIEW v AS SELECT id FROM t; COMMIT")?;
    let error = refused(&mut client, &format!("SELECT shard_wait({id}, '60 s')"))?;
    assert!(error.detail().is_some_and(|detail| detail.contains("view public.v")), "{error:?}");
    client.batch_execute("DROP VIEW v")?;
    client.execute("SELECT shard_resume($1)", &[&id])?;
    assert_eq!(client.query_one("SELECT shard_wait($1, '60 s')", &[&id])?.get::<_, String>(0), "switched");
    assert_eq!(column(&mut client, "SELECT count(*)::text FROM t WHERE more IS NULL")?, ["500"]);
    Ok(())
}

#[test]
fn what_cannot_be_converted_is_told_at_once() -> Result<()> {
    let cluster = joined(1)?;
    let mut client = cluster.coordinator.client()?;
    let call = "SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{local, n1}')";
    let rows = "INSERT INTO t (id) VALUES (1), (2)";
    let cases = [
        ("CREATE TABLE t (id int)", "55000", "public.t on the coordinator has no replica identity"),
        (
            "CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t REPLICA IDENTITY NOTHING",
            "55000",
            "has no replica identity",
        ),
        ("CREATE TABLE t (id int PRIMARY KEY, other int REFERENCES t)", "2BP01", "other objects depend on it"),
        ("CREATE TABLE t (id int, name text PRIMARY KEY DEFAULT random())", "42P16", "lacks the partition key id"),
        ("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE t_1 (id int)", "42P07", "public.t_1 already exists"),
    ];
    for (table, code, message) in cases {
        client.batch_execute(&format!("{table}; {rows}"))?;
        let error = refused(&mut client, call)?;
        assert_eq!(error.code().code(), code, "{table}: {error:?}");
        assert!(error.message().contains(message), "{table}: {error:?}");
        client.batch_execute("DROP TABLE t; DROP TABLE IF EXISTS t_1")?;
    }
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)")?;
    assert_eq!(client.query_one(call, &[])?.get::<_, Option<i64>>(0), None, "an empty table");
    assert_eq!(cluster.coordinator.value::<i64>("SELECT count(*) FROM shardkeeper.operations")?, 0);
    Ok(())
}

#[test]
fn without_logical_decoding_a_populated_table_stays() -> Result<()> {
    let cluster =
        Cluster::with(Options { coordinator_settings: vec![("wal_level", "replica")], ..Options::default() })?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")?;
    let error = refused(&mut client, "SELECT shard_create_parent('t', 'hash', 'id', modulus => 2)")?;
    assert_eq!((error.code().code(), error.message()), ("55000", "wal_level of the coordinator is replica"));
    Ok(())
}

/// Rows that row security hides from the owner are rows.
#[test]
fn an_owner_who_sees_no_rows_does_not_lose_them() -> Result<()> {
    let cluster = joined(0)?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(
        "CREATE ROLE owner; GRANT CREATE ON SCHEMA public TO owner; SET ROLE owner;
         CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2);
         ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY",
    )?;
    let id: Option<i64> = client.query_one("SELECT shard_create_parent('t', 'hash', 'id', modulus => 2)", &[])?.get(0);
    client.query_one("SELECT shard_wait($1, '60 s')", &[&id]).with_context(|| told(&cluster))?;
    client.batch_execute("RESET ROLE")?;
    assert_eq!(column(&mut client, "SELECT count(*)::text FROM t")?, ["2"]);
    Ok(())
}

/// The table with one of everything that `kept.rs` makes parents of while it is empty.
const READINGS: &str = include_str!("kept/readings.sql");
const ROWS: &str = "INSERT INTO plant.readings (region, taken, temperature, code, span)
    SELECT r, '2024-05-05'::date + n * 40, n, r || n, int4range(n, n + 1) FROM unnest('{north, south}'::text[]) r, generate_series(1, 10) n";

fn readings(nodes: usize) -> Result<(Cluster, Client)> {
    let cluster = joined(nodes)?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute("SET allow_in_place_tablespaces = on")?;
    client.batch_execute("CREATE TABLESPACE fast LOCATION ''")?;
    client.batch_execute(READINGS).context("readings.sql")?;
    client.batch_execute(ROWS)?;
    for node in cluster.nodes() {
        node.client_as("app", "app", "app")?.batch_execute(
            "CREATE SCHEMA plant; CREATE TYPE plant.mood AS ENUM ('calm', 'hot'); CREATE DOMAIN plant.celsius AS numeric(6, 2) CHECK (VALUE > -273.15)",
        )?;
        client.batch_execute(&format!("SELECT shard_grant_node('{}', 'boss', 'app', 'app')", node.name))?;
    }
    Ok((cluster, client))
}

fn call(nodes: &str) -> String {
    format!(
        r#"SELECT shard_create_parent('plant.readings', '{{
        "method": "range", "key": "taken", "interval": "1 year", "start": "2024-01-01", "end": "2026-01-01", "name": "{{parent}}__{{label}}",
        "partitions": {{"method": "list", "key": "region", "nodes": {nodes}, "values": {{"n": ["north"], "s": ["south"]}}}}}}', accept => '{{publication}}')"#
    )
}

/// The statements that make the database anew, partitions left out. An index of a partitioned table is dumped `ON ONLY` it.
fn dump(server: &Server) -> Result<BTreeSet<String>> {
    let statements = server.definitions("plant.readings__*")?.into_iter();
    let ours = statements.filter(|s| !s.starts_with("CREATE SERVER") && !s.contains("plant.readings__"));
    Ok(ours.map(|s| if s.contains("INDEX ") { s.replace(" ON ONLY ", " ON ") } else { s }).collect())
}

/// What differs between a table that was empty when it became a parent, and one that had rows: nothing.
#[test]
fn the_parent_is_the_same_as_one_that_was_made_of_an_empty_table() -> Result<()> {
    for (nodes, list) in [(0, r#"["local"]"#), (1, r#"["local", "n1"]"#)] {
        let (cluster, mut client) = readings(nodes)?;
        let counted = "SELECT 'ids', last_value, is_called FROM plant.readings_ids
               UNION ALL SELECT 'always', last_value, is_called FROM plant.readings_always_seq
               UNION ALL SELECT 'ticket', last_value, is_called FROM plant.readings_ticket_seq";
        let (count, before) =
            (rows(&mut client, counted)?, rows(&mut client, "SELECT * FROM plant.readings ORDER BY id")?);
        let id = convert(&cluster, &call(list))?;
        assert_eq!(rows(&mut client, counted)?, count);
        assert_eq!(rows(&mut client, "SELECT * FROM plant.readings ORDER BY id")?, before);
        client.execute("SELECT shard_finish($1)", &[&id])?;
        nothing_is_left(&cluster)?;
        let converted = dump(&cluster.coordinator)?;
        let facts = facts(&mut client)?;
        let mirrors = cluster.nodes().iter().map(dump).collect::<Result<Vec<_>>>()?;

        // The same again from an empty table.
        let (cluster, mut client) = readings(nodes)?;
        client.batch_execute("DELETE FROM plant.readings")?;
        client.batch_execute(&call(list))?;
        let expected = dump(&cluster.coordinator)?;
        same(&expected, &converted, list);
        same(&self::facts(&mut client)?, &facts, list);
        for (node, converted) in cluster.nodes().iter().zip(mirrors) {
            same(&dump(node)?, &converted, &node.name);
        }
    }
    Ok(())
}

fn same(expected: &BTreeSet<String>, found: &BTreeSet<String>, what: &str) {
    let (lost, new): (Vec<_>, Vec<_>) = (expected.difference(found).collect(), found.difference(expected).collect());
    assert!(lost.is_empty() && new.is_empty(), "{what}: lost {lost:#?}, new {new:#?}");
}

/// What each table of the hierarchy is and carries, but for the names of indexes that Postgres picks.
fn facts(client: &mut Client) -> Result<BTreeSet<String>> {
    let lines = column(
        client,
        "SELECT format('%s %s %s %s %s %s %s', c.oid::regclass, relkind, relowner::regrole, relacl, reloptions, relreplident,
             (SELECT spcname FROM pg_tablespace s WHERE s.oid = reltablespace))
         FROM pg_class c WHERE relnamespace = 'plant'::regnamespace AND relkind IN ('r', 'p', 'f', 'S')
         UNION ALL
         SELECT format('%s %s %s %s %s %s %s %s', attrelid::regclass, attname, attnotnull, attidentity, attstorage, attcompression,
             attstattarget, ARRAY(SELECT o FROM unnest(attoptions) o WHERE o !~ '^pg_'))
         FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
         WHERE relnamespace = 'plant'::regnamespace AND relkind IN ('r', 'p', 'f') AND attnum > 0 AND NOT attisdropped
         UNION ALL
         SELECT format('%s %s %s %s %s %s', indrelid::regclass, regexp_replace(pg_get_indexdef(indexrelid), '^.* USING ', ''),
             indisunique, indisclustered, indisreplident, indisvalid)
         FROM pg_index x JOIN pg_class c ON c.oid = indrelid WHERE relnamespace = 'plant'::regnamespace
         UNION ALL
         SELECT format('%s %s %s', tgrelid::regclass, regexp_replace(tgname, '_[0-9]+$', ''), tgenabled)
         FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid WHERE relnamespace = 'plant'::regnamespace
         UNION ALL
         SELECT format('%s %s %s', conrelid::regclass, contype, pg_get_constraintdef(k.oid))
         FROM pg_constraint k JOIN pg_class c ON c.oid = conrelid WHERE relnamespace = 'plant'::regnamespace
         UNION ALL
         SELECT format('%s in %s', prrelid::regclass, pubname) FROM pg_publication_rel JOIN pg_publication p ON p.oid = prpubid
         WHERE prrelid::regclass::text !~ '^shardkeeper_'
         UNION ALL SELECT format('%s is %s', partition, label) FROM shardkeeper.partitions
         UNION ALL SELECT format('%s has %s', parent, node) FROM shardkeeper.mirrors
         ORDER BY 1",
    )?;
    Ok(lines.into_iter().collect())
}

/// The rows are there: nobody has to wait for an operation to hear that they do not fit.
#[test]
fn rows_that_no_partition_would_accept_are_told_by_the_call() -> Result<()> {
    let (_cluster, mut client) = Cluster::joined(1)?;
    client.batch_execute(
        "CREATE TABLE o (id int, at date, r text, PRIMARY KEY (id, at, r));
         INSERT INTO o SELECT g, '2026-01-01'::date + g, 'eu' FROM generate_series(0, 99) AS g",
    )?;
    let cases = [
        (r#"'range', 'at', bounds => '["2026-01-02", "2027-01-01"]'"#, "(at) = (2026-01-01)"),
        (r#"'range', 'at', bounds => '["2026-01-01", "2026-04-10"]'"#, "(at) = (2026-04-10)"),
        (r#"'list', 'r', lists => '{"us": ["us"], "cn": ["cn", "jp"]}'"#, "(r) = (eu)"),
    ];
    for (how, key) in cases {
        let error = refused(&mut client, &format!("SELECT shard_create_parent('o', {how}, nodes => '{{local}}')"))?;
        assert_eq!(
            (error.code().code(), error.message()),
            ("23514", "no partition of public.o would accept a row that is in it"),
            "{how}"
        );
        ensure!(error.detail().is_some_and(|detail| detail.contains(key)), "{how}: {error:?}");
    }
    ensure!(client.query("SELECT FROM shardkeeper.operations", &[])?.is_empty());
    Ok(())
}
