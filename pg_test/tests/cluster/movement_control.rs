//! Steering operations, and what is in their way: a pause holds, a cancel leaves nothing, an obstacle is told and waited for.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::movement::{
    complains, ends, field, filled, is_as_before, joined_by_proxy, nothing_is_left, objects, reaches, told,
};
use pg_test::sql::{code, refused};
use pg_test::{Cluster, Keys, Ledger, PATIENCE, Workload, eventually};
use postgres::Client;

const LIMIT: Duration = Duration::from_secs(60);

/// `t` with a leaf on n1 and one on the coordinator; nodes are reached through their proxies.
fn scene() -> Result<(Cluster, Client)> {
    let create = "SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1, local}')";
    filled(joined_by_proxy(2)?, Keys::Bigint, create, 2_000)
}

const MOVE: &str = "SELECT shard_move_partition('t_0', 'n2')";

/// Each state before the switch that nothing but a statement can hold: the node that gets it, and the statement.
const STATES: [(&str, usize, &str); 5] = [
    ("preparing", 1, "pg_create_logical_replication_slot"),
    ("copying", 1, "COPY (SELECT"),
    ("catching_up", 1, "pg_logical_slot_peek_binary_changes"),
    ("verifying", 2, "hashtextextended"),
    ("ready", 1, "CREATE SCHEMA IF NOT EXISTS"),
];

/// Begins the move and does `work` while it is in the middle of a state.
fn amid(
    cluster: &Cluster,
    (state, node, statement): (&str, usize, &str),
    work: impl FnOnce(i64) -> Result<()>,
) -> Result<i64> {
    let hit = cluster.proxy(node).stall_on(statement.as_bytes());
    let id: i64 = cluster.coordinator.value(MOVE)?;
    hit.wait_until_hit(PATIENCE).with_context(|| told(cluster))?;
    ensure!(field(cluster, id, "phase")? == state, "{}", told(cluster));
    work(id)?;
    cluster.proxy(node).resume();
    Ok(id)
}

fn begin(cluster: &Cluster, call: &str) -> Result<i64> {
    cluster.coordinator.value(call)
}

fn finish(cluster: &Cluster, id: i64) -> Result<()> {
    reaches(cluster, id, "switched", LIMIT)?;
    cluster.coordinator.run(&format!("SELECT shard_finish({id})"))?;
    ends(cluster, id, LIMIT)
}

/// A session that keeps the switch from its lock, as a report does that never ends.
fn reader(cluster: &Cluster) -> Result<Client> {
    let mut reader = cluster.coordinator.client()?;
    reader.batch_execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")?;
    Ok(reader)
}

fn worker_is_gone(cluster: &Cluster) -> Result<()> {
    let none = "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'shardkeeper operation'";
    eventually("the worker has left", PATIENCE, || cluster.coordinator.value(none))
}

#[test]
fn a_cancel_in_each_state_leaves_nothing() -> Result<()> {
    let (cluster, _) = scene()?;
    let before = objects(&cluster)?;
    let ledger = Ledger::start(&cluster, "t", Keys::Bigint, Workload { clients: 2, ..Workload::default() })?;
    let gone = |id: i64, state: &str| -> Result<()> {
        ends(&cluster, id, LIMIT).with_context(|| state.to_string())?;
        ensure!(field(&cluster, id, "state")? == "cancelled", "{state}: {}", told(&cluster));
        nothing_is_left(&cluster).with_context(|| state.to_string())?;
        is_as_before(&cluster, &before).with_context(|| state.to_string())?;
        ledger.check(&cluster).with_context(|| state.to_string())
    };
    for state in STATES {
        let id = amid(&cluster, state, |id| cluster.coordinator.run(&format!("SELECT shard_cancel({id})")))?;
        gone(id, state.0)?;
    }
    let mut reader = reader(&cluster)?;
    let id = begin(&cluster, MOVE)?;
    complains(&cluster, id, "nobody holds the parent", LIMIT)?;
    cluster.coordinator.run(&format!("SELECT shard_cancel({id})"))?;
    ends(&cluster, id, LIMIT)?;
    reader.batch_execute("COMMIT")?;
    gone(id, "switching")?;
    let id = begin(&cluster, MOVE)?;
    finish(&cluster, id)?;
    ledger.stop()?.check(&cluster)?;
    nothing_is_left(&cluster)
}

#[test]
fn a_pause_in_each_state_holds_until_the_resume() -> Result<()> {
    let (cluster, mut client) = scene()?;
    let ledger = Ledger::start(&cluster, "t", Keys::Bigint, Workload { clients: 2, ..Workload::default() })?;
    let hold = |id: i64| -> Result<()> {
        worker_is_gone(&cluster)?;
        ensure!(field(&cluster, id, "state")? == "paused", "{}", told(&cluster));
        Ok(())
    };
    for state in STATES {
        let id = amid(&cluster, state, |id| cluster.coordinator.run(&format!("SELECT shard_pause({id})")))?;
        hold(id)?;
        let waited = refused(&mut client, &format!("SELECT shard_wait({id})"))?;
        ensure!(waited.code().code() == "55000" && waited.hint() == Some(&format!("Run SELECT shard_resume({id});")));
        cluster.coordinator.run(&format!("SELECT shard_resume({id})"))?;
        finish(&cluster, id).with_context(|| state.0)?;
        ledger.check(&cluster).with_context(|| state.0)?;
        let id = begin(&cluster, "SELECT shard_move_partition('t_0', 'n1')")?;
        finish(&cluster, id)?;
    }
    let mut reader = reader(&cluster)?;
    let id = begin(&cluster, MOVE)?;
    complains(&cluster, id, "nobody holds the parent", LIMIT)?;
    cluster.coordinator.run(&format!("SELECT shard_pause({id})"))?;
    hold(id)?;
    reader.batch_execute("COMMIT")?;
    cluster.coordinator.run(&format!("SELECT shard_resume({id})"))?;
    finish(&cluster, id)?;
    ledger.stop()?.check(&cluster)?;
    nothing_is_left(&cluster)
}

#[test]
fn wishes_that_cannot_be_granted_are_refused_with_what_to_do_instead() -> Result<()> {
    let (cluster, mut client) = scene()?;
    client.batch_execute(
        "CREATE TABLE u (id int PRIMARY KEY);
         SELECT shard_create_parent('u', 'hash', 'id', modulus => 2, nodes => '{n1, local}');
         INSERT INTO u SELECT generate_series(1, 100); CREATE ROLE stranger LOGIN PASSWORD 'stranger'",
    )?;
    let own = refused(&mut client, "BEGIN; SELECT shard_wait(shard_move_partition('u_0', 'n2'))")?;
    ensure!(own.code().code() == "55000" && own.hint() == Some("Commit first, and wait then."), "{own:?}");
    client.batch_execute("ROLLBACK")?;
    let id = amid(&cluster, STATES[2], |id| {
        let finish = refused(&mut client, &format!("SELECT shard_finish({id})"))?;
        ensure!(finish.code().code() == "55000" && finish.hint().is_some_and(|hint| hint.contains("shard_cancel")));
        let second = refused(&mut client, "SELECT shard_move_partition('t_1', 'n2')")?;
        ensure!(second.code().code() == "55006" && second.hint().is_some_and(|hint| hint.contains("shard_wait")));
        let late = refused(&mut client, &format!("SELECT shard_wait({id}, '200 ms')"))?;
        ensure!(late.code().code() == "57014" && late.message().contains("catching_up"), "{late:?}");
        let mut stranger = cluster.coordinator.client_as("stranger", "stranger", "app")?;
        for call in ["shard_pause", "shard_resume", "shard_cancel", "shard_finish"] {
            ensure!(code(&mut stranger, &format!("SELECT {call}({id})"))? == "42501", "{call}");
            ensure!(code(&mut client, &format!("SELECT {call}(4711)"))? == "42704", "{call}");
        }
        ensure!(code(&mut stranger, "SELECT shard_move_partition('u_0', 'n2')")? == "42501");
        Ok(())
    })?;
    // Another parent is another matter.
    let beside = begin(&cluster, "SELECT shard_move_partition('u_0', 'n2')")?;
    reaches(&cluster, id, "switched", LIMIT)?;
    reaches(&cluster, beside, "switched", LIMIT)?;
    let cancel = refused(&mut client, &format!("SELECT shard_cancel({id})"))?;
    ensure!(cancel.code().code() == "55000" && cancel.hint().is_some(), "{cancel:?}");
    finish(&cluster, id)?;
    finish(&cluster, beside)?;
    ensure!(code(&mut client, &format!("SELECT shard_pause({id})"))? == "55000");
    nothing_is_left(&cluster)
}

#[test]
fn a_session_that_keeps_its_lock_delays_the_switch_and_nobody_else() -> Result<()> {
    let (cluster, _) = scene()?;
    let ledger = Ledger::start(&cluster, "t", Keys::Bigint, Workload { clients: 2, ..Workload::default() })?;
    let mut reader = reader(&cluster)?;
    let id = begin(&cluster, MOVE)?;
    let hint = complains(&cluster, id, "nobody holds the parent", LIMIT)?;
    ensure!(hint.contains("pg_locks"), "{hint}");
    std::thread::sleep(Duration::from_secs(3));
    ensure!(field(&cluster, id, "state")? == "switching");
    reader.batch_execute("COMMIT")?;
    finish(&cluster, id)?;
    let outcome = ledger.stop()?;
    let longest = outcome.longest().context("clients did something")?;
    println!("{outcome}");
    ensure!(longest.took < Duration::from_secs(2), "{longest:?}");
    outcome.check(&cluster)
}

/// An obstacle: what the operation says of it, a word of its hint, and the move once it is gone.
fn overcomes(cluster: &Cluster, says: &str, hints: &str, remove: impl FnOnce() -> Result<()>) -> Result<()> {
    let id = begin(cluster, MOVE)?;
    let hint = complains(cluster, id, says, LIMIT)?;
    ensure!(hint.contains(hints), "{hint}");
    remove()?;
    finish(cluster, id)?;
    nothing_is_left(cluster)
}

#[test]
fn an_open_transaction_holds_up_the_start_and_is_named() -> Result<()> {
    let (cluster, _) = scene()?;
    let mut writer = cluster.node(1).client()?;
    writer.batch_execute("BEGIN; SELECT pg_current_xact_id()")?;
    overcomes(&cluster, "an open transaction on node n1", "by itself", || Ok(writer.batch_execute("COMMIT")?))
}

#[test]
fn a_source_that_cannot_tell_its_changes_is_waited_for() -> Result<()> {
    let (cluster, mut client) = scene()?;
    let node = cluster.node(1);
    node.configure(&[("wal_level", "replica"), ("max_replication_slots", "1")])?;
    node.restart()?;
    overcomes(&cluster, "wal_level", "logical", || {
        node.configure(&[("wal_level", "logical")])?;
        node.restart()
    })?;
    let back = begin(&cluster, "SELECT shard_move_partition('t_0', 'n1')")?;
    finish(&cluster, back)?;
    node.run("SELECT pg_create_physical_replication_slot('taken')")?;
    overcomes(&cluster, "no free replication slot", "max_replication_slots", || {
        node.run("SELECT pg_drop_replication_slot('taken')")
    })?;
    client.batch_execute(
        "CREATE TABLE bare (id int, note text);
         SELECT shard_create_parent('bare', 'hash', 'id', modulus => 2, nodes => '{n1, local}');
         INSERT INTO bare SELECT i, 'row' FROM generate_series(1, 100) i",
    )?;
    let id = begin(&cluster, "SELECT shard_move_partition('bare_0', 'n2')")?;
    let hint = complains(&cluster, id, "no replica identity", LIMIT)?;
    ensure!(hint.contains("REPLICA IDENTITY FULL"), "{hint}");
    node.run("ALTER TABLE bare_0 REPLICA IDENTITY FULL")?;
    finish(&cluster, id)?;
    client.batch_execute("ALTER TABLE bare_1 REPLICA IDENTITY FULL; ALTER TABLE bare_1 SET UNLOGGED")?;
    let id = begin(&cluster, "SELECT shard_move_partition('bare_1', 'n2')")?;
    let hint = complains(&cluster, id, "public.bare_1 on the coordinator is not logged", LIMIT)?;
    ensure!(hint.starts_with("Run ALTER TABLE public.bare_1 SET LOGGED;"), "{hint}");
    client.batch_execute("ALTER TABLE bare_1 SET LOGGED")?;
    finish(&cluster, id)?;
    ensure!(cluster.coordinator.count("bare")? == 100);
    nothing_is_left(&cluster)
}

/// What somebody does to a row of the copy, and what the operation says of its key.
const TAMPERING: [(&str, &str); 3] = [
    ("UPDATE {} SET payload = 'other' WHERE id = (SELECT max(id) FROM {})", "differs"),
    ("DELETE FROM {} WHERE id = (SELECT max(id) FROM {})", "is missing in the copy"),
    (
        "INSERT INTO {} (id, version, client) SELECT n, 1, 1 FROM generate_series(1000000, 1000100) n
      WHERE satisfies_hash_partition('t'::regclass, 2, 0, n::bigint) LIMIT 1",
        "is in the copy only",
    ),
];

/// Tampers with the copy, resumes, and wants the operation to stop before it switches.
fn is_noticed(cluster: &Cluster, id: i64, (statement, says): (&str, &str)) -> Result<()> {
    let node = cluster.node(2);
    let staging: String =
        node.value("SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname ~ '^shardkeeper_op_'")?;
    node.run(&statement.replace("{}", &format!("{staging}.t_0")))?;
    cluster.coordinator.run(&format!("SELECT shard_resume({id})"))?;
    let hint = complains(cluster, id, "is not equal to it", LIMIT)?;
    let detail = field(cluster, id, "detail")?;
    ensure!(detail.contains(says) && hint.contains("shard_cancel"), "{detail} {hint}");
    let waited = refused(&mut cluster.coordinator.client()?, &format!("SELECT shard_wait({id})"))?;
    ensure!(waited.code().code() == "55000", "{waited:?}");
    ensure!(cluster.coordinator.value::<i64>("SELECT count(*) FROM shard_partitions WHERE node = 'n2'")? == 0);
    cluster.coordinator.run(&format!("SELECT shard_cancel({id})"))?;
    ends(cluster, id, LIMIT)?;
    nothing_is_left(cluster)
}

#[test]
fn a_copy_that_was_changed_by_hand_is_never_switched_to() -> Result<()> {
    let (cluster, _) = scene()?;
    for tampering in TAMPERING {
        let id = amid(&cluster, STATES[2], |id| cluster.coordinator.run(&format!("SELECT shard_pause({id})")))?;
        worker_is_gone(&cluster)?;
        is_noticed(&cluster, id, tampering).context(tampering.1)?;
        // After it was compared, too.
        let mut reader = reader(&cluster)?;
        let id = begin(&cluster, MOVE)?;
        complains(&cluster, id, "nobody holds the parent", LIMIT)?;
        cluster.coordinator.run(&format!("SELECT shard_pause({id})"))?;
        worker_is_gone(&cluster)?;
        reader.batch_execute("COMMIT")?;
        is_noticed(&cluster, id, tampering).with_context(|| format!("{}, after the comparison", tampering.1))?;
    }
    Ok(())
}

#[test]
fn a_slot_that_is_gone_ends_the_operation() -> Result<()> {
    let (cluster, _) = scene()?;
    let before = objects(&cluster)?;
    let id = amid(&cluster, STATES[2], |id| cluster.coordinator.run(&format!("SELECT shard_pause({id})")))?;
    worker_is_gone(&cluster)?;
    let node = cluster.node(1);
    eventually("the slot is free", PATIENCE, || node.value("SELECT bool_and(NOT active) FROM pg_replication_slots"))?;
    node.run("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")?;
    cluster.coordinator.run(&format!("SELECT shard_resume({id})"))?;
    ends(&cluster, id, LIMIT)?;
    ensure!(field(&cluster, id, "state")? == "failed", "{}", told(&cluster));
    ensure!(field(&cluster, id, "error")?.contains("slot of a source is gone"), "{}", told(&cluster));
    nothing_is_left(&cluster)?;
    is_as_before(&cluster, &before)
}

#[test]
fn a_node_that_is_down_keeps_the_cleaning_up_open() -> Result<()> {
    let (cluster, _) = scene()?;
    let before = objects(&cluster)?;
    let id = amid(&cluster, STATES[2], |id| cluster.coordinator.run(&format!("SELECT shard_pause({id})")))?;
    worker_is_gone(&cluster)?;
    cluster.node(2).kill9()?;
    cluster.coordinator.run(&format!("SELECT shard_cancel({id})"))?;
    complains(&cluster, id, "n2", LIMIT)?;
    ensure!(field(&cluster, id, "state")? == "cancelled" && field(&cluster, id, "ended_at")?.is_empty());
    cluster.node(2).start()?;
    ends(&cluster, id, LIMIT)?;
    nothing_is_left(&cluster)?;
    is_as_before(&cluster, &before)
}

#[test]
fn a_parent_is_not_dropped_amid_its_operation_which_ends_when_it_is_gone_all_the_same() -> Result<()> {
    let (cluster, mut client) = scene()?;
    let id = amid(&cluster, STATES[2], |id| cluster.coordinator.run(&format!("SELECT shard_pause({id})")))?;
    worker_is_gone(&cluster)?;
    for call in ["SELECT shard_drop_parent('t')", "SELECT shard_release_parent('t')", "DROP TABLE t"] {
        assert_eq!(refused(&mut client, call)?.code().code(), "55006", "{call}");
    }
    for table in ["partitions", "mirrors", "parents"] {
        client.batch_execute(&format!("DELETE FROM shardkeeper.{table} WHERE parent = 't'::regclass"))?;
    }
    client.batch_execute(&format!("SELECT shard_resume({id})"))?;
    ends(&cluster, id, LIMIT)?;
    ensure!(field(&cluster, id, "state")? == "failed", "{}", told(&cluster));
    ensure!(field(&cluster, id, "error")?.contains("no longer there"), "{}", told(&cluster));
    nothing_is_left(&cluster)
}

#[test]
fn rows_that_came_are_counted_once() -> Result<()> {
    let (cluster, mut client) = scene()?;
    for node in ["local", "n2"] {
        let id: i64 = client.query_one(&format!("SELECT shard_move_partition('t_0', '{node}')"), &[])?.get(0);
        reaches(&cluster, id, "switched", LIMIT)?;
        client.execute("SELECT shard_finish($1)", &[&id])?;
        ends(&cluster, id, LIMIT)?;
        let told = "SELECT estimated_rows FROM shard_partitions WHERE partition = 't_0'::regclass";
        let told: i64 = client.query_one(told, &[])?.get(0);
        assert_eq!(told, cluster.coordinator.count("t_0")?, "on {node}");
    }
    Ok(())
}
