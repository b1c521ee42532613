//! What a split commit leaves is settled by the worker; the trash is emptied; the worker itself is a good neighbour.
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_test::objects::{settled, unsettled};
use pg_test::server::DATABASE;
use pg_test::sql::column;
use pg_test::visits::{SIGNATURE, TIMELINE};
use pg_test::{Cluster, PATIENCE, Server, Then, eventually, visited};
use postgres::Client;

/// The promise: all servers agree that long after they are up.
const HEALED: Duration = Duration::from_secs(10);

/// The role of the nodes may create tables there.
fn cluster(nodes: usize) -> Result<Cluster> {
    let cluster = Cluster::start(nodes)?;
    cluster.add_nodes_by_proxy()?;
    cluster.nodes().iter().try_for_each(|node| node.run("GRANT CREATE ON SCHEMA public TO app"))?;
    Ok(cluster)
}

/// Runs a command on a node as the extension does: through the channel, journaled with its inverse, and noted here.
fn send(client: &mut Client, node: &str, command: &str, inverse: &str) -> Result<()> {
    let id: String = client
        .query_one(
            "INSERT INTO shardkeeper.transactions (id, node, xid)
             SELECT coalesce((SELECT id FROM shardkeeper.transactions WHERE xid = pg_current_xact_id() LIMIT 1), gen_random_uuid()),
                    $1::text::name, pg_current_xact_id()
             ON CONFLICT (id, node) DO UPDATE SET xid = excluded.xid RETURNING id::text",
            &[&node],
        )?
        .get(0);
    // The extension has the transaction's number on disk before it sends anything; a change of the log's file does it, too.
    client.batch_execute("SELECT pg_switch_wal()")?;
    client.execute(
        &format!(
            "INSERT INTO shardkeeper_nodes.{node} (command, inverse, coordinator, timeline, lsn, transaction, xid)
             SELECT $1, $2, {SIGNATURE}, {TIMELINE}, pg_current_wal_flush_lsn()::text, $3, pg_current_xact_id()::text"
        ),
        &[&command, &inverse, &id],
    )?;
    Ok(())
}

fn create_on(client: &mut Client, node: &str) -> Result<()> {
    send(client, node, "CREATE TABLE public.made (i int)", "DROP TABLE public.made")
}

fn made_on(cluster: &Cluster, number: usize) -> Result<bool> {
    cluster.node(number).has("public.made")
}

fn journal(cluster: &Cluster, number: usize) -> Result<i64> {
    cluster.node(number).count("shardkeeper.journal")
}

/// A transaction that has created the table `made` on all nodes.
fn create_everywhere(cluster: &Cluster) -> Result<Client> {
    let mut client = cluster.coordinator.client()?;
    client.batch_execute("BEGIN")?;
    cluster.nodes().iter().try_for_each(|node| create_on(&mut client, &node.name))?;
    Ok(client)
}

/// Commits, up to the moment when the COMMIT of node `number` passes its proxy and `then` happens.
fn commit_up_to(cluster: &Cluster, mut client: Client, number: usize, then: Then) -> Result<JoinHandle<Result<()>>> {
    let hit = cluster.proxy(number).on(b"COMMIT TRANSACTION", then);
    let commit = std::thread::spawn(move || Ok(client.batch_execute("COMMIT")?));
    hit.wait_until_hit(PATIENCE)?;
    Ok(commit)
}

fn must_fail(commit: JoinHandle<Result<()>>) -> Result<()> {
    ensure!(commit.join().expect("no panic").is_err(), "the commit must fail");
    Ok(())
}

/// The worker has settled all that is in the journal of node `number`, and leaves alone what is still there.
fn visit(cluster: &Cluster, number: usize) -> Result<()> {
    visited(&cluster.coordinator, DATABASE, cluster.node(number))
}

/// Everything that the transaction did is gone everywhere, and nothing is left to settle.
fn agrees_that_nothing_happened(cluster: &Cluster) -> Result<()> {
    let start = Instant::now();
    eventually("healed", HEALED, || {
        let made = cluster.nodes().iter().map(|node| node.has("public.made")).collect::<Result<Vec<_>>>()?;
        Ok(!made.contains(&true) && unsettled(cluster)? == 0)
    })?;
    println!("healed after {:?}", start.elapsed());
    Ok(())
}

#[test]
fn a_commit_that_fails_on_the_second_node_is_undone_on_the_first() -> Result<()> {
    let cluster = cluster(2)?;
    cluster.node(2).run(
        "CREATE TABLE public.picky (i int UNIQUE DEFERRABLE INITIALLY DEFERRED); GRANT ALL ON public.picky TO app",
    )?;
    let mut client = create_everywhere(&cluster)?;
    client.batch_execute(
        "INSERT INTO shardkeeper_nodes.n2 (command) VALUES ('INSERT INTO public.picky VALUES (1), (1)')",
    )?;
    let error = client.batch_execute("COMMIT").err().context("the commit fails")?;
    assert!(error.as_db_error().is_some_and(|error| error.code().code() == "23505"), "{error:?}");
    agrees_that_nothing_happened(&cluster)
}

#[test]
fn what_both_committed_is_forgotten_and_stays() -> Result<()> {
    let cluster = cluster(2)?;
    let mut client = create_everywhere(&cluster)?;
    // A visit while the transaction runs must leave it alone.
    visit(&cluster, 1)?;
    visit(&cluster, 2)?;
    client.batch_execute("COMMIT")?;
    settled(&cluster, HEALED)?;
    assert!(made_on(&cluster, 1)? && made_on(&cluster, 2)?);
    Ok(())
}

/// The coordinator dies while a node has its COMMIT and the answer is on the way.
#[test]
fn a_coordinator_killed_between_the_commits_agrees_with_its_nodes_after_the_restart() -> Result<()> {
    for then in [Then::StallAnswer, Then::Stall] {
        let cluster = cluster(2)?;
        let commit = commit_up_to(&cluster, create_everywhere(&cluster)?, 2, then)?;
        eventually("the first node has committed", PATIENCE, || made_on(&cluster, 1))?;
        cluster.coordinator.kill9()?;
        must_fail(commit)?;
        cluster.proxy(2).resume();
        cluster.coordinator.start()?;
        agrees_that_nothing_happened(&cluster)?;
    }
    Ok(())
}

#[test]
fn a_node_killed_at_its_commit_makes_all_roll_back() -> Result<()> {
    let cluster = cluster(2)?;
    let commit = commit_up_to(&cluster, create_everywhere(&cluster)?, 2, Then::StallAnswer)?;
    eventually("the second node has committed", PATIENCE, || made_on(&cluster, 2))?;
    cluster.node(2).kill9()?;
    cluster.proxy(2).cut();
    must_fail(commit)?;
    cluster.node(2).start()?;
    cluster.proxy(2).resume();
    agrees_that_nothing_happened(&cluster)
}

#[test]
fn a_frozen_node_does_not_hold_up_the_others() -> Result<()> {
    let cluster = cluster(2)?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute("BEGIN")?;
    create_on(&mut client, "n1")?;
    must_fail(commit_up_to(&cluster, client, 1, Then::CutAnswer)?)?;
    cluster.node(2).freeze()?;
    cluster.proxy(1).resume();
    eventually("the first node is healed", HEALED, || Ok(!made_on(&cluster, 1)? && journal(&cluster, 1)? == 0))?;
    cluster.node(2).thaw()
}

#[test]
fn rows_of_another_history_are_reported_and_left_alone() -> Result<()> {
    let cluster = cluster(1)?;
    let signature: String = cluster.coordinator.value(&format!("SELECT {SIGNATURE}"))?;
    let insert = |coordinator: &str, timeline: i32| {
        cluster.node(1).client()?.execute(
            "INSERT INTO shardkeeper.journal (coordinator, timeline, lsn, transaction, xid, role, command, inverse, done_at)
             VALUES ($1, $2, '0/1', gen_random_uuid(), '3', 'app', 'SELECT 1', 'CREATE TABLE public.undone ()', now() - interval '1 hour')",
            &[&coordinator, &timeline],
        )?;
        anyhow::Ok(())
    };
    insert(&signature, 9)?;
    insert("17/5", 1)?;
    visit(&cluster, 1)?;
    assert_eq!(journal(&cluster, 1)?, 2);
    let found = column(
        &mut cluster.coordinator.client()?,
        "SELECT finding FROM shard_check() WHERE node = 'n1' AND severity = 'warning' ORDER BY 1",
    )?;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found.iter().any(|text| text.contains("of timeline 9, which this coordinator, on 1, does not know")),
        "{found:?}"
    );
    assert!(found.iter().any(|text| text.contains("of another coordinator, 17/5")), "{found:?}");
    Ok(())
}

/// An inverse that cannot run yet is tried again; it holds up nothing else.
#[test]
fn an_inverse_that_fails_is_tried_again_until_it_can_run() -> Result<()> {
    let cluster = cluster(1)?;
    must_fail(commit_up_to(&cluster, create_everywhere(&cluster)?, 1, Then::CutAnswer)?)?;
    cluster.node(1).run("CREATE VIEW public.on_it AS SELECT * FROM public.made")?;
    cluster.proxy(1).resume();
    eventually("the trouble is logged", PATIENCE, || {
        Ok(cluster.coordinator.log().contains("cannot drop table public.made"))
    })?;
    assert!(made_on(&cluster, 1)?);
    cluster.node(1).run("DROP VIEW public.on_it")?;
    agrees_that_nothing_happened(&cluster)
}

#[test]
fn the_trash_is_emptied_after_its_keep_time_and_not_before() -> Result<()> {
    let cluster = cluster(1)?;
    let node = cluster.node(1);
    let mut app = node.client_as("app", "app", "app")?;
    app.batch_execute(
        "CREATE TABLE public.short (i int PRIMARY KEY); CREATE TABLE public.long (i int);
         SELECT shardkeeper.discard('public.short', '1 second'); SELECT shardkeeper.discard('public.long', '1 day')",
    )?;
    eventually("the short one is gone", HEALED, || {
        Ok(node.value::<i64>("SELECT count(*) FROM pg_class WHERE relnamespace = 'shardkeeper_trash'::regnamespace")?
            == 1)
    })?;
    assert_eq!(node.count("shardkeeper.trash")?, 1);
    app.batch_execute("SELECT shardkeeper.restore('public', 'long')")?;
    assert_eq!(node.count("public.long")?, 0);
    Ok(())
}

/// A drop that only the node committed is undone, however short its keep time was.
#[test]
fn a_dropped_table_is_not_destroyed_before_the_drop_is_settled() -> Result<()> {
    let cluster = cluster(2)?;
    let node = cluster.node(1);
    node.client_as("app", "app", "app")?.batch_execute("CREATE TABLE public.kept AS SELECT 7 AS i")?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute("BEGIN")?;
    send(
        &mut client,
        "n1",
        "DO 'BEGIN PERFORM shardkeeper.discard(''public.kept'', ''0''); END'",
        "DO 'BEGIN PERFORM shardkeeper.restore(''public'', ''kept''); END'",
    )?;
    create_on(&mut client, "n2")?;
    let commit = commit_up_to(&cluster, client, 2, Then::StallAnswer)?;
    eventually("the first node has committed", PATIENCE, || Ok(journal(&cluster, 1)? == 1))?;
    // The first node is visited meanwhile: the transaction still runs, so its drop may yet be undone.
    visit(&cluster, 1)?;
    assert_eq!(node.count("shardkeeper.trash")?, 1);
    cluster.coordinator.kill9()?;
    let _ = commit.join();
    cluster.proxy(2).resume();
    cluster.coordinator.start()?;
    eventually("the table is back", HEALED, || node.has("public.kept"))?;
    assert_eq!(node.value::<i32>("SELECT i FROM public.kept")?, 7);
    Ok(())
}

/// As a standby: nothing may be written, so nothing is settled; after the promotion, on a new timeline, it is.
#[test]
fn a_promoted_standby_carries_on_with_what_its_predecessor_left() -> Result<()> {
    let cluster = cluster(1)?;
    leave_split(&cluster)?;
    fs::write(cluster.coordinator.data_dir().join("standby.signal"), "")?;
    cluster.proxy(1).resume();
    cluster.coordinator.start()?;
    start_background_workers(&cluster.coordinator)?;
    let workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'shardkeeper%'";
    assert_eq!(cluster.coordinator.value::<i64>(workers)?, 0);
    assert!(made_on(&cluster, 1)?, "a standby must not settle anything");
    cluster.coordinator.run("SELECT pg_promote()")?;
    agrees_that_nothing_happened(&cluster)?;
    eventually("it is logged", PATIENCE, || {
        Ok(cluster.coordinator.log().contains("node \"n1\": undid 1 transaction"))
    })?;
    let log = cluster.coordinator.log();
    let at = |text: &str| log.find(text).with_context(|| format!("not in the log: {text}"));
    assert!(at("archive recovery complete")? < at("node \"n1\": undid 1 transaction")?, "{log}");
    // And once more on the new timeline.
    leave_split(&cluster)?;
    cluster.proxy(1).resume();
    cluster.coordinator.start()?;
    agrees_that_nothing_happened(&cluster)
}

/// A coordinator restored to an earlier point does not know how later transactions ended: it touches nothing.
#[test]
fn a_restored_coordinator_reports_what_it_does_not_remember() -> Result<()> {
    let cluster = cluster(1)?;
    let server = &cluster.coordinator;
    server.stop()?;
    let (data, backup) = (server.data_dir(), server.data_dir().with_extension("backup"));
    copy(&data, &backup)?;
    server.start()?;
    // The node commits, the coordinator too; only the worker has no chance to settle it.
    let commit = commit_up_to(&cluster, create_everywhere(&cluster)?, 1, Then::StallAnswer)?;
    eventually("the node has committed", PATIENCE, || Ok(journal(&cluster, 1)? == 1))?;
    server.kill9()?;
    let _ = commit.join();
    fs::rename(&data, data.with_extension("lost"))?;
    fs::rename(&backup, &data)?;
    fs::write(data.join("standby.signal"), "")?;
    cluster.proxy(1).resume();
    server.start()?;
    server.run("SELECT pg_promote()")?;
    visit(&cluster, 1)?;
    assert!(made_on(&cluster, 1)? && journal(&cluster, 1)? == 1);
    // Reported is what has been there for a while.
    cluster.node(1).run("UPDATE shardkeeper.journal SET done_at = done_at - interval '1 hour'")?;
    let finding: String =
        server.value("SELECT finding FROM shard_check() WHERE node = 'n1' AND severity = 'warning'")?;
    assert!(finding.contains("of timeline 1, which this coordinator, on 2, does not know"), "{finding}");
    Ok(())
}

/// The node committed, and the coordinator was killed before it did; it is not running any more.
fn leave_split(cluster: &Cluster) -> Result<()> {
    let commit = commit_up_to(cluster, create_everywhere(cluster)?, 1, Then::StallAnswer)?;
    eventually("the node has committed", PATIENCE, || made_on(cluster, 1))?;
    // The log reaches the disk beyond what the transaction wrote, as a standby would have it.
    cluster.coordinator.run("CREATE TABLE after_it (); DROP TABLE after_it")?;
    cluster.coordinator.kill9()?;
    must_fail(commit)
}

/// All background workers that the server may have now are running: a parallel query got one, and they start together.
fn start_background_workers(server: &Server) -> Result<()> {
    let mut client = server.client()?;
    client.batch_execute(
        "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0",
    )?;
    eventually("a background worker has started", PATIENCE, || {
        let plan = column(&mut client, "EXPLAIN (ANALYZE) SELECT count(*) FROM pg_attribute")?;
        Ok(plan.iter().any(|line| line.contains("Workers Launched: ") && !line.ends_with(" 0")))
    })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(status.success(), "cp failed");
    Ok(())
}
