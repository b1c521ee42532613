//! Whether the worker applies changes as fast as four clients write them, and catches up with them after a pause.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_test::movement::complains;
use pg_test::{Cluster, PATIENCE, Server, eventually};

use super::clients::Clients;
use super::memory::watched;
use super::{LIMIT, MEMORY, finish};
use crate::Report;

const WINDOW: Duration = Duration::from_secs(8);
const PAUSE: Duration = Duration::from_millis(100);

/// `t_0` is on n1 and goes to n2. A session that keeps its lock on the parent holds the switch back.
pub fn run(report: &Report, cluster: &Cluster, clients: &Clients) -> Result<()> {
    // So that the tries of the switch, which cannot succeed, do not slow the clients down.
    timeout(cluster, "1ms")?;
    let mut reader = cluster.coordinator.client()?;
    reader.batch_execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")?;
    let id: i64 = cluster.coordinator.value("SELECT shard_move_partition('t_0', 'n2')")?;
    complains(cluster, id, "nobody holds the parent", LIMIT)?;
    let mut copy = Copy::of(cluster)?;
    following(report, clients, &mut copy)?;
    after_a_pause(report, cluster, clients, &mut copy, id)?;
    reader.batch_execute("COMMIT")?;
    timeout(cluster, "50ms")?;
    let mut client = cluster.coordinator.client()?;
    let state: String = client.query_one("SELECT shard_wait($1, '10 min')", &[&id])?.get(0);
    ensure!(state == "switched", "{state}");
    finish(cluster, &mut client, id)
}

fn following(report: &Report, clients: &Clients, copy: &mut Copy) -> Result<()> {
    let (begin, applied, written, position) = (Instant::now(), copy.applied()?, clients.written(), copy.position()?);
    let mut most = 0.0_f64;
    while begin.elapsed() < WINDOW {
        most = most.max(copy.behind(None)?);
        std::thread::sleep(PAUSE);
    }
    let (written, time) = (clients.written() - written, begin.elapsed().as_secs_f64());
    let log = copy.behind(Some(&position))?;
    let applied = copy.applied()? - applied;
    report.case(
        "catch-up: changes applied while 4 clients write, against theirs",
        applied as f64 / time,
        "1/s",
        Some(written as f64 / time),
    );
    report.case("catch-up: the most log not yet applied, against all written", most, "MB", Some(log));
    Ok(())
}

fn after_a_pause(report: &Report, cluster: &Cluster, clients: &Clients, copy: &mut Copy, id: i64) -> Result<()> {
    cluster.coordinator.run(&format!("SELECT shard_pause({id})"))?;
    let gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'shardkeeper operation'";
    eventually("the worker has left", PATIENCE, || cluster.coordinator.value(gone))?;
    std::thread::sleep(WINDOW);
    let applied = copy.applied()?;
    let position = copy.position()?;
    let ((begin, end), memory) = watched(cluster, || {
        let begin = Instant::now();
        cluster.coordinator.run(&format!("SELECT shard_resume({id})"))?;
        eventually("what was written meanwhile is applied", LIMIT, || copy.has_reached(&position))?;
        Ok((begin, Instant::now()))
    })?;
    let applied = copy.applied()? - applied;
    report.case(
        "catch-up: changes applied after a pause, against those written meanwhile",
        applied as f64 / (end - begin).as_secs_f64(),
        "1/s",
        Some(clients.rate(begin, end)),
    );
    report.case("catch-up: the worker's memory", memory, "MB", Some(MEMORY));
    Ok(())
}

/// What is known of the operation on both nodes.
struct Copy {
    source: postgres::Client,
    target: postgres::Client,
    sum: String,
}

impl Copy {
    fn of(cluster: &Cluster) -> Result<Copy> {
        let (source, target): (&Server, &Server) = (cluster.node(1), cluster.node(2));
        let staging = "SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname ~ '^shardkeeper_op_'";
        let staging: String = target.value(staging).context("the staging schema of the operation")?;
        let sum = format!("SELECT sum(counter)::bigint FROM {staging}.t_0");
        Ok(Copy { source: source.client()?, target: target.client()?, sum })
    }

    /// Each change adds one.
    fn applied(&mut self) -> Result<i64> {
        Ok(self.target.query_one(&self.sum, &[])?.get(0))
    }

    fn position(&mut self) -> Result<String> {
        Ok(self.source.query_one("SELECT pg_current_wal_lsn()::text", &[])?.get(0))
    }

    /// MB of log since the position; without one, since the last that was applied.
    fn behind(&mut self, position: Option<&str>) -> Result<f64> {
        let sql = "SELECT (pg_wal_lsn_diff(pg_current_wal_lsn(), coalesce($1::text::pg_lsn, confirmed_flush_lsn)) / 1048576)::float8
                   FROM pg_replication_slots";
        Ok(self.source.query_one(sql, &[&position])?.get(0))
    }

    fn has_reached(&mut self, position: &str) -> Result<bool> {
        let sql = "SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots";
        Ok(self.source.query_one(sql, &[&position])?.get(0))
    }
}

fn timeout(cluster: &Cluster, value: &str) -> Result<()> {
    cluster.coordinator.configure(&[("shardkeeper.switch_lock_timeout", value)])?;
    cluster.coordinator.reload()
}
