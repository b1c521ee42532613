//! Partitions carved out of a default partition while clients write, and what times their bounds may be written as.
use std::time::Duration;

use anyhow::{Result, ensure};
use pg_test::movement::{ends, field, is_as_before, joined, nothing_is_left, objects, reaches, told};
use pg_test::sql::{code, column, leaves, refused, rows};
use pg_test::{Cluster, Server, eventually};
use postgres::Client;

const LIMIT: Duration = Duration::from_secs(60);

fn switched(cluster: &Cluster, client: &mut Client, call: &str) -> Result<i64> {
    let id: i64 = client.query_one(&format!("SELECT {call}"), &[])?.get(0);
    reaches(cluster, id, "switched", LIMIT)?;
    Ok(id)
}

fn scene() -> Result<(Cluster, Client)> {
    let cluster = joined(2)?;
    cluster.coordinator.configure(&[("shardkeeper.trash_keep", "0")])?;
    cluster.coordinator.reload()?;
    let client = cluster.coordinator.patient()?;
    Ok((cluster, client))
}

/// The rows of each leaf, and a row per leaf that would be elsewhere.
fn places(client: &mut Client, table: &str) -> Result<Vec<String>> {
    column(
        client,
        &format!(
            "SELECT tableoid::regclass || ' ' || count(*) FROM {table} GROUP BY tableoid ORDER BY tableoid::regclass::text"
        ),
    )
}

#[test]
fn months_are_carved_out_of_a_default_partition_and_put_back() -> Result<()> {
    for home in ["local", "n1"] {
        let (cluster, mut client) = scene()?;
        client.batch_execute(&format!(
            r#"CREATE TABLE t (id int, at date, note text, PRIMARY KEY (id, at));
               SELECT shard_create_parent('t', '{{"method": "range", "key": "at", "interval": "1 month", "start": "2024-01-01", "end": "2024-02-01",
                   "nodes": ["n2"], "default": {{"nodes": ["{home}"]}}}}');
               INSERT INTO t SELECT i, '2024-01-01'::date + i, repeat('x', 50) FROM generate_series(0, 365) AS i"#
        ))?;
        let before = objects(&cluster)?;
        let refused =
            refused(&mut client, r#"SELECT shard_add_partition('t', '{"from": "2024-02-01", "to": "2024-03-01"}')"#)?;
        ensure!(refused.hint().is_some_and(|hint| hint.contains("shard_split('public.t_default'")), "{refused:?}");
        let months = r#"[{"from": "2024-02-01", "to": "2024-03-01"}, {"from": "2024-03-01", "to": "2024-04-01"}]"#;
        let id = switched(
            &cluster,
            &mut client,
            &format!("shard_split('t_default', '{months}', nodes => '{{n2, local}}')"),
        )?;
        let now = ["t_2024_01 31", "t_2024_02 29", "t_2024_03 31", "t_default 275"];
        assert_eq!(places(&mut client, "t")?, now, "{home}");
        let home_of = |leaf: &str| format!("SELECT node FROM shard_partitions WHERE partition = '{leaf}'::regclass");
        assert_eq!(column(&mut client, &home_of("t_2024_03"))?, ["local"]);
        assert_eq!(column(&mut client, &home_of("t_default"))?, [home]);
        // Nobody can put a row into the wrong one, by whatever way.
        if home == "n1" {
            for day in ["2024-01-05", "2024-02-05", "2024-03-05"] {
                let wrong = format!("INSERT INTO t_default VALUES (1000, '{day}')");
                assert_eq!(code(&mut cluster.node(1).client()?, &wrong)?, "23514", "{day}");
            }
        }
        client.batch_execute("INSERT INTO t VALUES (1000, '2024-02-07'), (1001, '2026-02-07')")?;
        client.execute("SELECT shard_revert($1)", &[&id])?;
        ends(&cluster, id, LIMIT)?;
        assert_eq!(field(&cluster, id, "state")?, "reverted", "{}", told(&cluster));
        assert_eq!(places(&mut client, "t")?, ["t_2024_01 31", "t_default 337"]);
        client.batch_execute("DELETE FROM t WHERE id >= 1000")?;
        is_as_before(&cluster, &before)?;
        // It can be added to, moved and merged like any other afterwards.
        let id = switched(&cluster, &mut client, &format!("shard_split('t_default', '{months}')"))?;
        client.execute("SELECT shard_finish($1)", &[&id])?;
        ends(&cluster, id, LIMIT)?;
        let id = switched(
            &cluster,
            &mut client,
            r#"shard_split('t_default', '{"from": "2024-06-01", "to": "2024-07-01"}')"#,
        )?;
        client.execute("SELECT shard_finish($1)", &[&id])?;
        ends(&cluster, id, LIMIT)?;
        client.batch_execute(r#"SELECT shard_add_partition('t', '{"from": "2030-01-01", "to": "2030-02-01"}', 'n1'); INSERT INTO t VALUES (1, '2030-01-01')"#)?;
        assert_eq!(
            places(&mut client, "t")?,
            ["t_2024_01 31", "t_2024_02 29", "t_2024_03 31", "t_2024_06 30", "t_2030_01 1", "t_default 245"]
        );
        nothing_is_left(&cluster)?;
    }
    Ok(())
}

#[test]
fn a_dropped_list_comes_back_out_of_the_default_partition_to_its_part_of_the_spec() -> Result<()> {
    let (cluster, mut client) = scene()?;
    client.batch_execute(
        r#"CREATE TABLE t (id int, region text, PRIMARY KEY (id, region));
           SELECT shard_create_parent('t', '{"method": "list", "key": "region", "values": {"us": ["US"], "eu": {"in": ["EU", "UK"], "nodes": ["n2"]}},
               "default": {"nodes": ["n1"]}}');
           SELECT shard_drop_partition('t_eu');
           INSERT INTO t SELECT i, r FROM generate_series(1, 10) AS i, unnest('{US,EU,UK,JP,FR}'::text[]) AS r"#,
    )?;
    for (bounds, state) in [
        (r#"[]"#, "22023"),
        (r#"["EU"]"#, "22023"),
        (r#"{"in": ["US"], "label": "us_2"}"#, "42P17"),
        (r#"[{"in": ["JP"]}, {"in": ["FR", "JP"], "label": "x"}]"#, "22023"),
        (r#"[{"in": ["JP"], "label": "us"}]"#, "22023"),
        (r#"{"default": true}"#, "22023"),
        (r#"{"from": 1, "to": 2}"#, "22023"),
    ] {
        assert_eq!(code(&mut client, &format!("SELECT shard_split('t_default', '{bounds}')"))?, state, "{bounds}");
    }
    switched(
        &cluster,
        &mut client,
        r#"shard_split('t_default', '[{"in": ["EU", "UK"], "label": "eu"}, {"in": ["FR"], "label": "fr"}]')"#,
    )?;
    assert_eq!(
        leaves(&mut client, "t")?,
        [
            "t_default DEFAULT n1",
            "t_eu FOR VALUES IN ('EU', 'UK') n2",
            "t_fr FOR VALUES IN ('FR') n1",
            "t_us FOR VALUES IN ('US') local"
        ]
    );
    assert_eq!(places(&mut client, "t")?, ["t_default 10", "t_eu 20", "t_fr 10", "t_us 10"]);
    assert_eq!(code(&mut cluster.node(1).client()?, "INSERT INTO t_default VALUES (99, 'US')")?, "23514");
    assert_eq!(code(&mut cluster.node(1).client()?, "INSERT INTO t_default VALUES (99, 'EU')")?, "23514");
    Ok(())
}

/// Rows of a leaf that were read from end to end.
fn read(server: &Server, table: &str) -> Result<i64> {
    server.value(&format!("SELECT coalesce(sum(seq_tup_read), 0)::bigint FROM pg_stat_all_tables WHERE relname = '{table}' AND schemaname = 'public'"))
}

/// What moves to a node is kept apart from its siblings there as it was before, and is not read under the lock of the switch.
#[test]
fn a_default_partition_that_moves_keeps_its_bounds() -> Result<()> {
    let (cluster, mut client) = scene()?;
    client.batch_execute(
        r#"CREATE TABLE t (id int PRIMARY KEY, note text);
           SELECT shard_create_parent('t', '{"method": "range", "key": "id", "bounds": [0, 1000, 2000], "nodes": ["n2"], "default": {"nodes": ["local"]}}');
           INSERT INTO t SELECT i, 'x' FROM generate_series(5001, 6000) AS i"#,
    )?;
    switched(&cluster, &mut client, "shard_move_partition('t_default', 'n1')")?;
    // For the comparison, and not again when it is attached.
    assert_eq!(read(cluster.node(1), "t_default")?, 1000);
    for id in [5, 1005] {
        assert_eq!(code(&mut cluster.node(1).client()?, &format!("INSERT INTO t_default VALUES ({id})"))?, "23514");
    }
    switched(&cluster, &mut client, "shard_move_partition('t_default', 'local')")?;
    eventually("the comparison is counted", LIMIT, || Ok(read(&cluster.coordinator, "t_default")? >= 1000))?;
    assert_eq!(read(&cluster.coordinator, "t_default")?, 1000);
    assert_eq!(code(&mut client, "INSERT INTO t_default VALUES (5)")?, "23514");
    assert_eq!(rows(&mut client, "SELECT count(*), min(id) FROM t")?, [["1000", "5001"]]);
    Ok(())
}

#[test]
fn bounds_of_numbers_and_uuids_are_given_as_times() -> Result<()> {
    let (cluster, mut client) = scene()?;
    client.batch_execute(
        r#"CREATE TABLE e (at bigint PRIMARY KEY);
           SELECT shard_create_parent('e', '{"method": "range", "key": "at", "interval": "1 month", "epoch": "ms", "start": "2024-01-01", "end": "2024-02-01", "nodes": ["n1"]}');
           SELECT shard_add_partition('e', '{"from": "2024-02-01", "to": "2024-04-01"}');
           CREATE TABLE u (id uuid PRIMARY KEY);
           SELECT shard_create_parent('u', '{"method": "range", "key": "id", "interval": "1 month", "start": "2024-01-01", "end": "2024-02-01"}');
           SELECT shard_add_partition('u', '{"from": "2024-02-01", "to": "2024-04-01"}')"#,
    )?;
    switched(&cluster, &mut client, r#"shard_split('e_2024_02', '["2024-03-01"]')"#)?;
    switched(&cluster, &mut client, r#"shard_split('u_2024_02', '["2024-03-01"]')"#)?;
    let month = 1_709_251_200_000_i64;
    assert_eq!(
        leaves(&mut client, "e")?[1..],
        [
            format!("e_2024_02 FOR VALUES FROM ('1706745600000') TO ('{month}') n1"),
            format!("e_2024_03 FOR VALUES FROM ('{month}') TO ('1711929600000') n1")
        ]
    );
    assert_eq!(
        column(
            &mut client,
            "SELECT count(*) FROM shard_partitions WHERE parent = 'u'::regclass AND bounds LIKE '%018df74f-8400-0000-0000-000000000000%'"
        )?,
        ["2"]
    );
    Ok(())
}
