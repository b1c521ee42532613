//! A crash between the commits of two targets: one has a change, the other does not, and it has to come there all the same.
use std::time::Duration;

use anyhow::{Context, Result};
use pg_test::movement::{complains, ends, joined_by_proxy, nothing_is_left, reaches, told};

const LIMIT: Duration = Duration::from_secs(60);

/// A row goes from one target to the other by a change that leaves its large value out. The one that it leaves has committed
/// when the coordinator dies, the other one has not.
fn a_row_that_had_left_arrives(home: &str) -> Result<()> {
    let cluster = joined_by_proxy(3)?;
    cluster.coordinator.configure(&[("shardkeeper.trash_keep", "0")])?;
    cluster.coordinator.reload()?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(&format!(
        "CREATE TABLE t (id bigint PRIMARY KEY, note text, large text, n numeric);
         ALTER TABLE t ALTER large SET STORAGE EXTERNAL;
         SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{{{home}}}');
         INSERT INTO t SELECT i, 'before', repeat(md5(i::text), 300), i / 7.0 FROM generate_series(1, 300) AS i"
    ))?;
    let mut reader = cluster.coordinator.client()?;
    reader.batch_execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")?;
    let id: i64 = client.query_one("SELECT shard_set_modulus('t', 3, nodes => '{n1, n2, n1}')", &[])?.get(0);
    complains(&cluster, id, "nobody holds the parent", LIMIT)?;

    // Of one source, from the first target to the second.
    let place = "satisfies_hash_partition('t'::regclass, 2, 0, i) AND satisfies_hash_partition('t'::regclass, 3,";
    let from: i64 = cluster
        .coordinator
        .value(&format!("SELECT min(i) FROM generate_series(1::bigint, 300) AS i WHERE {place} 0, i)"))?;
    let to: i64 = cluster
        .coordinator
        .value(&format!("SELECT min(i) FROM generate_series(1000::bigint, 2000) AS i WHERE {place} 1, i)"))?;
    let arrives = cluster.proxy(2).stall_on(b"the row that moves");
    client.execute("UPDATE t SET id = $1, note = 'the row that moves' WHERE id = $2", &[&to, &from])?;
    arrives.wait_until_hit(LIMIT).with_context(|| told(&cluster))?;
    cluster.coordinator.kill9()?;
    (1..=3).for_each(|number| cluster.proxy(number).cut());
    (1..=3).for_each(|number| cluster.proxy(number).resume());
    cluster.coordinator.start()?;

    let mut client = cluster.coordinator.patient()?;
    reaches(&cluster, id, "switched", LIMIT)?;
    let rows = "SELECT count(*), count(*) FILTER (WHERE large = repeat(md5(coalesce(nullif(id, $1), $2)::text), 300)),
                       count(*) FILTER (WHERE id = $1 AND note = 'the row that moves') FROM t";
    let row = client.query_one(rows, &[&to, &from])?;
    assert_eq!((row.get(0), row.get(1), row.get(2)), (300_i64, 300_i64, 1_i64));
    client.execute("SELECT shard_finish($1)", &[&id])?;
    ends(&cluster, id, LIMIT)?;
    nothing_is_left(&cluster)
}

#[test]
fn a_row_that_had_left_arrives_from_the_coordinator() -> Result<()> {
    a_row_that_had_left_arrives("local")
}

#[test]
fn a_row_that_had_left_arrives_from_a_node() -> Result<()> {
    a_row_that_had_left_arrives("n3")
}
