//! Operations beside a large default partition, which Postgres reads for each partition that is attached: not under the lock
//! of the switch.
use std::time::Duration;

use anyhow::{Result, ensure};
use pg_test::movement::{complains, ends, field, is_as_before, joined, nothing_is_left, objects, reaches, told};
use pg_test::{Cluster, PATIENCE, Server, eventually};
use postgres::Client;

const LIMIT: Duration = Duration::from_secs(60);
const ROWS: i64 = 60_000;

/// How the partition is bounded that is split in four, beside a default partition `t_default`.
#[derive(Clone, Copy)]
enum Bounds {
    Range,
    RangeOfTwo,
    List,
}

impl Bounds {
    fn spec(self) -> &'static str {
        match self {
            Bounds::Range => r#""method": "range", "key": "id", "bounds": [0, 1000]"#,
            Bounds::RangeOfTwo => r#""method": "range", "key": ["id", "part"], "bounds": [[0, ""], [1000, ""]]"#,
            Bounds::List => r#""method": "list", "key": "part", "values": {"0": ["a", "b", "c", "d"]}"#,
        }
    }

    fn pieces(self) -> &'static str {
        match self {
            Bounds::Range => "[250, 500, 750]",
            Bounds::RangeOfTwo => r#"[[250, ""], [500, ""], [750, ""]]"#,
            Bounds::List => r#"{"1": ["a"], "2": ["b"], "3": ["c"], "4": ["d"]}"#,
        }
    }

    fn split(self) -> String {
        format!(
            "SELECT shard_split((SELECT partition FROM shard_partitions WHERE node = 'n2'), '{}', nodes => '{{n1, local, n2, n1}}')",
            self.pieces()
        )
    }
}

/// Some rows in the partition on n2, and many in the default partition on `home`.
fn scene(bounds: Bounds, home: &str) -> Result<(Cluster, Client)> {
    let cluster = joined(2)?;
    cluster.coordinator.configure(&[("shardkeeper.trash_keep", "0")])?;
    cluster.coordinator.reload()?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(&format!(
        r#"CREATE TABLE t (id bigint, part varchar(10) DEFAULT 'a', note text, PRIMARY KEY (id, part));
           SELECT shard_create_parent('t', '{{{}, "nodes": ["n2"], "default": {{"nodes": ["{home}"]}}}}');
           INSERT INTO t SELECT i, 'a', repeat('x', 100) FROM generate_series(1, 500) AS i;
           INSERT INTO t SELECT i, 'z', repeat('x', 100) FROM generate_series(5001, 5000 + {ROWS}) AS i"#,
        bounds.spec()
    ))?;
    Ok((cluster, client))
}

/// Rows of the default partition that were read from end to end.
fn read(server: &Server) -> Result<i64> {
    server.value("SELECT coalesce(seq_tup_read, 0) FROM pg_stat_all_tables WHERE relid = 'public.t_default'::regclass")
}

fn checks(cluster: &Cluster) -> Result<i64> {
    let own = "SELECT count(*) FROM pg_constraint WHERE conname ~ '^shardkeeper_(op|old)_'";
    cluster.servers().map(|server| server.value::<i64>(own)).sum()
}

fn a_default_partition_is_read(bounds: Bounds, home: &str, times: i64) -> Result<()> {
    let (cluster, mut client) = scene(bounds, home)?;
    let server = if home == "local" { &cluster.coordinator } else { cluster.node(1) };
    let before = objects(&cluster)?;
    let first = read(server)?;
    let id: i64 = client.query_one(&bounds.split(), &[])?.get(0);
    reaches(&cluster, id, "switched", LIMIT)?;
    client.execute("SELECT shard_revert($1)", &[&id])?;
    ends(&cluster, id, LIMIT)?;
    assert_eq!(field(&cluster, id, "state")?, "reverted", "{}", told(&cluster));
    eventually("the default partition is read", PATIENCE, || Ok(read(server)? - first >= times * ROWS))?;
    assert_eq!(read(server)? - first, times * ROWS);
    assert_eq!(checks(&cluster)?, 0);
    is_as_before(&cluster, &before)?;
    nothing_is_left(&cluster)
}

#[test]
fn a_default_partition_beside_ranges_is_read_before_each_switch() -> Result<()> {
    a_default_partition_is_read(Bounds::Range, "local", 2)
}

#[test]
fn a_default_partition_beside_ranges_of_two_columns_is_read_before_each_switch() -> Result<()> {
    a_default_partition_is_read(Bounds::RangeOfTwo, "local", 2)
}

#[test]
fn a_default_partition_beside_lists_is_read_before_each_switch() -> Result<()> {
    a_default_partition_is_read(Bounds::List, "local", 2)
}

/// What it carries there tells Postgres enough.
#[test]
fn a_default_partition_on_a_node_is_not_read() -> Result<()> {
    a_default_partition_is_read(Bounds::Range, "n1", 0)?;
    a_default_partition_is_read(Bounds::RangeOfTwo, "n1", 0)?;
    a_default_partition_is_read(Bounds::List, "n1", 0)
}

#[test]
fn a_cancel_takes_the_check_away() -> Result<()> {
    let (cluster, mut client) = scene(Bounds::Range, "local")?;
    let before = objects(&cluster)?;
    let mut holder = cluster.coordinator.client()?;
    holder.batch_execute("BEGIN; LOCK TABLE ONLY t IN ACCESS SHARE MODE")?;
    let id: i64 = client.query_one(&Bounds::Range.split(), &[])?.get(0);
    complains(&cluster, id, "nobody holds the parent", LIMIT)?;
    assert_eq!(checks(&cluster)?, 1);
    // Writers meet it, and it is in nobody's way.
    client.batch_execute(
        "INSERT INTO t VALUES (-1, 'z', 'default'), (100000, 'z', 'default'); UPDATE t SET id = 1500 WHERE id = -1",
    )?;
    client.execute("SELECT shard_cancel($1)", &[&id])?;
    ends(&cluster, id, LIMIT)?;
    assert_eq!(checks(&cluster)?, 0);
    holder.batch_execute("COMMIT")?;
    ensure!(cluster.coordinator.count("t")? == ROWS + 502);
    is_as_before(&cluster, &before)?;
    nothing_is_left(&cluster)
}

#[test]
fn a_session_that_keeps_the_default_partition_is_named() -> Result<()> {
    let (cluster, mut client) = scene(Bounds::Range, "local")?;
    let mut holder = cluster.coordinator.client()?;
    holder.batch_execute("BEGIN; LOCK TABLE t_default IN ACCESS SHARE MODE")?;
    let id: i64 = client.query_one(&Bounds::Range.split(), &[])?.get(0);
    complains(&cluster, id, "keep the lock of the default partition public.t_default", LIMIT)?;
    holder.batch_execute("COMMIT")?;
    reaches(&cluster, id, "switched", LIMIT)?;
    client.execute("SELECT shard_finish($1)", &[&id])?;
    ends(&cluster, id, LIMIT)?;
    assert_eq!(checks(&cluster)?, 0);
    nothing_is_left(&cluster)
}
