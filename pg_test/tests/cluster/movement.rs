//! Data moves online: nothing is lost, nothing doubled, and nothing is left behind.
use std::time::Duration;

use anyhow::Result;
use pg_test::movement::{complains, joined, nothing_is_left, reaches, under_load};
use pg_test::{Keys, Workload, eventually};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_modulus_changes_while_clients_write() -> Result<()> {
    let cluster = joined(3)?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&Keys::Bigint.create_sql("t"))?;
    client.batch_execute("SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{local, n1}')")?;
    Keys::Bigint.load(&mut client, "t", 5_000)?;
    let calls = [
        "shard_set_modulus('t', 3, nodes => '{local, n1, n2}')",
        "shard_set_modulus('t', 5, nodes => '{n1, n2, n3}')",
        "shard_set_modulus('t', 2, nodes => '{local}')",
        "shard_set_modulus('t', 4)",
    ];
    under_load(&cluster, "t", Keys::Bigint, Workload::default(), &calls)
}

#[test]
fn a_leaf_moves_while_clients_write() -> Result<()> {
    let cluster = joined(2)?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&Keys::Text.create_sql("t"))?;
    client.batch_execute("SELECT shard_create_parent('t', 'hash', 'id', modulus => 2)")?;
    Keys::Text.load(&mut client, "t", 5_000)?;
    let calls = [
        "shard_move_partition('t_0', 'n1')",
        "shard_move_partition('t_0', 'n2')",
        "shard_move_partition('t_1', 'n2')",
        "shard_move_partition('t_0', 'local')",
    ];
    under_load(&cluster, "t", Keys::Text, Workload { direct: 1, ..Workload::default() }, &calls)
}

/// Autovacuum and `shard_tree` go by them, and a worker may live long.
#[test]
fn what_a_worker_writes_counts_in_the_statistics_while_it_lives() -> Result<()> {
    let cluster = joined(1)?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(
        "CREATE TABLE t (id bigint PRIMARY KEY);
         SELECT shard_create_parent('t', 'hash', 'id', modulus => 1, nodes => '{n1}');
         INSERT INTO t SELECT generate_series(1, 3000)",
    )?;
    let mut reader = cluster.coordinator.client()?;
    reader.batch_execute("BEGIN; SELECT count(*) FROM t WHERE id = 1")?;
    let id: i64 = client.query_one("SELECT shard_move_partition('t_0', 'local')", &[])?.get(0);
    complains(&cluster, id, "nobody holds the parent", LIMIT)?;
    let rows =
        "SELECT pg_stat_get_live_tuples(c.oid) = 3000 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname ~ '^shardkeeper_op_' AND c.relname = 't_0'";
    eventually("the rows are counted", LIMIT, || cluster.coordinator.value(rows))?;
    reader.batch_execute("COMMIT")?;
    reaches(&cluster, id, "switched", LIMIT)?;
    client.execute("SELECT shard_finish($1)", &[&id])?;
    nothing_is_left(&cluster)
}

/// More changes than a look at a slot takes, at the comparison and then at the switch.
#[test]
fn a_long_pause_loses_no_change() -> Result<()> {
    let cluster = joined(2)?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(
        "CREATE TABLE t (id bigint PRIMARY KEY, counter bigint NOT NULL);
         SELECT shard_create_parent('t', 'hash', 'id', modulus => 1, nodes => '{n1}');
         INSERT INTO t SELECT i, 0 FROM generate_series(1, 30000) AS i",
    )?;
    let mut reader = cluster.coordinator.client()?;
    reader.batch_execute("BEGIN; SELECT count(*) FROM t WHERE id = 1")?;
    let id: i64 = client.query_one("SELECT shard_move_partition('t_0', 'n2')", &[])?.get(0);
    complains(&cluster, id, "nobody holds the parent", LIMIT)?;
    client.execute("SELECT shard_pause($1)", &[&id])?;
    let left = "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'shardkeeper operation'";
    eventually("the worker has left", LIMIT, || cluster.coordinator.value(left))?;
    for _ in 0..6 {
        cluster.nodes()[0].run("UPDATE t_0 SET counter = counter + 1")?;
    }
    client.execute("SELECT shard_resume($1)", &[&id])?;
    reader.batch_execute("COMMIT")?;
    reaches(&cluster, id, "switched", LIMIT)?;
    let sums = client.query_one("SELECT count(*), sum(counter)::bigint FROM t", &[])?;
    assert_eq!((sums.get::<_, i64>(0), sums.get::<_, i64>(1)), (30_000, 180_000));
    client.execute("SELECT shard_finish($1)", &[&id])?;
    nothing_is_left(&cluster)
}
