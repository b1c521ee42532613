//! Adding, changing and dropping nodes, and what each mistake gets.
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pg_test::sql::refused;
use pg_test::{Cluster, PATIENCE, eventually};

#[test]
fn an_added_node_is_ready_and_healthy() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let mut client = cluster.coordinator.client()?;
    let rows = client.query(&cluster.call_to_add(1, ", password => 'app', region => 'eu'"), &[])?;
    let said: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(said[0].0, "ok");
    assert!(said[0].1.starts_with("node \"n1\" is ready: PostgreSQL 1"), "{said:?}");
    let row = client.query_one("SELECT host, port, dbname, region, leaves FROM shard_nodes WHERE name = 'n1'", &[])?;
    assert_eq!(row.get::<_, String>(0), "127.0.0.1");
    assert_eq!(row.get::<_, String>(1), cluster.node(1).port().to_string());
    assert_eq!(
        (row.get::<_, String>(2), row.get::<_, String>(3), row.get::<_, i64>(4)),
        ("app".into(), "eu".into(), 0)
    );
    eventually("healthy", PATIENCE, || Ok(unhealthy(&cluster)?.is_empty()))
        .with_context(|| format!("{:?}", unhealthy(&cluster)))
}

/// Rows of shard_check above `ok`.
fn unhealthy(cluster: &Cluster) -> Result<Vec<String>> {
    let sql = "SELECT concat_ws(' | ', area, node, severity, finding, hint) FROM shard_check() WHERE severity <> 'ok'";
    Ok(cluster.coordinator.client()?.query(sql, &[])?.iter().map(|row| row.get(0)).collect())
}

#[test]
fn wrong_arguments_are_refused_before_anything_happens() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let mut client = cluster.coordinator.client()?;
    let options = |json: &str| cluster.call_to_add(1, &format!(", password => 'app', options => '{json}'"));
    let cases: Vec<(String, &str, &str)> = vec![
        ("SELECT shard_add_node('local', 'h')".into(), "42939", "node name \"local\" is reserved"),
        ("SELECT shard_add_node('', 'h')".into(), "42602", "node name must have 1 to 63 bytes"),
        (format!("SELECT shard_add_node('{}', 'h')", "n".repeat(64)), "42602", "node name must have 1 to 63 bytes"),
        ("SELECT shard_add_node('n', ' ')".into(), "22023", "host must not be empty"),
        ("SELECT shard_add_node('n', 'h', 0)".into(), "22023", "port 0 is out of range"),
        ("SELECT shard_add_node('n', 'h', 65536)".into(), "22023", "port 65536 is out of range"),
        (options("{\"sslmod\": \"require\"}"), "HV00D", "options.sslmod: unknown option"),
        (options("{\"password\": \"x\"}"), "22023", "options.password: not allowed here"),
        (options("{\"port\": [1, 2]}"), "22023", "options.port: not a single value"),
        (options("[]"), "22023", "options: not a JSON object"),
        (options("{\"sslmode\": \"on\"}"), "HV024", "node \"n1\" has options that cannot be used"),
        ("SELECT shard_drop_node('nobody')".into(), "42704", "node \"nobody\" does not exist"),
        (
            "SELECT shard_drop_node('local')".into(),
            "42809",
            "the coordinator \"local\" is not a node that could be dropped",
        ),
        (
            "SELECT shard_alter_node('local')".into(),
            "42809",
            "the coordinator \"local\" is not a node that could be changed",
        ),
        ("SELECT shard_alter_node('nobody')".into(), "42704", "node \"nobody\" does not exist"),
        ("SELECT shard_grant_node('nobody', 'app')".into(), "42704", "node \"nobody\" does not exist"),
        ("SELECT shard_run_on_nodes('SELECT 1', '{nobody}')".into(), "42704", "node \"nobody\" does not exist"),
        (
            "SELECT shard_run_on_nodes('SELECT 1', '{local}')".into(),
            "22023",
            "the statement cannot be sent to the node \"local\"",
        ),
    ];
    for (sql, code, message) in cases {
        let error = refused(&mut client, &sql)?;
        assert_eq!((error.code().code(), error.message()), (code, message), "{sql}");
    }
    let hint = refused(&mut client, &options("{\"sslmod\": \"require\"}"))?;
    assert!(hint.hint().is_some_and(|hint| hint.contains("sslmode")));
    assert_nothing_was_added(&cluster)
}

fn assert_nothing_was_added(cluster: &Cluster) -> Result<()> {
    let left: i64 = cluster.coordinator.value(
        "SELECT (SELECT count(*) FROM pg_foreign_server) + (SELECT count(*) FROM pg_user_mappings)
              + (SELECT count(*) FROM shardkeeper.nodes) + (SELECT count(*) FROM pg_foreign_table)",
    )?;
    assert_eq!(left, 0);
    Ok(())
}

#[test]
fn a_name_may_hold_anything_that_an_identifier_may() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let mut client = cluster.coordinator.client()?;
    let long = "ü".repeat(31);
    for name in ["Mixed \"Case\".x", "'; DROP TABLE shardkeeper.nodes; --", "a.b", "select", long.as_str()] {
        let port = i32::from(cluster.node(1).port());
        client
            .execute("SELECT shard_add_node($1, '127.0.0.1', $2, 'app', 'app', 'app')", &[&name, &port])
            .with_context(|| name.to_string())?;
        let rows = client.query("SELECT node, ok, result ->> 0 FROM shard_run_on_nodes('SELECT 1 AS one')", &[])?;
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].get::<_, String>(0), rows[0].get::<_, bool>(1)), (name.to_string(), true));
        client.execute("SELECT shard_drop_node($1)", &[&name])?;
        assert_nothing_was_added(&cluster)?;
    }
    Ok(())
}

#[test]
fn a_node_that_is_down_or_frozen_is_told_within_the_deadline() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let mut client = cluster.coordinator.client()?;
    cluster.node(1).freeze()?;
    let start = Instant::now();
    let error = refused(&mut client, &cluster.call_to_add(1, ", password => 'app'"))?;
    let took = start.elapsed();
    assert_eq!((error.code().code(), error.message()), ("08001", "node \"n1\" cannot be reached"));
    assert!(error.detail().is_some_and(|detail| detail.contains("no answer within 2 s")), "{error:?}");
    assert!(took > Duration::from_millis(1900) && took < Duration::from_secs(4), "{took:?}");
    cluster.node(1).thaw()?;
    cluster.node(1).stop()?;
    let error = refused(&mut client, &cluster.call_to_add(1, ", password => 'app'"))?;
    assert_eq!(error.code().code(), "08001");
    assert!(error.detail().is_some_and(|detail| detail.contains("refused")), "{error:?}");
    assert_nothing_was_added(&cluster)
}
