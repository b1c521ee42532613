//! The short form: what is wrong with a call is told in the names of its arguments.
use anyhow::Result;
use pg_test::sql::refused;

use super::Scene;
use super::spec::TABLE;

#[test]
fn the_short_form_names_its_arguments() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute(TABLE)?;
    scene.refuses(&[
        (
            "SELECT shard_create_parent('t', 'hash', 'id', modulus => 0)",
            "22023",
            "modulus: modulus must be a whole number from 1 to 2147483647",
            "",
        ),
        ("SELECT shard_create_parent('t', 'hash', 'id')", "22023", "\"modulus\" is missing", ""),
        (
            "SELECT shard_create_parent('t', 'hahs', 'id', modulus => 2)",
            "22023",
            "method: unknown method \"hahs\"",
            "\"hash\"",
        ),
        ("SELECT shard_create_parent('t', 'hash', '', modulus => 2)", "22023", "key: the key is empty", ""),
        (
            "SELECT shard_create_parent('t', 'list', 'name', lists => '{\"a\": [\"x\"], \"b\": [\"x\"]}')",
            "22023",
            "lists.b[0]: the value \"x\" is listed twice",
            "",
        ),
        (
            "SELECT shard_create_parent('t', 'list', 'name', lists => '[1]')",
            "22023",
            "lists: invalid type: array, expected an object with one member per partition",
            "",
        ),
        (
            "SELECT shard_create_parent('t', 'range', 'day', \"interval\" => 'soon')",
            "22023",
            "interval: \"soon\" is not an interval",
            "Postgres",
        ),
        (
            "SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{nobody}')",
            "42704",
            "node \"nobody\" does not exist",
            "shard_nodes",
        ),
        (
            "SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{}')",
            "22023",
            "nodes: the list of nodes is empty",
            "nodes",
        ),
    ])
}

/// Also what is found when the spec is read already.
#[test]
fn the_short_form_names_its_arguments_always() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute(TABLE)?;
    scene.refuses(&[
        (
            "SELECT shard_create_parent('t', 'range', 'id', bounds => '[1, 5, 5]')",
            "22023",
            "bounds[2]: the bounds do not increase",
            "",
        ),
        (
            "SELECT shard_create_parent('t', 'range', 'id', step => '10', start => '5', until => '5')",
            "22023",
            "until: the end is not after the start",
            "",
        ),
        (
            "SELECT shard_create_parent('t', 'range', 'id', \"interval\" => '1 day')",
            "22023",
            "interval: an interval on a number needs \"epoch\"",
            "\"epoch\"",
        ),
        (
            "SELECT shard_create_parent('t', 'list', 'id', lists => '{\"a\": [1], \"b\": [\"x\"]}')",
            "22023",
            "lists.b[0]: \"x\" is not a valid integer",
            "",
        ),
        ("SELECT shard_create_parent('t', 'list', 'id')", "22023", "\"lists\" is missing", ""),
        (
            "SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, lists => '{\"a\": [1]}')",
            "22023",
            "lists: a hash level has no argument \"lists\"",
            "",
        ),
        (
            "SELECT shard_create_parent('t', 'hash', 'id', modulus => 2147483647)",
            "22023",
            "the spec makes too many partitions",
            "",
        ),
        (
            "SELECT shard_create_parent('t', 'hash', 'name, nobody', modulus => 2)",
            "42703",
            "key[1]: table public.t has no column nobody",
            "one expression",
        ),
        (
            "SELECT shard_create_parent('t', 'hash', 'feeling', modulus => 2)",
            "0A000",
            "key: enum column feeling cannot be a hash key",
            "list level",
        ),
    ])
}

#[test]
fn a_node_without_a_name_is_told_by_its_place() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute(TABLE)?;
    let message = "nodes[1]: the name of a node is NULL";
    scene.refuses(&[
        ("SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1, NULL}')", "22004", message, ""),
        ("SELECT shard_run_on_nodes('SELECT 1', '{n1, NULL}')", "22004", message, ""),
    ])
}

#[test]
fn a_step_is_a_number_with_or_without_quotes() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute(TABLE)?;
    let plan = |step: &str| {
        format!(
            "SELECT string_agg(command, E'\n' ORDER BY step) FROM shard_plan_parent('t', 'range', 'id', step => {step}, premake => 2)"
        )
    };
    let quoted: String = scene.client.query_one(&plan("'1000'"), &[])?.get(0);
    assert!(quoted.contains("FROM ('2000') TO ('3000')"), "{quoted}");
    for step in ["1000", "1000::bigint", "1000.0"] {
        assert_eq!(scene.client.query_one(&plan(step), &[])?.get::<_, String>(0), quoted, "{step}");
    }
    scene.refuses(&[
        ("SELECT shard_create_parent('t', 'range', 'id', step => 0)", "22023", "step: the step is not positive", ""),
        (
            "SELECT shard_create_parent('t', 'range', 'id', step => 'many')",
            "22P02",
            "invalid input syntax for type numeric: \"many\"",
            "",
        ),
    ])?;
    scene.client.batch_execute("SELECT shard_create_parent('t', 'range', 'id', step => 1000, nodes => '{n1}')")?;
    Ok(())
}

#[test]
fn what_is_possible_is_told_of_an_expression_beside_a_primary_key() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute("CREATE TABLE tens (id bigint PRIMARY KEY)")?;
    let call = "SELECT shard_create_parent('tens', 'range', '(id / 10)', bounds => '[0, 10, 20]', nodes => '{n1}')";
    let error = refused(&mut scene.client, call)?;
    let (message, hint) = (error.message(), error.hint().unwrap_or_default());
    assert!(message.starts_with("primary key tens_pkey of public.tens lacks the partition key"), "{error:?}");
    assert!(hint.contains("partition by columns of the primary key") && !hint.contains("Add "), "{error:?}");
    // It holds without the key.
    scene.client.batch_execute(&format!("ALTER TABLE tens DROP CONSTRAINT tens_pkey; {call}"))?;
    Ok(())
}
