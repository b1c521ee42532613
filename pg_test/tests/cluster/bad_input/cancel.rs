//! Ctrl-C in the middle of a call.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_test::sql::refused;
use pg_test::{PATIENCE, eventually, matrix};
use postgres::Client;

use super::{Held, Scene};

const CREATE: &str = "SELECT shard_create_parent('t', 'hash', 'id', modulus => 4, nodes => '{n1, n2}')";

/// Cancels `call` of a session of its own once `begun` returns; the time that it took to end, which it must with 57014.
fn cancelled(mut client: Client, call: &'static str, begun: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let cancel = client.cancel_token();
    let call = std::thread::spawn(move || refused(&mut client, call));
    begun()?;
    let start = Instant::now();
    cancel.cancel_query(postgres::NoTls)?;
    let error = call.join().expect("no panic")?;
    ensure!(error.code().code() == "57014", "{error:?}");
    Ok(start.elapsed())
}

/// A session that was given up on ends on its node a moment later.
fn nothing_is_left(before: &Held, scene: &Scene) -> Result<()> {
    let mut last = String::new();
    let settled = eventually("nothing is left", Duration::from_secs(10), || {
        let now = before.is_unchanged(&scene.cluster);
        last = now.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
        Ok(now.is_ok())
    });
    settled.context(last)
}

#[test]
fn a_call_that_waits_on_a_node_can_be_cancelled() -> Result<()> {
    let mut scene = Scene::new(2)?;
    scene.client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, name text)")?;
    // Somebody on the second node is making a table of the same name, and does not come to an end.
    let mut other = scene.cluster.node(2).client()?;
    let before = scene.held()?;
    other.batch_execute("BEGIN; CREATE TABLE public.t_3 (id int)")?;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'app'";
    let took = cancelled(scene.cluster.coordinator.client()?, CREATE, || {
        eventually("the call waits on the node", PATIENCE, || Ok(scene.cluster.node(2).value::<i64>(waits)? == 1))
    })?;
    ensure!(took < Duration::from_secs(5), "the cancel took {took:?}");
    assert_eq!(scene.cluster.node(2).value::<i64>(waits)?, 0);
    other.batch_execute("ROLLBACK")?;
    nothing_is_left(&before, &scene)?;
    scene.client.batch_execute(CREATE)?;
    scene.client.batch_execute("INSERT INTO t VALUES (1)")?;
    Ok(())
}

#[test]
fn a_call_that_waits_on_the_coordinator_can_be_cancelled() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, name text)")?;
    let before = scene.held()?;
    scene.client.batch_execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")?;
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 't'::regclass";
    let call = "SELECT shard_create_parent('t', 'hash', 'id', modulus => 4, nodes => '{n1}')";
    let took = cancelled(scene.cluster.coordinator.client()?, call, || {
        eventually("the call waits", PATIENCE, || Ok(scene.cluster.coordinator.value::<i64>(waits)? == 1))
    })?;
    ensure!(took < Duration::from_secs(5), "the cancel took {took:?}");
    scene.client.batch_execute("ROLLBACK")?;
    nothing_is_left(&before, &scene)
}

/// A node that never gets a command, or never answers it, cannot be told to stop: postgres_fdw waits 30 seconds for the
/// answer to its cancel and 30 more for that to its ABORT, and nothing shortens that. The call ends then, and cleanly.
#[test]
fn a_call_that_asks_a_silent_node_is_cancelled_within_a_minute() -> Result<()> {
    for needle in matrix::take(1, &["server_version_num", "PARTITION BY HASH"]) {
        let mut scene = Scene::new(2)?;
        for number in [1, 2] {
            let port = scene.cluster.proxy(number).port();
            scene.client.batch_execute(&format!("SELECT shard_alter_node('n{number}', port => {port})"))?;
        }
        scene.client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, name text)")?;
        let before = scene.held()?;
        let hit = scene.cluster.proxy(2).stall_on(needle.as_bytes());
        let took = cancelled(scene.cluster.coordinator.client()?, CREATE, || hit.wait_until_hit(PATIENCE))?;
        ensure!(took < Duration::from_secs(75), "{needle}: the cancel took {took:?}");
        scene.cluster.proxy(2).resume();
        nothing_is_left(&before, &scene)?;
        let mut client = scene.cluster.coordinator.client()?;
        client.batch_execute(CREATE)?;
        client.batch_execute("INSERT INTO t VALUES (1)")?;
    }
    Ok(())
}
