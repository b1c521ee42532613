//! Dumps in the middle of things: while data moves, while what was replaced is kept, with a trash. All of them can be restored,
//! and what the copy cannot use is named by its own doctor.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::dumps::{self, Way};
use pg_test::movement::{complains, field, joined, joined_by_proxy, reaches, switched_but_not_tidied, told};
use pg_test::objects::settled;
use pg_test::sql::{column, rows};
use pg_test::{Cluster, PATIENCE, Server, eventually};
use postgres::Client;

const LIMIT: Duration = Duration::from_secs(60);

const TABLES: &str = r#"
    CREATE TABLE moved (id int PRIMARY KEY, note text COMPRESSION pglz);
    SELECT shard_create_parent('moved', 'hash', 'id', modulus => 2, nodes => '{local, n1}');
    CREATE TABLE nested (id int, at date, note text, PRIMARY KEY (id, at));
    SELECT shard_create_parent('nested', '{"method": "range", "key": "at", "interval": "1 year", "start": "2024-01-01", "end": "2026-01-01",
        "default": {"nodes": ["n1"]}, "partitions": {"method": "hash", "key": "id", "modulus": 2, "nodes": ["n1", "local"]}}');
    CREATE TABLE turned (id int PRIMARY KEY, note text);
    SELECT shard_create_parent('turned', 'hash', 'id', modulus => 2, nodes => '{local, n1}');
    CREATE TABLE amid (id int PRIMARY KEY, note text);
    SELECT shard_create_parent('amid', 'hash', 'id', modulus => 2, nodes => '{n1, local}');
    CREATE TABLE thrown (id int PRIMARY KEY, note text);
    SELECT shard_create_parent('thrown', 'hash', 'id', modulus => 2, nodes => '{local, n1}');
    CREATE TABLE plain (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text);
    INSERT INTO moved SELECT i, 'x' FROM generate_series(1, 100) AS i;
    INSERT INTO nested SELECT i, d, 'x' FROM generate_series(1, 100) AS i, unnest('{2024-05-05,2025-05-05}'::date[]) AS d;
    INSERT INTO turned SELECT i, 'x' FROM generate_series(1, 100) AS i;
    INSERT INTO amid SELECT i, 'x' FROM generate_series(1, 100) AS i;
    INSERT INTO thrown SELECT i, 'x' FROM generate_series(1, 100) AS i;
    INSERT INTO plain (note) SELECT 'x' FROM generate_series(1, 100)"#;

const ROWS: &str = "SELECT (SELECT count(*) FROM moved), (SELECT count(*) FROM nested), (SELECT count(*) FROM turned),
    (SELECT count(*) FROM amid), (SELECT count(*) FROM plain)";

const CATALOG: [&str; 4] = [
    "SELECT parent, spec, dealt FROM shardkeeper.parents ORDER BY parent::text",
    "SELECT partition, parent, label FROM shardkeeper.partitions ORDER BY partition::text",
    "SELECT parent, node, coordinator FROM shardkeeper.mirrors ORDER BY parent::text, node",
    "SELECT node, name FROM shard_trash ORDER BY node, name",
];

fn call(client: &mut Client, call: &str) -> Result<i64> {
    Ok(client.query_one(&format!("SELECT {call}"), &[])?.get(0))
}

/// Operations at all stages at which they leave something, and a trash, on all servers. What is paused stays so.
fn scene() -> Result<(Cluster, Client, [i64; 2])> {
    let cluster = joined(2)?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(TABLES)?;
    client.batch_execute("SELECT shard_drop_parent('thrown')")?;
    for kept in [
        "shard_move_partition('moved_0', 'n2')",
        "shard_move_partition('moved_1', 'local')",
        "shard_set_modulus('nested_2024', 3)",
        "shard_create_parent('plain', 'hash', 'id', modulus => 2, nodes => '{n1, local}')",
    ] {
        let id = call(&mut client, kept)?;
        reaches(&cluster, id, "switched", LIMIT)?;
    }
    let turned = call(&mut client, "shard_move_partition('turned_0', 'n2')")?;
    reaches(&cluster, turned, "switched", LIMIT)?;
    let mut reader = cluster.coordinator.client()?;
    reader.batch_execute("BEGIN; LOCK TABLE turned, amid IN ACCESS SHARE MODE")?;
    client.execute("SELECT shard_revert($1)", &[&turned])?;
    let amid = call(&mut client, "shard_set_modulus('amid', 3)")?;
    for id in [turned, amid] {
        complains(&cluster, id, "nobody holds the parent", LIMIT)?;
        client.execute("SELECT shard_pause($1)", &[&id])?;
    }
    let running = "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'shardkeeper operation'";
    eventually("the workers are gone", PATIENCE, || cluster.coordinator.value(running))?;
    settled(&cluster, PATIENCE)?;
    Ok((cluster, client, [turned, amid]))
}

/// The copy of the coordinator: what it holds is that of the original, and what it cannot use is told with a way out.
fn works(server: &Server, database: &str, original: &mut Client) -> Result<()> {
    let mut copy = server.client_in(database)?;
    assert_eq!(rows(&mut copy, ROWS)?, rows(original, ROWS)?);
    for (at, query) in CATALOG.iter().enumerate() {
        let (here, there) = (rows(original, query)?, rows(&mut copy, query)?);
        // It signs with a name of its own only what it does itself.
        ensure!(!there.is_empty() && there == here, "{at}: {there:?} is not {here:?}");
    }
    let left = "SELECT hint FROM shard_check() WHERE finding LIKE '%belongs to no operation%' AND node = 'local' ORDER BY finding";
    let hints = column(&mut copy, left)?;
    ensure!(
        hints.iter().any(|hint| hint.contains("DROP SCHEMA"))
            && hints.iter().any(|hint| hint.contains("DROP PUBLICATION")),
        "{hints:?}"
    );
    for hint in hints {
        copy.batch_execute(hint.trim_start_matches("There, run "))?;
    }
    assert_eq!(column(&mut copy, left)?, [""; 0]);
    let back = column(&mut copy, "SELECT restore FROM shard_trash WHERE node = 'local'")?;
    assert_eq!(back.len(), 1);
    copy.batch_execute(&back.concat())?;
    let of_here = "SELECT count(*) > 0 AND count(*) = (SELECT count(*) FROM generate_series(1, 100) AS i
                   WHERE satisfies_hash_partition('thrown'::regclass, 2, 0, i)) FROM thrown";
    assert_eq!(column(&mut copy, of_here)?, ["t"]);
    assert_eq!(rows(&mut copy, ROWS)?, rows(original, ROWS)?);
    Ok(())
}

#[test]
fn a_dump_amid_operations_can_be_restored_in_every_way_on_every_server() -> Result<()> {
    let (cluster, mut client, paused) = scene()?;
    for server in cluster.servers() {
        for (database, way) in [("plain", Way::Plain), ("jobs", Way::Jobs), ("jobs", Way::Clean)] {
            if way != Way::Clean {
                server.run(&format!("CREATE DATABASE {database} OWNER app"))?;
            }
            dumps::copy(server, database, way)?;
        }
    }
    for database in ["plain", "jobs"] {
        works(&cluster.coordinator, database, &mut client)?;
        for node in cluster.nodes() {
            let mut copy = node.client_in(database)?;
            for table in ["moved", "nested", "turned", "amid", "plain"] {
                if node.has(&format!("public.{table}"))? {
                    let count: i64 = copy.query_one(&format!("SELECT count(*) FROM {table}"), &[])?.get(0);
                    assert_eq!(count, node.count(table)?, "{table} on {}", node.name);
                }
            }
        }
        let mut copy = cluster.node(1).client_in(database)?;
        copy.batch_execute("SELECT shardkeeper.restore('public', 'thrown')")?;
        assert_eq!(column(&mut copy, "SELECT count(*) > 0 FROM thrown")?, ["t"]);
    }
    // The original goes on.
    for id in paused {
        client.execute("SELECT shard_resume($1)", &[&id])?;
    }
    reaches(&cluster, paused[1], "switched", LIMIT)?;
    eventually("it is reverted", LIMIT, || Ok(field(&cluster, paused[0], "state")? == "reverted"))?;
    ensure!(column(&mut client, "SELECT count(*) FROM turned")? == ["100"], "{}", told(&cluster));
    Ok(())
}

/// The new partition carries what the switch needed, as somebody reads it; and another operation has failed meanwhile.
#[test]
fn a_dump_between_a_switch_and_its_tidying_up_can_be_restored() -> Result<()> {
    let cluster = joined_by_proxy(2)?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY, note text); CREATE TABLE u (LIKE t INCLUDING ALL);
         SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{local, n1}');
         SELECT shard_create_parent('u', 'hash', 'id', modulus => 1, nodes => '{n1}');
         INSERT INTO t SELECT generate_series(1, 200); INSERT INTO u SELECT generate_series(1, 100)",
    )?;
    cluster.node(2).run(
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
             IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity LIKE '%.u_0') THEN RAISE EXCEPTION 'no'; END IF;
         END $$; CREATE EVENT TRIGGER refuse ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION refuse()",
    )?;
    let failing = call(&mut client, "shard_move_partition('u_0', 'n2')")?;
    eventually("it fails", LIMIT, || Ok(field(&cluster, failing, "state")? == "failed"))?;
    let move_it = "shard_move_partition('t_1', 'n2')";
    let (_, mut reader) = switched_but_not_tidied(&cluster, 2, move_it, "t_1")?;
    for server in cluster.servers() {
        for (database, way) in [("plain", Way::Plain), ("jobs", Way::Jobs)] {
            server.run(&format!("CREATE DATABASE {database} OWNER app"))?;
            dumps::copy(server, database, way)?;
            let mut copy = server.client_in(database)?;
            for table in ["t", "u"] {
                if server.has(table)? {
                    let count: i64 = copy.query_one(&format!("SELECT count(*) FROM {table}"), &[])?.get(0);
                    assert_eq!(count, server.count(table)?, "{table} on {}", server.name);
                }
            }
        }
    }
    // The copy's doctor looks, and names what it cannot use.
    let mut copy = cluster.coordinator.client_in("jobs")?;
    ensure!(!rows(&mut copy, "SELECT finding FROM shard_check() WHERE severity <> 'ok'")?.is_empty());
    reader.batch_execute("COMMIT")?;
    let carried = "SELECT count(*) = 0 FROM pg_constraint WHERE conname = 'shardkeeper_attach'";
    eventually("it carries nothing", LIMIT, || cluster.node(2).value(carried)).with_context(|| told(&cluster))?;
    Ok(())
}
