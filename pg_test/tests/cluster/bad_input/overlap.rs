//! One more partition in the place of another: by the order of the key, which Postgres knows for every type.
use anyhow::Result;
use pg_test::sql::refused;

use super::Scene;

#[test]
fn overlap_is_found_in_the_order_of_the_key() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute(
        r#"CREATE TABLE c (name text COLLATE "C");
           SELECT shard_create_parent('c', '{"method": "range", "key": "name", "bounds": ["a", "m"], "nodes": ["n1"]}');
           CREATE TABLE u (address inet, port int);
           SELECT shard_create_parent('u', 'range', 'address, port', bounds => '[["10.0.0.0", 5], ["10.0.0.9", "MAXVALUE"]]');
           CREATE TABLE x (name text);
           SELECT shard_create_parent('x', 'range', 'lower(name)', bounds => '[["MINVALUE"], ["m"]]');
           CREATE TABLE f (amount float8);
           SELECT shard_create_parent('f', 'list', 'amount', lists => '{"a": [0.5, null]}', default_partition => true);
           CREATE TABLE h (id int);
           SELECT shard_create_parent('h', 'hash', 'id', modulus => 4)"#,
    )?;
    let hint = "leave out those of the other partitions";
    scene.refuses(&[
        (
            "SELECT shard_add_partition('c', '{\"from\": \"l\", \"to\": \"z\"}')",
            "42P17",
            "$: the range overlaps with partition public.c_a",
            hint,
        ),
        (
            "SELECT shard_add_partition('c', '{\"from\": \"Z\", \"to\": \"aa\"}', 'n1')",
            "42P17",
            "$: the range overlaps with partition public.c_a",
            hint,
        ),
        ("SELECT shard_add_partition('c', '{\"from\": \"z\", \"to\": \"Z\"}')", "22023", "$: the range is empty", ""),
        (
            "SELECT shard_add_partition('u', '{\"from\": [\"10.0.0.9\", 7], \"to\": [\"10.0.0.10\", 1]}')",
            "42P17",
            "$: the range overlaps with partition public.u_10_0_0_0_5",
            hint,
        ),
        (
            "SELECT shard_add_partition('u', '{\"from\": [\"9.0.0.0\", 1], \"to\": [\"10.0.0.0\", 6]}')",
            "42P17",
            "$: the range overlaps with partition public.u_10_0_0_0_5",
            hint,
        ),
        (
            "SELECT shard_add_partition('x', '{\"from\": \"MINVALUE\", \"to\": \"a\"}')",
            "42P17",
            "$: the range overlaps with partition public.x_min",
            hint,
        ),
        (
            "SELECT shard_add_partition('f', '{\"in\": [1, \"5e-1\"]}')",
            "42P17",
            "$.in[1]: the value belongs to partition public.f_a already",
            hint,
        ),
        (
            "SELECT shard_add_partition('f', '{\"in\": [null]}')",
            "42P17",
            "$.in[0]: the value belongs to partition public.f_a already",
            hint,
        ),
        (
            "SELECT shard_add_partition('h', '{\"modulus\": 8, \"remainder\": 7}')",
            "42P17",
            "$: the remainder overlaps with partition public.h_3",
            hint,
        ),
        (
            "SELECT shard_add_partition('h', '{\"modulus\": 6, \"remainder\": 5}')",
            "42P17",
            "$: the modulus 6 does not fit that of partition public.h_0",
            "a multiple of it or a factor",
        ),
    ])?;
    let error = refused(&mut scene.client, "SELECT shard_add_partition('c', '{\"from\": \"l\", \"to\": \"z\"}')")?;
    assert_eq!(error.detail(), Some("The bounds of public.c_a are FOR VALUES FROM ('a') TO ('m')."));
    Ok(())
}

/// What lies beside another is no overlap.
#[test]
fn neighbours_are_added() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute(
        r#"CREATE TABLE c (name text COLLATE "C");
           SELECT shard_create_parent('c', '{"method": "range", "key": "name", "bounds": ["a", "m"], "default": true}');
           SELECT shard_add_partition('c', '{"from": "m", "to": "MAXVALUE"}', 'n1');
           SELECT shard_add_partition('c', '{"from": "Z", "to": "a"}');
           SELECT shard_add_partition('c', '{"from": "MINVALUE", "to": "Z"}');
           CREATE TABLE u (address inet, port int);
           SELECT shard_create_parent('u', 'range', 'address, port', bounds => '[["10.0.0.0", 5], ["10.0.0.9", 5]]');
           SELECT shard_add_partition('u', '{"from": ["10.0.0.9", 5], "to": ["10.0.0.10", "MINVALUE"]}');
           CREATE DOMAIN short AS varchar(3);
           CREATE TABLE d (name short);
           SELECT shard_create_parent('d', 'list', 'name', lists => '{"a": ["a"]}');
           SELECT shard_add_partition('d', '{"in": ["b", null]}');
           SELECT shard_add_partition('d', '{"default": true}')"#,
    )?;
    Ok(())
}

/// A table that has partitions already gets those of the call that are missing, if nothing is in their place.
#[test]
fn a_partition_made_by_hand_in_the_place_of_one_of_the_call_is_named() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute(
        "CREATE TABLE l (id int) PARTITION BY LIST (id); CREATE TABLE mine PARTITION OF l FOR VALUES IN (2, 3);
         CREATE TABLE r (id int) PARTITION BY RANGE (id); CREATE TABLE ours PARTITION OF r FOR VALUES FROM (5) TO (15)",
    )?;
    scene.refuses(&[
        (
            "SELECT shard_create_parent('l', 'list', 'id', lists => '{\"a\": [1, 2]}')",
            "42P17",
            "lists.a[1]: the value belongs to partition public.mine already",
            "leave out",
        ),
        (
            "SELECT shard_create_parent('r', 'range', 'id', bounds => '[0, 10]')",
            "42P17",
            "bounds[0]: the range overlaps with partition public.ours",
            "leave out",
        ),
    ])
}
