//! The throttle of a copy: it is kept, it can be changed while a copy runs, and a copy that waits can still be steered.
use std::time::Duration;

use anyhow::{Result, ensure};
use pg_test::movement::{ends, field, joined, nothing_is_left, reaches};
use pg_test::{Cluster, PATIENCE, eventually};

const LIMIT: Duration = Duration::from_secs(60);

/// `here` and `there`: parents with one leaf of so many rows, on the coordinator and on n1.
fn scene(rows: i64) -> Result<Cluster> {
    let cluster = joined(2)?;
    cluster.coordinator.run(&format!(
        "CREATE TABLE here (id bigint PRIMARY KEY, payload text NOT NULL);
         CREATE TABLE there (LIKE here INCLUDING ALL);
         SELECT shard_create_parent('here', 'hash', 'id', modulus => 1);
         SELECT shard_create_parent('there', 'hash', 'id', modulus => 1, nodes => '{{n1}}');
         INSERT INTO here SELECT i, repeat('x', 1000) FROM generate_series(1, {rows}) AS i"
    ))?;
    cluster
        .node(1)
        .run(&format!("INSERT INTO public.there SELECT i, repeat('x', 1000) FROM generate_series(1, {rows}) AS i"))?;
    Ok(cluster)
}

fn limit(cluster: &Cluster, value: &'static str) -> Result<()> {
    cluster.coordinator.configure(&[("shardkeeper.copy_rate_limit", value)])?;
    cluster.coordinator.reload()
}

fn begin(cluster: &Cluster, leaf: &str) -> Result<i64> {
    cluster.coordinator.value(&format!("SELECT shard_move_partition('{leaf}', 'n2')"))
}

fn finish(cluster: &Cluster, id: i64) -> Result<()> {
    reaches(cluster, id, "switched", LIMIT)?;
    cluster.coordinator.run(&format!("SELECT shard_finish({id})"))?;
    ends(cluster, id, LIMIT)
}

/// How many seconds the operation copied.
fn copied_for(cluster: &Cluster, id: i64) -> Result<f64> {
    cluster.coordinator.value(&format!(
        "SELECT extract(epoch FROM max(at) FILTER (WHERE state = 'catching_up') - max(at) FILTER (WHERE state = 'copying'))::float8
         FROM shardkeeper.operation_log WHERE operation = {id}"
    ))
}

fn rows_done(cluster: &Cluster, id: i64) -> Result<i64> {
    cluster.coordinator.value(&format!("SELECT coalesce(rows_done, 0) FROM shard_progress WHERE id = {id}"))
}

/// The process of the operation: none while it is being started.
fn worker(cluster: &Cluster, id: i64) -> Result<i32> {
    cluster.coordinator.value(&format!(
        "SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE application_name = 'shardkeeper operation {id}'"
    ))
}

#[test]
fn a_copy_is_no_faster_than_its_limit() -> Result<()> {
    let cluster = scene(3_000)?;
    limit(&cluster, "1MB")?;
    // Side by side: each has the limit for itself.
    let ids = [begin(&cluster, "here_0")?, begin(&cluster, "there_0")?];
    for id in ids {
        finish(&cluster, id)?;
        let seconds = copied_for(&cluster, id)?;
        // The payload alone.
        let least = 3_000.0 * 1000.0 / (1024.0 * 1024.0);
        ensure!(seconds >= least, "{id}: {seconds} s instead of {least} s");
    }
    nothing_is_left(&cluster)
}

#[test]
fn a_limit_that_is_lifted_counts_at_once() -> Result<()> {
    let cluster = scene(30_000)?;
    limit(&cluster, "300kB")?;
    let ids = [begin(&cluster, "here_0")?, begin(&cluster, "there_0")?];
    for id in ids {
        let mut seen = 0;
        for _ in 0..3 {
            eventually(&format!("rows of {id} are copied"), PATIENCE, || Ok(rows_done(&cluster, id)? > seen))?;
            seen = rows_done(&cluster, id)?;
        }
        ensure!(field(&cluster, id, "state")? == "copying" && seen < 30_000, "{seen}");
    }
    limit(&cluster, "0")?;
    for id in ids {
        finish(&cluster, id)?;
        let seconds = copied_for(&cluster, id)?;
        // With the limit it would have been 95 seconds.
        ensure!(seconds < 50.0, "{id}: {seconds} s");
    }
    ensure!(cluster.coordinator.count("here")? == 30_000 && cluster.coordinator.count("there")? == 30_000);
    nothing_is_left(&cluster)
}

/// A transaction with an id keeps others from making a slot on its server until it ends.
#[test]
fn a_copy_between_nodes_is_in_no_other_operation_s_way() -> Result<()> {
    let cluster = scene(30_000)?;
    limit(&cluster, "300kB")?;
    let first = begin(&cluster, "there_0")?;
    eventually("rows are copied", PATIENCE, || Ok(rows_done(&cluster, first)? > 0))?;
    let ids = "SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND application_name LIKE 'shardkeeper operation%'";
    ensure!(cluster.coordinator.value::<i64>(ids)? == 0);
    let second = begin(&cluster, "here_0")?;
    eventually("rows of the other are copied", PATIENCE, || Ok(rows_done(&cluster, second)? > 0))?;
    ensure!(field(&cluster, first, "state")? == "copying");
    limit(&cluster, "0")?;
    finish(&cluster, first)?;
    finish(&cluster, second)?;
    nothing_is_left(&cluster)
}

#[test]
fn a_copy_that_waits_for_its_limit_can_be_steered() -> Result<()> {
    let cluster = scene(3_000)?;
    // Minutes for each piece that is read at a time.
    limit(&cluster, "1kB")?;
    for leaf in ["here_0", "there_0"] {
        let id = begin(&cluster, leaf)?;
        let waits = || eventually("the copy waits", PATIENCE, || Ok(rows_done(&cluster, id)? > 0));
        waits()?;
        let first = worker(&cluster, id)?;
        cluster.coordinator.run(&format!("SELECT pg_terminate_backend({first})"))?;
        eventually("another worker goes on", PATIENCE, || Ok(![0, first].contains(&worker(&cluster, id)?)))?;
        waits()?;
        cluster.coordinator.run(&format!("SELECT shard_pause({id})"))?;
        eventually("the worker has left", PATIENCE, || Ok(worker(&cluster, id)? == 0))?;
        ensure!(field(&cluster, id, "state")? == "paused");
        cluster.coordinator.run(&format!("SELECT shard_resume({id})"))?;
        waits()?;
        cluster.coordinator.run(&format!("SELECT shard_cancel({id})"))?;
        ends(&cluster, id, LIMIT)?;
        ensure!(field(&cluster, id, "state")? == "cancelled");
        nothing_is_left(&cluster)?;
    }
    Ok(())
}
