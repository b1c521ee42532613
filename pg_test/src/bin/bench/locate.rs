//! `shard_locate` in one session: how many a second, and how its cost grows with the leaves.
use anyhow::Result;
use pg_test::{Cluster, Options};
use postgres::Client;

use crate::{Report, median, timed};

const CALLS: usize = 100_000;
const ROUNDS: usize = 3;
/// Calls a second that a router in an application should be able to count on with 1,000 leaves.
const WANTED: f64 = 50_000.0;

pub fn run(report: &Report) -> Result<()> {
    let cluster = Cluster::with(Options { nodes: 4, ..Options::default() })?;
    cluster.add_nodes()?;
    let mut client = cluster.coordinator.client()?;
    let mut costs = Vec::new();
    for leaves in [10, 100, 1000, 4000] {
        for (method, spec) in [
            ("range", format!(r#""method": "range", "key": "id", "step": 1000, "end": {}"#, leaves * 1000)),
            ("hash", format!(r#""method": "hash", "key": "id", "modulus": {leaves}"#)),
        ] {
            let rate = rate(&mut client, &spec, leaves * 1000)?;
            let baseline = (leaves == 1000).then_some(WANTED);
            report.case(&format!("{method}, {leaves} leaves"), rate, "calls/s", baseline);
            costs.push((method, leaves, 1.0 / rate));
        }
    }
    for method in ["range", "hash"] {
        let cost = |leaves| {
            costs.iter().find(|found| found.0 == method && found.1 == leaves).map_or(f64::NAN, |found| found.2)
        };
        let growth = cost(4000) / cost(10);
        report.case(
            &format!("{method}, growth from 10 to 4000 leaves"),
            growth,
            "times",
            Some(4000f64.ln() / 10f64.ln()),
        );
    }
    Ok(())
}

fn rate(client: &mut Client, spec: &str, keys: usize) -> Result<f64> {
    client.batch_execute("CREATE TABLE located (id bigint NOT NULL, note text)")?;
    // Four thousand local leaves would be more than a lock table holds; the depth of the search is what matters.
    client.batch_execute(&format!(
        "SELECT shard_create_parent('located', '{{{spec}, \"nodes\": [\"n1\", \"n2\", \"n3\", \"n4\"]}}')"
    ))?;
    let query = format!(
        "SELECT count(DISTINCT leaf.partition) FROM generate_series(1, {CALLS}) AS n,
                shard_locate('located', jsonb_build_object('id', (n * 7919) % {keys})) AS leaf"
    );
    let mut times = Vec::new();
    for round in 0..=ROUNDS {
        let (_, time) = timed(|| Ok(client.query_one(&query, &[])?))?;
        if round > 0 {
            times.push(time);
        }
    }
    client.batch_execute("SET shardkeeper.trash_keep = 0; SELECT shard_drop_parent('located')")?;
    Ok(CALLS as f64 / median(&mut times).as_secs_f64())
}
