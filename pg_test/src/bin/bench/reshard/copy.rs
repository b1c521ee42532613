//! The copy with nobody else at work: its speed, how that grows with the rows, its memory, and how often it reads a source.
use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Result, ensure};
use pg_test::{Cluster, PATIENCE, Server, eventually};

use super::memory::watched;
use super::{Clock, FEW, MEMORY, ROWS, finish, moved, switched};
use crate::{Report, timed};

/// With `--full`: it takes a minute more.
const MANY: i64 = 5_000_000;

/// Leaves the table `t` with `ROWS` rows, in one leaf on n1; returns how many bytes a copy of it is.
pub fn run(report: &Report, cluster: &Cluster) -> Result<u64> {
    let few = copy(cluster, "few", FEW)?;
    let all = copy(cluster, "t", ROWS)?;
    let (bytes, piped) = raw("public.t_0", cluster.node(1), cluster.node(2))?;
    report.case("copy 1,000,000 rows from node to node", all.rate, "rows/s", Some(ROWS as f64 / piped.as_secs_f64()));
    report.case("copy, 1,000,000 rows against 100,000", all.rate, "rows/s", Some(few.rate));
    report.case("copy: the worker's memory", all.memory, "MB", Some(MEMORY));
    if report.full {
        let many = copy(cluster, "many", MANY)?;
        cluster.coordinator.run("SELECT shard_drop_parent('many')")?;
        report.case("copy, 5,000,000 rows against 100,000", many.rate, "rows/s", Some(few.rate));
        report.case("copy: the worker's memory with 5,000,000 rows", many.memory, "MB", Some(MEMORY));
    }
    let (split, alone) = scans(cluster)?;
    report.case("copy: reads of a source that is split into four, against one that moves", split, "scans", Some(alone));
    Ok(bytes)
}

struct Copy {
    /// Rows a second.
    rate: f64,
    memory: f64,
}

/// A table whose one leaf is on n1.
pub fn fill(cluster: &Cluster, table: &str, rows: i64) -> Result<()> {
    cluster.coordinator.run(&format!(
        "CREATE TABLE {table} (id bigint PRIMARY KEY, counter bigint NOT NULL, payload text NOT NULL);
         SELECT shard_create_parent('{table}', 'hash', 'id', modulus => 1, nodes => '{{n1}}')"
    ))?;
    cluster.node(1).run(&format!(
        "INSERT INTO public.{table} SELECT i, 0, 'payload of the row number ' || i FROM generate_series(1, {rows}) AS i;
         ANALYZE public.{table}; CHECKPOINT"
    ))
}

/// Moves the leaf of such a table to n2 and back; the better one of the copies alone.
fn copy(cluster: &Cluster, table: &str, rows: i64) -> Result<Copy> {
    fill(cluster, table, rows)?;
    let mut client = cluster.coordinator.client()?;
    let clock = Clock::of(&mut client)?;
    let mut best = Copy { rate: 0.0, memory: 0.0 };
    for to in ["n2", "n1"] {
        let (id, memory) = watched(cluster, || moved(&mut client, &format!("{table}_0"), to))?;
        let time = clock.phase(&mut client, id, "copying", "catching_up")?;
        best.rate = best.rate.max(rows as f64 / time.as_secs_f64());
        best.memory = best.memory.max(memory);
        finish(cluster, &mut client, id)?;
    }
    Ok(best)
}

/// The same rows by a client that pipes binary COPY from server to server into a table with the same key.
fn raw(table: &str, from: &Server, to: &Server) -> Result<(u64, Duration)> {
    to.run("CREATE TABLE public.raw (id bigint PRIMARY KEY, counter bigint NOT NULL, payload text NOT NULL)")?;
    let (mut source, mut target) = (from.client()?, to.client()?);
    let mut bytes = 0;
    let (rows, time) = timed(|| {
        let mut out = source.copy_out(&format!("COPY {table} TO STDOUT (FORMAT binary)"))?;
        let mut sink = target.copy_in("COPY public.raw FROM STDIN (FORMAT binary)")?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = out.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            bytes += read as u64;
            sink.write_all(&buffer[..read])?;
        }
        Ok(sink.finish()?)
    })?;
    to.run("DROP TABLE public.raw")?;
    ensure!(rows == ROWS as u64, "{rows} rows went through the pipe");
    Ok((bytes, time))
}

/// How often an operation reads its source in full, to copy and to compare: with four targets, and with one.
fn scans(cluster: &Cluster) -> Result<(f64, f64)> {
    let mut client = cluster.coordinator.client()?;
    // So small that no server reads it with several processes, each of which would count.
    client.batch_execute(
        "CREATE TABLE cut (id bigint PRIMARY KEY, payload text NOT NULL);
         SELECT shard_create_parent('cut', 'range', 'id', bounds => '[0, 20000]', nodes => '{n1}');
         INSERT INTO cut SELECT i, 'payload ' || i FROM generate_series(0, 19999) AS i",
    )?;
    let mut read = |node: &Server, call: &str| {
        let source: u32 = node.value("SELECT 'public.cut_0'::regclass::oid")?;
        let before = seq_scans(node, source)?;
        let id = switched(&mut client, call)?;
        let after = seq_scans(node, source)?;
        finish(cluster, &mut client, id)?;
        anyhow::Ok((after - before) as f64)
    };
    let alone = read(cluster.node(1), "SELECT shard_move_partition('cut_0', 'n2')")?;
    let call = "SELECT shard_split('cut_0', '[5000, 10000, 15000]', nodes => '{n1, n2}')";
    let split = read(cluster.node(2), call)?;
    Ok((split, alone))
}

/// All scans of sessions that have ended, those of operations among them.
fn seq_scans(node: &Server, table: u32) -> Result<i64> {
    let none = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'shardkeeper operation%'";
    eventually("the operation's sessions have ended", PATIENCE, || node.value(none))?;
    node.value(&format!("SELECT seq_scan FROM pg_stat_all_tables WHERE relid = {table}"))
}
