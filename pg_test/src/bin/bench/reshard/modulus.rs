//! What a row costs when the modulus changes, and how that grows with the rows.
use anyhow::Result;
use pg_test::Cluster;

use super::{Clock, FEW, ROWS, finish, servers, switched};
use crate::Report;

/// With `--full`: it takes minutes.
const MANY: i64 = 10_000_000;
const STATES: [&str; 6] = ["preparing", "copying", "catching_up", "verifying", "ready", "switched"];

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

/// From two leaves to four on the same two nodes. Returns microseconds for each row, from the first state to the switch.
fn change(report: &Report, cluster: &Cluster, rows: i64, few: Option<f64>) -> Result<f64> {
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(
        "CREATE TABLE m (id bigint PRIMARY KEY, counter bigint NOT NULL, payload text NOT NULL);
         SELECT shard_create_parent('m', 'hash', 'id', modulus => 2, nodes => '{n1, n2}')",
    )?;
    // Each node keeps its own of all.
    for (number, node) in cluster.nodes().iter().enumerate() {
        node.run(&format!(
            "INSERT INTO public.m_{number} SELECT i, 0, 'payload of the row number ' || i FROM generate_series(1, {rows}) AS i
             WHERE satisfies_hash_partition('public.m'::regclass, 2, {number}, i);
             ANALYZE public.m; CHECKPOINT"
        ))?;
    }
    let clock = Clock::of(&mut client)?;
    let id = switched(&mut client, "SELECT shard_set_modulus('m', 4)")?;
    let row = clock.phase(&mut client, id, "preparing", "switched")?.as_secs_f64() * 1e6 / rows as f64;
    if few.is_some() {
        report.case(&format!("modulus from 2 to 4, {rows} rows"), row, "us/row", few);
    }
    for pair in STATES.windows(2) {
        let [from, to] = pair else { continue };
        let time = clock.phase(&mut client, id, from, to)?;
        report.case(&format!("modulus with {rows} rows: {from}"), time.as_secs_f64() * 1e3, "ms", None);
    }
    finish(cluster, &mut client, id)?;
    client.batch_execute("SELECT shard_drop_parent('m')")?;
    Ok(row)
}
