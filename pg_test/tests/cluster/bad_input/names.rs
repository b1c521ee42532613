//! Names of every kind: long ones, ones that must be quoted, and ones that would be SQL.
use anyhow::{Context, Result, ensure};
use pg_test::sql::{column, rows};

use super::{Held, Scene};

/// As an SQL string constant.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// As an SQL identifier.
fn ident(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// Creates a hierarchy in names that are hard to quote, uses each call on it, and takes it away again.
fn a_life(scene: &mut Scene, schema: &str, table: &str, column_name: &str, labels: [&str; 2]) -> Result<()> {
    let client = &mut scene.client;
    let name = format!("{}.{}", ident(schema), ident(table));
    let (regclass, key) = (literal(&name), ident(column_name));
    let spec = serde_json::json!({
        "method": "list", "key": column_name, "nodes": ["local", "n1", "n2"],
        "values": {labels[0]: {"in": ["one", labels[0]]}, labels[1]: {"in": ["two", labels[1]],
            "partitions": {"method": "hash", "key": ["id", column_name], "modulus": 3}}},
        "default": true
    });
    client.batch_execute(&format!(
        "CREATE SCHEMA {}; CREATE TABLE {name} (id int, {key} text, PRIMARY KEY (id, {key}))",
        ident(schema)
    ))?;
    client.batch_execute(&format!("CREATE INDEX {} ON {name} ({key})", ident(&format!("i {table}"))))?;
    let planned =
        rows(client, &format!("SELECT * FROM shard_plan_parent({regclass}, {})", literal(&spec.to_string())))?;
    ensure!(planned.len() > 5, "{planned:?}");
    client.batch_execute(&format!("SELECT shard_create_parent({regclass}, {})", literal(&spec.to_string())))?;
    let values = ["one", "two", labels[0], labels[1], "three"].map(literal).join(", ");
    client.batch_execute(&format!(
        "INSERT INTO {name} SELECT i, v FROM generate_series(1, 20) i, unnest(ARRAY[{values}]) v"
    ))?;
    assert_eq!(column(client, &format!("SELECT count(*) FROM {name}"))?, ["100"]);
    // Every row is where shard_locate says.
    let lost = format!(
        "SELECT t.tableoid::regclass, t.* FROM {name} t, shard_locate({regclass}, jsonb_build_object('id', t.id, {}, t.{key})) l
         WHERE l.partition <> t.tableoid",
        literal(column_name)
    );
    assert_eq!(rows(client, &lost)?, Vec::<Vec<String>>::new());
    for format in ["text", "mermaid", "svg"] {
        let tree = column(client, &format!("SELECT shard_tree({regclass}, '{format}')"))?;
        ensure!(tree[0].lines().count() > 5, "{}", tree[0]);
    }
    // A partition comes, leaves, and another one comes and is dropped.
    for (value, leave) in [("four", "detach"), ("five' --", "drop")] {
        let bounds = serde_json::json!({"in": [value], "label": format!("{table} {value}")});
        let add = format!("SELECT shard_add_partition({regclass}, {}, 'n2')", literal(&bounds.to_string()));
        let made = column(client, &add)?.remove(0);
        client.batch_execute(&format!("INSERT INTO {name} VALUES (1, {})", literal(value)))?;
        let size = rows(
            client,
            &format!(
                "SELECT bytes > 0 FROM shard_partition_sizes({regclass}) WHERE partition = {}::regclass",
                literal(&made)
            ),
        )?;
        assert_eq!(size, [["t"]], "{made}");
        client.batch_execute(&format!("SELECT shard_{leave}_partition({}::regclass)", literal(&made)))?;
        let stays = format!("SELECT to_regclass({}) IS NOT NULL", literal(&made));
        assert_eq!(column(client, &stays)?, [if leave == "detach" { "t" } else { "f" }], "{made}");
    }
    assert_eq!(column(client, &format!("SELECT count(*) FROM {name}"))?, ["100"]);
    let healthy = format!("SELECT finding FROM shard_check({regclass}) WHERE severity = 'error'");
    assert_eq!(column(client, &healthy)?, Vec::<String>::new());
    // A mirror is queried by the same name on its node.
    let mut found = 0;
    for server in scene.cluster.nodes() {
        found += server.value::<i64>(&format!("SELECT count(*) FROM {name}"))?;
    }
    let remote = format!(
        "SELECT count(*) FROM {name} t JOIN shard_partitions p ON p.partition = t.tableoid WHERE p.node <> 'local'"
    );
    assert_eq!(column(&mut scene.client, &remote)?, [found.to_string()]);
    scene.client.batch_execute(&format!("SELECT shard_drop_parent({regclass})"))?;
    Ok(())
}

#[test]
fn a_hierarchy_lives_with_names_that_must_be_quoted() -> Result<()> {
    let mut scene = Scene::new(2)?;
    for (schema, table, key, labels) in [
        ("Mixed \"Case\".x", "My \"Table\".of things", "The \"Key\".col", ["A \"b\".c", "Ünïcode ☃"]),
        ("select", "table", "order", ["from", "where"]),
        (
            "it's",
            "'; DROP TABLE victim; --",
            "'; DROP TABLE victim; --",
            ["'; DROP TABLE victim; --", "\\'; $$ $1 {label} {parent}"],
        ),
        ("back\\slash", "tab\tand\nline", "100%s %I", ["%", "\\"]),
    ] {
        a_life(&mut scene, schema, table, key, labels).with_context(|| format!("{schema}.{table}"))?;
        for server in scene.cluster.servers() {
            assert_eq!(server.value::<i64>("SELECT count(*) FROM victim")?, 1, "{}", server.name);
        }
    }
    Ok(())
}

#[test]
fn long_names_are_cut_and_stay_apart() -> Result<()> {
    let mut scene = Scene::new(2)?;
    let table = "x".repeat(63);
    let snow = "☃".repeat(21);
    for name in [table.as_str(), snow.as_str(), &"y".repeat(60)] {
        let spec = r#"{"method": "range", "key": "day", "interval": "1 month", "start": "2024-01-01", "end": "2024-07-01", "nodes": ["local", "n1", "n2"],
                       "partitions": {"method": "hash", "key": "id", "modulus": 2}}"#;
        let create = format!(
            "CREATE TABLE {name} (id int, day date, PRIMARY KEY (id, day)); CREATE INDEX ON {name} (day); SELECT shard_create_parent('{name}', '{spec}')"
        );
        scene.client.batch_execute(&create).with_context(|| name.to_owned())?;
        let names = column(
            &mut scene.client,
            &format!("SELECT relid::regclass::text FROM pg_partition_tree('{name}') WHERE level > 0"),
        )?;
        assert_eq!(names.len(), 18);
        ensure!(names.iter().all(|name| name.trim_matches('"').len() <= 63), "{names:?}");
        scene.client.batch_execute(&format!(
            "INSERT INTO {name} SELECT i, date '2024-01-01' + i % 180 FROM generate_series(1, 1000) i"
        ))?;
        let made =
            format!("SELECT shard_add_partition('{name}', '{{\"from\": \"2024-07-01\", \"to\": \"2024-08-01\"}}')");
        let made = column(&mut scene.client, &made)?.remove(0);
        scene.client.batch_execute(&format!("SELECT shard_drop_partition('{made}')"))?;
        assert_eq!(column(&mut scene.client, &format!("SELECT count(*) FROM {name}"))?, ["1000"]);
    }
    // The hash never changes: names that were made yesterday are found tomorrow.
    let first = format!("SELECT l.partition FROM shard_locate('{table}', '{{\"id\": 1, \"day\": \"2024-01-15\"}}') l");
    let cut = column(&mut scene.client, &first)?.remove(0);
    assert_eq!(cut, LONG, "the name of a leaf");
    for table in [table, snow, "y".repeat(60)] {
        scene.client.batch_execute(&format!("SELECT shard_drop_parent('{table}')"))?;
    }
    let too_long =
        format!("SELECT shard_add_partition('r', '{{\"from\": 10, \"to\": 20, \"name\": \"{}\"}}')", "z".repeat(64));
    scene.client.batch_execute(
        "CREATE TABLE r (id int); SELECT shard_create_parent('r', 'range', 'id', bounds => '[0, 10]', nodes => '{n1}')",
    )?;
    scene.refuses(&[(&too_long, "22023", "$.name: the name is too long", "")])?;
    scene.client.batch_execute(&too_long.replace(&"z".repeat(64), &"z".repeat(63)))?;
    Ok(())
}

const LONG: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx_27415d48";

/// Every text argument of every function, one at a time, holds SQL that ends the statement and drops a table.
#[test]
fn sql_in_a_text_argument_stays_text() -> Result<()> {
    const EVIL: &str = "'; DROP TABLE victim; --";
    let mut scene = Scene::new(2)?;
    scene.client.batch_execute(
        "CREATE TABLE t (id int, name text); CREATE TABLE m (id int, name text);
         SELECT shard_create_parent('m', 'list', 'name', lists => '{\"a\": [\"a\"]}', nodes => '{local, n1}')",
    )?;
    let port = scene.cluster.node(1).port();
    let node = |more: &str| format!("SELECT shard_add_node('fresh', '127.0.0.1', {port}, 'app', 'app', 'app'{more})");
    let short = |more: &str| format!("SELECT shard_create_parent('t', {more})");
    let json = |text: &str| literal(&text.replace('\u{1}', &serde_json::json!(EVIL).to_string()));
    let evil = literal(EVIL);
    let calls: Vec<String> = vec![
        format!("SELECT shard_add_node('fresh', {evil}, {port}, 'app', 'app', 'app')"),
        node("").replace("'app', 'app', 'app'", &format!("{evil}, 'app', 'app'")),
        node("").replace("'app', 'app', 'app'", &format!("'app', {evil}, 'app'")),
        node("").replace("'app', 'app', 'app'", &format!("'app', 'app', {evil}")),
        node(&format!(", options => {}", json("{\u{1}: 1}"))),
        node(&format!(", options => {}", json("{\"sslmode\": \u{1}}"))),
        node(&format!(", options => {}", json("{\"options\": \u{1}}"))),
        format!("SELECT shard_alter_node({evil})"),
        format!("SELECT shard_alter_node('n1', host => {evil})"),
        format!("SELECT shard_alter_node('n1', dbname => {evil})"),
        format!("SELECT shard_alter_node('n1', username => {evil})"),
        format!("SELECT shard_alter_node('n1', password => {evil})"),
        format!("SELECT shard_alter_node('n1', options => {})", json("{\u{1}: 1}")),
        format!("SELECT shard_drop_node({evil})"),
        format!("SELECT shard_grant_node({evil}, 'app')"),
        format!("SELECT shard_grant_node('n1', {evil})"),
        format!("SELECT shard_grant_node('n1', 'app', {evil}, 'app')"),
        format!("SELECT shard_grant_node('n1', 'app', 'app', {evil})"),
        format!("SELECT shard_run_on_nodes('SELECT 1', ARRAY[{evil}])"),
        short(&format!("{evil}, 'id', modulus => 2")),
        short(&format!("'hash', {evil}, modulus => 2")),
        short(&format!("'hash', 'id', modulus => 2, nodes => ARRAY[{evil}]")),
        short(&format!("'range', 'id', \"interval\" => {evil}")),
        short(&format!("'range', 'id', step => {evil}")),
        short(&format!("'range', 'id', step => '10', start => {evil}")),
        short(&format!("'range', 'id', step => '10', until => {evil}")),
        short(&format!("'range', 'id', \"interval\" => '1 day', timezone => {evil}")),
        short(&format!("'range', 'id', \"interval\" => '1 day', epoch => {evil}")),
        short(&format!("'range', 'id', bounds => {}", json("[1, \u{1}]"))),
        short(&format!("'list', 'id', lists => {}", json("{\"a\": [\u{1}]}"))),
        short(&format!("'list', 'id', lists => {}", json("{\u{1}: 1}"))),
        short(&json("{\u{1}: 1}")),
        short(&json("{\"method\": \u{1}}")),
        short(&json("{\"method\": \"hash\", \"modulus\": 2, \"key\": \u{1}}")),
        short(&json("{\"method\": \"hash\", \"modulus\": 2, \"key\": [\"id\", \u{1}]}")),
        short(&json("{\"method\": \"hash\", \"key\": \"id\", \"modulus\": \u{1}}")),
        short(&json("{\"method\": \"hash\", \"key\": \"id\", \"modulus\": 2, \"nodes\": [\u{1}]}")),
        short(&json("{\"method\": \"hash\", \"key\": \"id\", \"modulus\": 2, \"name\": \u{1}}")),
        format!("SELECT shard_plan_parent('t', {})", json("{\u{1}: 1}")),
        format!("SELECT shard_plan_parent({evil}, '{{}}')"),
        format!("SELECT shard_create_parent({evil}, '{{}}')"),
        format!("SELECT shard_add_partition({evil}, '{{}}')"),
        format!("SELECT shard_add_partition('m', {})", json("{\u{1}: 1}")),
        format!("SELECT shard_add_partition('m', {}, 'n1')", json("{\"in\": [\"a\", \u{1}]}")),
        format!("SELECT shard_add_partition('m', {})", json("{\"from\": \u{1}, \"to\": 1}")),
        format!("SELECT shard_add_partition('m', '{{\"in\": [\"b\"]}}', {evil})"),
        format!("SELECT shard_detach_partition({evil})"),
        format!("SELECT shard_drop_partition({evil})"),
        format!("SELECT shard_release_parent({evil})"),
        format!("SELECT shard_drop_parent({evil})"),
        format!("SELECT shard_sync_grants({evil})"),
        format!("SELECT shard_locate({evil}, '{{}}')"),
        format!("SELECT shard_locate('m', {})", json("{\u{1}: 1}")),
        format!("SELECT shard_locate('m', {})", json("{\"name\": \u{1}}")),
        format!("SELECT shard_tree('m', {evil})"),
        format!("SELECT shard_tree({evil})"),
        format!("SELECT shard_partition_sizes({evil})"),
        format!("SELECT shard_check({evil})"),
    ];
    let before = scene.held()?;
    for call in &calls {
        let error = match scene.client.batch_execute(call) {
            Ok(()) => anyhow::bail!("was accepted: {call}"),
            Err(error) => error.as_db_error().cloned().with_context(|| call.clone())?,
        };
        ensure!(error.code().code() != "XX000", "{call}: {error:?}");
        before.is_unchanged(&scene.cluster).with_context(|| call.clone())?;
    }
    // Where it is a value like any other it is accepted, as it is.
    let before: Vec<i64> = victims(&scene)?;
    for call in [
        format!("SELECT shard_alter_node('n1', region => {evil})"),
        format!("SELECT shard_add_partition('m', {})", json("{\"in\": [\u{1}], \"label\": \u{1}}")),
        format!("SELECT shard_add_partition('m', {}, 'n1')", json("{\"in\": [\"c\"], \"name\": \u{1}}")),
        format!(
            "SELECT shard_create_parent('t', {})",
            json("{\"method\": \"list\", \"key\": \"name\", \"nodes\": [\"n1\"], \"values\": {\u{1}: [\u{1}]}}")
        ),
        format!("INSERT INTO t VALUES (1, {evil}); INSERT INTO m VALUES (1, {evil})"),
        format!(
            "SELECT shard_locate('m', {}), shard_tree('m'), shard_tree('t', 'svg'), shard_check()",
            json("{\"name\": \u{1}}")
        ),
        "SELECT shard_run_on_nodes($$SELECT '''; DROP TABLE victim; --'$$)".to_owned(),
        "SELECT shard_drop_parent('t'), shard_drop_parent('m')".to_owned(),
    ] {
        scene.client.batch_execute(&call).with_context(|| call.clone())?;
        assert_eq!(victims(&scene)?, before, "{call}");
    }
    Ok(())
}

fn victims(scene: &Scene) -> Result<Vec<i64>> {
    Held::now(&scene.cluster)?;
    scene.cluster.servers().map(|server| server.value("SELECT count(*) FROM victim")).collect()
}
