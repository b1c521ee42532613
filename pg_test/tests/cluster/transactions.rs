//! Calls as parts of the caller's transaction: on all servers at once, with savepoints, and entirely undone.
use anyhow::{Context, Result};
use pg_test::objects::settled;
use pg_test::sql::{column, refused, rows};
use pg_test::{Cluster, Objects, PATIENCE, Then, eventually};
use postgres::Client;

const ORDERS: &str = r#"
    CREATE TABLE orders (id int, region text, total numeric NOT NULL, PRIMARY KEY (id, region));
    SELECT shard_create_parent('orders', '{"method": "list", "key": "region", "values": {
        "us": {"in": ["US"], "nodes": ["n1"]}, "eu": {"in": ["EU"], "nodes": ["n2"]}, "cn": {"in": ["CN"], "nodes": ["n3"]}}}')"#;
const EVENTS: &str = "
    CREATE TABLE events (id int PRIMARY KEY, body jsonb);
    SELECT shard_create_parent('events', 'hash', 'id', modulus => 4, nodes => '{n1, n2, n3, local}')";

fn cluster() -> Result<Cluster> {
    let cluster = Cluster::start(3)?;
    cluster.add_nodes_by_proxy()?;
    Ok(cluster)
}

/// The tables of an application on one server with the number of their own rows.
fn tables(client: &mut Client) -> Result<Vec<String>> {
    let names = column(
        client,
        "SELECT oid::regclass FROM pg_class WHERE relkind IN ('r', 'p', 'f') AND relnamespace = 'public'::regnamespace
         ORDER BY oid::regclass::text",
    )?;
    names
        .into_iter()
        .map(|name| Ok(format!("{name} {}", column(client, &format!("SELECT count(*) FROM {name}"))?[0])))
        .collect()
}

fn tables_of(cluster: &Cluster, number: usize) -> Result<Vec<String>> {
    tables(&mut cluster.node(number).client()?)
}

/// A day's work of a migration, up to the end of its transaction.
fn migrate(client: &mut Client) -> Result<()> {
    let steps = [
        "BEGIN",
        ORDERS,
        EVENTS,
        "INSERT INTO orders SELECT i, (ARRAY['US', 'EU', 'CN'])[1 + i % 3], i FROM generate_series(1, 300) i",
        "INSERT INTO events SELECT i, jsonb_build_object('i', i) FROM generate_series(1, 400) i",
        r#"SELECT shard_add_partition('orders', '{"in": ["JP"], "label": "jp"}', 'n2')"#,
        "INSERT INTO orders SELECT i, 'JP', i FROM generate_series(1, 50) i",
        "SAVEPOINT before_second_thoughts",
        r#"SELECT shard_add_partition('orders', '{"in": ["BR"], "label": "br"}', 'n3')"#,
        "INSERT INTO orders SELECT i, 'BR', i FROM generate_series(1, 7) i",
        "SELECT shard_drop_partition('orders_us')",
        "SELECT shard_detach_partition('orders_eu')",
        "DELETE FROM orders WHERE region = 'CN'",
        "UPDATE orders SET total = -1",
        "SELECT shard_drop_parent('events')",
        "CREATE TABLE later (id int PRIMARY KEY); SELECT shard_create_parent('later', 'hash', 'id', modulus => 3, nodes => '{n1, n2, n3}')",
        "ROLLBACK TO SAVEPOINT before_second_thoughts",
        "INSERT INTO orders VALUES (1000, 'JP', 1)",
    ];
    steps.iter().try_for_each(|step| client.batch_execute(step).with_context(|| (*step).to_owned()))
}

#[test]
fn a_committed_transaction_did_on_all_servers_what_was_not_rolled_back() -> Result<()> {
    let cluster = cluster()?;
    let mut client = cluster.coordinator.client()?;
    migrate(&mut client)?;
    let nothing: [&str; 0] = [];
    for node in cluster.nodes() {
        assert_eq!(tables(&mut node.client()?)?, nothing, "{} shows it before the commit", node.name);
    }
    client.batch_execute("COMMIT")?;
    assert_eq!(tables_of(&cluster, 1)?, ["events 114", "events_0 114", "orders 100", "orders_us 100"]);
    assert_eq!(tables_of(&cluster, 2)?, ["events 98", "events_1 98", "orders 151", "orders_eu 100", "orders_jp 51"]);
    assert_eq!(tables_of(&cluster, 3)?, ["events 104", "events_2 104", "orders 100", "orders_cn 100"]);
    assert_eq!(
        tables(&mut client)?.join(", "),
        "events 400, events_0 114, events_1 98, events_2 104, events_3 84, \
         orders 351, orders_cn 100, orders_eu 100, orders_jp 51, orders_us 100"
    );
    assert_eq!(rows(&mut client, "SELECT count(*), sum(total) FROM orders")?, [["351", "46426"]]);
    assert_eq!(rows(&mut client, "SELECT count(*), sum((body ->> 'i')::int) FROM events")?, [["400", "80200"]]);
    settled(&cluster, PATIENCE)?;
    let later = Objects::of_all(&cluster)?;
    assert_eq!(later.with(&["later"]), nothing);
    assert_eq!(later.with(&["shardkeeper.trash ("]), nothing);
    Ok(())
}

#[test]
fn a_rolled_back_transaction_leaves_nothing_on_any_server() -> Result<()> {
    let cluster = cluster()?;
    let before = Objects::of_all(&cluster)?;
    let mut client = cluster.coordinator.client()?;
    migrate(&mut client)?;
    client.batch_execute("ROLLBACK")?;
    assert_eq!(Objects::of_all(&cluster)?.changes_since(&before), [""; 0]);
    // So does one whose session just ends.
    migrate(&mut client)?;
    drop(client);
    eventually("the session is gone", PATIENCE, || Ok(Objects::of_all(&cluster)? == before))
}

#[test]
fn a_failure_on_the_last_node_undoes_all() -> Result<()> {
    let cluster = cluster()?;
    let mut client = cluster.coordinator.client()?;
    cluster.nodes().iter().take(2).try_for_each(|node| node.run("CREATE TYPE mood AS ENUM ('ok')"))?;
    client.batch_execute("CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE feelings (id int, mood mood)")?;
    client.batch_execute("CREATE TABLE events (id int PRIMARY KEY, body jsonb)")?;
    let node = cluster.node(3);
    let feelings = "SELECT shard_create_parent('feelings', 'hash', 'id', modulus => 3, nodes => '{n1, n2, n3}')";
    let events = "SELECT shard_create_parent('events', 'hash', 'id', modulus => 3, nodes => '{n1, n2, n3}')";
    // Each with what stands in the way on the last node, and how it goes away.
    let cases = [
        (feelings, "42710", "CREATE TYPE mood AS ENUM ('another')", "DROP TYPE mood"),
        (events, "42P07", "CREATE TABLE events_2 ()", "DROP TABLE events_2"),
        (events, "42P07", "CREATE VIEW events AS SELECT 1", "DROP VIEW events"),
        (
            events,
            "P0001",
            "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity = 'public.events_2') THEN
                     RAISE 'not on this server';
                 END IF;
             END $$;
             CREATE EVENT TRIGGER refuse ON ddl_command_end EXECUTE FUNCTION refuse()",
            "DROP EVENT TRIGGER refuse; DROP FUNCTION refuse",
        ),
        (
            events,
            "42501",
            "REVOKE CREATE ON SCHEMA public FROM pg_database_owner",
            "GRANT CREATE ON SCHEMA public TO pg_database_owner",
        ),
    ];
    for (call, code, obstacle, removal) in cases {
        node.run(obstacle)?;
        let before = Objects::of_all(&cluster)?;
        assert_eq!(refused(&mut client, call)?.code().code(), code, "{obstacle}");
        assert_eq!(Objects::of_all(&cluster)?.changes_since(&before), [""; 0], "{obstacle}");
        // Also what the transaction did before, with other parents on the same nodes.
        client.batch_execute(
            "BEGIN; CREATE TABLE first (id int PRIMARY KEY);
             SELECT shard_create_parent('first', 'hash', 'id', modulus => 2, nodes => '{n1, n2}');
             INSERT INTO first SELECT generate_series(1, 100)",
        )?;
        assert_eq!(refused(&mut client, call)?.code().code(), code, "{obstacle}");
        client.batch_execute("COMMIT")?;
        assert_eq!(Objects::of_all(&cluster)?.changes_since(&before), [""; 0], "{obstacle}");
        node.run(removal)?;
        client.batch_execute(&format!("BEGIN; {call}; ROLLBACK"))?;
    }
    Ok(())
}

#[test]
fn a_call_that_fails_in_an_exception_block_is_undone_and_the_rest_is_kept() -> Result<()> {
    let cluster = cluster()?;
    cluster.node(3).run("CREATE TABLE events ()")?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&format!(
        r#"
        CREATE TABLE log (line text);
        BEGIN;
        {ORDERS};
        DO $do$
        BEGIN
            CREATE TABLE events (id int PRIMARY KEY);
            INSERT INTO orders VALUES (1, 'CN', 1);
            PERFORM shard_add_partition('orders', '{{"in": ["JP"], "label": "jp"}}', 'n1');
            PERFORM shard_create_parent('events', 'hash', 'id', modulus => 3, nodes => '{{n1, n2, n3}}');
        EXCEPTION WHEN duplicate_table THEN
            INSERT INTO log VALUES (sqlerrm);
            PERFORM shard_add_partition('orders', '{{"in": ["JP"], "label": "jp"}}', 'n2');
            INSERT INTO orders VALUES (2, 'JP', 1);
        END
        $do$;
        COMMIT"#
    ))?;
    assert_eq!(column(&mut client, "SELECT line FROM log")?, ["relation public.events already exists on node n3"]);
    assert_eq!(rows(&mut client, "SELECT id, region FROM orders")?, [["2", "JP"]]);
    assert_eq!(tables_of(&cluster, 1)?, ["orders 0", "orders_us 0"]);
    assert_eq!(tables_of(&cluster, 2)?, ["orders 1", "orders_eu 0", "orders_jp 1"]);
    settled(&cluster, PATIENCE)?;
    assert_eq!(Objects::of_all(&cluster)?.with(&["shardkeeper.trash ("]), [""; 0]);
    Ok(())
}

#[test]
fn a_call_that_is_cancelled_while_a_node_does_not_answer_leaves_nothing() -> Result<()> {
    let cluster = cluster()?;
    let before = Objects::of_all(&cluster)?;
    // The node gets the command or does not, and does not answer; or it hangs as a whole.
    for then in [Some(Then::StallAnswer), Some(Then::Stall), None] {
        let mut client = cluster.coordinator.client()?;
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
        client.batch_execute("BEGIN; CREATE TABLE orders (id int PRIMARY KEY)")?;
        let trap = cluster.proxy(2).on(b"CREATE TABLE public.orders", then.unwrap_or(Then::StallAnswer));
        let call = std::thread::spawn(move || {
            refused(
                &mut client,
                "SELECT shard_create_parent('orders', 'hash', 'id', modulus => 3, nodes => '{n1, n2, n3}')",
            )
        });
        trap.wait_until_hit(PATIENCE)?;
        if then.is_none() {
            cluster.node(2).freeze()?;
        }
        let given_up = || cluster.coordinator.log().matches("canceling statement due to user request").count();
        let before_it = given_up();
        cluster.coordinator.run(&format!("SELECT pg_cancel_backend({pid})"))?;
        // It cannot tell the node that all is off before that can be reached.
        eventually("the call is given up", PATIENCE, || Ok(given_up() > before_it))?;
        if then.is_none() {
            cluster.node(2).thaw()?;
        }
        cluster.proxy(2).resume();
        assert_eq!(call.join().expect("no panic")?.code().code(), "57014", "{then:?}");
        eventually("nothing is left", PATIENCE, || Ok(Objects::of_all(&cluster)? == before))?;
    }
    Ok(())
}

#[test]
fn statements_prepared_before_a_table_became_a_parent_go_on() -> Result<()> {
    let cluster = cluster()?;
    let mut client = cluster.coordinator.client()?;
    let mut other = cluster.coordinator.client()?;
    client.batch_execute("CREATE TABLE events (id int PRIMARY KEY, body jsonb)")?;
    let insert = "INSERT INTO events (id, body) VALUES ($1, jsonb_build_object('i', $1::int))";
    let find = "SELECT count(*) FROM events WHERE id = $1";
    let mine = (client.prepare(insert)?, client.prepare(find)?);
    let theirs = (other.prepare(insert)?, other.prepare(find)?);
    // Often enough for a plan that is kept.
    for _ in 0..10 {
        client.query_one(&mine.1, &[&1])?;
        other.query_one(&theirs.1, &[&1])?;
    }
    client.batch_execute(
        "BEGIN; SELECT shard_create_parent('events', 'hash', 'id', modulus => 4, nodes => '{n1, n2, n3, local}')",
    )?;
    for id in 1..20 {
        client.execute(&mine.0, &[&id])?;
    }
    client.batch_execute("COMMIT")?;
    for id in 20..40 {
        other.execute(&theirs.0, &[&id])?;
        assert_eq!(other.query_one(&theirs.1, &[&id])?.get::<_, i64>(0), 1);
        assert_eq!(client.query_one(&mine.1, &[&(id - 19)])?.get::<_, i64>(0), 1);
    }
    client.batch_execute("SELECT shard_drop_parent('events')")?;
    let gone = other.query_one(&theirs.1, &[&1]).err().context("the table is gone")?;
    assert_eq!(gone.code().map(|code| code.code()), Some("42P01"));
    Ok(())
}

#[test]
fn callers_at_every_isolation_level_see_what_they_did() -> Result<()> {
    let cluster = cluster()?;
    let mut client = cluster.coordinator.client()?;
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT 1"))?;
        // Somebody else goes on meanwhile.
        cluster.coordinator.run("CREATE TABLE IF NOT EXISTS side (id int PRIMARY KEY)")?;
        for step in [
            ORDERS,
            "INSERT INTO orders SELECT i, (ARRAY['US', 'EU', 'CN'])[1 + i % 3], i FROM generate_series(1, 30) i",
            r#"SELECT shard_add_partition('orders', '{"in": ["JP"], "label": "jp"}', 'n1')"#,
            "INSERT INTO orders VALUES (1, 'JP', 1); SAVEPOINT s; DELETE FROM orders; ROLLBACK TO s",
            "SELECT shard_detach_partition('orders_us'); SELECT shard_drop_partition('orders_eu')",
        ] {
            client.batch_execute(step).with_context(|| format!("{level}: {step}"))?;
        }
        assert_eq!(
            rows(&mut client, "SELECT region, count(*) FROM orders GROUP BY 1 ORDER BY 1")?,
            [["CN", "10"], ["JP", "1"]]
        );
        client.batch_execute("COMMIT").context(level)?;
        assert_eq!(tables_of(&cluster, 1)?, ["orders 1", "orders_jp 1", "orders_us 10"], "{level}");
        client.batch_execute(&format!(
            "BEGIN ISOLATION LEVEL {level}; SELECT shard_drop_parent('orders'); DROP FOREIGN TABLE orders_us; COMMIT"
        ))?;
        cluster.node(1).run("DROP TABLE orders_us")?;
    }
    Ok(())
}

#[test]
fn a_transaction_that_may_not_write_or_will_not_end_here_changes_nothing() -> Result<()> {
    let cluster = cluster()?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute("CREATE TABLE events (id int PRIMARY KEY)")?;
    let before = Objects::of_all(&cluster)?;
    let call = "SELECT shard_create_parent('events', 'hash', 'id', modulus => 3, nodes => '{n1, n2, n3}')";
    client.batch_execute("BEGIN READ ONLY")?;
    assert_eq!(refused(&mut client, call)?.code().code(), "25006");
    client.batch_execute("ROLLBACK")?;
    client.batch_execute(&format!("BEGIN; {call}"))?;
    assert_eq!(refused(&mut client, "PREPARE TRANSACTION 'later'")?.code().code(), "0A000");
    client.batch_execute("ROLLBACK")?;
    assert_eq!(Objects::of_all(&cluster)?.changes_since(&before), [""; 0]);
    Ok(())
}

/// A generic plan leaves out partitions when it is run. Postgres 18 takes what foreign tables noted from the wrong place then.
#[test]
fn prepared_statements_with_generic_plans_change_the_rows_that_they_name() -> Result<()> {
    let (_cluster, mut client) = Cluster::joined(2)?;
    client.batch_execute(
        "CREATE TABLE e (region text, id bigint, v int, PRIMARY KEY (region, id));
         SELECT shard_create_parent('e', 'list', 'region', lists => '{\"a\": [\"a\"], \"b\": [\"b\"], \"c\": [\"c\"], \"d\": [\"d\"]}', nodes => '{local, n1, n1, n2}');
         INSERT INTO e SELECT r, i, 0 FROM unnest('{a,b,c,d}'::text[]) AS r, generate_series(1, 10) AS i;
         CREATE FUNCTION same(v int) RETURNS int LANGUAGE plpgsql VOLATILE AS $$ BEGIN RETURN v; END $$;
         SET plan_cache_mode = force_generic_plan;
         PREPARE sent AS UPDATE e SET v = $1 WHERE region = $2 AND id = $3;
         PREPARE fetched AS UPDATE e SET v = same($1) WHERE region = $2 AND id = same($3::int);
         PREPARE later AS UPDATE e SET v = $1 WHERE region = lower($2) AND id BETWEEN $3 AND $4;
         PREPARE gone AS DELETE FROM e WHERE region = $1 AND id = $2;
         PREPARE written AS WITH w AS (UPDATE e SET v = v + 1 WHERE region = $1 AND id = $2 RETURNING v) SELECT v FROM w",
    )?;
    for region in ["d", "c", "b", "a"] {
        client.batch_execute(&format!(
            "EXECUTE sent(1, '{region}', 1); EXECUTE fetched(2, '{region}', 2); EXECUTE later(3, upper('{region}'), 3, 4);
             EXECUTE gone('{region}', 5); EXECUTE written('{region}', 6)"
        ))?;
        let all = "SELECT string_agg(v::text, '' ORDER BY id) FROM e WHERE region = ";
        assert_eq!(column(&mut client, &format!("{all}'{region}'"))?, ["123310000"], "{region}");
    }
    let untouched = "SELECT count(*) FROM e WHERE v = 0";
    assert_eq!(column(&mut client, untouched)?, ["16"]);
    Ok(())
}

/// A transaction sees a node's catalog as it was when it first used the node, but what it moves is there now.
#[test]
fn a_drop_that_does_not_see_a_new_partition_leaves_it_and_is_called_for_again() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(1)?;
    client.batch_execute(
        "CREATE TABLE other (id int PRIMARY KEY); SELECT shard_create_parent('other', 'hash', 'id', modulus => 1, nodes => '{n1}');
         CREATE TABLE r (id int PRIMARY KEY); SELECT shard_create_parent('r', 'range', 'id', bounds => '[0, 10, 20]', nodes => '{n1}')",
    )?;
    let mut late = cluster.coordinator.patient()?;
    late.batch_execute("BEGIN; SELECT count(*) FROM other")?;
    client.batch_execute(
        "SELECT shard_add_partition('r', '{\"from\": 20, \"to\": 30}', 'n1'); INSERT INTO r VALUES (5), (25)",
    )?;
    let error = refused(&mut late, "SELECT shard_drop_parent('r')")?;
    assert_eq!(error.code().code(), "40001", "{error:?}");
    late.batch_execute("ROLLBACK")?;
    assert_eq!(column(&mut client, "SELECT id FROM r ORDER BY 1")?, ["5", "25"]);
    late.batch_execute("BEGIN; SELECT count(*) FROM other; SELECT shard_drop_parent('r'); COMMIT")?;
    let left = "SELECT count(*) FROM pg_class WHERE relname ~ '^r_[0-9]+$' AND relnamespace = 'public'::regnamespace";
    assert_eq!(cluster.node(1).value::<i64>(left)?, 0);
    Ok(())
}

/// The end of a subtransaction is told to nodes. Where one goes in that moment, the session is none the worse for it.
#[test]
fn a_node_that_goes_when_a_subtransaction_ends_leaves_the_session_usable() -> Result<()> {
    let cluster = Cluster::start(1)?;
    cluster.add_nodes_by_proxy()?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(
        "CREATE ROLE reader; SELECT shard_grant_node('n1', 'reader', 'app', 'app');
         CREATE TABLE t (id int PRIMARY KEY); SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1, local}')",
    )?;
    let hit = cluster.proxy(1).stall_on(b"RELEASE SAVEPOINT");
    std::thread::scope(|scope| -> Result<()> {
        let cut = scope.spawn(|| -> Result<()> {
            hit.wait_until_hit(PATIENCE)?;
            cluster.proxy(1).cut();
            Ok(())
        });
        // What a node refuses of rights is a warning, or the error of the command.
        let _ = client.batch_execute("GRANT SELECT ON t TO reader");
        cut.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    cluster.proxy(1).resume();
    assert_eq!(column(&mut client, "SELECT count(*) FROM t")?, ["0"]);
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1), (2), (3); COMMIT")?;
    assert_eq!(column(&mut client, "SELECT count(*) FROM t")?, ["3"]);
    Ok(())
}
