//! What a partition key can be: a column as it is stored, or one expression.
use anyhow::Result;
use pg_test::sql::refused;

use super::Scene;
use super::spec::{TABLE, create};

/// Calls whose error is about a column, with its SQLSTATE.
const KEYS: &[(&str, &str, &str, &str)] = &[
    ("idd", "42703", "$.key: table public.t has no column idd", "one expression"),
    ("mixed", "42703", "$.key: table public.t has no column mixed", "one expression"),
    ("id, name", "42703", r#"$.key: table public.t has no column "id, name""#, "one expression"),
    (
        "id); DROP TABLE victim; --",
        "42703",
        "$.key: table public.t has no column \"id); DROP TABLE victim; --\"",
        "A key is the name of a column",
    ),
    (
        "1); DROP TABLE victim; SELECT (1",
        "42703",
        r#"$.key: table public.t has no column "1); DROP TABLE victim; SELECT (1""#,
        "one expression",
    ),
    ("id FROM victim", "42601", r#"syntax error at or near "FROM""#, ""),
    ("(SELECT 1); DROP TABLE victim", "42601", r#"syntax error at or near ";""#, ""),
    ("id -- ", "42703", "$.key: table public.t has no column \"id -- \"", "A key is the name of a column"),
    (
        "(SELECT max(id) FROM public.victim)",
        "0A000",
        r#"cannot use subquery in partition key expression (on node "n1")"#,
        "",
    ),
    ("random()", "42P17", r#"functions in partition key expression must be marked IMMUTABLE (on node "n1")"#, ""),
    ("count(*)", "42803", r#"aggregate functions are not allowed in partition key expressions (on node "n1")"#, ""),
    ("ctid", "42P17", "$.key: system column ctid cannot be a partition key", ""),
    ("tableoid", "42P17", "$.key: system column tableoid cannot be a partition key", ""),
    (
        "doubled",
        "42P17",
        "$.key: generated column doubled cannot be a partition key",
        "columns that it is computed from",
    ),
    ("feeling", "0A000", "$.key: enum column feeling cannot be a hash key", "list level"),
];

#[test]
fn a_key_is_a_column_that_all_servers_can_compute() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute(TABLE)?;
    scene.cluster.node(1).run("CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')")?;
    let spec =
        |key: &str| create(&format!(r#"{{"method": "hash", "key": "{key}", "modulus": 2, "nodes": ["local", "n1"]}}"#));
    let calls: Vec<String> = KEYS.iter().map(|(key, ..)| spec(key)).collect();
    let cases = calls.iter().zip(KEYS);
    let cases: Vec<_> = cases.map(|(call, (_, code, message, hint))| (call.as_str(), *code, *message, *hint)).collect();
    scene.refuses(&cases)
}

/// Planning refuses what making would.
#[test]
fn a_key_has_a_type_that_postgres_can_compare() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene
        .client
        .batch_execute("CREATE TABLE t (id int, doc json, docs json[], place point, amount money, day date)")?;
    let hint = "Use a column of another type";
    let specs = [
        (r#"{"method": "hash", "key": "doc", "modulus": 2}"#, "column doc cannot be a hash key"),
        (r#"{"method": "hash", "key": "docs", "modulus": 2}"#, "column docs cannot be a hash key"),
        (r#"{"method": "hash", "key": "amount", "modulus": 2}"#, "column amount cannot be a hash key"),
        (r#"{"method": "hash", "key": "doc -> 0", "modulus": 2}"#, "expression (doc -> 0) cannot be a hash key"),
        (r#"{"method": "range", "key": "place", "bounds": ["(1,1)", "(2,2)"]}"#, "column place cannot be a range key"),
        (r#"{"method": "list", "key": "doc", "values": {"a": ["{}"]}}"#, "column doc cannot be a list key"),
    ];
    for function in ["create", "plan"] {
        for (spec, message) in specs {
            let call = format!("SELECT shard_{function}_parent('t', '{spec}')");
            scene.refuses(&[(&call, "42704", &format!("$.key: {message}"), hint)])?;
        }
    }
    // Only what cannot be compared is refused.
    for (key, method) in [
        ("amount", r#""list", "values": {"a": ["1.00"]}"#),
        ("day", r#""hash", "modulus": 2"#),
        ("doc ->> 'a'", r#""hash", "modulus": 2"#),
        ("docs::text[]", r#""hash", "modulus": 2"#),
    ] {
        let key = key.replace('\'', "''");
        scene
            .client
            .batch_execute(&format!(r#"SELECT shard_plan_parent('t', '{{"key": "{key}", "method": {method}}}')"#))?;
    }
    Ok(())
}

/// An expression can be as wrong a hash key as a column.
#[test]
fn an_enum_is_no_hash_key_in_any_writing() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute(TABLE)?;
    scene.cluster.node(1).run("CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')")?;
    for key in ["(feeling)", "t.feeling", "coalesce(feeling, feeling)"] {
        let call = create(&format!(r#"{{"method": "hash", "key": "{key}", "modulus": 2, "nodes": ["local", "n1"]}}"#));
        let error = refused(&mut scene.client, &call)?;
        assert_eq!(error.code().code(), "0A000", "{key}: {error:?}");
    }
    // Nor in another type that hashes it.
    scene.client.batch_execute("CREATE DOMAIN good AS mood; CREATE TABLE d (id int, mine good, all_of_it good[])")?;
    for column in ["mine", "all_of_it"] {
        let call =
            format!("SELECT shard_plan_parent('d', '{{\"method\": \"hash\", \"key\": \"{column}\", \"modulus\": 2}}')");
        let message = format!("$.key: enum column {column} cannot be a hash key");
        scene.refuses(&[(&call, "0A000", &message, "list level")])?;
    }
    Ok(())
}

/// What is hashed by numbers that each server gives by itself, however deep it lies in the type of a key.
#[test]
fn a_hash_key_means_the_same_on_all_servers() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute(
        "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy'); CREATE DOMAIN good AS mood; CREATE TYPE pair AS (m good, n int);
         CREATE TYPE span AS RANGE (SUBTYPE = mood, MULTIRANGE_TYPE_NAME = spans); CREATE TYPE deep AS (spans spans[], n int);
         CREATE DOMAIN pairs AS pair[]; CREATE DOMAIN named AS regclass; CREATE TYPE place AS (at regclass, n int);
         CREATE TYPE plain AS (n int, t text, ds date[]);
         CREATE TABLE d (id int, one pair, pairs pairs, span span, spans spans, deep deep, of regclass, role regrole, name named, place place,
             plain plain, dates datemultirange, numbers int8range)",
    )?;
    let spec = |column: &str| {
        format!("'{{\"method\": \"hash\", \"key\": \"{column}\", \"modulus\": 2, \"nodes\": [\"n1\"]}}'")
    };
    for column in ["one", "pairs", "span", "spans", "deep", "of", "role", "name", "place", "(one).m"] {
        for function in ["create", "plan"] {
            let call = format!("SELECT shard_{function}_parent('d', {})", spec(column));
            let error = refused(&mut scene.client, &call)?;
            assert_eq!(error.code().code(), "0A000", "{column}: {error:?}");
        }
    }
    let message = "$.key: column deep cannot be a hash key";
    scene.refuses(&[(
        &format!("SELECT shard_create_parent('d', {})", spec("deep")),
        "0A000",
        message,
        "list level",
    )])?;
    for column in ["plain", "dates", "numbers"] {
        let call = format!("SELECT shard_plan_parent('d', {})", spec(column));
        // The table's own types are made on the node.
        scene.client.batch_execute(&call)?;
    }
    Ok(())
}

#[test]
fn a_column_in_parentheses_is_that_column() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute(
        r#"CREATE TABLE p (id int PRIMARY KEY);
           SELECT shard_create_parent('p', '{"method": "hash", "key": "(id)", "modulus": 2, "nodes": ["local", "n1"]}');
           INSERT INTO p SELECT generate_series(1, 100);
           SELECT shard_locate('p', '{"id": 7}')"#,
    )?;
    Ok(())
}
