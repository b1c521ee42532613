//! Loading the flights by `INSERT … SELECT` through a hierarchy over five servers, against the same into a plain table.
use anyhow::{Result, ensure};
use pg_test::flights::FLIGHTS;
use pg_test::{Cluster, Options};

use crate::{Report, median, timed};

const ROUNDS: usize = 3;

pub fn run(report: &Report) -> Result<()> {
    let cluster = Cluster::with(Options { nodes: 4, ..Options::default() })?;
    cluster.add_nodes()?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&FLIGHTS.create("staging"))?;
    FLIGHTS.copy_into(&mut client, "staging")?;
    client.batch_execute("ANALYZE staging")?;
    client.batch_execute(&format!("{}; {}", FLIGHTS.create("plain"), FLIGHTS.create("flights")))?;
    client.batch_execute(
        r#"SELECT shard_create_parent('flights', '{"method": "range", "key": "time_hour", "interval": "1 month",
               "start": "2013-01-01", "end": "2014-02-01", "nodes": ["local", "n1", "n2", "n3", "n4"],
               "partitions": {"method": "list", "key": "origin", "values": {"ewr": ["EWR"], "jfk": ["JFK"], "lga": ["LGA"]},
                              "partitions": {"method": "hash", "key": "carrier", "modulus": 2}}}')"#,
    )?;
    let mut times = |table: &str| -> Result<f64> {
        let mut all = Vec::new();
        for round in 0..=ROUNDS {
            let (rows, time) =
                timed(|| Ok(client.execute(&format!("INSERT INTO {table} SELECT * FROM staging"), &[])?))?;
            ensure!(rows == FLIGHTS.rows as u64, "{rows} rows went into {table}");
            client.batch_execute(&format!("TRUNCATE {table}"))?;
            if round > 0 {
                all.push(time);
            }
        }
        Ok(median(&mut all).as_secs_f64())
    };
    let (plain, ours) = (times("plain")?, times("flights")?);
    report.case("336,776 flights into 78 leaves on 5 servers", ours, "s", Some(plain));
    Ok(())
}
