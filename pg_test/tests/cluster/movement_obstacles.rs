//! What is in the way of an operation: it says so, with what to do, keeps nobody waiting, switches nothing, and goes on when
//! the obstacle is gone. What needs no more than a setting to be in the way is in `movement_control`.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_test::disk::Disk;
use pg_test::memory::Watch;
use pg_test::movement::{self, complains, ends, field, nothing_is_left, reaches, told};
use pg_test::{Cluster, Keys, Ledger, Options, PATIENCE, Then, Tolerate, Workload, eventually, matrix};
use postgres::Client;

/// Retries wait longer and longer, and the machine may be busy.
const LIMIT: Duration = Duration::from_secs(180);
const MB: u64 = 1 << 20;

/// A filled `t` with one leaf, on n1.
fn scene(rows: i64) -> Result<(Cluster, Client)> {
    let cluster = movement::cluster(2)?;
    cluster.add_nodes_by_proxy()?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&Keys::Bigint.create_sql("t"))?;
    client.batch_execute("SELECT shard_create_parent('t', 'hash', 'id', modulus => 1, nodes => '{n1}')")?;
    Keys::Bigint.load(&mut client, "t", rows)?;
    Ok((cluster, client))
}

fn clients(cluster: &Cluster, workload: Workload) -> Result<Ledger> {
    let think = Duration::from_millis(2);
    Ledger::start(cluster, "t", Keys::Bigint, Workload { clients: 2, think, ..workload })
}

fn clients_write(ledger: &Ledger) -> Result<()> {
    let wanted = ledger.acknowledged() + 100;
    eventually("clients write", PATIENCE, || Ok(ledger.acknowledged() >= wanted))
}

fn begin(cluster: &Cluster) -> Result<i64> {
    cluster.coordinator.value("SELECT shard_move_partition('t_0', 'n2')")
}

fn finish(cluster: &Cluster, id: i64) -> Result<()> {
    reaches(cluster, id, "switched", LIMIT)?;
    cluster.coordinator.run(&format!("SELECT shard_finish({id})"))?;
    ends(cluster, id, LIMIT)?;
    nothing_is_left(cluster)
}

fn nothing_switched(cluster: &Cluster) -> Result<()> {
    ensure!(cluster.coordinator.value::<i64>("SELECT count(*) FROM shard_partitions WHERE node = 'n2'")? == 0);
    ensure!(cluster.node(1).has("t_0")?);
    Ok(())
}

/// The tables that the node's role makes lie on a disk of their own.
fn disk_for_tables(cluster: &Cluster, megabytes: u32) -> Result<Option<Disk>> {
    let node = cluster.node(2);
    let Some(disk) = Disk::mount(&node.socket_dir().join("disk"), megabytes)? else { return Ok(None) };
    // All of the database is there: what a role or a database says of tablespaces does not count.
    let mut outside = node.client_in("postgres")?;
    let path = disk.path().display();
    for command in [
        format!("CREATE TABLESPACE small LOCATION '{path}'"),
        "ALTER DATABASE app ALLOW_CONNECTIONS false".into(),
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = 'app'".into(),
        "ALTER DATABASE app SET TABLESPACE small".into(),
        "ALTER DATABASE app ALLOW_CONNECTIONS true".into(),
    ] {
        outside.batch_execute(&command).with_context(|| command.clone())?;
    }
    Ok(Some(disk))
}

#[test]
fn a_target_whose_disk_is_full_in_the_copy_is_waited_for() -> Result<()> {
    let (cluster, _) = scene(60_000)?;
    let Some(disk) = disk_for_tables(&cluster, 18)? else { return Ok(()) };
    let ledger = clients(&cluster, Workload::default())?;
    let id = begin(&cluster)?;
    let hint = complains(&cluster, id, "No space left on device (on node \"n2\")", LIMIT)?;
    ensure!(hint.contains("disk space"), "{hint}");
    // It is tried again, with the same end.
    let tries = || Ok(field(&cluster, id, "tries")?.parse::<i32>()? >= 3);
    eventually("it is tried again", PATIENCE, tries).with_context(|| told(&cluster))?;
    ensure!(field(&cluster, id, "state")? == "copying", "{}", told(&cluster));
    nothing_switched(&cluster)?;
    clients_write(&ledger)?;
    disk.resize(256)?;
    finish(&cluster, id)?;
    clients_write(&ledger)?;
    // What the copies that failed have left takes no room.
    let size = "SELECT (pg_table_size('t_0') / 1024.0 / count(*))::float8 FROM t_0";
    let after: f64 = cluster.node(2).value(size)?;
    let back: i64 = cluster.coordinator.value("SELECT shard_move_partition('t_0', 'n1')")?;
    finish(&cluster, back)?;
    let fresh: f64 = cluster.node(1).value(size)?;
    ensure!(after < fresh * 1.3, "{after} KB for a row instead of {fresh}");
    ledger.stop()?.check(&cluster)
}

#[test]
fn a_target_whose_disk_is_full_amid_catching_up_is_waited_for() -> Result<()> {
    let (cluster, _) = scene(2_000)?;
    let Some(disk) = disk_for_tables(&cluster, 64)? else { return Ok(()) };
    let hit = cluster.proxy(1).stall_on(b"pg_logical_slot_peek_binary_changes");
    // The others write through the proxy.
    let workload = Workload { clients: 0, direct: 2, ..Workload::default() };
    let ledger = Ledger::start(&cluster, "t", Keys::Bigint, workload)?;
    let id = begin(&cluster)?;
    hit.wait_until_hit(LIMIT).with_context(|| told(&cluster))?;
    let ballast = disk.path().join("ballast");
    let left = usize::try_from(disk.free_bytes()?)?;
    std::fs::write(&ballast, vec![0; left])?;
    // More than fits into the pages that are there.
    for _ in 0..5 {
        clients_write(&ledger)?;
    }
    cluster.proxy(1).resume();
    let hint = complains(&cluster, id, "No space left on device (on node \"n2\")", LIMIT)?;
    ensure!(hint.contains("disk space"), "{hint}");
    let state = field(&cluster, id, "state")?;
    ensure!(state == "catching_up" || state == "verifying", "{}", told(&cluster));
    nothing_switched(&cluster)?;
    clients_write(&ledger)?;
    std::fs::remove_file(&ballast)?;
    finish(&cluster, id)?;
    ledger.stop()?.check(&cluster)
}

/// The log of the node has no room either: Postgres gives up, and may not come up again before there is some.
#[test]
fn a_target_that_a_full_disk_has_brought_down_is_waited_for() -> Result<()> {
    let (cluster, _) = scene(60_000)?;
    let node = cluster.node(2);
    node.stop()?;
    let (data, aside) = (node.data_dir(), node.socket_dir().join("aside"));
    std::fs::rename(&data, &aside)?;
    let used = String::from_utf8(std::process::Command::new("du").arg("-sm").arg(&aside).output()?.stdout)?;
    let used: u32 = used.split_whitespace().next().context("du says nothing")?.parse()?;
    let disk = Disk::mount(&data, used + 24)?;
    let copied = std::process::Command::new("cp").arg("-aT").args([&aside, &data]).status()?;
    ensure!(copied.success(), "cannot copy to the small disk");
    node.start()?;
    let Some(disk) = disk else { return Ok(()) };
    let ledger = clients(&cluster, Workload { tolerate: Tolerate::Restarts, ..Workload::default() })?;
    let id = begin(&cluster)?;
    complains(&cluster, id, "n2", LIMIT)?;
    let full = || Ok(node.log().contains("No space left on device"));
    eventually("the disk is full", PATIENCE, full).with_context(|| told(&cluster))?;
    ensure!(field(&cluster, id, "state")? == "copying", "{}", told(&cluster));
    nothing_switched(&cluster)?;
    clients_write(&ledger)?;
    disk.resize(used + 512)?;
    if !node.is_running() {
        node.start()?;
    }
    finish(&cluster, id)?;
    clients_write(&ledger)?;
    ledger.stop()?.check(&cluster)
}

/// Its slot has nothing to tell, and the log grows all the same.
#[test]
fn a_quiet_table_moves_on_a_server_that_writes_others() -> Result<()> {
    let (cluster, _) = scene(2_000)?;
    let hit = cluster.proxy(1).stall_on(b"COPY (SELECT");
    let id = begin(&cluster)?;
    hit.wait_until_hit(LIMIT).with_context(|| told(&cluster))?;
    let others =
        "SELECT count(pg_logical_emit_message(false, 'others', repeat('x', 1000000))) FROM generate_series(1, 40)";
    ensure!(cluster.node(1).value::<i64>(others)? == 40);
    cluster.proxy(1).resume();
    finish(&cluster, id)
}

#[derive(Clone, Copy, Debug)]
enum Open {
    Transaction,
    Prepared,
}

/// Transactions that begin between the slot and the copy: the copy could not see what they write, nor the slot tell it.
#[test]
fn an_open_transaction_holds_up_the_snapshot_of_the_copy_and_is_named() -> Result<()> {
    let (cluster, _) = scene(2_000)?;
    let node = cluster.node(1);
    node.configure(&[("max_prepared_transactions", "2")])?;
    node.restart()?;
    for open in matrix::take(1, &[Open::Prepared, Open::Transaction]) {
        let slot = cluster.proxy(1).stall_on(b"pg_create_logical_replication_slot");
        let call = format!("SELECT shard_move_partition('t_0', '{}')", if node.has("t_0")? { "n2" } else { "n1" });
        let id: i64 = cluster.coordinator.value(&call)?;
        slot.wait_until_hit(LIMIT).with_context(|| told(&cluster))?;
        let hit = cluster.proxy(1).resume_until(b"pg_snapshot_xmax", Then::Stall);
        hit.wait_until_hit(LIMIT).with_context(|| told(&cluster))?;
        let mut writer = node.client()?;
        writer.batch_execute("BEGIN; SELECT pg_current_xact_id()")?;
        // Another one that begins later is over before.
        node.run("SELECT pg_current_xact_id()")?;
        let named = match open {
            Open::Transaction => {
                format!("process {}", writer.query_one("SELECT pg_backend_pid()", &[])?.get::<_, i32>(0))
            }
            Open::Prepared => {
                writer.batch_execute("PREPARE TRANSACTION 'of an application'")?;
                "prepared transaction 'of an application'".to_owned()
            }
        };
        cluster.proxy(1).resume();
        let hint = complains(&cluster, id, "an open transaction on node n1", LIMIT)?;
        ensure!(hint.contains("by itself"), "{hint}");
        let detail = field(&cluster, id, "detail")?;
        ensure!(detail.contains(&named), "{detail} instead of {named}");
        ensure!(field(&cluster, id, "state")? == "copying", "{}", told(&cluster));
        match open {
            Open::Transaction => writer.batch_execute("COMMIT")?,
            Open::Prepared => writer.batch_execute("COMMIT PREPARED 'of an application'")?,
        }
        finish(&cluster, id)?;
        let back: i64 = cluster.coordinator.value("SELECT shard_move_partition('t_0', 'n1')")?;
        finish(&cluster, back)?;
    }
    Ok(())
}

/// Who has a lock that the switch needs: a report on the coordinator, a direct writer on the node.
#[test]
fn writers_wait_no_longer_than_the_lock_timeout_while_somebody_holds_the_parent() -> Result<()> {
    let (cluster, _) = scene(2_000)?;
    let held = Duration::from_secs(if matrix::is_full() { 60 } else { 5 });
    let ledger = clients(&cluster, Workload::default())?;
    let calm = Instant::now();
    std::thread::sleep(held);
    let calm = (calm, Instant::now());
    let mut periods = Vec::new();
    for (server, lock, to) in [
        (&cluster.coordinator, "LOCK TABLE t IN ACCESS SHARE MODE", "n2"),
        (cluster.node(2), "LOCK TABLE t_0 IN ROW EXCLUSIVE MODE", "n1"),
    ] {
        let mut holder = server.client()?;
        holder.batch_execute(&format!("BEGIN; {lock}"))?;
        let id: i64 = cluster.coordinator.value(&format!("SELECT shard_move_partition('t_0', '{to}')"))?;
        let hint = complains(&cluster, id, "nobody holds the parent", LIMIT)?;
        ensure!(hint.contains("pg_locks"), "{hint}");
        let begun = Instant::now();
        std::thread::sleep(held);
        periods.push((lock, begun, Instant::now()));
        ensure!(field(&cluster, id, "state")? == "switching", "{}", told(&cluster));
        holder.batch_execute("COMMIT")?;
        finish(&cluster, id)?;
    }
    let outcome = ledger.stop()?;
    let longest = |from, to| outcome.longest_between(from, to).map(|timing| timing.took).context("nobody did anything");
    let before = longest(calm.0, calm.1)?;
    println!("{outcome}\nwithout an operation: {before:.1?}, {:.0} a second", outcome.rate_between(calm.0, calm.1));
    for (lock, from, to) in periods {
        let during = longest(from, to)?;
        println!("{lock}: {during:.1?}, {:.0} a second", outcome.rate_between(from, to));
        // shardkeeper.switch_lock_timeout is 50 ms; the rest is for the machine.
        ensure!(during < before + Duration::from_millis(50 + 500), "{lock}: {during:?} after {before:?} without");
    }
    outcome.check(&cluster)
}

/// A transaction that is larger than all memory that anybody may take: it is read and applied piece by piece.
#[test]
fn a_huge_transaction_amid_catching_up_takes_little_memory() -> Result<()> {
    let kilobytes: i64 = if matrix::is_full() { 1_000_000 } else { 100_000 };
    let logical = vec![("wal_level", "logical"), ("max_replication_slots", "10"), ("max_wal_size", "4GB")];
    let cluster = Cluster::with(Options {
        nodes: 2,
        coordinator_settings: logical.clone(),
        node_settings: logical,
        // A gigabyte several times over is too much for files in memory.
        durable: matrix::is_full(),
        ..Options::default()
    })?;
    for node in cluster.nodes() {
        node.run("ALTER ROLE app REPLICATION; GRANT CREATE ON DATABASE app TO app")?;
    }
    cluster.add_nodes_by_proxy()?;
    cluster.coordinator.run(
        "CREATE TABLE t (id bigint PRIMARY KEY, version int NOT NULL, payload text NOT NULL);
         SELECT shard_create_parent('t', 'hash', 'id', modulus => 1, nodes => '{n1}');
         INSERT INTO t SELECT i, 0, 'first' FROM generate_series(1, 1000) AS i",
    )?;
    let rows = kilobytes / 2;
    // From a node, where one half are new rows of a kilobyte and the other half are updates of them, to two servers.
    let proxy = cluster.proxy(1);
    let hit = proxy.stall_on(b"pg_logical_slot_peek_binary_changes");
    let id: i64 = cluster.coordinator.value("SELECT shard_set_modulus('t', 2, nodes => '{n2, local}')")?;
    hit.wait_until_hit(LIMIT).with_context(|| told(&cluster))?;
    cluster.node(1).run(&format!(
        "BEGIN;
         INSERT INTO t_0 SELECT i, 1, repeat(md5(i::text), 32) FROM generate_series(1001, {rows}) AS i;
         UPDATE t_0 SET version = version + 1, payload = repeat(md5(id::text), 31) || payload WHERE id <= 1000;
         UPDATE t_0 SET version = version + 1 WHERE id > 1000;
         COMMIT"
    ))?;
    takes_little(&cluster, id, || proxy.resume())?;
    let new = rows - 1000;
    let (versions, lengths) = (1000 + new * 2, 1000 * (31 * 32 + 5) + new * 1024);
    let sums = "SELECT concat_ws(' ', count(*), sum(version), sum(length(payload))) FROM t";
    ensure!(cluster.coordinator.value::<String>(sums)? == format!("{rows} {versions} {lengths}"));
    // From the coordinator: four updates of one of the halves.
    let proxy = cluster.proxy(1);
    let hit = proxy.stall_on(b"FROM STDIN (FORMAT binary)");
    let id: i64 = cluster.coordinator.value("SELECT shard_move_partition('t_1', 'n1')")?;
    hit.wait_until_hit(LIMIT).with_context(|| told(&cluster))?;
    let here = cluster.coordinator.count("t_1")?;
    cluster.coordinator.run(&format!("BEGIN; {} COMMIT", "UPDATE t_1 SET version = version + 1;".repeat(4)))?;
    takes_little(&cluster, id, || proxy.resume())?;
    let versions = versions + 4 * here;
    ensure!(cluster.coordinator.value::<String>(sums)? == format!("{rows} {versions} {lengths}"));
    nothing_is_left(&cluster)
}

/// Lets the operation go on, watches its processes, and finishes it.
fn takes_little(cluster: &Cluster, id: i64, go_on: impl FnOnce()) -> Result<()> {
    let watch = Watch::operations(cluster.servers())?;
    let begun = Instant::now();
    go_on();
    reaches(cluster, id, "switched", Duration::from_secs(if matrix::is_full() { 1800 } else { 120 }))?;
    println!("switched after {:.1?}", begun.elapsed());
    for (server, most) in watch.stop()? {
        println!("{server}: {} MB of its own, {} MB with shared buffers", most.own / MB, most.with_shared / MB);
        // The worker, and the sessions that read and write for it: Postgres itself decodes with logical_decoding_work_mem.
        let limit = if server == "coordinator" { 100 } else { 200 };
        ensure!(most.own < limit * MB, "{server}: {} MB", most.own / MB);
    }
    cluster.coordinator.run(&format!("SELECT shard_finish({id})"))?;
    ends(cluster, id, LIMIT)
}
