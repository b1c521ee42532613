//! Moving data while clients write: the speed of the copy against a raw pipe, what the clients keep of their throughput, the
//! longest pause of a statement at the switch, and the time to catch up.
use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_test::{Cluster, Options};
use postgres::Client;

use crate::{Report, median, timed};

const ROWS: i64 = 1_000_000;
const CLIENTS: i64 = 4;
/// How often the pause is measured.
const ROUNDS: usize = 5;

pub fn run(report: &Report) -> Result<()> {
    let logical = vec![("wal_level", "logical"), ("max_worker_processes", "16"), ("max_wal_size", "4GB")];
    let cluster = Cluster::with(Options {
        nodes: 2,
        coordinator_settings: logical.clone(),
        node_settings: logical,
        ..Options::default()
    })?;
    for node in cluster.nodes() {
        node.run("ALTER ROLE app REPLICATION; GRANT CREATE ON DATABASE app TO app")?;
    }
    cluster.add_nodes()?;
    let mut client = cluster.coordinator.client()?;
    let small = copy(&mut client, &cluster, "small", ROWS / 10)?;
    let large = copy(&mut client, &cluster, "t", ROWS)?;
    let (rows, piped) = raw("public.t_0", &cluster.nodes()[0], &cluster.nodes()[1])?;
    ensure!(rows == ROWS as u64, "{rows} rows went through the pipe");
    let rate = |rows: i64, time: Duration| rows as f64 / time.as_secs_f64();
    report.case("copy 1,000,000 rows from node to node", rate(ROWS, large), "rows/s", Some(rate(ROWS, piped)));
    report.case(
        "copy, rows a second with 1,000,000 rows against 100,000",
        rate(ROWS, large),
        "rows/s",
        Some(rate(ROWS / 10, small)),
    );
    under_load(report, &cluster)
}

/// Fills a table whose one leaf is on `n1` and moves it to `n2` and back; the time of the copy alone. It ends on `n1`.
fn copy(client: &mut Client, cluster: &Cluster, table: &str, rows: i64) -> Result<Duration> {
    client.batch_execute(&format!(
        "CREATE TABLE {table} (id bigint PRIMARY KEY, counter bigint NOT NULL, payload text NOT NULL);
         SELECT shard_create_parent('{table}', 'hash', 'id', modulus => 1, nodes => '{{n1}}')"
    ))?;
    let node = &cluster.nodes()[0];
    node.run(&format!(
        "INSERT INTO public.{table} SELECT i, 0, 'payload of the row number ' || i FROM generate_series(1, {rows}) AS i;
         ANALYZE public.{table}; CHECKPOINT"
    ))?;
    let mut times = Vec::new();
    for to in ["n2", "n1"] {
        let id = moved(client, &format!("{table}_0"), to)?;
        times.push(phase(client, id, "copying", "catching_up")?);
        client.execute("SELECT shard_finish($1)", &[&id])?;
    }
    times.sort();
    Ok(times[0])
}

fn moved(client: &mut Client, leaf: &str, to: &str) -> Result<i64> {
    let call = format!("SELECT shard_move_partition('{leaf}', '{to}')");
    // The operation before may still be ending.
    let id: i64 = client.query_one(&call, &[]).with_context(|| call.clone())?.get(0);
    let state = client.query_one("SELECT shard_wait($1, '10 min')", &[&id]).map(|row| row.get::<_, String>(0));
    let state = state.map_err(|error| match error.as_db_error() {
        Some(told) => anyhow::anyhow!("{told}; {}", told.detail().unwrap_or_default()),
        None => error.into(),
    })?;
    ensure!(state == "switched", "{call}: {state}");
    Ok(id)
}

/// How long an operation was between entering two states.
fn phase(client: &mut Client, id: i64, from: &str, to: &str) -> Result<Duration> {
    let sql = "SELECT extract(epoch FROM max(at) FILTER (WHERE state = $3) - max(at) FILTER (WHERE state = $2))::float8
               FROM shardkeeper.operation_log WHERE operation = $1";
    let seconds: f64 = client.query_one(sql, &[&id, &from, &to])?.get(0);
    Ok(Duration::from_secs_f64(seconds))
}

/// The same rows by a client that pipes binary COPY from server to server into a table with the same key.
fn raw(table: &str, from: &pg_test::Server, to: &pg_test::Server) -> Result<(u64, Duration)> {
    to.run("CREATE TABLE public.raw (id bigint PRIMARY KEY, counter bigint NOT NULL, payload text NOT NULL)")?;
    let (mut source, mut target) = (from.client()?, to.client()?);
    let (rows, time) = timed(|| {
        let mut out = source.copy_out(&format!("COPY {table} TO STDOUT (FORMAT binary)"))?;
        let mut sink = target.copy_in("COPY public.raw FROM STDIN (FORMAT binary)")?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = out.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            sink.write_all(&buffer[..read])?;
        }
        Ok(sink.finish()?)
    })?;
    to.run("DROP TABLE public.raw")?;
    Ok((rows, time))
}

/// When each statement of the clients began, and how long it took.
type Statements = Vec<(Instant, Duration)>;

fn under_load(report: &Report, cluster: &Cluster) -> Result<()> {
    let stop = AtomicBool::new(false);
    let all: Mutex<Statements> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn({
                    let (stop, all) = (&stop, &all);
                    move || write(cluster, number, stop, all)
                })
            })
            .collect();
        let outcome = observe(report, cluster, &all);
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("no panic")?;
        }
        outcome
    })
}

/// Updates by key through the coordinator, without a pause.
fn write(cluster: &Cluster, number: i64, stop: &AtomicBool, all: &Mutex<Statements>) -> Result<()> {
    let mut client = cluster.coordinator.client()?;
    let update = client.prepare("UPDATE t SET counter = counter + 1 WHERE id = $1")?;
    // Each client has rows of its own, so that no two of them meet.
    let mut id = number + 1;
    let mut own = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        id = (id + CLIENTS * 7919) % ROWS + 1;
        let id = id - id % CLIENTS + number + 1;
        let start = Instant::now();
        match client.execute(&update, &[&id.min(ROWS)]) {
            Ok(_) => own.push((start, start.elapsed())),
            Err(error) if error.code().is_some_and(|code| code.code() == "40001") => {}
            Err(error) => return Err(error.into()),
        }
        if own.len() >= 64 {
            all.lock().expect("no panic").append(&mut own);
        }
    }
    Ok(())
}

fn observe(report: &Report, cluster: &Cluster, all: &Mutex<Statements>) -> Result<()> {
    let mut client = cluster.coordinator.client()?;
    let quiet = Duration::from_secs(4);
    std::thread::sleep(Duration::from_secs(1));
    let (mut pauses, mut before_pauses, mut during, mut before) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut catch_up = Vec::new();
    for round in 0..ROUNDS {
        let begin = Instant::now();
        std::thread::sleep(quiet);
        let called = Instant::now();
        let to = if round % 2 == 0 { "n2" } else { "n1" };
        let id = moved(&mut client, "t_0", to)?;
        let ended = Instant::now();
        catch_up.push(phase(&mut client, id, "catching_up", "verifying")?);
        client.execute("SELECT shard_finish($1)", &[&id])?;
        std::thread::sleep(Duration::from_millis(300));
        let statements = all.lock().expect("no panic").clone();
        let rate = |from: Instant, to: Instant| {
            let count = statements.iter().filter(|(at, _)| (from..to).contains(at)).count();
            count as f64 / (to - from).as_secs_f64()
        };
        let longest = |from: Instant, to: Instant| {
            let within = statements.iter().filter(|(at, took)| *at + *took >= from && *at < to);
            within.map(|(_, took)| *took).max().unwrap_or_default()
        };
        before.push(rate(begin, called));
        during.push(rate(called, ended));
        before_pauses.push(longest(begin, called));
        pauses.push(longest(called, ended));
    }
    let middle = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    report.case(
        "foreground updates by 4 clients while 1,000,000 rows move",
        middle(&mut during),
        "1/s",
        Some(middle(&mut before)),
    );
    report.case(
        "pause: longest statement during an operation",
        median(&mut pauses).as_secs_f64() * 1e3,
        "ms",
        Some(median(&mut before_pauses).as_secs_f64() * 1e3),
    );
    report.case("catch-up with 4 clients writing", median(&mut catch_up).as_secs_f64(), "s", None);
    Ok(())
}
