//! Tables that cannot become parents, and what is in the way on the servers.
use anyhow::{Context, Result, ensure};
use pg_test::sql::{column, refused};

use super::{Scene, compare};

/// What is made first, the table, and then what the call gets: SQLSTATE, message, a piece of the hint.
const TABLES: &[(&str, &str, &str, &str, &str)] = &[
    ("CREATE VIEW t AS SELECT 1 AS id", "t", "42809", "trial.t is a view", "table below it"),
    ("CREATE MATERIALIZED VIEW t AS SELECT 1 AS id", "t", "42809", "trial.t is a materialized view", "table below it"),
    ("CREATE SEQUENCE t", "t", "42809", "trial.t is not a table", ""),
    ("CREATE TABLE u (id int); CREATE INDEX t ON u (id)", "t", "42809", "trial.t is not a table", ""),
    ("CREATE FOREIGN TABLE t (id int) SERVER n1", "t", "42809", "trial.t is a foreign table", "\"nodes\""),
    (
        "CREATE TEMP TABLE temporary (id int)",
        "temporary",
        "42809",
        "pg_temp.temporary is a temporary table",
        "ordinary table",
    ),
    (
        "CREATE UNLOGGED TABLE t (id int)",
        "t",
        "42809",
        "trial.t is an unlogged table",
        "ALTER TABLE trial.t SET LOGGED;",
    ),
    ("", "pg_class", "42501", "pg_catalog.pg_class is a system table", ""),
    ("", "information_schema.sql_features", "42501", "information_schema.sql_features is a system table", ""),
    ("", "shardkeeper.nodes", "42501", "shardkeeper.nodes is a system table", ""),
    ("", "shardkeeper_nodes.n1", "42809", "shardkeeper_nodes.n1 is a foreign table", "\"nodes\""),
    (
        "CREATE TABLE root (id int) PARTITION BY RANGE (id); CREATE TABLE t PARTITION OF root FOR VALUES FROM (0) TO (9)",
        "t",
        "42809",
        "trial.t is a partition of another table",
        "Name the root",
    ),
    (
        "CREATE TABLE mother (id int); CREATE TABLE t () INHERITS (mother)",
        "t",
        "0A000",
        "trial.t takes part in table inheritance",
        "NO INHERIT",
    ),
    (
        "CREATE TABLE t (id int); CREATE TABLE child () INHERITS (t)",
        "t",
        "0A000",
        "trial.t takes part in table inheritance",
        "NO INHERIT",
    ),
    (
        "CREATE TABLE t (id int, name text PRIMARY KEY)",
        "t",
        "42P16",
        "primary key t_pkey of trial.t lacks the partition key id",
        "Add id to the primary key",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY, name text, CONSTRAINT once UNIQUE (name))",
        "t",
        "42P16",
        "unique constraint once of trial.t lacks the partition key id",
        "Add id to the unique constraint",
    ),
    (
        "CREATE TABLE t (id int, name text); CREATE UNIQUE INDEX \"Once only\" ON t (name) WHERE id > 0",
        "t",
        "42P16",
        "unique index \"Once only\" of trial.t lacks the partition key id",
        "Add id to the unique index",
    ),
    (
        "CREATE TABLE t (id int, name text); CREATE UNIQUE INDEX covering ON t (name) INCLUDE (id)",
        "t",
        "42P16",
        "unique index covering of trial.t lacks the partition key id",
        "Add id to the unique index",
    ),
    (
        "CREATE TABLE other (id int PRIMARY KEY); CREATE TABLE t (id int REFERENCES other)",
        "t",
        "2BP01",
        "table trial.t cannot be partitioned because other objects depend on it",
        "Drop them",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (id int REFERENCES t)",
        "t",
        "2BP01",
        "table trial.t cannot be partitioned because other objects depend on it",
        "Drop them",
    ),
    (
        "CREATE TABLE t (id int) PARTITION BY LIST (id)",
        "t",
        "42P16",
        "trial.t is partitioned by another key",
        "Write the spec for the key that the table has",
    ),
    (
        "CREATE TABLE other (a int); CREATE TABLE t (id int, o other)",
        "t",
        "42704",
        "node n1 lacks type trial.other",
        "composite type of that name",
    ),
    (
        "CREATE TABLE other (a int); CREATE TYPE pair AS (o other[], n int); CREATE DOMAIN d AS pair; CREATE TABLE t (id int, d d[])",
        "t",
        "42704",
        "node n1 lacks type trial.other",
        "composite type of that name",
    ),
];

#[test]
fn a_relation_that_cannot_be_a_parent_is_told_why() -> Result<()> {
    let mut scene = Scene::new(2)?;
    let mut wrong = Vec::new();
    for (setup, table, code, message, hint) in TABLES {
        scene.client.batch_execute("CREATE SCHEMA trial; SET search_path = trial, public")?;
        scene.client.batch_execute(setup).with_context(|| setup.to_string())?;
        let before = scene.held()?;
        let spec = r#"{"method": "hash", "key": "id", "modulus": 4, "nodes": ["local", "n1", "n2"]}"#;
        for function in ["create", "plan"] {
            let call = format!("SELECT shard_{function}_parent('{table}', '{spec}')");
            match refused(&mut scene.client, &call) {
                Ok(error) => {
                    wrong.extend(compare(&error, code, message, hint).map(|why| format!("{setup}; {call}\n{why}")))
                }
                Err(error) => wrong.push(format!("{setup}: {error:#}")),
            }
        }
        before.is_unchanged(&scene.cluster).with_context(|| setup.to_string())?;
        scene.client.batch_execute("DROP SCHEMA trial CASCADE; DROP TABLE IF EXISTS temporary")?;
    }
    ensure!(wrong.is_empty(), "{} calls:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

#[test]
fn what_exists_on_a_server_already_is_in_the_way() -> Result<()> {
    let mut scene = Scene::new(2)?;
    scene.client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, name text); CREATE INDEX t_name ON t (name)")?;
    let spec = r#"{"method": "hash", "key": "id", "modulus": 4, "nodes": ["n1", "n2"]}"#;
    let call = format!("SELECT shard_create_parent('t', '{spec}')");
    let hint = "Rename or drop it there.";
    for (there, name) in [
        ("CREATE TABLE t (id int)", "t"),
        ("CREATE VIEW t AS SELECT 1 AS id", "t"),
        ("CREATE TABLE t_3 (id int)", "t_3"),
        ("CREATE SEQUENCE t_1", "t_1"),
        ("CREATE TABLE other (id int); CREATE INDEX t_name ON other (id)", "t_name"),
    ] {
        let setup = format!("CREATE SCHEMA kept; SET search_path = public; {there}");
        scene.cluster.node(2).run(&setup)?;
        let message = format!("relation public.{name} already exists on node n2");
        scene.refuses(&[(&call, "42P07", &message, hint)])?;
        scene.cluster.node(2).run("DROP SCHEMA kept; DROP TABLE IF EXISTS other, t_3; DROP SEQUENCE IF EXISTS t_1")?;
        scene.cluster.node(2).run("DO $$ BEGIN IF to_regclass('t') IS NOT NULL THEN EXECUTE (SELECT CASE relkind WHEN 'v' THEN 'DROP VIEW t' ELSE 'DROP TABLE t' END FROM pg_class WHERE oid = to_regclass('t')); END IF; END $$")?;
    }
    // What is not in the way: the name of a leaf that this node does not store.
    scene.client.batch_execute("CREATE TABLE t_2 (id int)")?;
    scene.refuses(&[(
        &call,
        "42P07",
        "relation public.t_2 already exists",
        "Rename it, or give the partitions other names",
    )])?;
    scene.client.batch_execute("DROP TABLE t_2")?;
    scene.cluster.node(2).run("CREATE TABLE t_0 (id int)")?;
    scene.client.batch_execute(&call)?;
    // Neither is a taken name when one more partition comes, except its own.
    scene.client.batch_execute("CREATE TABLE r (id int)")?;
    scene
        .client
        .batch_execute(r#"SELECT shard_create_parent('r', 'range', 'id', bounds => '[0, 10]', nodes => '{n1}')"#)?;
    scene.cluster.node(2).run("CREATE TABLE r_10 (id int)")?;
    let add = "SELECT shard_add_partition('r', '{\"from\": 10, \"to\": 20}', 'n2')";
    scene.refuses(&[(add, "42P07", "relation public.r_10 already exists on node n2", hint)])
}

#[test]
fn a_parent_that_is_managed_already_stays_as_it_is() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY); SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{local, n1}');
         INSERT INTO t SELECT generate_series(1, 100)",
    )?;
    let message = "public.t is a managed parent already";
    scene.refuses(&[
        (
            "SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{local, n1}')",
            "42710",
            message,
            "shard_add_partition",
        ),
        ("SELECT shard_create_parent('t', 'hash', 'id', modulus => 8)", "42710", message, "shard_release_parent"),
        (
            r#"SELECT shard_plan_parent('t', '{"method": "hash", "key": "id", "modulus": 8}')"#,
            "42710",
            message,
            "shard_release_parent",
        ),
    ])?;
    assert_eq!(column(&mut scene.client, "SELECT count(*) FROM t")?, ["100"]);
    Ok(())
}

/// Its rows move in an operation, which has no list of commands, and needs what operations need.
#[test]
fn a_populated_table_that_cannot_become_a_parent_is_told_why() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1)")?;
    scene.refuses(&[
        (
            "SELECT shard_create_parent('t', 'hash', 'id', modulus => 4)",
            "55000",
            "public.t on the coordinator has no replica identity",
            "REPLICA IDENTITY FULL",
        ),
        (
            r#"SELECT shard_plan_parent('t', '{"method": "hash", "key": "id", "modulus": 8}')"#,
            "55000",
            "table public.t is not empty",
            "which returns the number of the operation",
        ),
    ])
}

#[test]
fn an_unknown_node_is_told_before_any_node_is_asked() -> Result<()> {
    let mut scene = Scene::new(2)?;
    scene.client.batch_execute("CREATE TABLE t (id int, region text)")?;
    let unknown = "node \"n3\" does not exist";
    let spec = r#"{"method": "list", "key": "region", "nodes": ["n1"], "values": {"a": ["a"], "b": {"in": ["b"], "nodes": ["n2", "n3"],
                   "partitions": {"method": "hash", "key": "id", "modulus": 2}}}}"#;
    scene.cluster.node(1).stop()?;
    let error = refused(&mut scene.client, &format!("SELECT shard_create_parent('t', '{spec}')"))?;
    assert_eq!(compare(&error, "42704", unknown, "shard_nodes"), None);
    let error = refused(&mut scene.client, &format!("SELECT shard_plan_parent('t', '{spec}')"))?;
    assert_eq!(compare(&error, "42704", unknown, "shard_nodes"), None);
    scene.cluster.node(1).start()?;
    scene.refuses(&[
        (
            "SELECT shard_create_parent('t', 'hash', 'id', modulus => 4, nodes => '{N1}')",
            "42704",
            "node \"N1\" does not exist",
            "shard_nodes",
        ),
        (
            "SELECT shard_create_parent('t', 'hash', 'id', modulus => 4, nodes => '{\"n1; DROP TABLE victim\"}')",
            "42704",
            "node \"n1; DROP TABLE victim\" does not exist",
            "shard_nodes",
        ),
    ])
}
