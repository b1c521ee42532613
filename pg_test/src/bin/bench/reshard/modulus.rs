//! What a row costs when the modulus changes, and how that grows with the rows.
use std::time::Instant;

use anyhow::Result;
use pg_test::Cluster;

use super::{FEW, ROWS, finish, servers, switched};
use crate::Report;

/// With `--full`: it takes minutes.
const MANY: i64 = 10_000_000;
/// How long the parts of an operation were in each state before the switch.
const PHASES: &str = "SELECT state, sum(spent)::float8 FROM (
        SELECT l.state, extract(epoch FROM lead(l.at) OVER (PARTITION BY l.operation ORDER BY l.at) - l.at) AS spent, min(l.at) OVER (PARTITION BY l.state) AS first
        FROM shardkeeper.operation_log l JOIN shardkeeper.operations o ON o.id = l.operation WHERE o.part_of = $1) AS entered
    WHERE state <> 'switched' GROUP BY state, first ORDER BY first";

pub fn run(report: &Report) -> Result<()> {
    let cluster = servers()?;
    // What is met for the first time is slower.
    change(report, &cluster, FEW, None)?;
    let few = change(report, &cluster, FEW, None)?;
    change(report, &cluster, ROWS, Some(few))?;
    if report.full {
        change(report, &cluster, MANY, Some(few))?;
    }
    Ok(())
}

/// From two leaves to four on the same two nodes. Returns microseconds for each row, from the call to the last switch.
fn change(report: &Report, cluster: &Cluster, rows: i64, few: Option<f64>) -> Result<f64> {
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(
        "CREATE TABLE m (id bigint PRIMARY KEY, counter bigint NOT NULL, payload text NOT NULL);
         SELECT shard_create_parent('m', 'hash', 'id', modulus => 2, nodes => '{n1, n2}')",
    )?;
    // Each node keeps its own of all.
    for (number, node) in cluster.nodes().iter().enumerate() {
        node.run(&format!(
            "INSERT INTO public.m_{number} SELECT i, 0, 'payload of the row number ' || i FROM generate_series(1::bigint, {rows}) AS i
             WHERE satisfies_hash_partition('public.m'::regclass, 2, {number}, i);
             ANALYZE public.m; CHECKPOINT"
        ))?;
    }
    let start = Instant::now();
    let id = switched(&mut client, "SELECT shard_set_modulus('m', 4)")?;
    let row = start.elapsed().as_secs_f64() * 1e6 / rows as f64;
    if few.is_some() {
        report.case(&format!("modulus from 2 to 4, {rows} rows"), row, "us/row", few);
    }
    for found in client.query(PHASES, &[&id])? {
        let (state, seconds): (String, f64) = (found.get(0), found.get(1));
        report.case(&format!("modulus with {rows} rows: {state}, all parts added up"), seconds * 1e3, "ms", None);
    }
    finish(cluster, &mut client, id)?;
    client.batch_execute("SELECT shard_drop_parent('m')")?;
    Ok(row)
}
