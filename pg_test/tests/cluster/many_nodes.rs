//! `shard_run_on_nodes`: by itself on all nodes at once, or as a part of the transaction that calls it.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::sql::{column, refused, rows};
use pg_test::{Cluster, PATIENCE, eventually};

const TABLE: &str = "SELECT shard_run_on_nodes('CREATE TABLE public.r (id int PRIMARY KEY, note text)')";

#[test]
fn within_a_transaction_it_is_part_of_it() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(2)?;
    client.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY, note text);
         SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1, n2}');",
    )?;
    // It sees what the transaction did there, and waits for no lock of it.
    client.batch_execute("BEGIN; INSERT INTO t SELECT i, 'new' FROM generate_series(1, 100) AS i")?;
    let answers = "SELECT sum(rows), bool_and(ok) FROM shard_run_on_nodes('UPDATE public.t SET note = ''changed''')";
    assert_eq!(rows(&mut client, answers)?, [["100", "t"]]);
    let alter = "SELECT bool_and(ok) FROM shard_run_on_nodes('LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE; COMMENT ON TABLE public.t IS ''it''''s'';')";
    assert_eq!(column(&mut client, alter)?, ["t"]);
    // It follows a savepoint, and what fails leaves the rest of the transaction as it was.
    client.batch_execute(&format!("SAVEPOINT s; {TABLE}; ROLLBACK TO s"))?;
    let failed =
        "SELECT node, ok, error FROM shard_run_on_nodes('INSERT INTO public.t SELECT id FROM public.t LIMIT 1')";
    let answers = rows(&mut client, failed)?;
    ensure!(answers.iter().all(|row| row[1] == "f" && row[2].contains("duplicate key")), "{answers:?}");
    let vacuum = rows(&mut client, "SELECT error FROM shard_run_on_nodes('VACUUM public.t', '{n1}')")?;
    ensure!(vacuum[0][0].contains("outside of a transaction block"), "{vacuum:?}");
    assert_eq!(column(&mut client, "SELECT count(*) FROM t WHERE note = 'changed'")?, ["100"]);
    client.batch_execute("ROLLBACK")?;
    assert_eq!(column(&mut client, "SELECT count(*) FROM t")?, ["0"]);
    for number in [1, 2] {
        ensure!(!cluster.node(number).has("public.r")?);
        let comment: Option<String> = cluster.node(number).value("SELECT obj_description('public.t'::regclass)")?;
        assert_eq!(comment, None);
    }
    // So it is in a function, which may have changed the node before, and in one string after something else.
    client.batch_execute(
        "DO $$ BEGIN
             INSERT INTO t SELECT i, 'do' FROM generate_series(1, 10) AS i;
             PERFORM shard_run_on_nodes('TRUNCATE public.t');
             INSERT INTO t VALUES (1, 'last');
         END $$;
         INSERT INTO t VALUES (2, 'string'); SELECT shard_run_on_nodes('LOCK TABLE public.t')",
    )?;
    assert_eq!(column(&mut client, "SELECT note FROM t ORDER BY id")?, ["last", "string"]);
    Ok(())
}

/// The answers look alike both ways.
#[test]
fn several_statements_in_one_string_are_one_transaction_there() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(1)?;
    let call =
        |sql: &str| format!("SELECT ok, rows, result, error FROM shard_run_on_nodes('{}')", sql.replace('\'', "''"));
    let statements = [
        "CREATE TABLE public.s (id bigint, x numeric, b bool, t text, j jsonb);
         INSERT INTO public.s VALUES (9223372036854775807, 12345678901234567890.5, true, 'a;b -- c', '{\"a\": [1]}'), (2, 1.5, NULL, E'\\\\', NULL);
         SELECT * FROM public.s ORDER BY id",
        "SELECT 1 AS one; SELECT 'two' AS two; /* the last */ SELECT count(*) FROM pg_catalog.pg_class WHERE relname = 's';",
        "INSERT INTO public.s (id) VALUES (3), (4) RETURNING id",
        "UPDATE public.s SET b = true",
        "SHOW search_path",
        "DROP TABLE public.s",
        "SELECT 1 WHERE false",
    ];
    let alone = statements.iter().map(|sql| rows(&mut client, &call(sql))).collect::<Result<Vec<_>>>()?;
    client.batch_execute("BEGIN")?;
    let within = statements.iter().map(|sql| rows(&mut client, &call(sql))).collect::<Result<Vec<_>>>()?;
    client.batch_execute("COMMIT")?;
    for (place, statement) in statements.iter().enumerate() {
        ensure!(alone[place][0][0] == "t", "{statement}: {:?}", alone[place]);
        if !statement.starts_with("SHOW") {
            assert_eq!(within[place], alone[place], "{statement}");
        }
    }
    assert_eq!(alone[1][0][2], "[{\"count\": 1}]");
    ensure!(
        alone[0][0][2].contains("\"12345678901234567890.5\"") && alone[0][0][2].contains(": 9223372036854775807"),
        "{alone:?}"
    );
    // All or nothing.
    let failed = rows(&mut client, &call("CREATE TABLE public.half (); SELECT 1 / 0"))?;
    assert_eq!(failed[0][0], "f");
    ensure!(!cluster.node(1).has("public.half")?);
    let error = refused(&mut client, "SELECT shard_run_on_nodes('BEGIN; SELECT 1; COMMIT')")?;
    assert_eq!((error.code().code(), error.message()), ("0A000", "the statements begin or end a transaction"));
    // What is set there would answer later queries through foreign tables.
    for setting in
        ["SET timezone = ''Asia/Tokyo''", "SELECT 1; RESET ALL", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"]
    {
        let call = format!("SELECT shard_run_on_nodes('{setting}')");
        client.batch_execute("BEGIN")?;
        let error = refused(&mut client, &call)?;
        assert_eq!(
            (error.code().code(), error.message()),
            ("0A000", "the setting would outlive the transaction on the node"),
            "{setting}"
        );
        client.batch_execute("ROLLBACK")?;
        client.batch_execute(&call)?;
    }
    client.batch_execute(
        "BEGIN; SELECT shard_run_on_nodes('SET LOCAL work_mem = ''1MB''; SET TRANSACTION READ ONLY'); COMMIT",
    )?;
    // Alone it is nobody's transaction.
    assert_eq!(column(&mut client, "SELECT ok FROM shard_run_on_nodes('VACUUM pg_catalog.pg_class')")?, ["t"]);
    Ok(())
}

/// A node that had committed when the cancel came says so, and nobody is told that nothing happened.
#[test]
fn a_cancel_waits_for_the_answers_of_the_nodes() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(2)?;
    client.batch_execute(TABLE)?;
    cluster.node(2).run("BEGIN; INSERT INTO public.r VALUES (1); COMMIT")?;
    let mut blocker = cluster.node(2).client()?;
    blocker.batch_execute("BEGIN; LOCK TABLE public.r")?;
    let cancelled = |nodes: &'static str, busy: &'static str| -> Result<_> {
        let mut client = cluster.coordinator.client()?;
        let cancel = client.cancel_token();
        let call = std::thread::spawn(move || {
            let sql = format!(
                "SELECT node, ok, error FROM shard_run_on_nodes('UPDATE public.r SET note = note || ''x''; INSERT INTO public.r VALUES ({busy})', '{nodes}')"
            );
            let rows = client.query(&sql, &[]);
            (rows, client)
        });
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'shardkeeper run'";
        eventually("it waits there", PATIENCE, || Ok(cluster.node(2).value::<i64>(waits)? == 1))?;
        if nodes.contains("n1") {
            let done = format!("SELECT count(*) FROM public.r WHERE id = {busy}");
            eventually("the other node has committed", PATIENCE, || Ok(cluster.node(1).value::<i64>(&done)? == 1))?;
        }
        cancel.cancel_query(postgres::NoTls)?;
        let out = call.join().expect("no panic");
        eventually("nothing runs there", Duration::from_secs(5), || Ok(cluster.node(2).value::<i64>(waits)? == 0))?;
        Ok(out)
    };
    let (answers, mut same) = cancelled("{n1,n2}", "10")?;
    let answers = answers.context("the answers")?;
    let told: Vec<(bool, bool)> = answers
        .iter()
        .map(|row| {
            (row.get(1), row.get::<_, Option<String>>(2).is_some_and(|error| error.contains("canceling statement")))
        })
        .collect();
    assert_eq!(told, [(true, false), (false, true)]);
    same.batch_execute("SELECT pg_sleep(0.01)")?;
    let (answers, _) = cancelled("{n2}", "11")?;
    let error = answers.err().context("a cancel")?;
    assert_eq!(error.as_db_error().map(|error| error.code().code().to_owned()).as_deref(), Some("57014"));
    blocker.batch_execute("ROLLBACK")?;
    assert_eq!(cluster.node(2).value::<i64>("SELECT count(*) FROM public.r")?, 1);
    Ok(())
}
