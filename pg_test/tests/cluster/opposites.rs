//! Calls that are each other's opposite, one after the other, both ways: all is as before, rows included.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::movement::{ends, field, joined, objects, reaches};
use pg_test::objects::settled;
use pg_test::sql::{column, leaves, rows};
use pg_test::{Cluster, PATIENCE, eventually};
use postgres::Client;

const LIMIT: Duration = Duration::from_secs(60);

const TABLES: &str = r#"
    CREATE TABLE h (id int CONSTRAINT h_first PRIMARY KEY, note text);
    CREATE INDEX h_note ON h (note);
    SELECT shard_create_parent('h', 'hash', 'id', modulus => 2, nodes => '{local, n1}');
    INSERT INTO h SELECT i, 'x' FROM generate_series(1, 100) AS i;
    CREATE TABLE r (id int, region text, PRIMARY KEY (id, region));
    SELECT shard_create_parent('r', '{"method": "range", "key": "id", "bounds": [0, 100, 200], "nodes": ["n1", "n2"], "default": {"nodes": ["n1"], "partitions": false},
        "partitions": {"method": "list", "key": "region", "values": {"us": ["US"], "eu": ["EU"]}}}');
    INSERT INTO r SELECT i, x FROM generate_series(0, 199) AS i, unnest('{US,EU}'::text[]) AS x;
    CREATE TABLE l (id int, region text, PRIMARY KEY (id, region));
    SELECT shard_create_parent('l', '{"method": "list", "key": "region", "nodes": ["n1", "local"], "values": {"us": ["US"], "eu": ["EU", "UK"]}}');
    INSERT INTO l SELECT i, x FROM generate_series(1, 10) AS i, unnest('{US,EU,UK}'::text[]) AS x"#;

const ROWS: &str =
    "SELECT (SELECT count(*) FROM h), (SELECT count(*) FROM r), (SELECT count(*) FROM l), (SELECT sum(id) FROM h)";

/// There and back.
const PAIRS: [(&str, &[&str]); 16] = [
    ("release and adopt", &["shard_release_parent('h')", "shard_adopt_parent('h')"]),
    ("release and adopt a tree of two levels", &["shard_release_parent('r')", "shard_adopt_parent('r')"]),
    (
        "release and adopt twice",
        &[
            "shard_release_parent('h')",
            "shard_adopt_parent('h')",
            "shard_release_parent('h')",
            "shard_adopt_parent('h')",
        ],
    ),
    ("move there and back", &["shard_move_partition('h_0', 'n2')", "shard_move_partition('h_0', 'local')"]),
    ("move from a node and back", &["shard_move_partition('h_1', 'n2')", "shard_move_partition('h_1', 'n1')"]),
    (
        "more partitions and as many as before",
        &["shard_set_modulus('h', 3)", "shard_set_modulus('h', 2, nodes => '{local, n1}')"],
    ),
    (
        "fewer partitions and as many as before",
        &["shard_set_modulus('h', 1)", "shard_set_modulus('h', 2, nodes => '{local, n1}')"],
    ),
    (
        "split and merge",
        &[
            r#"shard_split('l_eu', '{"e": ["EU"], "u": ["UK"]}')"#,
            "shard_merge('{l_e,l_u}', name => 'l_eu', node => 'n1')",
        ],
    ),
    (
        "values there and back",
        &[r#"shard_move_values('l_eu', 'l_us', '["UK"]')"#, r#"shard_move_values('l_us', 'l_eu', '["UK"]')"#],
    ),
    ("move and revert", &["shard_move_partition('h_0', 'n2')", "shard_revert"]),
    (
        "add and drop",
        &[r#"shard_add_partition('l', '{"in": ["CN"]}', 'n2')"#, "shard_drop_partition('l_cn', keep => '0')"],
    ),
    (
        "add and detach",
        &[
            r#"shard_add_partition('l', '{"in": ["CN"]}', 'local')"#,
            "shard_detach_partition('l_cn')",
            "DROP TABLE IF EXISTS l_cn",
        ],
    ),
    (
        "drop and restore a table",
        &[
            r#"shard_add_partition('l', '{"in": ["CN"]}', 'local')"#,
            "shard_drop_partition('l_cn', keep => '1 day')",
            "shard_restore_trash('local', (SELECT \"table\" FROM shard_trash WHERE name = 'public.l_cn'))",
            "DROP TABLE l_cn",
        ],
    ),
    ("carve and merge back by revert", &[r#"shard_split('r_default', '{"from": 200, "to": 300}')"#, "shard_revert"]),
    ("grant and revoke", &["GRANT SELECT ON h TO app", "REVOKE SELECT ON h FROM app"]),
    (
        "create and drop",
        &[
            "CREATE TABLE c (id int PRIMARY KEY)",
            "shard_create_parent('c', 'hash', 'id', modulus => 2, nodes => '{n1, local}')",
            "shard_drop_parent('c', keep => '0')",
        ],
    ),
];

const MOVES: [&str; 5] = ["shard_move", "shard_set_modulus", "shard_split", "shard_merge", "shard_move_values"];

/// What tables are and where they are; the names of their indexes are Postgres's own choice, and labels of partitions follow how they came about.
fn tables(cluster: &Cluster) -> Result<Vec<String>> {
    let mut lines = objects(cluster)?.with(&[]);
    lines.retain(|line| {
        let kind = line.split_once(": ").map_or("", |(_, rest)| rest.split(' ').next().unwrap_or_default());
        match kind {
            "relation" => [" kind r ", " kind p ", " kind f "].iter().any(|kind| line.contains(kind)),
            "constraint" => !line.contains("PRIMARY KEY"),
            "row" => line.contains("shardkeeper.mirrors"),
            kind => ["column", "trigger", "publication", "replication", "schema"].contains(&kind),
        }
    });
    lines.retain(|line| !line.contains("schema shardkeeper_trash"));
    // Rights that were given and taken are written out, and say what none said before.
    let without_rights = |line: String| match (line.find(" acl"), line.find(" options")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &line[..from], &line[to..]),
        _ => line,
    };
    Ok(lines.into_iter().map(without_rights).collect())
}

/// Runs the call; one that moves data is waited for. `last` is the operation of the one before, if it has switched only.
fn run(cluster: &Cluster, client: &mut Client, call: &str, last: &mut Option<i64>) -> Result<()> {
    if let Some(id) = last.take() {
        if call.starts_with("shard_revert") {
            client.execute("SELECT shard_revert($1)", &[&id])?;
            ends(cluster, id, LIMIT)?;
            ensure!(field(cluster, id, "state")? == "reverted");
            return Ok(());
        }
        client.execute("SELECT shard_finish($1)", &[&id])?;
        ends(cluster, id, LIMIT)?;
    }
    if MOVES.iter().any(|name| call.starts_with(name)) {
        let id: i64 = client.query_one(&format!("SELECT {call}"), &[])?.get(0);
        reaches(cluster, id, "switched", LIMIT)?;
        *last = Some(id);
    } else if call.starts_with("shard_") {
        client.batch_execute(&format!("SELECT {call}"))?;
    } else {
        client.batch_execute(call)?;
    }
    Ok(())
}

#[test]
fn what_was_done_is_undone_by_its_opposite() -> Result<()> {
    let cluster = joined(2)?;
    cluster.coordinator.configure(&[("shardkeeper.trash_keep", "0")])?;
    cluster.coordinator.reload()?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(TABLES)?;
    let before = tables(&cluster)?;
    let held = rows(&mut client, ROWS)?;
    let places = |client: &mut Client| -> Result<Vec<String>> {
        Ok([leaves(client, "h")?, leaves(client, "r")?, leaves(client, "l")?].concat())
    };
    let placed = places(&mut client)?;
    for (name, calls) in PAIRS {
        let mut last = None;
        for call in calls {
            run(&cluster, &mut client, call, &mut last).with_context(|| format!("{name}: {call}"))?;
        }
        run(&cluster, &mut client, "SELECT 1", &mut last).context(name)?;
        let differences = || -> Result<Vec<String>> {
            let now = tables(&cluster)?;
            let new = now.iter().filter(|line| !before.contains(line)).map(|line| format!("+ {line}"));
            Ok(new.chain(before.iter().filter(|line| !now.contains(line)).map(|line| format!("- {line}"))).collect())
        };
        eventually(&format!("after {name} all is as before"), PATIENCE, || Ok(differences()?.is_empty()))
            .with_context(|| differences().unwrap_or_default().join("\n"))?;
        assert_eq!(rows(&mut client, ROWS)?, held, "{name}");
        assert_eq!(places(&mut client)?, placed, "{name}");
        let found = column(&mut client, "SELECT finding FROM shard_check() WHERE severity <> 'ok'")?;
        ensure!(found.is_empty(), "{name}: {found:?}");
    }
    Ok(())
}

/// The extension itself, and a node: with its parents dropped or released.
#[test]
fn what_is_taken_away_can_be_made_again() -> Result<()> {
    let cluster = joined(2)?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(TABLES)?;
    settled(&cluster, PATIENCE)?;
    let held = rows(&mut client, ROWS)?;
    client.batch_execute("DROP EXTENSION shardkeeper; CREATE EXTENSION shardkeeper")?;
    assert_eq!(rows(&mut client, ROWS)?, held);
    for parent in ["h", "r", "l"] {
        client.batch_execute(&format!("SELECT shard_adopt_parent('{parent}')")).context(parent)?;
    }
    client.batch_execute(
        "INSERT INTO h VALUES (1000, 'new'); DELETE FROM h WHERE id = 1000; SELECT shard_drop_parent('r', keep => '0')",
    )?;
    for call in ["shard_move_partition('h_0', 'n2')", "shard_set_modulus('h', 4)"] {
        let mut last = None;
        run(&cluster, &mut client, call, &mut last)?;
        run(&cluster, &mut client, "SELECT 1", &mut last)?;
    }
    assert_eq!(column(&mut client, "SELECT count(*) FROM h")?, ["100"]);
    // A node that nothing is on any more.
    client.batch_execute("SELECT shard_drop_parent('h', keep => '0'); SELECT shard_drop_parent('l', keep => '0')")?;
    settled(&cluster, PATIENCE)?;
    client.batch_execute("SELECT shard_drop_node('n2')")?;
    client.batch_execute(&cluster.call_to_add(2, ", password => 'app'"))?;
    client.batch_execute(TABLES)?;
    assert_eq!(rows(&mut client, ROWS)?, held);
    Ok(())
}
