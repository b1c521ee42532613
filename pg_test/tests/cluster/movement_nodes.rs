//! Changing and dropping nodes on which operations keep something.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::movement::{complains, ends, joined, nothing_is_left, reaches, told};
use pg_test::objects::settled;
use pg_test::sql::{column, refused};
use pg_test::{Cluster, PATIENCE};
use postgres::Client;

const LIMIT: Duration = Duration::from_secs(60);

fn scene() -> Result<(Cluster, Client)> {
    let cluster = joined(2)?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY, note text);
         SELECT shard_create_parent('t', 'hash', 'id', modulus => 3, nodes => '{n1}');
         INSERT INTO t SELECT i, 'x' FROM generate_series(1, 300) AS i",
    )?;
    Ok((cluster, client))
}

fn moved(cluster: &Cluster, client: &mut Client, arguments: &str) -> Result<i64> {
    let id: i64 = client.query_one(&format!("SELECT shard_move_partition({arguments})"), &[])?.get(0);
    reaches(cluster, id, "switched", LIMIT)?;
    Ok(id)
}

#[test]
fn a_node_is_altered_while_what_was_moved_from_it_is_kept() -> Result<()> {
    let (cluster, mut client) = scene()?;
    let there = format!("SELECT shard_alter_node('n1', port => {})", cluster.proxy(1).port());
    let back = format!("SELECT shard_alter_node('n1', port => {})", cluster.node(1).port());
    let blocking = moved(&cluster, &mut client, "'t_0', 'n2', mode => 'block_writes'")?;
    client.batch_execute(&there).with_context(|| told(&cluster))?;
    // Right after the switch, and when all is settled.
    let online = moved(&cluster, &mut client, "'t_1', 'n2'")?;
    for _ in 0..10 {
        client.batch_execute(&back).with_context(|| told(&cluster))?;
        client.batch_execute(&there).with_context(|| told(&cluster))?;
    }
    // It is another database still, for what serves and for what is kept.
    let elsewhere = format!("SELECT shard_alter_node('n1', port => {})", cluster.node(2).port());
    let error = refused(&mut client, &elsewhere)?;
    assert_eq!((error.code().code(), error.message()), ("22023", "node \"n1\" would lose its partitions"));
    ensure!(error.detail().is_some_and(|detail| detail.contains("3 of 3 tables")), "{error:?}");
    // The way back leads to the node.
    client.execute("SELECT shard_revert($1)", &[&online])?;
    reaches(&cluster, online, "reverted", LIMIT)?;
    client.execute("SELECT shard_finish($1)", &[&blocking])?;
    ends(&cluster, blocking, LIMIT)?;
    client.batch_execute(&back)?;
    ensure!(client.query_one("SELECT count(*) FROM t", &[])?.get::<_, i64>(0) == 300);
    nothing_is_left(&cluster)
}

#[test]
fn a_node_whose_mirror_is_kept_for_an_operation_says_for_which() -> Result<()> {
    let (cluster, mut client) = scene()?;
    // To n2 and away again: nothing is stored there, but the first move is kept.
    let first = moved(&cluster, &mut client, "'t_0', 'n2'")?;
    let call = "SELECT shard_move_partition('t_0', 'n1', keep => '0')";
    let second: i64 = client.query_one(call, &[])?.get(0);
    reaches(&cluster, second, "finished", LIMIT)?;
    ends(&cluster, second, LIMIT)?;
    let error = refused(&mut client, "SELECT shard_drop_node('n2')")?;
    assert_eq!((error.code().code(), error.message()), ("2BP01", "node \"n2\" still has the mirrors of 1 parent"));
    let hint = format!("Run SELECT shard_finish({first}); SELECT shard_wait({first}); and drop it again.");
    assert_eq!(error.hint(), Some(hint.as_str()), "{error:?}");
    client.execute("SELECT shard_finish($1)", &[&first])?;
    ends(&cluster, first, LIMIT)?;
    settled(&cluster, PATIENCE)?;
    client.batch_execute("SELECT shard_drop_node('n2')")?;
    nothing_is_left(&cluster)
}

#[test]
fn a_mirror_that_somebody_dropped_is_in_the_way_of_no_end() -> Result<()> {
    let (cluster, mut client) = scene()?;
    let mut reader = cluster.coordinator.client()?;
    reader.batch_execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")?;
    let id: i64 = client.query_one("SELECT shard_move_partition('t_0', 'n2')", &[])?.get(0);
    complains(&cluster, id, "nobody holds the parent", LIMIT)?;
    client.execute("SELECT shard_pause($1)", &[&id])?;
    reader.batch_execute("ROLLBACK")?;
    cluster.node(2).run("DROP TABLE public.t CASCADE")?;
    client.execute("SELECT shard_cancel($1)", &[&id])?;
    ends(&cluster, id, LIMIT)?;
    settled(&cluster, PATIENCE)?;
    nothing_is_left(&cluster)?;
    let wrong = column(&mut client, "SELECT finding FROM shard_check() WHERE severity <> 'ok'")?;
    ensure!(wrong.is_empty(), "{wrong:?}");
    ensure!(client.query_one("SELECT count(*) FROM t", &[])?.get::<_, i64>(0) == 300);
    Ok(())
}

#[test]
fn a_node_stays_while_an_operation_is_about_to_bring_it_partitions() -> Result<()> {
    let (cluster, mut client) = scene()?;
    for call in [
        "shard_move_partition('t_0', 'n2')",
        "shard_set_modulus('t', 6, nodes => '{n2, local}')",
        "shard_rebalance('t', nodes => '{n2}')",
    ] {
        client.batch_execute("BEGIN")?;
        let id: i64 = client.query_one(&format!("SELECT {call}"), &[])?.get(0);
        client.batch_execute(&format!("SELECT shard_pause({id}); COMMIT"))?;
        let error = refused(&mut client, "SELECT shard_drop_node('n2')")?;
        let message = format!("operation {id} brings partitions to node n2");
        assert_eq!((error.code().code(), error.message()), ("55006", message.as_str()), "{call}");
        client.execute("SELECT shard_cancel($1)", &[&id])?;
        ends(&cluster, id, LIMIT)?;
    }
    client.batch_execute("SELECT shard_drop_node('n2')")?;
    let error = refused(&mut client, "SELECT shard_move_partition('t_0', 'n2')")?;
    ensure!(error.code().code() == "42704", "{error:?}");
    nothing_is_left(&cluster)
}

#[test]
fn all_that_is_kept_on_a_node_is_ended_by_one_hint() -> Result<()> {
    let (cluster, mut client) = scene()?;
    let ids = ["'t_0', 'n2'", "'t_1', 'n2'", "'t_2', 'n2'"].map(|leaf| moved(&cluster, &mut client, leaf));
    let ids = ids.into_iter().collect::<Result<Vec<i64>>>()?;
    let error = refused(&mut client, "SELECT shard_drop_node('n1')")?;
    assert_eq!((error.code().code(), error.message()), ("2BP01", "node \"n1\" still stores 3 replaced partitions"));
    let hint = error.hint().unwrap_or_default().to_string();
    for id in &ids {
        ensure!(hint.contains(&id.to_string()), "{hint}");
    }
    // As it says, and as it is typed.
    let calls =
        hint.strip_prefix("Run ").and_then(|rest| rest.split_once(" and drop")).map(|(calls, _)| calls.to_string());
    for call in calls.context("a hint without calls")?.split_inclusive(';') {
        cluster.coordinator.run(call).with_context(|| call.to_string())?;
    }
    let states = column(&mut client, "SELECT DISTINCT state FROM shard_operations")?;
    assert_eq!(states, ["finished"]);
    settled(&cluster, PATIENCE)?;
    client.batch_execute("SELECT shard_drop_node('n1')")?;
    nothing_is_left(&cluster)
}

/// The error of one move is that of its group, for whoever waits and whoever plans.
#[test]
fn what_keeps_a_move_of_a_group_is_told_with_the_group() -> Result<()> {
    let (cluster, mut client) = scene()?;
    cluster.node(1).run("ALTER TABLE t_1 REPLICA IDENTITY NOTHING")?;
    let planned = column(&mut client, "SELECT action FROM shard_plan_drain_node('n1')")?;
    ensure!(planned.iter().any(|action| action.contains("t_1 on node n1 has no replica identity")), "{planned:?}");
    let group: i64 = client.query_one("SELECT shard_drain_node('n1')", &[])?.get(0);
    complains(&cluster, group, "t_1 on node n1 has no replica identity", LIMIT)?;
    let error = refused(&mut client, &format!("SELECT shard_wait({group}, '100 ms')"))?;
    ensure!(error.detail().is_some_and(|detail| detail.contains("has no replica identity")), "{error:?}");
    cluster.node(1).run("ALTER TABLE t_1 REPLICA IDENTITY DEFAULT")?;
    reaches(&cluster, group, "finished", LIMIT)
}
