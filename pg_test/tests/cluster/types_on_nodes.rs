//! Enums, composites, domains, ranges and collations that a node lacks are made there with the tables that need them.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::movement::reaches;
use pg_test::objects::settled;
use pg_test::sql::{column, refused, rows};
use pg_test::{Cluster, Install, Options, PATIENCE, Snapshot};
use postgres::Client;

const TYPES: &str = "
    CREATE SCHEMA kinds;
    CREATE COLLATION kinds.plain (PROVIDER = libc, LOCALE = 'C');
    CREATE TYPE kinds.mood AS ENUM ('sad', 'it''s $ok', 'happy');
    CREATE DOMAIN kinds.count AS int DEFAULT 1 CHECK (VALUE > 0) CONSTRAINT small CHECK (VALUE < 1000);
    CREATE DOMAIN kinds.good AS kinds.mood NOT NULL CHECK (VALUE <> 'sad');
    CREATE TYPE kinds.pair AS (m kinds.good, n kinds.count, s text COLLATE kinds.plain);
    CREATE TYPE kinds.span AS RANGE (SUBTYPE = kinds.mood, MULTIRANGE_TYPE_NAME = kinds.spans);
    CREATE TABLE t (id bigint PRIMARY KEY, p kinds.pair, ps kinds.pair[], ms kinds.mood[], s kinds.spans, c text COLLATE kinds.plain,
        CHECK (c <> 'x' OR ms @> '{happy}'::kinds.mood[]))";

const ROWS: &str = "INSERT INTO t SELECT i, (CASE i % 2 WHEN 0 THEN 'happy' ELSE 'it''s $ok' END, i, 'n' || i)::kinds.pair,
        ARRAY[('happy', 1, 'a')::kinds.pair], '{sad,happy}', '{[sad,happy)}', 'c' || i FROM generate_series(1, 100) AS i";

fn created(client: &mut Client, plan: &str) -> Result<Vec<String>> {
    column(
        client,
        &format!(
            "SELECT node || ' ' || substring(command FROM 'CREATE (?:SCHEMA|TYPE|DOMAIN|COLLATION)[^(;]*') FROM {plan} WHERE command ~ 'CREATE (SCHEMA|TYPE|DOMAIN|COLLATION)' AND node = 'n1'"
        ),
    )
}

/// Whether all three servers have the same types.
fn are_everywhere(cluster: &Cluster) -> Result<()> {
    let all = "SELECT string_agg(format_type(oid, NULL), ',' ORDER BY oid::regtype::text) FROM pg_type WHERE typnamespace = 'kinds'::regnamespace";
    let here: String = cluster.coordinator.value(all)?;
    for node in cluster.nodes() {
        ensure!(node.value::<String>(all)? == here, "{}", node.name);
    }
    let found = rows(
        &mut cluster.coordinator.client()?,
        "SELECT object, node, finding FROM shard_check() WHERE area = 'hierarchy'",
    )?;
    ensure!(found.is_empty(), "{found:?}");
    Ok(())
}

#[test]
fn missing_types_come_with_the_first_leaf_and_differing_ones_are_refused() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(3)?;
    client.batch_execute(TYPES)?;
    let create = "shard_create_parent('t', 'hash', 'id', modulus => 4, nodes => '{local, n1, n2}')";
    let plan =
        r#"shard_plan_parent('t', '{"method": "hash", "key": "id", "modulus": 4, "nodes": ["local", "n1", "n2"]}')"#;
    let made = created(&mut client, plan)?;
    let position =
        |word: &str| made.iter().position(|line| line.contains(word)).with_context(|| format!("{word}: {made:?}"));
    ensure!(position("SCHEMA")? < position("kinds.mood")?, "{made:?}");
    ensure!(
        position("kinds.mood")? < position("kinds.good")? && position("kinds.good")? < position("kinds.pair")?,
        "{made:?}"
    );
    ensure!(
        position("kinds.plain")? < position("kinds.pair")? && position("kinds.mood")? < position("kinds.span")?,
        "{made:?}"
    );

    // Rolled back, nothing of it was ever there.
    let before = Snapshot::take(&cluster)?;
    client.batch_execute(&format!("BEGIN; SELECT {create}; {ROWS}; ROLLBACK"))?;
    before.is_unchanged(&cluster)?;

    // Another one of the name is in the way, whatever is different; the same one is not.
    let other = [
        ("CREATE TYPE kinds.mood AS ENUM ('happy', 'it''s $ok', 'sad')", "type kinds.mood"),
        ("CREATE DOMAIN kinds.count AS int CHECK (VALUE > 0)", "domain kinds.count"),
        ("CREATE DOMAIN kinds.good AS text", "domain kinds.good"),
        ("CREATE TYPE kinds.pair AS (m int, n int)", "type kinds.pair"),
        ("CREATE TABLE kinds.pair (m int)", "type kinds.pair"),
        ("CREATE COLLATION kinds.plain (PROVIDER = libc, LOCALE = 'POSIX')", "collation kinds.plain"),
    ];
    for (sql, what) in other {
        cluster.node(2).run(&format!("CREATE SCHEMA kinds AUTHORIZATION app; {sql}"))?;
        let held = Snapshot::take(&cluster)?;
        for call in [create, plan] {
            let error = refused(&mut client, &format!("SELECT {call}"))?;
            ensure!(error.message() == format!("{what} on node n2 is another one than here"), "{sql}: {error:?}");
            ensure!(
                error.code().code() == "42710" && error.detail().is_some_and(|text| text.starts_with("Here it is ")),
                "{error:?}"
            );
        }
        held.is_unchanged(&cluster)?;
        cluster.node(2).run("DROP SCHEMA kinds CASCADE")?;
    }
    cluster
        .node(2)
        .run("CREATE SCHEMA kinds AUTHORIZATION app; CREATE TYPE kinds.mood AS ENUM ('sad', 'it''s $ok', 'happy')")?;

    // A commit that one node refuses is undone on the other. The types stay as long as the trash there needs them.
    cluster.node(2).run(
        "CREATE TABLE late (id int); ALTER TABLE late OWNER TO app;
         CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'too late'; END $$;
         CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()",
    )?;
    let split = format!(
        "BEGIN; SELECT {create}; INSERT INTO shardkeeper_nodes.n2 (command) VALUES ('INSERT INTO late VALUES (1)'); COMMIT"
    );
    refused(&mut client, &split)?;
    client.batch_execute("ROLLBACK")?;
    settled(&cluster, PATIENCE)?;
    ensure!(!cluster.node(1).has("t")?);
    cluster.node(2).run("DROP TABLE late")?;

    client.batch_execute(&format!("SELECT {create}; {ROWS}"))?;
    let read = "SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t WHERE s <> '{}' AND c < 'd'";
    let content = column(&mut client, read)?;
    cluster.node(1).run("SELECT (p).n, s FROM t WHERE (p).m::kinds.mood = 'happy'")?;

    // So do they with what is moved to a node that had nothing of the table, which its plan tells, and when rows become a parent.
    for plan in ["shard_plan_move_partition('t_1', 'n3')", "shard_plan_rebalance('t', 'count', nodes => '{n3}')"] {
        let told = column(&mut client, &format!("SELECT action FROM {plan} WHERE node = 'n3'"))?;
        for made in ["schema kinds", "type kinds.mood", "domain kinds.good", "collation kinds.plain", "table public.t"]
        {
            ensure!(told.iter().filter(|action| action.contains(made)).count() == 1, "{plan}: {made}: {told:#?}");
        }
    }
    let id: i64 = client.query_one("SELECT shard_move_partition('t_1', 'n3')", &[])?.get(0);
    reaches(&cluster, id, "switched", Duration::from_secs(60))?;
    ensure!(column(&mut client, read)? == content);
    are_everywhere(&cluster)?;
    client.batch_execute(
        "CREATE TYPE kinds.late AS ENUM ('a', 'b'); CREATE TABLE full_one (id int PRIMARY KEY, l kinds.late);
         INSERT INTO full_one SELECT i, 'b' FROM generate_series(1, 50) AS i",
    )?;
    let convert = "SELECT shard_create_parent('full_one', 'hash', 'id', modulus => 3, nodes => '{n1, n2, n3}')";
    let id: i64 = client.query_one(convert, &[])?.get(0);
    reaches(&cluster, id, "switched", Duration::from_secs(60))?;
    ensure!(column(&mut client, "SELECT count(*) FROM full_one WHERE l = 'b'")? == ["50"]);
    are_everywhere(&cluster)
}

/// The hint makes what is missing where the coordinator has it, so that the same call works afterwards.
#[test]
fn the_hint_for_a_type_of_an_extension_makes_it_in_its_schema() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(2)?;
    let has = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'hstore')";
    for server in cluster.servers() {
        if !server.value::<bool>(has)? {
            println!("skipped: {} comes without hstore", server.name);
            return Ok(());
        }
    }
    client.batch_execute(
        r#"CREATE SCHEMA "Odd one"; CREATE EXTENSION hstore SCHEMA "Odd one"; CREATE TABLE w (id bigint PRIMARY KEY, h "Odd one".hstore)"#,
    )?;
    cluster.node(2).run(r#"CREATE SCHEMA "Odd one"; GRANT ALL ON SCHEMA "Odd one" TO app"#)?;
    let commands = [
        ("n1", r#"CREATE SCHEMA IF NOT EXISTS "Odd one"; CREATE EXTENSION hstore SCHEMA "Odd one""#),
        ("n2", r#"CREATE EXTENSION hstore SCHEMA "Odd one""#),
    ];
    for (node, command) in commands {
        let error =
            refused(&mut client, "SELECT shard_create_parent('w', 'hash', 'id', modulus => 2, nodes => '{n1, n2}')")?;
        ensure!(error.message() == format!(r#"node {node} lacks type "Odd one".hstore"#), "{error:?}");
        let hint = error.hint().context("a hint")?;
        ensure!(hint == format!("Run SELECT * FROM shard_run_on_nodes('{command}', '{{{node}}}');"), "{hint}");
        client.batch_execute(hint.trim_start_matches("Run "))?;
    }
    client.batch_execute(
        "SELECT shard_create_parent('w', 'hash', 'id', modulus => 2, nodes => '{n1, n2}');
         INSERT INTO w SELECT i, 'a=>1' FROM generate_series(1, 10) AS i",
    )?;
    let rows: i64 = client.query_one("SELECT count(*) FROM w", &[])?.get(0);
    ensure!(rows == 10, "{rows}");
    Ok(())
}

/// What a table is made of can be newer than a node is: told by the plan and before the first row is copied, not by the node's parser.
#[test]
fn what_an_older_node_has_no_word_for_is_refused_by_plan_and_call() -> Result<()> {
    if Install::chosen()?.major < 18 {
        return Ok(());
    }
    let cluster = Cluster::with(Options { nodes: 1, node_version: Some(17), ..Options::default() })?;
    cluster.add_nodes()?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(
        "CREATE TABLE computed (id int PRIMARY KEY, next int GENERATED ALWAYS AS (id + 1) VIRTUAL);
         CREATE TABLE timed (id int4range, during int4range, PRIMARY KEY (id, during WITHOUT OVERLAPS));
         CREATE TABLE settled (id int PRIMARY KEY, note text) WITH (toast.autovacuum_vacuum_max_threshold = 1000);
         CREATE TABLE free (id int, c int) PARTITION BY HASH (id);
         SELECT shard_create_parent('free', 'hash', 'id', modulus => 2, nodes => '{local}');
         ALTER TABLE free ADD COLUMN next int GENERATED ALWAYS AS (id + 1) VIRTUAL",
    )?;
    let cases = [
        (
            "parent('computed', 'hash', 'id', modulus => 2, nodes => '{n1}')",
            "the virtual generated column next of public.computed",
            "STORED",
        ),
        (
            "parent('timed', 'hash', 'id', modulus => 2, nodes => '{n1}')",
            "primary key timed_pkey, which is WITHOUT OVERLAPS, of public.timed",
            "Drop",
        ),
        (
            "parent('settled', 'hash', 'id', modulus => 2, nodes => '{n1}')",
            "the storage parameter toast.autovacuum_vacuum_max_threshold of public.settled",
            "RESET",
        ),
        ("move_partition('free_0', 'n1')", "the virtual generated column next of public.free", "STORED"),
        ("set_modulus('free', 3, nodes => '{n1}')", "the virtual generated column next of public.free", "STORED"),
    ];
    let mut refuses = |call: &str, what: &str, instead: &str| -> Result<()> {
        let error = refused(&mut client, call)?;
        let told = (error.code().code(), error.message().to_owned());
        ensure!(told == ("0A000", format!("node n1 cannot have {what}")), "{call}: {error:?}");
        ensure!(error.detail() == Some("Postgres knows that from version 18 on; the node runs 17."), "{error:?}");
        ensure!(error.hint().is_some_and(|hint| hint.contains(instead)), "{error:?}");
        Ok(())
    };
    for (call, what, instead) in cases {
        refuses(&format!("SELECT shard_plan_{call}"), what, instead)?;
        let create = if call.starts_with("parent") { "create_" } else { "" };
        refuses(&format!("SELECT shard_{create}{call}"), what, instead)?;
    }
    // With rows it would be an operation.
    cluster.coordinator.run("INSERT INTO computed VALUES (1)")?;
    refuses(&format!("SELECT shard_create_{}", cases[0].0), cases[0].1, cases[0].2)?;
    // On this server they are no trouble.
    client.batch_execute("SELECT shard_create_parent('computed', 'hash', 'id', modulus => 2, nodes => '{local}')")?;
    Ok(())
}
