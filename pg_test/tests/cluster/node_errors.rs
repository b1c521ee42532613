//! Errors that come from nodes name them, and nodes are not trusted: what cannot be an answer is an error too. A way to a node that
//! is wrong is told by what is wrong with it.
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};

use anyhow::{Result, ensure};
use pg_test::sql::{column, refused, rows};
use pg_test::{Cluster, PATIENCE, eventually};

#[test]
fn an_error_that_a_node_raises_in_a_call_names_it() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(2)?;
    client.batch_execute(
        "CREATE FUNCTION is_fine(int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 > 0';
         CREATE TABLE by_function (id int PRIMARY KEY CHECK (public.is_fine(id)));
         CREATE TABLE u (id int PRIMARY KEY)",
    )?;
    let call = |table: &str| {
        format!("SELECT shard_create_parent('{table}', 'hash', 'id', modulus => 2, nodes => '{{local, n2}}')")
    };
    let error = refused(&mut client, &call("by_function"))?;
    ensure!(
        (error.code().code(), error.message())
            == ("42883", "function public.is_fine(integer) does not exist (on node \"n2\")"),
        "{error:?}"
    );
    cluster.node(2).run("REVOKE CREATE ON SCHEMA public FROM PUBLIC; REVOKE CREATE ON SCHEMA public FROM app")?;
    // What names the node already does not do it twice.
    cluster.node(2).stop()?;
    let error = refused(&mut client, &call("u"))?;
    ensure!(error.code().code() == "08001" && error.message().matches("n2").count() == 1, "{error:?}");
    Ok(())
}

/// Its owner would hear of it with the first query only.
#[test]
fn an_owner_without_a_way_to_a_node_is_told_of_at_the_call() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(2)?;
    client.batch_execute(
        "CREATE ROLE owner LOGIN PASSWORD 'owner'; GRANT CREATE ON SCHEMA public TO owner;
         CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO owner; CREATE TABLE mine (id int PRIMARY KEY);
         CREATE TABLE p (id int PRIMARY KEY); ALTER TABLE p OWNER TO owner",
    )?;
    let says = |sql: &str| cluster.coordinator.psql(sql);
    let warned = |text: &str, node: &str| {
        text.contains(&format!("WARNING:  role owner, who owns the table, has no user mapping for node {node}"))
            && text.contains(&format!("SELECT shard_grant_node('{node}', 'owner', username => …, password => …);"))
    };
    let text = says("SELECT shard_create_parent('t', 'range', 'id', bounds => '[0, 10, 20]', nodes => '{n1}')")?;
    ensure!(warned(&text, "n1") && !warned(&text, "n2"), "{text}");
    let text = says("SELECT shard_add_partition('t', '{\"from\": 20, \"to\": 30}', 'n2')")?;
    ensure!(warned(&text, "n2"), "{text}");
    let text = says("SELECT shard_create_parent('mine', 'hash', 'id', modulus => 2, nodes => '{n1, n2}')")?;
    ensure!(!text.contains("WARNING"), "{text}");
    // The hint is what helps.
    cluster.node(1).run("CREATE ROLE owner LOGIN PASSWORD 'owner'")?;
    client.batch_execute("SELECT shard_grant_node('n1', 'owner', username => 'owner', password => 'owner')")?;
    let text = says("SELECT shard_create_parent('p', 'hash', 'id', modulus => 2, nodes => '{n1}')")?;
    ensure!(!text.contains("WARNING"), "{text}");
    cluster
        .coordinator
        .client_as("owner", "owner", "app")?
        .batch_execute("INSERT INTO p SELECT generate_series(1, 10)")?;
    Ok(())
}

/// In the place of the session channel, a view that says what it likes.
fn fake(result: &str) -> String {
    format!(
        "DROP VIEW IF EXISTS shardkeeper.session;
         CREATE VIEW shardkeeper.session AS SELECT NULL::text AS command, NULL::text AS result, NULL::text AS inverse,
             NULL::text AS coordinator, NULL::integer AS timeline, NULL::text AS lsn, NULL::text AS transaction, NULL::text AS xid;
         CREATE OR REPLACE FUNCTION shardkeeper.lie() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.result := {result}; RETURN new; END $$;
         CREATE TRIGGER execute INSTEAD OF INSERT ON shardkeeper.session FOR EACH ROW EXECUTE FUNCTION shardkeeper.lie();
         GRANT SELECT, INSERT ON shardkeeper.session TO app"
    )
}

const RUBBISH: [&str; 7] = [
    "'nonsense'",
    "'[]'",
    "'{}'",
    "'null'",
    "'{\"version\": \"x\"}'",
    "'[{\"schema\": \"public\", \"name\": \"r_0\", \"rows\": 1e300, \"bytes\": \"many\"}]'",
    "'[{\"schema\": \"public\", \"name\": \"r_0\", \"rows\": 9223372036854775807, \"bytes\": 9223372036854775807}, {\"schema\": \"public\", \"name\": \"r_1\", \"rows\": 9223372036854775807, \"bytes\": -9223372036854775808}]'",
];

#[test]
fn rubbish_from_a_node_is_an_error_that_names_it() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(1)?;
    client.batch_execute(
        "CREATE TYPE mood AS ENUM ('a'); CREATE TABLE fresh (id int PRIMARY KEY, m mood);
         CREATE TABLE r (id int PRIMARY KEY); SELECT shard_create_parent('r', 'hash', 'id', modulus => 2, nodes => '{n1}')",
    )?;
    let calls = [
        "SELECT shard_create_parent('fresh', 'hash', 'id', modulus => 2, nodes => '{n1}')",
        r#"SELECT * FROM shard_plan_parent('fresh', '{"method": "hash", "key": "id", "modulus": 2, "nodes": ["n1"]}')"#,
    ];
    for result in RUBBISH {
        cluster.node(1).run(&fake(result))?;
        for call in calls {
            let error = refused(&mut client, call)?;
            ensure!(error.code().code() == "HV000" && error.message().contains("n1"), "{result}: {call}: {error:?}");
        }
        // Pictures and sizes are drawn with what can be believed.
        for sql in ["SELECT shard_tree('r')", "SELECT shard_tree('r', 'svg')", "SELECT * FROM shard_partitions"] {
            client.batch_execute(sql)?;
        }
    }
    // The tables that own sessions read.
    let said = cluster.coordinator.log().matches("cannot be read").count();
    cluster.node(1).run(
        "ALTER TABLE shardkeeper.journal RENAME TO was;
         CREATE VIEW shardkeeper.journal AS SELECT NULL::bigint AS id, c AS coordinator, NULL::integer AS timeline, NULL::pg_lsn AS lsn,
             NULL::text AS transaction, NULL::text AS xid, 'app'::name AS role, NULL::text AS command, NULL::text AS inverse, timestamptz '2020-01-01' AS done_at
         FROM (SELECT coordinator AS c FROM shardkeeper.roots UNION ALL SELECT 'x' UNION ALL SELECT '' UNION ALL SELECT NULL) AS s;
         GRANT SELECT ON shardkeeper.journal TO app",
    )?;
    let told = rows(&mut client, "SELECT finding FROM shard_check() WHERE node = 'n1' AND severity = 'error'")?;
    ensure!(told.iter().any(|row| row[0].contains("the answer of node \"n1\" cannot be read")), "{told:?}");
    cluster.node(1).run(
        "DROP FUNCTION shardkeeper.overdue(); CREATE FUNCTION shardkeeper.overdue() RETURNS SETOF text LANGUAGE sql AS $$ SELECT 'x'::text $$;
         DROP FUNCTION shardkeeper.version(); CREATE FUNCTION shardkeeper.version() RETURNS text LANGUAGE sql AS $$ SELECT 'new'::text $$",
    )?;
    let told = rows(&mut client, "SELECT finding FROM shard_check() WHERE node = 'n1' AND severity = 'error'")?;
    ensure!(told.iter().any(|row| row[0].contains("the answer of node \"n1\" cannot be read")), "{told:?}");
    // The worker says so and lives.
    let pid = "SELECT pid::text FROM pg_stat_activity WHERE backend_type LIKE 'shardkeeper%' ORDER BY pid";
    let before = column(&mut client, pid)?;
    eventually("the worker has met it", PATIENCE, || {
        Ok(cluster.coordinator.log().matches("cannot be read").count() > said)
    })?;
    ensure!(column(&mut client, pid)? == before, "a worker has ended");
    ensure!(!cluster.coordinator.log().contains("panicked"), "a panic");
    Ok(())
}

/// What is above the root is not its own hierarchy's.
#[test]
fn a_parent_can_be_the_default_partition_of_another_table() -> Result<()> {
    let (_cluster, mut client) = Cluster::joined(2)?;
    client.batch_execute(
        "CREATE TABLE inner_one (id int PRIMARY KEY);
         SELECT shard_create_parent('inner_one', 'range', 'id', bounds => '[0, 10]', nodes => '{n1}');
         CREATE TABLE outer_one (id int NOT NULL) PARTITION BY RANGE (id);
         ALTER TABLE outer_one ATTACH PARTITION inner_one DEFAULT;
         SELECT shard_add_partition('inner_one', '{\"from\": 10, \"to\": 20}', 'n2');
         SELECT shard_add_partition('inner_one', '{\"default\": true}', 'n2');
         INSERT INTO outer_one VALUES (5), (15), (25)",
    )?;
    for sql in ["SELECT shard_tree('inner_one')", "SELECT * FROM shard_check()", "SELECT * FROM shard_partitions"] {
        client.batch_execute(sql)?;
    }
    let id: i64 = client.query_one("SELECT shard_move_partition('inner_one_0', 'n2')", &[])?.get(0);
    let state: String = client.query_one("SELECT shard_wait($1, '60 s')", &[&id])?.get(0);
    ensure!(state == "switched", "{state}");
    ensure!(column(&mut client, "SELECT id FROM outer_one ORDER BY id")? == ["5", "15", "25"]);
    Ok(())
}

#[test]
fn a_password_or_port_in_the_wrong_place_is_told() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let mut client = cluster.coordinator.client()?;
    let error = refused(&mut client, &cluster.call_to_add(1, ""))?;
    assert_eq!((error.code().code(), error.message()), ("28P01", "node \"n1\" asks for a password, and none is known"));
    assert!(error.hint().is_some_and(|hint| hint.contains("argument password")), "{error:?}");
    client.batch_execute(&cluster.call_to_add(1, ", password => 'app'"))?;
    for (host, hint) in [
        ("127.0.0.1:44681", "host => '127.0.0.1', port => 44681"),
        ("db.example.com, [::1]:5433", "host => '::1', port => 5433"),
    ] {
        for call in [
            format!("SELECT shard_add_node('n2', '{host}', username => 'app', password => 'app')"),
            format!("SELECT shard_alter_node('n1', host => '{host}')"),
        ] {
            let error = refused(&mut client, &call)?;
            assert_eq!(error.code().code(), "22023", "{call}: {error:?}");
            assert!(error.message().ends_with("has a port in it"), "{call}: {error:?}");
            assert!(error.hint().is_some_and(|told| told.contains(hint)), "{call}: {error:?}");
        }
    }
    // An address with colons is no host with a port.
    let error = refused(&mut client, "SELECT shard_add_node('n2', '::1', 1, username => 'app', password => 'app')")?;
    assert_eq!((error.code().code(), error.message()), ("08001", "node \"n2\" cannot be reached"));
    Ok(())
}

#[test]
fn a_server_that_is_no_postgres_is_told_as_such() -> Result<()> {
    let cluster = Cluster::start(0)?;
    let web = TcpListener::bind("127.0.0.1:0")?;
    let port = web.local_addr()?.port();
    std::thread::spawn(move || {
        for mut stream in web.incoming().flatten() {
            let mut asked = [0; 8];
            let _ = stream.read(&mut asked);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let mut client = cluster.coordinator.client()?;
    for sslmode in ["disable", "prefer"] {
        let call = format!(
            "SELECT shard_add_node('web', '127.0.0.1', {port}, username => 'app', password => 'app', options => '{{\"sslmode\": \"{sslmode}\"}}')"
        );
        let error = refused(&mut client, &call)?;
        assert_eq!((error.code().code(), error.message()), ("08001", "node \"web\" cannot be reached"));
        let detail = error.detail().unwrap_or_default();
        assert!(detail.contains("does not seem to be a Postgres server"), "{sslmode}: {detail}");
    }
    Ok(())
}
