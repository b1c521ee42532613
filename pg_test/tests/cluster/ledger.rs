//! The ledger itself: it is content with tables that nothing happens to, and names every row that somebody has touched.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_test::ledger::Outcome;
use pg_test::{Cluster, Keys, Ledger, Options, PATIENCE, Then, Tolerate, Workload, eventually};

fn cluster(nodes: usize) -> Result<Cluster> {
    let cluster = Cluster::with(Options { nodes, ..Options::default() })?;
    cluster.add_nodes_by_proxy()?;
    Ok(cluster)
}

/// A table with 1,000 rows; with nodes a parent with leaves here and on two nodes.
fn loaded(cluster: &Cluster, table: &str, keys: Keys) -> Result<()> {
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&keys.create_sql(table))?;
    if !cluster.nodes().is_empty() {
        let hash = r#"{"method": "hash", "key": "id", "modulus": 3, "nodes": ["local", "n1", "n2"]}"#;
        let list = format!(
            r#"{{"method": "list", "key": "region", "values": {{"us": ["us"], "eu": ["eu"], "asia": ["cn", "jp"]}}, "partitions": {hash}}}"#
        );
        let spec = if keys == Keys::TwoColumns { &list } else { hash };
        client.batch_execute(&format!("SELECT shard_create_parent('{table}', '{spec}')"))?;
    }
    keys.load(&mut client, table, 1000)
}

/// Runs until that many transactions are acknowledged.
fn until(ledger: &Ledger, transactions: usize) -> Result<()> {
    eventually("transactions are acknowledged", Duration::from_secs(60), || Ok(ledger.acknowledged() >= transactions))
}

fn run(cluster: &Cluster, table: &str, keys: Keys, workload: Workload) -> Result<Outcome> {
    loaded(cluster, table, keys)?;
    if let Some(role) = workload.role {
        cluster.coordinator.run(&format!("GRANT ALL ON {table} TO {role}"))?;
    }
    let ledger = Ledger::start(cluster, table, keys, workload)?;
    until(&ledger, 800)?;
    let outcome = ledger.stop()?;
    println!("{keys:?}: {outcome}");
    println!("{:?}", outcome.kinds);
    Ok(outcome)
}

#[test]
fn a_parent_that_nothing_happens_to_has_every_row_once() -> Result<()> {
    let cluster = cluster(2)?;
    for keys in Keys::ALL {
        let workload = Workload { direct: 1, ..Workload::default() };
        let outcome = run(&cluster, &format!("t_{keys:?}"), keys, workload)?;
        outcome.check(&cluster).with_context(|| format!("{keys:?}"))?;
        ensure!(outcome.in_doubt() == 0 && outcome.kinds.contains_key("direct upsert"), "{outcome}");
    }
    Ok(())
}

#[test]
fn a_plain_table_has_every_row_once() -> Result<()> {
    let cluster = cluster(0)?;
    for keys in Keys::ALL {
        let workload = Workload { key_updates: true, direct: 1, role: Some("app"), ..Workload::default() };
        let outcome = run(&cluster, &format!("\"T {keys:?}'s\""), keys, workload)?;
        outcome.check(&cluster).with_context(|| format!("{keys:?}"))?;
        ensure!(outcome.kinds.len() == 18, "not every kind: {:?}", outcome.kinds);
    }
    let toasted =
        "SELECT bool_and(pg_relation_size(reltoastrelid) > 0) FROM pg_class WHERE relname LIKE 'T %' AND relkind = 'r'";
    ensure!(cluster.coordinator.value::<bool>(toasted)?, "no payload was too long for its row");
    Ok(())
}

/// A table with loaded rows that nobody has come near, and what the ledger has of it.
fn untouched(cluster: &Cluster, table: &str) -> Result<Outcome> {
    loaded(cluster, table, Keys::Bigint)?;
    let workload = Workload { clients: 0, direct: 1, ..Workload::default() };
    let ledger = Ledger::start(cluster, table, Keys::Bigint, workload)?;
    until(&ledger, 20)?;
    let outcome = ledger.stop()?;
    outcome.check(cluster)?;
    Ok(outcome)
}

fn found(outcome: &Outcome, cluster: &Cluster) -> Result<Vec<String>> {
    let mut differences: Vec<_> = outcome.differences(cluster)?.iter().map(ToString::to_string).collect();
    differences.sort();
    let error = format!("{:#}", outcome.check(cluster).err().context("the check was content")?);
    let told = differences.iter().filter(|difference| error.contains(*difference)).count();
    ensure!(told == differences.len().min(40), "{error}");
    Ok(differences)
}

#[test]
fn the_check_names_each_row_that_somebody_has_touched() -> Result<()> {
    let cluster = cluster(2)?;
    let outcome = untouched(&cluster, "t")?;
    cluster.coordinator.run(
        "DELETE FROM t WHERE id IN (5, 1000000000001); INSERT INTO t VALUES (5000, 1, 0);
         UPDATE t SET version = 6 WHERE id = 6; UPDATE t SET amount = NULL WHERE id = 7;
         UPDATE t SET payload = 'gone' WHERE id = 8; UPDATE t SET version = version + 1 WHERE id = -1",
    )?;
    let expected = [
        "id = -1: the hot row has version 2 instead of 1 (and 0 in doubt)",
        // The first one of the direct writer.
        "id = 1000000000001: is missing; the ledger has version ",
        "id = 5000: version 1 is there; the ledger has no row",
        "id = 5: is missing; the ledger has version 1 of client 0",
        "id = 6: version 6 is there; the ledger has version 1 of client 0 (version is 6 instead of 1)",
        "id = 7: version 1 is there; the ledger has version 1 of client 0 (amount is NULL instead of 7.000)",
        "id = 8: version 1 is there; the ledger has version 1 of client 0 (payload is gone instead of payload 8: ",
    ];
    let found = found(&outcome, &cluster)?;
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found} instead of {expected}");
    }
    Ok(())
}

#[test]
fn the_check_names_rows_that_are_there_twice_or_in_the_wrong_leaf() -> Result<()> {
    let cluster = cluster(2)?;
    // The first of the loaded rows in a leaf; leaf 0 is here, 1 and 2 are on n1 and n2.
    let first_of = |table: &str, leaf: i32| -> Result<i64> {
        let sql = format!("SELECT min(id) FROM {table} WHERE id >= 0 AND tableoid = '{table}_{leaf}'::regclass");
        cluster.coordinator.value(&sql)
    };
    // Only the mirror of n1 knows of this leaf.
    let outcome = untouched(&cluster, "twice")?;
    let id = first_of("twice", 2)?;
    cluster.node(1).run(&format!(
        "CREATE TABLE twice_2 PARTITION OF twice FOR VALUES WITH (modulus 3, remainder 2); INSERT INTO twice VALUES ({id}, 4, 0)"
    ))?;
    assert_eq!(
        found(&outcome, &cluster)?,
        [
            format!(
                "id = {id}: version 4 lies in public.twice_2 on n1, and the parent shows version 1 in public.twice_2 on n2"
            ),
            "public.twice_2 on n1 is a leaf that the coordinator does not know".to_owned(),
        ]
    );
    // A leaf here stands for another table than that in the mirror, and that has a row of leaf 0.
    let outcome = untouched(&cluster, "wrong")?;
    let id = first_of("wrong", 0)?;
    cluster.node(1).run(&format!(
        "SET ROLE app; CREATE TABLE elsewhere AS TABLE wrong_1; INSERT INTO elsewhere VALUES ({id}, 1, 0)"
    ))?;
    cluster.coordinator.run(&format!(
        "SET shardkeeper.allow_manual_ddl = on; DELETE FROM wrong WHERE id = {id}; ALTER FOREIGN TABLE wrong_1 OPTIONS (SET table_name 'elsewhere')"
    ))?;
    let found = found(&outcome, &cluster)?;
    for expected in [
        format!("id = {id}: lies in public.elsewhere on n1, and shard_locate says public.wrong_0 on local"),
        format!("id = {id}: the parent shows it in public.elsewhere on n1, and that is no leaf that has it"),
    ] {
        assert!(found.contains(&expected), "{expected} in {found:#?}");
    }
    Ok(())
}

#[test]
fn the_check_names_a_row_that_is_twice_in_a_table_without_a_key() -> Result<()> {
    let cluster = cluster(0)?;
    let outcome = untouched(&cluster, "t")?;
    cluster.coordinator.run("ALTER TABLE t DROP CONSTRAINT t_pkey; INSERT INTO t SELECT * FROM t WHERE id = 5")?;
    assert_eq!(
        found(&outcome, &cluster)?,
        [
            "id = 5: lies more than once in public.t on local",
            "id = 5: the parent has it twice: version 1 in public.t on local, version 1 in public.t on local",
        ]
    );
    Ok(())
}

#[test]
fn clients_tell_what_they_see_while_it_happens() -> Result<()> {
    let cluster = cluster(0)?;
    for (sql, said) in [
        ("DELETE FROM t WHERE id >= 0", "0 rows instead of 1"),
        ("UPDATE t SET payload = 'other'", "payload is other instead of"),
        (
            "ALTER TABLE t ADD CHECK (version < 0) NOT VALID",
            "ERROR 23514: new row for relation \"t\" violates check constraint",
        ),
        ("DROP TABLE t", "ERROR 42P01: relation \"public.t\" does not exist"),
        ("ALTER TABLE t DROP COLUMN doc", "ERROR 42703: column \"doc\""),
    ] {
        cluster.coordinator.run("DROP TABLE IF EXISTS t")?;
        loaded(&cluster, "t", Keys::Bigint)?;
        let ledger = Ledger::start(&cluster, "t", Keys::Bigint, Workload::default())?;
        until(&ledger, 100)?;
        // Else it could get into a deadlock with them.
        ledger.pause()?;
        cluster.coordinator.run(sql)?;
        ledger.resume();
        let failed = || Ok(ledger.failures().iter().any(|failure| failure.text.contains(said)));
        let seen = eventually(&format!("a client says {said}"), PATIENCE, failed);
        seen.with_context(|| format!("{:#?}", ledger.failures()))?;
        ensure!(!ledger.stop()?.failures.is_empty());
    }
    Ok(())
}

#[test]
fn a_wait_is_measured_and_a_pause_is_none() -> Result<()> {
    let cluster = cluster(0)?;
    loaded(&cluster, "t", Keys::Bigint)?;
    let ledger = Ledger::start(&cluster, "t", Keys::Bigint, Workload::default())?;
    until(&ledger, 200)?;
    let mut client = cluster.coordinator.client()?;
    let before = Instant::now();
    client.batch_execute("BEGIN; LOCK TABLE t")?;
    let from = Instant::now();
    std::thread::sleep(Duration::from_millis(500));
    let to = Instant::now();
    client.batch_execute("COMMIT")?;
    until(&ledger, ledger.acknowledged() + 200)?;
    ledger.check(&cluster)?;
    ledger.pause()?;
    let paused = ledger.acknowledged();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(ledger.acknowledged(), paused);
    ledger.resume();
    until(&ledger, paused + 100)?;
    let outcome = ledger.stop()?;
    outcome.check(&cluster)?;
    let longest = outcome.longest_between(from, to).context("no statement")?;
    // Whoever came to the lock first may have come a little after it was taken.
    let held = (to - from).mul_f64(0.8);
    assert!(longest.took >= held && longest.begun < to && Some(longest) == outcome.longest(), "{longest:?}");
    let earlier =
        outcome.longest_between(outcome.started, before - Duration::from_millis(50)).context("no statement")?;
    assert!(earlier.took < to - from, "{earlier:?}");
    // Clients may note a little later what was committed before.
    assert_eq!(outcome.rate_between(from + Duration::from_millis(100), to), 0.0);
    assert!(outcome.rate() > 50.0, "{outcome}");
    let slices = outcome.over_time(Duration::from_millis(100));
    assert_eq!(slices.iter().map(|slice| slice.transactions).sum::<usize>(), outcome.acknowledged());
    assert!(slices.iter().any(|slice| slice.longest >= held), "{slices:?}");
    Ok(())
}

/// As an operation does it, but while nobody looks.
#[test]
fn clients_and_direct_writers_follow_rows_to_where_they_have_moved() -> Result<()> {
    let cluster = cluster(2)?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&Keys::Text.create_sql("t"))?;
    Keys::Text.load(&mut client, "t", 1000)?;
    let workload = Workload { direct: 2, ..Workload::default() };
    let ledger = Ledger::start(&cluster, "t", Keys::Text, workload)?;
    let mut drop = "DROP TABLE t";
    for nodes in ["local, n1, n2", "n2, local, n1", "n2, n2, local"] {
        until(&ledger, ledger.acknowledged() + 200)?;
        ledger.pause()?;
        let create = Keys::Text.create_sql("t");
        client.batch_execute(&format!(
            "BEGIN; CREATE TABLE kept AS TABLE t; {drop}; {create};
             SELECT shard_create_parent('t', 'hash', 'id', modulus => 3, nodes => '{{{nodes}}}');
             INSERT INTO t SELECT * FROM kept; DROP TABLE kept; COMMIT"
        ))?;
        drop = "SELECT shard_drop_parent('t')";
        ledger.resume();
    }
    until(&ledger, ledger.acknowledged() + 200)?;
    let outcome = ledger.stop()?;
    println!("{outcome}");
    outcome.check(&cluster)?;
    ensure!(outcome.moved > 0, "{outcome}");
    Ok(())
}

#[test]
fn killed_servers_lose_nothing_that_was_acknowledged() -> Result<()> {
    let cluster = cluster(2)?;
    loaded(&cluster, "t", Keys::Uuid)?;
    let workload = Workload { direct: 2, tolerate: Tolerate::Restarts, ..Workload::default() };
    let ledger = Ledger::start(&cluster, "t", Keys::Uuid, workload)?;
    for server in [cluster.node(1), &cluster.coordinator, cluster.node(2)] {
        until(&ledger, ledger.acknowledged() + 200)?;
        server.kill9()?;
        server.start()?;
    }
    until(&ledger, ledger.acknowledged() + 200)?;
    let outcome = ledger.stop()?;
    println!("{outcome}");
    ensure!(outcome.broken > 0, "{outcome}");
    outcome.check(&cluster)
}

#[test]
fn a_row_whose_commit_got_no_answer_may_be_either() -> Result<()> {
    let cluster = cluster(2)?;
    let commit = b"COMMIT TRANSACTION";
    // Which transaction is hit is chance, and not each leaves a doubt.
    let mut in_doubt = 0;
    for round in 0..10 {
        let table = format!("t{round}");
        loaded(&cluster, &table, Keys::TwoColumns)?;
        let tolerant = Workload { tolerate: Tolerate::Restarts, ..Workload::default() };
        let ledger = Ledger::start(&cluster, &table, Keys::TwoColumns, tolerant)?;
        for then in [Then::CutAnswer, Then::Cut, Then::CutAnswer, Then::Cut, Then::CutAnswer, Then::Cut] {
            until(&ledger, ledger.acknowledged() + 50)?;
            cluster.proxy(1).on(commit, then).wait_until_hit(PATIENCE)?;
            std::thread::sleep(Duration::from_millis(100));
            cluster.proxy(1).resume();
        }
        until(&ledger, ledger.acknowledged() + 50)?;
        let outcome = ledger.stop()?;
        println!("{outcome}");
        outcome.check(&cluster)?;
        in_doubt += outcome.in_doubt();
        if in_doubt > 0 {
            break;
        }
    }
    ensure!(in_doubt > 0);
    // Where nobody said that connections break it is a failure.
    loaded(&cluster, "other", Keys::Bigint)?;
    let ledger = Ledger::start(&cluster, "other", Keys::Bigint, Workload::default())?;
    cluster.proxy(1).on(commit, Then::Cut).wait_until_hit(PATIENCE)?;
    eventually("a client tells it", PATIENCE, || Ok(ledger.failures().iter().any(|one| one.text.contains("08006"))))?;
    ensure!(ledger.stop()?.check(&cluster).is_err());
    Ok(())
}
