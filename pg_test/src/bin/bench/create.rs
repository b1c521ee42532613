//! Making 1,000 daily partitions dealt over four nodes, against the bare statements sent by one client.
use std::fmt::Write;
use std::time::Duration;

use anyhow::{Result, ensure};
use pg_test::{Cluster, Options};

use crate::{Report, median, timed};

const LEAVES: usize = 1000;
const NODES: usize = 4;
const ROUNDS: usize = 5;
const COLUMNS: &str = "(id bigint NOT NULL, day date NOT NULL, kind text NOT NULL, payload jsonb)";

pub fn run(report: &Report) -> Result<()> {
    let cluster = Cluster::with(Options { nodes: NODES, ..Options::default() })?;
    cluster.add_nodes()?;
    let (mut ours, mut bare, mut bare_one) = (Vec::new(), Vec::new(), Vec::new());
    // The first round only warms caches on all servers.
    for round in 0..=ROUNDS {
        let times = [by_us(&cluster)?, by_hand(&cluster, false)?, by_hand(&cluster, true)?];
        if round > 0 {
            ours.push(times[0]);
            bare.push(times[1]);
            bare_one.push(times[2]);
        }
    }
    let ms = |times: &mut Vec<Duration>| median(times).as_secs_f64() * 1e3;
    let ours = ms(&mut ours);
    report.case("1,000 daily partitions, statements by themselves", ours, "ms", Some(ms(&mut bare)));
    report.case("1,000 daily partitions, statements in one transaction", ours, "ms", Some(ms(&mut bare_one)));
    Ok(())
}

fn by_us(cluster: &Cluster) -> Result<Duration> {
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&format!("CREATE TABLE events {COLUMNS}"))?;
    let ((), time) = timed(|| {
        Ok(client.batch_execute(
            r#"SELECT shard_create_parent('events', '{"method": "range", "key": "day", "interval": "1 day",
                   "start": "2024-01-01", "end": "2026-09-27", "nodes": ["n1", "n2", "n3", "n4"]}')"#,
        )?)
    })?;
    let leaves: i64 = client.query_one("SELECT leaves FROM shard_parents", &[])?.get(0);
    ensure!(leaves == LEAVES as i64, "{leaves} partitions instead of {LEAVES}");
    client.batch_execute("SET shardkeeper.trash_keep = 0; SELECT shard_drop_parent('events')")?;
    Ok(time)
}

/// `CREATE TABLE` on the nodes, `CREATE FOREIGN TABLE` and `ATTACH` on the coordinator, each server by its own
/// connection, one statement after the other.
fn by_hand(cluster: &Cluster, one_transaction: bool) -> Result<Duration> {
    let mut client = cluster.coordinator.client()?;
    let mut nodes = cluster.nodes().iter().map(|node| node.client()).collect::<Result<Vec<_>>>()?;
    client.batch_execute(&format!("CREATE TABLE bare {COLUMNS} PARTITION BY RANGE (day)"))?;
    let ((), time) = timed(|| {
        if one_transaction {
            client.batch_execute("BEGIN")?;
            nodes.iter_mut().try_for_each(|node| node.batch_execute("BEGIN"))?;
        }
        for leaf in 0..LEAVES {
            let node = leaf % NODES;
            nodes[node].batch_execute(&format!("CREATE TABLE bare_{leaf} {COLUMNS}"))?;
            client.batch_execute(&format!("CREATE FOREIGN TABLE bare_{leaf} {COLUMNS} SERVER n{}", node + 1))?;
            client.batch_execute(&format!(
                "ALTER TABLE bare ATTACH PARTITION bare_{leaf} FOR VALUES FROM (date '2024-01-01' + {leaf}) TO (date '2024-01-01' + {leaf} + 1)"
            ))?;
        }
        if one_transaction {
            nodes.iter_mut().try_for_each(|node| node.batch_execute("COMMIT"))?;
            client.batch_execute("COMMIT")?;
        }
        Ok(())
    })?;
    client.batch_execute("DROP TABLE bare")?;
    for (number, node) in nodes.iter_mut().enumerate() {
        let mut drop = String::new();
        for leaf in (0..LEAVES).filter(|leaf| leaf % NODES == number) {
            write!(drop, "DROP TABLE bare_{leaf};")?;
        }
        node.batch_execute(&drop)?;
    }
    Ok(time)
}
