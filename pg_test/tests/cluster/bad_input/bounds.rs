//! Calls on a hierarchy that is there: one more partition, one less, looking, and the end of it.
use anyhow::{Context, Result, ensure};
use pg_test::sql::{refused, rows};

use super::Scene;

#[test]
fn bounds_of_one_more_partition_are_checked_too() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute(
        r#"CREATE TABLE r (id int, name text);
           SELECT shard_create_parent('r', '{"method": "range", "key": "id", "nodes": ["local", "n1"], "bounds": {"a": {"from": 0, "to": 10}, "b": {"from": 10, "to": 20}}}');
           CREATE TABLE l (id int, name text);
           SELECT shard_create_parent('l', 'list', 'name', lists => '{"a": ["a", "b"]}', default_partition => true, nodes => '{n1}');
           CREATE TABLE h (id int, name text);
           SELECT shard_create_parent('h', 'hash', 'id', modulus => 2, nodes => '{local, n1}')"#,
    )?;
    scene.refuses(&[
        ("SELECT shard_add_partition('r', '{}')", "22023", "$: the bounds are not those of a range partition", ""),
        ("SELECT shard_add_partition('r', '[]')", "22023", "$: invalid type: array, expected an object", ""),
        (
            "SELECT shard_add_partition('r', '{\"in\": [1]}')",
            "22023",
            "$: the bounds are not those of a range partition",
            "",
        ),
        ("SELECT shard_add_partition('r', '{\"from\": 20}')", "22023", "$: \"to\" is missing", ""),
        (
            "SELECT shard_add_partition('r', '{\"form\": 20, \"to\": 30}')",
            "22023",
            "$.form: unknown field \"form\"",
            "\"from\"",
        ),
        ("SELECT shard_add_partition('r', '{\"from\": 30, \"to\": 30}')", "22023", "$: the range is empty", ""),
        (
            "SELECT shard_add_partition('r', '{\"from\": 15, \"to\": 30}')",
            "42P17",
            "$: the range overlaps with partition public.r_b",
            "leave out those of the other partitions of public.r",
        ),
        (
            "SELECT shard_add_partition('r', '{\"from\": 15, \"to\": 30}', 'n1')",
            "42P17",
            "$: the range overlaps with partition public.r_b",
            "leave out those of the other partitions of public.r",
        ),
        (
            "SELECT shard_add_partition('r', '{\"from\": 20, \"to\": 30, \"name\": \"r_a\"}')",
            "42P07",
            "relation public.r_a already exists",
            "Rename",
        ),
        (
            "SELECT shard_add_partition('r', '{\"from\": 20, \"to\": 30, \"name\": \"\"}')",
            "22023",
            "$.name: the name is empty or has a NUL character",
            "",
        ),
        (
            "SELECT shard_add_partition('r', '{\"from\": 20, \"to\": 30}', 'nobody')",
            "42704",
            "node \"nobody\" does not exist",
            "shard_nodes",
        ),
        ("SELECT shard_add_partition('r_a', '{\"from\": 20, \"to\": 30}')", "42809", "public.r_a is a leaf", "parent"),
        (
            "SELECT shard_add_partition('victim', '{\"from\": 20, \"to\": 30}')",
            "42P01",
            "public.victim is not a managed parent",
            "shard_parents",
        ),
        (
            "SELECT shard_add_partition('l', '{\"in\": []}')",
            "22023",
            "$.in: a list partition needs at least one value",
            "",
        ),
        (
            "SELECT shard_add_partition('l', '{\"in\": [\"b\", \"c\"]}')",
            "42P17",
            "$.in[0]: the value belongs to partition public.l_a already",
            "leave out",
        ),
        (
            "SELECT shard_add_partition('l', '{\"default\": true}')",
            "42P17",
            "$.default: public.l has a default partition already",
            "detach or drop that one first",
        ),
        (
            "SELECT shard_add_partition('h', '{\"modulus\": 0, \"remainder\": 0}')",
            "22023",
            "$.modulus: modulus must be a whole number from 1 to 2147483647",
            "",
        ),
        (
            "SELECT shard_add_partition('h', '{\"modulus\": 2, \"remainder\": 2}')",
            "22023",
            "$.remainder: the remainder is not less than the modulus",
            "",
        ),
        (
            "SELECT shard_add_partition('h', '{\"modulus\": 4, \"remainder\": 3}')",
            "42P17",
            "$: the remainder overlaps with partition public.h_1",
            "leave out",
        ),
        (
            "SELECT shard_add_partition('h', '{\"default\": true}')",
            "22023",
            "$.default: a hash level has no default partition",
            "",
        ),
        ("SELECT shard_detach_partition('h_0')", "0A000", "public.h_0 is a hash partition", "hange the modulus"),
        ("SELECT shard_drop_partition('h_1')", "0A000", "public.h_1 is a hash partition", "hange the modulus"),
        ("SELECT shard_detach_partition('r')", "42809", "public.r is a parent, not a partition", "shard_drop_parent"),
        ("SELECT shard_drop_partition('victim')", "42P01", "public.victim is not a managed parent", "shard_parents"),
        (
            "SELECT shard_drop_parent('r_a')",
            "42809",
            "public.r_a is a partition, not a parent",
            "Its parent is public.r.",
        ),
        (
            "SELECT shard_release_parent('r_b')",
            "42809",
            "public.r_b is a partition, not a parent",
            "Its parent is public.r.",
        ),
        ("SELECT shard_release_parent('victim')", "42P01", "public.victim is not a managed parent", "shard_parents"),
        ("SELECT shard_tree('r', 'pdf')", "22023", "unknown format 'pdf'", "text, mermaid and svg"),
        ("SELECT shard_tree('victim')", "42P01", "public.victim is not a managed parent", "shard_parents"),
        ("SELECT shard_sync_grants('victim')", "42P01", "public.victim is not a managed parent", "shard_parents"),
        ("SELECT shard_locate('victim', '{\"id\": 1}')", "42P01", "victim is not a managed parent", "shard_parents"),
        ("SELECT shard_locate('r', '{}')", "22023", "the key lacks column id", ""),
        (
            "SELECT shard_locate('r', '{\"nobody\": 1}')",
            "22023",
            "the key has an unknown column nobody",
            "partition key columns",
        ),
        ("SELECT shard_locate('r', '{\"name\": \"x\"}')", "22023", "the key lacks column id", ""),
        (
            "SELECT shard_locate('r', '[1]')",
            "22023",
            "the key is not a JSON object",
            "one member per partition key column",
        ),
        ("SELECT shard_locate('r', '{\"id\": \"x\"}')", "22P02", "invalid input syntax for type integer: \"x\"", ""),
        ("SELECT shard_locate('r', '{\"id\": 1.5}')", "22P02", "invalid input syntax for type integer: \"1.5\"", ""),
        ("SELECT shard_locate('r', '{\"id\": [1]}')", "22P02", "invalid input syntax for type integer: \"[1]\"", ""),
        (
            "SELECT shard_locate('r', '{\"id\": 99}')",
            "23514",
            "no partition of r accepts the key",
            "shard_add_partition",
        ),
        (
            "SELECT shard_locate('r', '{\"id\": null}')",
            "23514",
            "no partition of r accepts the key",
            "shard_add_partition",
        ),
        (
            "SELECT shard_create_parent('r', 'hash', 'id', modulus => 2)",
            "42710",
            "public.r is a managed parent already",
            "shard_add_partition",
        ),
        (
            "SELECT shard_create_parent('r_a', 'hash', 'id', modulus => 2)",
            "42809",
            "public.r_a is a partition of another table",
            "root",
        ),
    ])?;
    // A default partition does not give up rows that it has.
    scene.client.batch_execute("INSERT INTO l VALUES (1, 'c'), (2, 'c'), (3, 'd')")?;
    scene.refuses(&[
        (
            "SELECT shard_add_partition('l', '{\"in\": [\"c\"]}')",
            "23514",
            "default partition public.l_default holds rows that belong in the new partition",
            "shard_split",
        ),
        (
            "SELECT shard_add_partition('l', '{\"in\": [\"c\"]}', 'local')",
            "23514",
            "default partition public.l_default holds rows that belong in the new partition",
            "shard_split",
        ),
    ])?;
    assert_eq!(pg_test::sql::column(&mut scene.client, "SELECT count(*) FROM l")?, ["3"]);
    Ok(())
}

#[test]
fn bounds_of_one_more_partition_are_read_like_those_of_a_spec() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute(
        "CREATE TABLE r (id int); SELECT shard_create_parent('r', 'range', 'id', bounds => '[0, 10]');
         CREATE TABLE l (id int); SELECT shard_create_parent('l', 'list', 'id', lists => '{\"a\": [1]}');
         CREATE TABLE h (id int); SELECT shard_create_parent('h', 'hash', 'id', modulus => 2)",
    )?;
    scene.refuses(&[
        (
            "SELECT shard_add_partition('r', '{\"from\": null, \"to\": 30}')",
            "22023",
            "$.from: NULL cannot be a range bound",
            "default partition",
        ),
        ("SELECT shard_add_partition('l', '{\"in\": [2, 2]}')", "22023", "$.in[1]: the value 2 is listed twice", ""),
        (
            "SELECT shard_add_partition('l', '{\"in\": null}')",
            "22023",
            "$.in: invalid type: null, expected an array",
            "",
        ),
        (
            "SELECT shard_add_partition('h', '{\"modulus\": -4, \"remainder\": 3}')",
            "22023",
            "$.modulus: modulus must be a whole number from 1 to 2147483647",
            "",
        ),
        (
            "SELECT shard_add_partition('h', '{\"modulus\": 4, \"remainder\": -3}')",
            "22023",
            "$.remainder: remainder must be a whole number from 0 to 2147483647",
            "",
        ),
    ])
}

/// No answer looks like success: a missing document is an error.
#[test]
fn a_missing_document_is_refused() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute(
        "CREATE TABLE t (id int); CREATE TABLE l (id int); SELECT shard_create_parent('l', 'list', 'id', lists => '{\"a\": [1]}')",
    )?;
    for call in [
        "SELECT shard_create_parent('t', NULL)",
        "SELECT shard_plan_parent('t', NULL)",
        "SELECT shard_add_partition('l', NULL)",
        "SELECT shard_locate('l', NULL)",
        "SELECT shard_drop_parent(NULL)",
    ] {
        assert_eq!(refused(&mut scene.client, call)?.code().code(), "22004", "{call}");
    }
    Ok(())
}

/// Whichever argument is NULL: never an internal error, and no success where there was nothing to do.
#[test]
fn null_is_an_answer_to_no_argument() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute(
        "CREATE TABLE l (id int); SELECT shard_create_parent('l', 'list', 'id', lists => '{\"a\": [1]}');
         CREATE FUNCTION pg_temp.one(type text) RETURNS text LANGUAGE sql AS $$
             SELECT quote_literal(CASE type WHEN 'text' THEN 'n1' WHEN 'regclass' THEN 'l_a' WHEN 'regclass[]' THEN '{l_a}' WHEN 'jsonb' THEN '{}'
                 WHEN 'interval' THEN '1 day' WHEN 'text[]' THEN '{n1}' WHEN 'boolean' THEN 'false' WHEN 'regrole' THEN 'app'
                 WHEN 'uuid' THEN gen_random_uuid()::text ELSE '1' END) || '::' || type $$",
    )?;
    let calls = rows(
        &mut scene.client,
        "WITH f AS (SELECT oid, proname, pronargs, proargtypes::oid[] AS types FROM pg_proc WHERE proname LIKE 'shard\\_%' AND pronargs > 0 AND prokind = 'f')
         SELECT at, format('SELECT * FROM %I(%s)', proname, (
             SELECT string_agg(CASE WHEN at IN (0, n) THEN 'NULL::' || format_type(t, NULL) ELSE pg_temp.one(format_type(t, NULL)) END, ', ' ORDER BY n)
             FROM unnest(types) WITH ORDINALITY AS a (t, n)))
         FROM f, generate_series(0, pronargs) AS at ORDER BY proname, oid, at",
    )?;
    ensure!(calls.len() > 100, "{}", calls.len());
    let mut wrong = Vec::new();
    for row in calls {
        let (all_are_null, call) = (row[0] == "0", &row[1]);
        scene.client.batch_execute("BEGIN")?;
        let answer = scene.client.batch_execute(call);
        scene.client.batch_execute("ROLLBACK")?;
        // Without a parent, these are about all.
        let may = ["shard_check(", "shard_partition_sizes("].iter().any(|name| call.contains(name));
        match answer {
            Ok(()) if all_are_null && !may => wrong.push(format!("{call}: done")),
            Ok(()) => {}
            Err(error) => {
                let told = error.as_db_error().with_context(|| call.clone())?;
                let code = told.code().code();
                if code.starts_with("XX") || all_are_null && code != "22004" {
                    wrong.push(format!("{call}: {code} {}", told.message()));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
