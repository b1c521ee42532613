//! A crash between the commits of two targets: one has a change, the other does not, and it has to come there all the same,
//! whatever has become of the row in its source by then.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::movement::{complains, ends, joined_by_proxy, nothing_is_left, reaches, told};
use pg_test::sql::column;
use pg_test::{Cluster, Server, Then};
use postgres::Client;

const LIMIT: Duration = Duration::from_secs(60);

/// Rows whose large value no change of another column tells, in two leaves.
fn scene(home: &str) -> Result<(Cluster, Client)> {
    let cluster = joined_by_proxy(3)?;
    cluster.coordinator.configure(&[("shardkeeper.trash_keep", "0")])?;
    cluster.coordinator.reload()?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(&format!(
        "CREATE TABLE t (id bigint PRIMARY KEY, was bigint, note text, large text);
         ALTER TABLE t ALTER large SET STORAGE EXTERNAL;
         SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{{{home}}}');
         INSERT INTO t SELECT i, i, 'before', repeat(md5(i::text), 300) FROM generate_series(1, 300) AS i"
    ))?;
    Ok((cluster, client))
}

/// Keys of one of two leaves that belong to one of three.
fn keys(client: &mut Client, leaf: i32, target: i32, from: i64) -> Result<Vec<i64>> {
    let rows = client.query(
        "SELECT i FROM generate_series($1::bigint, $1 + 200) AS i
         WHERE satisfies_hash_partition('t'::regclass, 2, $2, i) AND satisfies_hash_partition('t'::regclass, 3, $3, i) ORDER BY i",
        &[&from, &leaf, &target],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The coordinator is there again, and reaches no node yet.
fn crash(cluster: &Cluster) -> Result<()> {
    cluster.coordinator.kill9()?;
    for number in 1..=3 {
        cluster.proxy(number).cut();
        cluster.proxy(number).resume();
        cluster.proxy(number).stall();
    }
    cluster.coordinator.start()
}

/// The operation goes on, and all rows are what they are in their source.
fn goes_on(cluster: &Cluster, id: i64, source: &Server) -> Result<()> {
    let mut client = source.client()?;
    let mut rows = column(&mut client, "SELECT concat_ws(' ', id, was, note) FROM t_0")?;
    rows.extend(column(&mut client, "SELECT concat_ws(' ', id, was, note) FROM t_1")?);
    rows.sort();
    (1..=3).for_each(|number| cluster.proxy(number).resume());
    reaches(cluster, id, "switched", LIMIT)?;
    let mut client = cluster.coordinator.patient()?;
    let mut now = column(&mut client, "SELECT concat_ws(' ', id, was, note) FROM t")?;
    now.sort();
    assert_eq!(now, rows);
    let wrong = "SELECT count(*) FROM t WHERE large IS DISTINCT FROM repeat(md5(was::text), 300)";
    assert_eq!(client.query_one(wrong, &[])?.get::<_, i64>(0), 0);
    client.execute("SELECT shard_finish($1)", &[&id])?;
    ends(cluster, id, LIMIT)?;
    nothing_is_left(cluster)
}

/// Rows go from one target to the other. The one that they leave has committed when the coordinator dies, the other one has
/// not. Until it is back, some are changed again, some go back, are deleted or truncated.
fn rows_that_had_left_arrive(home: &str, nodes: &str, last: &str) -> Result<()> {
    let (cluster, mut client) = scene(home)?;
    let source = if home == "local" { &cluster.coordinator } else { cluster.node(3) };
    let mut reader = cluster.coordinator.client()?;
    reader.batch_execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")?;
    let id: i64 = client.query_one(&format!("SELECT shard_set_modulus('t', 3, nodes => '{nodes}')"), &[])?.get(0);
    complains(&cluster, id, "nobody holds the parent", LIMIT)?;

    let (first, second) = (keys(&mut client, 0, 0, 1)?, keys(&mut client, 0, 1, 1000)?);
    let (back, other) = (keys(&mut client, 0, 0, 2000)?, keys(&mut client, 1, 0, 1)?);
    let far = keys(&mut client, 1, 1, 1000)?;
    let hit = match last {
        "local" => cluster.proxy(1).on(b"COMMIT", Then::StallAnswer),
        _ => cluster.proxy(2).stall_on(b"the row that moves"),
    };
    let mut writer = source.client()?;
    let mut transaction = writer.transaction()?;
    let moves = (0..7).map(|at| (first[at], second[at], "t_0")).chain([(other[0], far[0], "t_1")]);
    for (from, to, leaf) in moves {
        let update = format!("UPDATE {leaf} SET id = $1, note = 'the row that moves' WHERE id = $2");
        ensure!(transaction.execute(&update, &[&to, &from])? == 1);
    }
    transaction.commit()?;
    hit.wait_until_hit(LIMIT).with_context(|| told(&cluster))?;
    // What the rows took along is safe where they have left.
    let staging: String = cluster.coordinator.value("SELECT staging FROM shardkeeper.operations")?;
    let handed = format!("SELECT count(*) FROM {staging}.shardkeeper_progress WHERE handed IS NOT NULL");
    assert_eq!(cluster.node(1).value::<i64>(&handed)?, 8);
    drop(writer);
    crash(&cluster)?;

    let mut writer = source.patient()?;
    let mut change = |from: i64, to: i64| -> Result<()> {
        ensure!(writer.execute("UPDATE t_0 SET id = $1 WHERE id = $2", &[&to, &from])? == 1);
        Ok(())
    };
    // Once more: to the other target, and within its own.
    change(second[1], back[1])?;
    change(second[2], second[12])?;
    // Twice and thrice, and back.
    change(second[3], back[3])?;
    change(back[3], second[13])?;
    change(second[4], second[14])?;
    change(second[14], back[4])?;
    change(back[4], second[24])?;
    change(second[5], first[5])?;
    writer.execute("DELETE FROM t_0 WHERE id = $1", &[&second[6]])?;
    writer.batch_execute("TRUNCATE t_1")?;
    goes_on(&cluster, id, source)
}

#[test]
fn rows_that_had_left_arrive_from_the_coordinator() -> Result<()> {
    rows_that_had_left_arrive("local", "{n1, n2, n1}", "n2")
}

#[test]
fn rows_that_had_left_arrive_from_a_node() -> Result<()> {
    rows_that_had_left_arrive("n3", "{n1, n2, n1}", "n2")
}

#[test]
fn rows_that_had_left_arrive_on_the_coordinator() -> Result<()> {
    rows_that_had_left_arrive("n3", "{n1, local, n1}", "local")
}

/// The first target has committed its part of the copy, the other one has not. What is changed before the copy is made again
/// would come to the first as changes, and to the other one as rows.
#[test]
fn a_copy_that_only_one_target_has_is_made_again_for_all() -> Result<()> {
    let (cluster, mut client) = scene("local")?;
    let hit = cluster.proxy(2).stall_on(b"FROM STDIN (FORMAT binary)");
    let id: i64 = client.query_one("SELECT shard_set_modulus('t', 3, nodes => '{n1, n2, n1}')", &[])?.get(0);
    hit.wait_until_hit(LIMIT).with_context(|| told(&cluster))?;
    let hit = cluster.proxy(2).resume_until(b"COMMIT", Then::Stall);
    hit.wait_until_hit(LIMIT).with_context(|| told(&cluster))?;
    let (first, second) = (keys(&mut client, 0, 0, 1000)?, keys(&mut client, 0, 1, 1)?);
    let staging: String = cluster.coordinator.value("SELECT staging FROM shardkeeper.operations")?;
    let copied = format!("SELECT count(*) FROM {staging}.shardkeeper_progress WHERE snapshot IS NOT NULL");
    assert_eq!(cluster.node(1).value::<i64>(&copied)?, 1);
    crash(&cluster)?;

    let mut writer = cluster.coordinator.patient()?;
    let mut change = |from: i64, to: i64| -> Result<()> {
        ensure!(writer.execute("UPDATE t_0 SET id = $1 WHERE id = $2", &[&to, &from])? == 1);
        Ok(())
    };
    change(second[0], first[0])?;
    change(first[0], second[0])?;
    change(second[1], first[1])?;
    writer.execute("DELETE FROM t_0 WHERE id = $1", &[&first[1]])?;
    goes_on(&cluster, id, &cluster.coordinator)
}
