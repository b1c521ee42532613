//! The way back: a switched operation is reverted with everything that was written since, or says why it cannot be.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::movement::{
    complains, ends, field, filled, is_as_before, joined, joined_by_proxy, nothing_is_left, objects, reaches,
    switched_but_not_tidied, there_and_back, told,
};
use pg_test::objects::settled;
use pg_test::sql::{code, refused};
use pg_test::{Cluster, Keys, Ledger, PATIENCE, Tolerate, Workload, eventually};
use postgres::Client;

const LIMIT: Duration = Duration::from_secs(60);

fn scene(keys: Keys, create: &str) -> Result<(Cluster, Client)> {
    filled(joined(3)?, keys, create, 3_000)
}

const TWO: &str = "SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{local, n1}')";

#[test]
fn operations_are_reverted_while_clients_write() -> Result<()> {
    let (cluster, _client) = scene(Keys::Bigint, TWO)?;
    let calls = [
        "shard_move_partition('t_1', 'n2')",
        "shard_move_partition('t_1', 'local')",
        "shard_move_partition('t_0', 'n3')",
        "shard_set_modulus('t', 3, nodes => '{n1, n2, local}')",
        "shard_set_modulus('t', 1)",
    ];
    there_and_back(&cluster, "t", Keys::Bigint, Workload::default(), &calls)
}

#[test]
fn partitions_with_partitions_are_reverted_while_clients_write() -> Result<()> {
    let create = r#"SELECT shard_create_parent('t', '{"method": "hash", "key": "id", "modulus": 2, "nodes": ["n1", "local"],
        "partitions": {"method": "hash", "key": "id", "modulus": 2}}')"#;
    let (cluster, _client) = scene(Keys::Text, create)?;
    let calls = ["shard_set_modulus('t', 3, nodes => '{n2, n1}')", "shard_set_modulus('t_1', 3, nodes => '{n3}')"];
    there_and_back(&cluster, "t", Keys::Text, Workload::default(), &calls)
}

#[test]
fn after_a_revert_everything_is_as_before() -> Result<()> {
    let (cluster, mut client) = scene(Keys::Bigint, TWO)?;
    let before = objects(&cluster)?;
    let id: i64 = client.query_one("SELECT shard_set_modulus('t', 3, nodes => '{n1, local, n2}')", &[])?.get(0);
    reaches(&cluster, id, "switched", LIMIT)?;
    ensure!(field(&cluster, id, "revertible")? == "true", "{}", told(&cluster));
    client.execute("SELECT shard_revert($1)", &[&id])?;
    ends(&cluster, id, LIMIT)?;
    assert_eq!(field(&cluster, id, "state")?, "reverted");
    nothing_is_left(&cluster)?;
    is_as_before(&cluster, &before)?;
    // And it can begin again.
    let id: i64 = client.query_one("SELECT shard_set_modulus('t', 3, nodes => '{n1, local, n2}')", &[])?.get(0);
    reaches(&cluster, id, "switched", LIMIT)?;
    client.execute("SELECT shard_finish($1)", &[&id])?;
    ends(&cluster, id, LIMIT)?;
    nothing_is_left(&cluster)
}

#[test]
fn a_revert_waits_for_its_lock_and_can_be_given_up() -> Result<()> {
    let (cluster, mut client) = scene(Keys::Bigint, TWO)?;
    let id: i64 = client.query_one("SELECT shard_move_partition('t_1', 'n2')", &[])?.get(0);
    reaches(&cluster, id, "switched", LIMIT)?;
    let mut reader = cluster.coordinator.client()?;
    reader.batch_execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")?;
    client.execute("SELECT shard_revert($1)", &[&id])?;
    complains(&cluster, id, "nobody holds the parent", LIMIT)?;
    assert_eq!(field(&cluster, id, "state")?, "reverting");
    assert_eq!(code(&mut client, "SELECT shard_move_partition('t_0', 'n3')")?, "55006");
    client.execute("SELECT shard_cancel($1)", &[&id])?;
    reaches(&cluster, id, "switched", LIMIT)?;
    reader.batch_execute("COMMIT")?;
    client.batch_execute(
        "INSERT INTO t (id, version, client) SELECT i, 0, 0 FROM generate_series(100001, 100100) AS i",
    )?;
    client.execute("SELECT shard_revert($1)", &[&id])?;
    ends(&cluster, id, LIMIT)?;
    assert_eq!(field(&cluster, id, "state")?, "reverted");
    let rows: i64 = client.query_one("SELECT count(*) FROM t WHERE id > 100000", &[])?.get(0);
    assert_eq!(rows, 100);
    nothing_is_left(&cluster)
}

#[test]
fn a_revert_that_has_not_begun_can_be_given_up() -> Result<()> {
    let (cluster, mut client) = scene(Keys::Bigint, TWO)?;
    let rows = cluster.coordinator.count("t")?;
    // One operation, and a group of parts.
    for call in ["shard_move_partition('t_1', 'n2')", "shard_set_modulus('t', 4, nodes => '{n2, local, n1}')"] {
        let id: i64 = client.query_one(&format!("SELECT {call}"), &[])?.get(0);
        reaches(&cluster, id, "switched", LIMIT)?;
        let goes_on = || -> Result<()> {
            eventually("it goes on as a switched one", LIMIT, || {
                Ok(field(&cluster, id, "state")? == "switched" && field(&cluster, id, "requested")? == "run")
            })
            .with_context(|| told(&cluster))?;
            ensure!(field(&cluster, id, "revertible")? == "true", "{}", told(&cluster));
            Ok(())
        };
        client.batch_execute(&format!("BEGIN; SELECT shard_revert({id}); SELECT shard_cancel({id}); COMMIT"))?;
        let state: String = client.query_one("SELECT shard_wait($1, '60 s')", &[&id])?.get(0);
        assert_eq!(state, "switched");
        goes_on()?;
        // The worker may have begun by now, or begins in this moment.
        client.execute("SELECT shard_revert($1)", &[&id])?;
        client.execute("SELECT shard_cancel($1)", &[&id])?;
        goes_on()?;
        // There is nothing to be cancelled any more.
        let error = refused(&mut client, &format!("SELECT shard_cancel({id})"))?;
        ensure!(error.message().contains("it has switched"), "{error:?}");
        client.execute("SELECT shard_revert($1)", &[&id])?;
        ends(&cluster, id, LIMIT)?;
        assert_eq!(field(&cluster, id, "state")?, "reverted", "{}", told(&cluster));
        assert_eq!(cluster.coordinator.count("t")?, rows);
    }
    nothing_is_left(&cluster)
}

#[test]
fn a_revert_does_not_wait_until_the_switch_is_tidied_up() -> Result<()> {
    let (cluster, mut client) = filled(joined_by_proxy(2)?, Keys::Bigint, TWO, 1_000)?;
    let rows = cluster.coordinator.count("t")?;
    let move_it = "shard_move_partition('t_1', 'n2')";
    let (id, mut reader) = switched_but_not_tidied(&cluster, 2, move_it, "t_1")?;
    assert_eq!(field(&cluster, id, "state")?, "switched");
    client.execute("SELECT shard_revert($1)", &[&id])?;
    complains(&cluster, id, "nobody holds the parent", LIMIT)?;
    client.execute("SELECT shard_cancel($1)", &[&id])?;
    reaches(&cluster, id, "switched", LIMIT)?;
    // What the partition carries for the switch goes as soon as it can.
    let carried = "SELECT (SELECT count(*) FROM pg_trigger WHERE tgname ~ 'write_fence')
        + (SELECT count(*) FROM pg_constraint WHERE conname = 'shardkeeper_attach')";
    assert_eq!(cluster.node(2).value::<i64>(carried)?, 3);
    reader.batch_execute("COMMIT")?;
    eventually("it carries nothing", LIMIT, || Ok(cluster.node(2).value::<i64>(carried)? == 0))
        .with_context(|| told(&cluster))?;
    client.execute("SELECT shard_revert($1)", &[&id])?;
    ends(&cluster, id, LIMIT)?;
    assert_eq!(field(&cluster, id, "state")?, "reverted");
    assert_eq!(cluster.coordinator.count("t")?, rows);
    nothing_is_left(&cluster)
}

#[test]
fn a_revert_survives_the_death_of_each_server() -> Result<()> {
    let (cluster, mut client) = scene(Keys::Bigint, TWO)?;
    let workload = Workload { clients: 2, tolerate: Tolerate::Restarts, ..Workload::default() };
    let ledger = Ledger::start(&cluster, "t", Keys::Bigint, workload)?;
    let written = || {
        let wanted = ledger.acknowledged() + 50;
        eventually("clients write", LIMIT, || Ok(ledger.acknowledged() >= wanted)).with_context(|| told(&cluster))
    };
    let calls = ["shard_move_partition('t_1', 'n2')", "shard_set_modulus('t', 3, nodes => '{n2, local, n3}')"];
    for call in calls {
        let id: i64 = client.query_one(&format!("SELECT {call}"), &[])?.get(0);
        reaches(&cluster, id, "switched", LIMIT)?;
        written()?;
        let mut reader = cluster.coordinator.client()?;
        reader.batch_execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")?;
        client.execute("SELECT shard_revert($1)", &[&id])?;
        complains(&cluster, id, "nobody holds the parent", LIMIT)?;
        for server in [cluster.node(2), cluster.node(1), &cluster.coordinator] {
            server.kill9()?;
            server.start()?;
        }
        client = cluster.coordinator.patient()?;
        ends(&cluster, id, LIMIT)?;
        assert_eq!(field(&cluster, id, "state")?, "reverted", "{}", told(&cluster));
        settled(&cluster, PATIENCE)?;
        written()?;
        ledger.check(&cluster)?;
        nothing_is_left(&cluster)?;
    }
    ledger.stop()?.check(&cluster)
}

#[test]
fn a_way_back_that_is_lost_says_why() -> Result<()> {
    let (cluster, mut client) = scene(Keys::Bigint, TWO)?;
    let switched = |client: &mut Client, call: &str| -> Result<i64> {
        let id: i64 = client.query_one(&format!("SELECT {call}"), &[])?.get(0);
        reaches(&cluster, id, "switched", LIMIT)?;
        Ok(id)
    };
    let no_way = |client: &mut Client, id: i64, why: &str| -> Result<()> {
        let error = refused(client, &format!("SELECT shard_revert({id})"))?;
        ensure!(error.code().code() == "55000" && error.message().contains("has no way back"), "{error}");
        ensure!(error.detail().unwrap_or_default().contains(why), "{error:?}");
        Ok(())
    };
    // Its partitions were replaced by a later operation.
    let first = switched(&mut client, "shard_move_partition('t_1', 'n2')")?;
    let second = switched(&mut client, "shard_move_partition('t_1', 'n3')")?;
    no_way(&mut client, first, &format!("Operation {second} has replaced"))?;
    client.execute("SELECT shard_finish($1)", &[&first])?;
    ends(&cluster, first, LIMIT)?;

    // The table is not what it was.
    client.batch_execute(
        "SET shardkeeper.allow_manual_ddl = on; ALTER TABLE t ADD CONSTRAINT later CHECK (version > -1)",
    )?;
    client.execute("SELECT shard_revert($1)", &[&second])?;
    let error = refused(&mut client, &format!("SELECT shard_wait({second}, '60 s')"))?;
    ensure!(error.message().contains("was not reverted"), "{error:?}");
    assert_eq!(field(&cluster, second, "state")?, "switched");
    no_way(&mut client, second, "was changed since")?;
    client.execute("SELECT shard_finish($1)", &[&second])?;
    ends(&cluster, second, LIMIT)?;

    // Somebody wrote to what was replaced.
    client.batch_execute("ALTER TABLE t DROP CONSTRAINT later")?;
    let third = switched(&mut client, "shard_move_partition('t_1', 'n1')")?;
    let attic: String =
        cluster.nodes()[2].value("SELECT nspname::text FROM pg_namespace WHERE nspname ~ '^shardkeeper_old_'")?;
    cluster.nodes()[2].run(&format!("DELETE FROM {attic}.t_1 WHERE ctid = (SELECT min(ctid) FROM {attic}.t_1)"))?;
    client.execute("SELECT shard_revert($1)", &[&third])?;
    let error = refused(&mut client, &format!("SELECT shard_wait({third}, '60 s')"))?;
    ensure!(error.message().contains("was not reverted"), "{error:?}");
    no_way(&mut client, third, "is missing in the copy")?;
    client.execute("SELECT shard_finish($1)", &[&third])?;
    ends(&cluster, third, LIMIT)?;

    // Nothing was to be kept.
    let fourth: i64 = client.query_one("SELECT shard_move_partition('t_1', 'n2', keep => '0')", &[])?.get(0);
    ends(&cluster, fourth, LIMIT)?;
    assert_eq!(code(&mut client, &format!("SELECT shard_revert({fourth})"))?, "55000");
    nothing_is_left(&cluster)
}

/// The keeper, which looks at altered parents too, comes before the worker of the revert.
#[test]
fn a_revert_of_a_lost_way_back_says_the_reason_that_others_found() -> Result<()> {
    let (cluster, mut client) = scene(Keys::Bigint, TWO)?;
    let id: i64 = client.query_one("SELECT shard_move_partition('t_1', 'n2')", &[])?.get(0);
    reaches(&cluster, id, "switched", LIMIT)?;
    eventually("it is tidied up", LIMIT, || {
        cluster.coordinator.value("SELECT targets_cleaned FROM shardkeeper.operations")
    })?;
    client.batch_execute(&format!("BEGIN; SELECT shard_revert({id})"))?;
    let mut other = cluster.coordinator.client()?;
    other.batch_execute(
        "SET shardkeeper.allow_manual_ddl = on; ALTER TABLE t ADD CONSTRAINT later CHECK (version > -1)",
    )?;
    let waits =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'shardkeeper keeper' AND wait_event_type = 'Lock'";
    eventually("the keeper waits for the row", LIMIT, || Ok(cluster.coordinator.value::<i64>(waits)? > 0))
        .with_context(|| told(&cluster))?;
    client.batch_execute("COMMIT")?;
    let error = refused(&mut client, &format!("SELECT shard_wait({id}, '60 s')"))?;
    ensure!(error.message().contains("was not reverted"), "{error:?}");
    ensure!(error.detail().unwrap_or_default().contains("was changed since"), "{error:?}");
    let detail = field(&cluster, id, "detail")?;
    ensure!(detail.contains("was changed since"), "{detail}");
    let error = refused(&mut client, &format!("SELECT shard_revert({id})"))?;
    ensure!(error.detail().unwrap_or_default().contains("was changed since"), "{error:?}");
    client.execute("SELECT shard_finish($1)", &[&id])?;
    ends(&cluster, id, LIMIT)?;
    other.batch_execute("ALTER TABLE t DROP CONSTRAINT later")?;
    nothing_is_left(&cluster)
}

/// What the worker writes fires such triggers: the old table of a conversion keeps them, the partitions of a parent do not.
#[test]
fn triggers_that_fire_for_the_worker_too_are_in_the_way_of_the_way_back() -> Result<()> {
    let cluster = joined(1)?;
    cluster.coordinator.configure(&[("shardkeeper.trash_keep", "0")])?;
    cluster.coordinator.reload()?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(
        "CREATE TABLE noted (id bigint, kind text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO public.noted VALUES (new.id, tg_argv[0]); RETURN new; END $$",
    )?;
    let noted =
        |kind: &str| cluster.coordinator.value::<i64>(&format!("SELECT count(*) FROM noted WHERE kind = '{kind}'"));
    for (table, enable, expected) in [("a", "ALWAYS", 11), ("r", "REPLICA", 0)] {
        client.batch_execute(&format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, version int);
             INSERT INTO {table} SELECT i, 0 FROM generate_series(1, 500) AS i;
             CREATE TRIGGER notes AFTER INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION note('{table}');
             ALTER TABLE {table} ENABLE {enable} TRIGGER notes"
        ))?;
        let call =
            format!("SELECT shard_create_parent('{table}', 'hash', 'id', modulus => 2, nodes => '{{local, n1}}')");
        let id: i64 = client.query_one(&call, &[])?.get(0);
        reaches(&cluster, id, "switched", LIMIT)?;
        client.batch_execute(&format!(
            "INSERT INTO {table} VALUES (501, 0); UPDATE {table} SET version = 1 WHERE id <= 10"
        ))?;
        assert_eq!(field(&cluster, id, "revertible")?, "false", "{}", told(&cluster));
        let why = format!("trigger notes of table public.{table} fires for replicated changes too");
        let detail = field(&cluster, id, "detail")?;
        ensure!(detail.contains(&why), "{detail}");
        let error = refused(&mut client, &format!("SELECT shard_revert({id})"))?;
        ensure!(error.code().code() == "55000" && error.detail().unwrap_or_default().contains(&why), "{error:?}");
        // No operation makes a plain table of it.
        ensure!(error.hint().is_none(), "{error:?}");
        let error = refused(&mut client, &format!("SELECT shard_cancel({id})"))?;
        assert_eq!(error.hint(), Some(format!("To drop the old ones, run SELECT shard_finish({id});").as_str()));
        client.execute("SELECT shard_finish($1)", &[&id])?;
        ends(&cluster, id, LIMIT)?;
        assert_eq!(noted(table)?, expected, "{table}");

        // There and back, each change is noted once where people made it.
        let call = format!("SELECT shard_set_modulus('{table}', 3, nodes => '{{n1, local}}')");
        let id: i64 = client.query_one(&call, &[])?.get(0);
        reaches(&cluster, id, "switched", LIMIT)?;
        assert_eq!(noted(table)?, expected, "{table}");
        client.batch_execute(&format!("INSERT INTO {table} SELECT i, 0 FROM generate_series(502, 521) AS i"))?;
        client.execute("SELECT shard_revert($1)", &[&id])?;
        ends(&cluster, id, LIMIT)?;
        assert_eq!(field(&cluster, id, "state")?, "reverted", "{}", told(&cluster));
        assert_eq!(cluster.coordinator.count(table)?, 521);
        let more = if expected > 0 { 20 } else { 0 };
        assert_eq!(noted(table)?, expected + more, "{table}");
    }
    nothing_is_left(&cluster)
}

#[test]
fn a_parent_becomes_a_plain_table_again_while_clients_write() -> Result<()> {
    let (cluster, _client) = scene(Keys::Bigint, "SELECT 1")?;
    let calls = [
        "shard_create_parent('t', 'hash', 'id', modulus => 3, nodes => '{n1, local, n2}')",
        "shard_create_parent('t', 'hash', 'id', modulus => 2)",
    ];
    there_and_back(&cluster, "t", Keys::Bigint, Workload::default(), &calls)
}

#[test]
fn a_plain_table_has_everything_again() -> Result<()> {
    let cluster = joined(1)?;
    cluster.coordinator.configure(&[("shardkeeper.trash_keep", "0")])?;
    cluster.coordinator.reload()?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(
        "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
         CREATE TABLE t (id bigserial PRIMARY KEY, n bigint GENERATED ALWAYS AS IDENTITY, a int, b int CHECK (b > 0), c text);
         CREATE INDEX t_a ON t (a);
         CREATE STATISTICS t_ab ON a, b FROM t;
         CREATE TRIGGER noted BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION noted();
         CREATE ROLE reads; GRANT SELECT ON t TO reads; COMMENT ON TABLE t IS 'rows';
         CREATE PUBLICATION told FOR TABLE t;
         ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY all_of_it ON t USING (true);
         INSERT INTO t (a, b, c) SELECT i, i, 'c' || i FROM generate_series(1, 500) AS i",
    )?;
    let before = objects(&cluster)?;
    for nodes in ["local", "n1", "n1,local"] {
        let call = format!(
            "SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{{{nodes}}}', accept => '{{publication}}')"
        );
        let id: i64 = client.query_one(&call, &[])?.get(0);
        reaches(&cluster, id, "switched", LIMIT)?;
        client.batch_execute("INSERT INTO t (a, b, c) VALUES (0, 7, 'since'); DELETE FROM t WHERE id = 3")?;
        client.execute("SELECT shard_revert($1)", &[&id])?;
        ends(&cluster, id, LIMIT)?;
        assert_eq!(field(&cluster, id, "state")?, "reverted", "{}", told(&cluster));
        is_as_before(&cluster, &before)?;
    }
    client.batch_execute("INSERT INTO t (a, b, c) VALUES (0, 7, 'after')")?;
    let found = client.query_one("SELECT count(*), max(id), max(n) FROM t", &[])?;
    assert_eq!((found.get::<_, i64>(0), found.get::<_, i64>(1), found.get::<_, i64>(2)), (503, 504, 504));
    Ok(())
}

#[test]
fn what_refers_to_a_converted_table_is_in_the_way_of_its_revert_until_it_is_dropped() -> Result<()> {
    let cluster = joined_by_proxy(1)?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(
        "CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p SELECT generate_series(1, 50); CREATE TABLE child (p int)",
    )?;
    let call = "SELECT shard_create_parent('p', 'hash', 'id', modulus => 2, nodes => '{local}')";
    let id: i64 = client.query_one(call, &[])?.get(0);
    reaches(&cluster, id, "switched", LIMIT)?;
    client.batch_execute("ALTER TABLE child ADD FOREIGN KEY (p) REFERENCES p NOT VALID")?;
    for _ in 0..2 {
        let error = refused(&mut client, &format!("SELECT shard_revert({id})"))?;
        assert_eq!(
            (error.code().code(), error.message()),
            ("2BP01", "other objects depend on public.p since it became a parent")
        );
    }
    client.batch_execute("ALTER TABLE child DROP CONSTRAINT child_p_fkey; INSERT INTO p VALUES (51)")?;
    client.execute("SELECT shard_revert($1)", &[&id])?;
    reaches(&cluster, id, "reverted", LIMIT)?;
    ends(&cluster, id, LIMIT)?;
    assert_eq!(cluster.coordinator.count("p")?, 51);
    nothing_is_left(&cluster)
}
