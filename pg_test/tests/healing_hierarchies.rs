//! Calls that change hierarchies, cut in the middle of their commit: all servers agree again, and no row is lost.
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pg_test::{Cluster, Options, PATIENCE, Then, eventually};

const HEALED: Duration = Duration::from_secs(10);

/// `full` has 100 rows per region, eu on n1, us on n2, cn here; `fresh` is an ordinary empty table.
fn prepared() -> Result<Cluster> {
    let cluster = Cluster::with(Options { nodes: 2, ..Options::default() })?;
    cluster.add_nodes_by_proxy()?;
    for node in cluster.nodes() {
        node.run("GRANT CREATE ON SCHEMA public TO app")?;
    }
    cluster.coordinator.run(
        r#"CREATE TABLE public.fresh (id int PRIMARY KEY, note text);
           CREATE TABLE public.full (id int, region text, PRIMARY KEY (id, region));
           SELECT shard_create_parent('public.full', '{"method": "list", "key": "region", "values": {
               "eu": {"in": ["EU"], "nodes": ["n1"]}, "us": {"in": ["US"], "nodes": ["n2"]},
               "cn": {"in": ["CN"], "nodes": ["local"]}}}');
           INSERT INTO public.full SELECT i, r FROM generate_series(1, 100) i, unnest('{EU,US,CN}'::text[]) r"#,
    )?;
    eventually("settled", PATIENCE, || Ok(unsettled(&cluster)? == 0))?;
    Ok(cluster)
}

fn unsettled(cluster: &Cluster) -> Result<i64> {
    let mut count: i64 = cluster.coordinator.value("SELECT count(*) FROM shardkeeper.transactions")?;
    for node in cluster.nodes() {
        count += node.value::<i64>("SELECT count(*) FROM shardkeeper.journal")?;
    }
    Ok(count)
}

/// All relations of users on all servers, with what each is part of. What is undone goes to the trash, rows and all.
fn state(cluster: &Cluster) -> Result<Vec<String>> {
    let relations = "SELECT coalesce(string_agg(concat_ws(' ', c.oid::regclass, c.relkind, c.relispartition, pg_get_expr(c.relpartbound, c.oid)),
                            E'\n' ORDER BY c.oid::regclass::text), '')
                     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE nspname = 'public'
                     AND relname NOT LIKE 'shard\\_%'";
    cluster.servers().map(|server| server.value(relations)).collect()
}

fn rows(cluster: &Cluster) -> Result<i64> {
    cluster.coordinator.value("SELECT count(*) FROM public.full")
}

/// Runs `sql`; node `number` gets its COMMIT and acts on it, then `fault` strikes before the coordinator knows.
fn split(cluster: &Cluster, sql: &str, number: usize, fault: impl FnOnce() -> Result<()>) -> Result<()> {
    let hit = cluster.proxy(number).on(b"COMMIT TRANSACTION", Then::StallAnswer);
    let mut client = cluster.coordinator.client()?;
    let call = sql.to_owned();
    let commit = std::thread::spawn(move || client.batch_execute(&call));
    hit.wait_until_hit(PATIENCE)?;
    let journaled = "SELECT count(*) > 0 FROM shardkeeper.journal";
    eventually("the node has committed", PATIENCE, || cluster.node(number).value(journaled))?;
    fault()?;
    ensure!(commit.join().expect("no panic").is_err(), "the call succeeded: {sql}");
    Ok(())
}

fn agrees(cluster: &Cluster, before: &[String], what: &str) -> Result<()> {
    let start = Instant::now();
    let mut now = Vec::new();
    let agreed = eventually("all agree", HEALED, || {
        now = state(cluster)?;
        Ok(now == before && unsettled(cluster)? == 0)
    });
    if agreed.is_err() {
        assert_eq!(now, before, "{what}");
    }
    agreed?;
    println!("{what}: agreed after {:?}", start.elapsed());
    assert_eq!(rows(cluster)?, 300, "{what}");
    Ok(())
}

const CALLS: &[(&str, usize)] = &[
    ("SELECT shard_create_parent('public.fresh', 'hash', 'id', modulus => 4, nodes => '{n1,n2}')", 2),
    ("SELECT shard_drop_parent('public.full')", 2),
    ("SELECT shard_detach_partition('public.full_us')", 2),
    ("SELECT shard_drop_partition('public.full_eu')", 1),
    (r#"SELECT shard_add_partition('public.full', '{"in": ["JP"]}', 'n1')"#, 1),
];

#[test]
fn a_coordinator_killed_during_the_commit_of_a_call() -> Result<()> {
    let cluster = prepared()?;
    for (sql, number) in CALLS {
        let before = state(&cluster)?;
        split(&cluster, sql, *number, || cluster.coordinator.kill9())?;
        cluster.proxy(*number).resume();
        cluster.coordinator.start()?;
        agrees(&cluster, &before, sql)?;
    }
    Ok(())
}

#[test]
fn a_node_killed_during_the_commit_of_a_call() -> Result<()> {
    let cluster = prepared()?;
    for (sql, number) in CALLS {
        let before = state(&cluster)?;
        split(&cluster, sql, *number, || {
            cluster.node(*number).kill9()?;
            cluster.proxy(*number).cut();
            Ok(())
        })?;
        cluster.node(*number).start()?;
        cluster.proxy(*number).resume();
        agrees(&cluster, &before, sql)?;
    }
    Ok(())
}
