//! The harness does what the other tests rely on: faults are real, and nothing is left behind.
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::{Cluster, Install, Options, PATIENCE, Proxy, Then, eventually};
use postgres::{Client, NoTls};

const SOON: Duration = Duration::from_millis(500);

fn plain(nodes: usize) -> Result<Cluster> {
    Cluster::with(Options { nodes, ..Options::plain() })
}

fn client_at(port: u16) -> Result<Client> {
    let config = format!("host=127.0.0.1 port={port} user=app password=app dbname=app");
    Ok(Client::connect(&config, NoTls)?)
}

#[test]
fn a_cluster_leaves_no_process_and_no_directory() -> Result<()> {
    let cluster = plain(2)?;
    let directory = cluster.directory().to_owned();
    for server in cluster.servers() {
        assert_eq!(server.value::<String>("SELECT current_database()")?, "app");
    }
    assert!(processes_below(&directory)? > 2);
    drop(cluster);
    assert_eq!(processes_below(&directory)?, 0);
    assert!(!directory.exists());
    Ok(())
}

#[test]
fn servers_of_a_cluster_are_different_systems() -> Result<()> {
    let cluster = plain(2)?;
    let mut seen = Vec::new();
    for server in cluster.servers() {
        seen.push(server.value::<i64>("SELECT system_identifier FROM pg_control_system()")?);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 3);
    Ok(())
}

#[test]
fn the_ordinary_role_owns_its_database_and_is_no_superuser() -> Result<()> {
    let cluster = plain(1)?;
    let mut client = cluster.node(1).client_as("app", "app", "app")?;
    let row = client.query_one("SELECT current_setting('is_superuser')", &[])?;
    assert_eq!(row.get::<_, String>(0), "off");
    client.batch_execute("CREATE SCHEMA s; CREATE TABLE s.t (i int)")?;
    assert!(cluster.node(1).client_as("app", "wrong", "app").is_err());
    Ok(())
}

#[test]
fn a_killed_server_has_what_was_committed_after_its_restart() -> Result<()> {
    let cluster = plain(1)?;
    let node = cluster.node(1);
    let mut client = node.client()?;
    client.batch_execute("CREATE TABLE t (i int); INSERT INTO t VALUES (1)")?;
    client.batch_execute("BEGIN; INSERT INTO t VALUES (2)")?;
    node.kill9()?;
    assert!(!node.is_running());
    assert_eq!(node.process_count(), 0);
    assert!(client.batch_execute("COMMIT").is_err());
    node.start()?;
    assert!(node.log().contains("database system was not properly shut down"));
    assert_eq!(node.value::<Vec<i32>>("SELECT array_agg(i) FROM t")?, [1]);
    Ok(())
}

#[test]
fn a_restarted_server_keeps_its_port_and_takes_new_settings() -> Result<()> {
    let cluster = plain(1)?;
    let node = cluster.node(1);
    let port = node.port();
    node.configure(&[("work_mem", "5MB")])?;
    node.restart()?;
    assert_eq!(node.port(), port);
    assert!(node.psql("SHOW work_mem")?.contains("5MB"));
    Ok(())
}

#[test]
fn a_frozen_server_answers_after_the_thaw() -> Result<()> {
    let cluster = plain(1)?;
    let node = cluster.node(1);
    let mut client = node.client()?;
    node.freeze()?;
    let (sender, receiver) = mpsc::channel();
    let waiting = thread::spawn(move || {
        let answer = client.query_one("SELECT 1", &[]).map(|row| row.get::<_, i32>(0));
        let _ = sender.send(());
        answer
    });
    assert!(receiver.recv_timeout(SOON).is_err(), "it answered while frozen");
    node.thaw()?;
    receiver.recv_timeout(PATIENCE)?;
    assert_eq!(waiting.join().expect("no panic")?, 1);
    Ok(())
}

#[test]
fn a_cut_ends_sessions_and_refuses_new_ones_until_it_is_resumed() -> Result<()> {
    let cluster = plain(1)?;
    let proxy = cluster.proxy(1);
    let mut client = client_at(proxy.port())?;
    client.batch_execute("SELECT 1")?;
    proxy.cut();
    assert!(client.batch_execute("SELECT 1").is_err());
    assert!(client_at(proxy.port()).is_err());
    proxy.resume();
    client_at(proxy.port())?.batch_execute("SELECT 1").context("after the cut")
}

#[test]
fn a_stalled_network_goes_on_where_it_stopped() -> Result<()> {
    let cluster = plain(1)?;
    let proxy = cluster.proxy(1);
    let mut client = client_at(proxy.port())?;
    proxy.stall();
    let (sender, receiver) = mpsc::channel();
    let waiting = thread::spawn(move || {
        let answer = client.batch_execute("CREATE TABLE stalled (i int)");
        let _ = sender.send(());
        answer
    });
    assert!(receiver.recv_timeout(SOON).is_err(), "it answered while stalled");
    assert!(!cluster.node(1).has("stalled")?);
    proxy.resume();
    receiver.recv_timeout(PATIENCE)?;
    waiting.join().expect("no panic")?;
    assert!(cluster.node(1).has("stalled")?);
    Ok(())
}

#[test]
fn a_commit_can_be_caught_before_the_server_sees_it() -> Result<()> {
    let cluster = plain(1)?;
    commit_while(&cluster, Then::Cut)?;
    assert!(!cluster.node(1).has("caught")?);
    cluster.proxy(1).resume();
    client_at(cluster.proxy(1).port())?;
    Ok(())
}

#[test]
fn a_commit_can_happen_with_its_answer_lost() -> Result<()> {
    let cluster = plain(1)?;
    commit_while(&cluster, Then::CutAnswer)?;
    eventually("the commit is seen", PATIENCE, || cluster.node(1).has("caught"))
}

/// A transaction that creates the table `caught`, with a fault at its commit.
fn commit_while(cluster: &Cluster, then: Then) -> Result<()> {
    let mut client = client_at(cluster.proxy(1).port())?;
    client.batch_execute("BEGIN; CREATE TABLE caught (i int)")?;
    let hit = cluster.proxy(1).on(b"COMMIT", then);
    ensure!(client.batch_execute("COMMIT").is_err(), "the client got an answer");
    hit.wait_until_hit(PATIENCE)
}

#[test]
fn a_delay_is_felt() -> Result<()> {
    let cluster = plain(1)?;
    let proxy: &Proxy = cluster.proxy(1);
    let mut client = client_at(proxy.port())?;
    proxy.delay(Duration::from_millis(50));
    let start = std::time::Instant::now();
    client.batch_execute("SELECT 1")?;
    assert!(start.elapsed() >= Duration::from_millis(100));
    Ok(())
}

#[test]
fn a_server_with_tls_has_a_certificate_for_its_address() -> Result<()> {
    if !Install::chosen()?.has_tls()? {
        println!("skipped: this Postgres is built without TLS");
        return Ok(());
    }
    let cluster = Cluster::with(Options { nodes: 1, tls: true, ..Options::plain() })?;
    let authority = cluster.tls().context("there is an authority")?;
    let output = Command::new(cluster.node(1).install.program("psql"))
        .arg(format!(
            "host=127.0.0.1 port={} user=app password=app dbname=app sslmode=verify-full sslrootcert={}",
            cluster.node(1).port(),
            authority.certificate().display()
        ))
        .args(["-Atc", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"])
        .output()?;
    if String::from_utf8_lossy(&output.stderr).contains("SSL support is not compiled in") {
        println!("skipped: this psql is built without TLS");
        return Ok(());
    }
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "t", "{output:?}");
    Ok(())
}

/// The worst end: the process that started the servers gets no chance to do anything.
#[test]
fn servers_of_a_killed_test_end_too() -> Result<()> {
    let mut child =
        Command::new(env!("CARGO_BIN_EXE_idle_cluster")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
    let directory = PathBuf::from(line.trim());
    assert!(processes_below(&directory)? > 0, "it started: {line}");
    child.kill()?;
    child.wait()?;
    eventually("servers and files are gone", PATIENCE, || Ok(processes_below(&directory)? == 0 && !directory.exists()))
}

fn processes_below(directory: &Path) -> Result<usize> {
    let found = std::fs::read_dir("/proc")?
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path().join("cwd")).ok())
        .filter(|cwd| cwd.starts_with(directory));
    Ok(found.count())
}
