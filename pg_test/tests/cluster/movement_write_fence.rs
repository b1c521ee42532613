//! A switch whose commit is split: a node has the new partition, the coordinator does not yet. Nothing that a direct writer was
//! told to be committed there is lost when the switch is undone.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::movement::{ends, field, filled, joined_by_proxy, nothing_is_left, reaches, told};
use pg_test::objects::settled;
use pg_test::sql::refused;
use pg_test::{Cluster, Keys, PATIENCE, Then, eventually};
use postgres::Client;

const LIMIT: Duration = Duration::from_secs(60);

/// `t` with a leaf on n1 and one on the coordinator; nodes are reached through their proxies.
fn scene() -> Result<(Cluster, Client)> {
    let create = "SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1, local}')";
    filled(joined_by_proxy(2)?, Keys::Bigint, create, 1_000)
}

/// Calls for an operation that brings a partition to the node `to`, which commits the switch; the other one gets no COMMIT.
fn split(cluster: &Cluster, client: &mut Client, call: &str, to: usize) -> Result<i64> {
    // The last command before the commit: n2 is the last node of the switch.
    let swap = cluster.proxy(2).stall_on(b"shardkeeper.relocate");
    let id = match call.strip_suffix("(id)") {
        None => client.query_one(&format!("SELECT {call}"), &[])?.get(0),
        Some(function) => {
            let id: i64 = cluster.coordinator.value("SELECT max(id) FROM shard_operations")?;
            client.execute(&format!("SELECT {function}($1)"), &[&id])?;
            id
        }
    };
    swap.wait_until_hit(LIMIT).with_context(|| told(cluster))?;
    let commit = b"COMMIT TRANSACTION";
    let then = |node: usize| if node == to { Then::StallAnswer } else { Then::Stall };
    let traps = [cluster.proxy(1).on(commit, then(1)), cluster.proxy(2).resume_until(commit, then(2))];
    traps.iter().try_for_each(|trap| trap.wait_until_hit(PATIENCE)).with_context(|| told(cluster))?;
    eventually("the node has committed the switch", PATIENCE, || {
        Ok(cluster.node(to).count("shardkeeper.switches")? == 1)
    })?;
    Ok(id)
}

fn mark(note: &str) -> String {
    format!("UPDATE t SET payload = '{note}' WHERE id = (SELECT min(id) FROM t_0)")
}

fn marked(cluster: &Cluster, note: &str) -> Result<i64> {
    cluster.coordinator.value(&format!("SELECT count(*) FROM t WHERE payload = '{note}'"))
}

#[test]
fn a_direct_writer_waits_for_the_coordinator_s_commit() -> Result<()> {
    let (cluster, mut client) = scene()?;
    for (call, to, state) in [("shard_move_partition('t_0', 'n2')", 2, "switched"), ("shard_revert(id)", 1, "reverted")]
    {
        let id = split(&cluster, &mut client, call, to)?;
        let mut direct = cluster.node(to).client()?;
        for statement in [&mark("lost"), "DELETE FROM t", "INSERT INTO t_0 SELECT * FROM t_0", "TRUNCATE t"] {
            let error = refused(&mut direct, statement)?;
            ensure!(
                error.code().code() == "40001" && error.message().contains("about to come"),
                "{statement}: {error}"
            );
        }
        // Readers see it.
        ensure!(cluster.node(to).count("t_0")? > 0);
        // The news comes, and the one who tries again gets through.
        let note = format!("after {call}");
        cluster.servers().skip(1).zip(1..).for_each(|(_, number)| cluster.proxy(number).resume());
        eventually("the direct writer gets through", PATIENCE, || {
            match direct.execute(&mark(&note.replace('\'', "")), &[]) {
                Ok(rows) => Ok(rows == 1),
                Err(error) if error.code().is_some_and(|code| code.code() == "40001") => Ok(false),
                Err(error) => Err(error.into()),
            }
        })?;
        reaches(&cluster, id, state, LIMIT)?;
        assert_eq!(marked(&cluster, &note.replace('\'', ""))?, 1);
        eventually("the gate is gone", PATIENCE, || {
            cluster.node(to).value("SELECT count(*) = 0 FROM pg_trigger WHERE tgname ~ 'write_fence'")
        })?;
    }
    assert_eq!(marked(&cluster, "lost")?, 0);
    nothing_is_left(&cluster)
}

#[test]
fn a_coordinator_that_dies_in_a_split_switch_loses_no_direct_write() -> Result<()> {
    let (cluster, mut client) = scene()?;
    for (call, to, state) in [("shard_move_partition('t_0', 'n2')", 2, "switched"), ("shard_revert(id)", 1, "reverted")]
    {
        let rows = cluster.coordinator.count("t")?;
        let id = split(&cluster, &mut client, call, to)?;
        cluster.coordinator.kill9()?;
        (1..=2).for_each(|number| cluster.proxy(number).cut());
        let mut direct = cluster.node(to).client()?;
        let error = refused(&mut direct, &mark("lost"))?;
        ensure!(error.code().code() == "40001", "{error}");
        (1..=2).for_each(|number| cluster.proxy(number).resume());
        cluster.coordinator.start()?;
        client = cluster.coordinator.patient()?;
        reaches(&cluster, id, state, LIMIT)?;
        settled(&cluster, PATIENCE)?;
        eventually("a direct writer gets through", PATIENCE, || {
            Ok(direct.execute(&mark(state), &[]).is_ok_and(|n| n == 1))
        })?;
        assert_eq!((marked(&cluster, state)?, marked(&cluster, "lost")?), (1, 0));
        assert_eq!(cluster.coordinator.count("t")?, rows);
        ensure!(field(&cluster, id, "error")?.is_empty(), "{}", told(&cluster));
    }
    let last: i64 = cluster.coordinator.value("SELECT max(id) FROM shard_operations")?;
    ends(&cluster, last, LIMIT)?;
    nothing_is_left(&cluster)
}

#[test]
fn a_coordinator_that_dies_before_it_brings_the_news_brings_them_after_its_restart() -> Result<()> {
    let (cluster, _client) = scene()?;
    // The switch brings the same words with it, to be undone by.
    let swap = cluster.proxy(2).stall_on(b"shardkeeper.relocate");
    let id: i64 = cluster.coordinator.value("SELECT shard_move_partition('t_0', 'n2')")?;
    swap.wait_until_hit(LIMIT).with_context(|| told(&cluster))?;
    let commit = cluster.proxy(2).resume_until(b"COMMIT TRANSACTION", Then::StallAnswer);
    commit.wait_until_hit(LIMIT).with_context(|| told(&cluster))?;
    let news = cluster.proxy(2).resume_until(b"DELETE FROM shardkeeper.switches", Then::Stall);
    news.wait_until_hit(LIMIT).with_context(|| told(&cluster))?;
    cluster.coordinator.kill9()?;
    let mut direct = cluster.node(2).client()?;
    let error = refused(&mut direct, &mark("early"))?;
    ensure!(error.code().code() == "40001", "{error}");
    // What was on its way is lost.
    (1..=2).for_each(|number| cluster.proxy(number).cut());
    (1..=2).for_each(|number| cluster.proxy(number).resume());
    cluster.coordinator.start()?;
    eventually("a direct writer gets through", PATIENCE, || {
        Ok(direct.execute(&mark("late"), &[]).is_ok_and(|n| n == 1))
    })?;
    reaches(&cluster, id, "switched", LIMIT)?;
    assert_eq!((marked(&cluster, "late")?, marked(&cluster, "early")?), (1, 0));
    cluster.coordinator.run(&format!("SELECT shard_finish({id})"))?;
    ends(&cluster, id, LIMIT)?;
    nothing_is_left(&cluster)
}

#[test]
fn a_revert_that_is_given_up_half_made_is_undone_first() -> Result<()> {
    let (cluster, mut client) = scene()?;
    let rows = cluster.coordinator.count("t")?;
    let id = split(&cluster, &mut client, "shard_move_partition('t_0', 'n2')", 2)?;
    (1..=2).for_each(|number| cluster.proxy(number).resume());
    reaches(&cluster, id, "switched", LIMIT)?;
    split(&cluster, &mut client, "shard_revert(id)", 1)?;
    cluster.coordinator.kill9()?;
    (1..=2).for_each(|number| cluster.proxy(number).cut());
    cluster.coordinator.start()?;
    client = cluster.coordinator.patient()?;
    client.execute("SELECT shard_cancel($1)", &[&id])?;
    // The rows are on n2, in the schema of what was rejected: it must not be taken for switched yet, however often it is tried.
    let tries = || -> Result<i64> { Ok(field(&cluster, id, "tries")?.parse()?) };
    let before = tries()?;
    eventually("it cannot reach the nodes", LIMIT, || {
        let state = field(&cluster, id, "state")?;
        ensure!(state == "reverting", "{state}\n{}", told(&cluster));
        Ok(tries()? >= before + 2)
    })?;
    (1..=2).for_each(|number| cluster.proxy(number).resume());
    reaches(&cluster, id, "switched", LIMIT)?;
    ensure!(cluster.node(2).count("t_0")? > 0);
    assert_eq!(cluster.coordinator.count("t")?, rows);
    client.execute("SELECT shard_finish($1)", &[&id])?;
    ends(&cluster, id, LIMIT)?;
    assert_eq!(cluster.coordinator.count("t")?, rows);
    nothing_is_left(&cluster)
}
