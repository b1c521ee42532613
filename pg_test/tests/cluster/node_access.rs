//! Who gets to a node and what they may do there: passwords, other roles, other coordinators, cancel.
use std::time::{Duration, Instant};

use anyhow::Result;
use pg_test::sql::refused;
use pg_test::{Cluster, Options, eventually};

const SECRET: &str = "Tr0ub4dor&3's \\ secret";

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[test]
fn a_password_is_shown_nowhere() -> Result<()> {
    let cluster = Cluster::with(Options {
        nodes: 2,
        coordinator_settings: vec![("log_min_duration_statement", "0"), ("log_error_verbosity", "verbose")],
        node_settings: vec![("log_statement", "all"), ("log_error_verbosity", "verbose")],
        ..Options::default()
    })?;
    let mut client = cluster.coordinator.client()?;
    let wrong = format!(", password => {}", quoted(SECRET));
    let error = refused(&mut client, &cluster.call_to_add(1, &wrong))?;
    assert_eq!((error.code().code(), error.message()), ("28P01", "node \"n1\" rejects the password"));
    let told = format!("{error:?}");
    cluster.node(1).run(&format!("SET log_statement = none; ALTER ROLE app PASSWORD {}", quoted(SECRET)))?;
    client.batch_execute(&cluster.call_to_add(1, &wrong))?;
    // What pg_stat_activity shows while the call runs: the last statement of this session.
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    client.batch_execute(&cluster.call_to_add(2, ", password => 'app'"))?;
    let shown: String = cluster.coordinator.value(&format!("SELECT query FROM pg_stat_activity WHERE pid = {pid}"))?;
    assert!(shown.contains("password => '***'"), "{shown}");
    client.batch_execute(&format!("SELECT shard_alter_node('n1', password => {})", quoted(SECRET)))?;
    refused(&mut client, &format!("SELECT shard_alter_node('n1', port => 1, password => {})", quoted(SECRET)))?;
    client.batch_execute("CREATE ROLE other")?;
    let grant = format!("SELECT shard_grant_node('n1', 'other', 'app', {})", quoted(SECRET));
    client.batch_execute(&grant)?;
    refused(&mut client, &format!("SELECT shard_grant_node('n2', 'other', 'app', {})", quoted(SECRET)))?;
    let nested = format!(
        "DO $do$ BEGIN PERFORM shard_add_node('n3', '127.0.0.1', {}, 'app', 'app', {}); END $do$",
        cluster.node(2).port(),
        quoted(SECRET)
    );
    let in_plpgsql = refused(&mut client, &nested)?;
    assert_eq!(in_plpgsql.code().code(), "28P01");
    let told = format!("{told} {in_plpgsql:?}");
    let everywhere: Vec<String> = cluster.servers().map(|server| server.log()).chain([told]).collect();
    for text in everywhere {
        let told = text.lines().find(|line| line.contains("Tr0ub4dor") && !line.contains("ALTER ROLE app PASSWORD"));
        assert_eq!(told, None, "the password is nowhere");
    }
    let catalogs = "SELECT count(*) FROM pg_foreign_server WHERE srvoptions::text LIKE '%Tr0ub4dor%'";
    assert_eq!(cluster.coordinator.value::<i64>(catalogs)?, 0);
    Ok(())
}

#[test]
fn another_encoding_is_refused_and_another_collation_is_told() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let mut client = cluster.coordinator.client()?;
    let node = cluster.node(1);
    node.run("CREATE DATABASE latin ENCODING LATIN1 LOCALE 'C' TEMPLATE template0 OWNER app")?;
    node.run("CREATE DATABASE plain LOCALE 'C' TEMPLATE template0 OWNER app")?;
    let to = |database: &str| {
        cluster.call_to_add(1, ", password => 'app'").replace("dbname => 'app'", &format!("dbname => '{database}'"))
    };
    let error = refused(&mut client, &to("latin"))?;
    assert_eq!(
        (error.code().code(), error.message()),
        ("0A000", "node \"n1\" has another encoding than the coordinator")
    );
    assert!(error.detail().is_some_and(|detail| detail.contains("LATIN1")), "{error:?}");
    let error = refused(&mut client, &to("nowhere"))?;
    assert_eq!(error.code().code(), "3D000");
    let rows = client.query(&to("plain"), &[])?;
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[1].get::<_, String>(0), "warning");
    assert!(rows[1].get::<_, String>(1).starts_with("collation differs"));
    Ok(())
}

#[test]
fn the_coordinator_itself_and_one_database_twice_are_refused() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute("GRANT CREATE ON DATABASE app TO app")?;
    let own = format!(
        "SELECT shard_add_node('me', '127.0.0.1', {}, username => 'app', password => 'app')",
        cluster.coordinator.port()
    );
    let error = refused(&mut client, &own)?;
    assert_eq!((error.code().code(), error.message()), ("22023", "node \"me\" is the coordinator's own database"));
    client.batch_execute(&cluster.call_to_add(1, ", password => 'app'"))?;
    let error = refused(&mut client, &cluster.call_to_add(1, ", password => 'app'"))?;
    assert_eq!((error.code().code(), error.message()), ("42710", "node \"n1\" exists already"));
    let error = refused(&mut client, &cluster.call_to_add(1, ", password => 'app'").replace("'n1'", "'twin'"))?;
    assert_eq!((error.code().code(), error.message()), ("42710", "node \"twin\" is the same database as node \"n1\""));
    Ok(())
}

#[test]
fn what_later_features_need_is_a_warning() -> Result<()> {
    let cluster = Cluster::with(Options {
        nodes: 1,
        node_settings: vec![("wal_level", "replica"), ("max_replication_slots", "0")],
        ..Options::default()
    })?;
    cluster.node(1).run("ALTER ROLE app NOREPLICATION")?;
    let rows = cluster.coordinator.client()?.query(&cluster.call_to_add(1, ", password => 'app'"), &[])?;
    let warnings: Vec<String> =
        rows.iter().filter(|row| row.get::<_, &str>(0) == "warning").map(|row| row.get(1)).collect();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings.iter().all(|warning| warning.contains("moving data online")), "{warnings:?}");
    Ok(())
}

/// A role that is no superuser: needs the right to add nodes, a password, and a node that asks for it.
#[test]
fn an_ordinary_role_gets_no_further_than_its_password() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let server = &cluster.coordinator;
    let mut app = server.client_as("app", "app", "app")?;
    let error = refused(&mut app, &cluster.call_to_add(1, ", password => 'app'"))?;
    assert_eq!((error.code().code(), error.message()), ("42501", "permission denied to add a node"));
    server
        .run("CREATE EXTENSION IF NOT EXISTS postgres_fdw; GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO app")?;
    let error = refused(&mut app, &cluster.call_to_add(1, ""))?;
    assert_eq!((error.code().code(), error.message()), ("2F003", "password is required"));
    // The node would let anybody in who comes from the coordinator's machine.
    let socket = cluster.node(1).socket_dir().display().to_string();
    let trusted = cluster.call_to_add(1, ", password => 'anything'").replace("127.0.0.1", &socket);
    let error = refused(&mut app, &trusted)?;
    assert_eq!((error.code().code(), error.message()), ("2F003", "node \"n1\" did not ask for the password"));
    app.batch_execute(&cluster.call_to_add(1, ", password => 'app'"))?;
    let ok: bool = app.query_one("SELECT ok FROM shard_run_on_nodes('SELECT 1')", &[])?.get(0);
    assert!(ok);
    server.run("SELECT shard_run_on_nodes('SELECT 1')")?;
    let row = server.client()?.query_one("SELECT ok, error FROM shard_run_on_nodes('SELECT 1')", &[])?;
    assert!(!row.get::<_, bool>(0) && row.get::<_, String>(1).contains("has no user mapping"));
    Ok(())
}

#[test]
fn a_granted_role_works_with_its_own_rights_on_the_node() -> Result<()> {
    let cluster = Cluster::start(1)?;
    cluster.add_nodes()?;
    cluster.node(1).run("CREATE ROLE guest LOGIN PASSWORD 'guest'; CREATE TABLE public.owned (i int); ALTER TABLE public.owned OWNER TO app")?;
    cluster.coordinator.run("CREATE ROLE guest LOGIN PASSWORD 'guest'")?;
    let mut guest = cluster.coordinator.client_as("guest", "guest", "app")?;
    let command = |sql: &str| format!("INSERT INTO shardkeeper_nodes.n1 (command) VALUES ({})", quoted(sql));
    assert_eq!(refused(&mut guest, &command("SELECT 1"))?.code().code(), "42501");
    let error =
        refused(&mut cluster.coordinator.client()?, "SELECT shard_grant_node('n1', 'guest', password => 'wrong')")?;
    assert_eq!(error.code().code(), "28P01");
    cluster.coordinator.run("SELECT shard_grant_node('n1', 'guest', password => 'guest')")?;
    guest.batch_execute(&command("SELECT 1"))?;
    let who: String = guest
        .query_one("INSERT INTO shardkeeper_nodes.n1 (command) VALUES ('SELECT current_user') RETURNING result", &[])?
        .get(0);
    assert_eq!(who, "guest");
    assert_eq!(refused(&mut guest, &command("DROP TABLE public.owned"))?.code().code(), "42501");
    assert_eq!(refused(&mut guest, &command("DELETE FROM public.owned"))?.code().code(), "42501");
    assert_eq!(refused(&mut guest, "SELECT shard_drop_node('n1')")?.code().code(), "42501");
    assert_eq!(refused(&mut guest, "SELECT shard_alter_node('n1', host => 'elsewhere')")?.code().code(), "42501");
    assert_eq!(refused(&mut guest, "DELETE FROM shardkeeper.nodes")?.code().code(), "42501");
    Ok(())
}

#[test]
fn cancel_and_timeouts_end_the_statement_on_the_node_too() -> Result<()> {
    let cluster = Cluster::start(2)?;
    cluster.add_nodes()?;
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(100)%' AND state = 'active' AND pid <> pg_backend_pid()";
    let sleeping = |expected: i64| {
        eventually("the nodes sleep or not", Duration::from_secs(5), || {
            let counts = cluster.nodes().iter().map(|node| node.value::<i64>(running)).collect::<Result<Vec<_>>>()?;
            Ok(counts.iter().all(|count| *count == expected))
        })
    };
    let mut client = cluster.coordinator.client()?;
    client.batch_execute("SET statement_timeout = '1s'")?;
    let start = Instant::now();
    let error = refused(&mut client, "SELECT shard_run_on_nodes('SELECT pg_sleep(100)')");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    println!("{error:?}");
    sleeping(0)?;
    let mut client = cluster.coordinator.client()?;
    let cancel = client.cancel_token();
    let call = std::thread::spawn(move || refused(&mut client, "SELECT shard_run_on_nodes('SELECT pg_sleep(100)')"));
    sleeping(1)?;
    cancel.cancel_query(postgres::NoTls)?;
    let error = call.join().expect("no panic")?;
    assert_eq!(error.code().code(), "57014");
    sleeping(0)?;
    let mut client = cluster.coordinator.client()?;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    let call = std::thread::spawn(move || client.batch_execute("SELECT shard_run_on_nodes('SELECT pg_sleep(100)')"));
    sleeping(1)?;
    cluster.coordinator.run(&format!("SELECT pg_terminate_backend({pid})"))?;
    assert!(call.join().expect("no panic").is_err());
    sleeping(0)
}

#[test]
fn one_node_down_is_one_row_and_the_others_answer() -> Result<()> {
    let cluster = Cluster::start(3)?;
    cluster.add_nodes()?;
    cluster.node(2).freeze()?;
    let start = Instant::now();
    let rows =
        cluster.coordinator.client()?.query("SELECT node, ok, error FROM shard_run_on_nodes('SELECT 1')", &[])?;
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    let oks: Vec<bool> = rows.iter().map(|row| row.get(1)).collect();
    assert_eq!(oks, [true, false, true]);
    assert!(rows[1].get::<_, String>(2).starts_with("node \"n2\" cannot be reached"));
    let found: Vec<String> = cluster
        .coordinator
        .client()?
        .query("SELECT finding FROM shard_check() WHERE severity = 'error' AND node = 'n2'", &[])?
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    cluster.node(2).thaw()
}

#[test]
fn an_altered_node_is_tried_first_and_must_hold_the_same_leaves() -> Result<()> {
    let cluster = Cluster::start(2)?;
    cluster.coordinator.run(&cluster.call_to_add(1, ", password => 'app'"))?;
    cluster.node(1).run("CREATE TABLE public.leaf (i int); GRANT ALL ON public.leaf TO app")?;
    cluster.coordinator.run("CREATE FOREIGN TABLE public.leaf (i int) SERVER n1")?;
    let mut client = cluster.coordinator.client()?;
    let error = refused(&mut client, "SELECT shard_alter_node('n1', port => 1)")?;
    assert_eq!(error.code().code(), "08001");
    let error = refused(&mut client, &format!("SELECT shard_alter_node('n1', port => {})", cluster.node(2).port()))?;
    assert_eq!((error.code().code(), error.message()), ("22023", "node \"n1\" would lose its partitions"));
    client.batch_execute(&format!("SELECT shard_alter_node('n1', port => {}, region => 'eu', options => '{{\"fetch_size\": 5, \"batch_size\": null}}')", cluster.proxy(1).port()))?;
    let row = client.query_one("SELECT port, region FROM shard_nodes WHERE name = 'n1'", &[])?;
    assert_eq!(
        (row.get::<_, String>(0), row.get::<_, String>(1)),
        (cluster.proxy(1).port().to_string(), "eu".to_string())
    );
    let options: String =
        cluster.coordinator.value("SELECT srvoptions::text FROM pg_foreign_server WHERE srvname = 'n1'")?;
    assert!(options.contains("fetch_size=5") && !options.contains("batch_size"), "{options}");
    client.batch_execute("SELECT * FROM public.leaf")?;
    let error = refused(&mut client, "SELECT shard_drop_node('n1')")?;
    assert_eq!((error.code().code(), error.message()), ("2BP01", "node \"n1\" still stores 1 partition"));
    assert_eq!(error.hint(), Some("Run SELECT shard_drain_node('n1'); then drop it again."));
    client.batch_execute("DROP FOREIGN TABLE public.leaf; SELECT shard_drop_node('n1')")?;
    let left: i64 = cluster
        .coordinator
        .value("SELECT (SELECT count(*) FROM pg_foreign_server) + (SELECT count(*) FROM pg_foreign_table)")?;
    assert_eq!(left, 0);
    // A node that is gone for good can be dropped too.
    client.batch_execute(&cluster.call_to_add(2, ", password => 'app'"))?;
    cluster.node(2).stop()?;
    client.batch_execute("SELECT shard_drop_node('n2')")?;
    Ok(())
}

#[test]
fn a_rolled_back_add_leaves_the_coordinator_as_it_was() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute("BEGIN")?;
    client.batch_execute(&cluster.call_to_add(1, ", password => 'app'"))?;
    client.batch_execute("ROLLBACK")?;
    let left: i64 = cluster
        .coordinator
        .value("SELECT (SELECT count(*) FROM pg_foreign_server) + (SELECT count(*) FROM shardkeeper.nodes)")?;
    assert_eq!(left, 0);
    client.batch_execute(&cluster.call_to_add(1, ", password => 'app'"))?;
    client.batch_execute("DROP EXTENSION shardkeeper")?;
    let node: String = cluster
        .coordinator
        .value("INSERT INTO shardkeeper_nodes.n1 (command) VALUES ('SELECT 42') RETURNING result")?;
    assert_eq!(node, "42");
    Ok(())
}

#[test]
fn two_coordinators_can_share_a_node_and_make_it_ready_at_once() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let server = &cluster.coordinator;
    server.run("CREATE DATABASE second")?;
    server.client_in("second")?.batch_execute("CREATE EXTENSION shardkeeper CASCADE")?;
    let call = cluster.call_to_add(1, ", password => 'app'");
    std::thread::scope(|scope| {
        let calls: Vec<_> = ["app", "second"]
            .map(|database| {
                scope.spawn(|| server.client_in(database)?.batch_execute(&call).map_err(anyhow::Error::from))
            })
            .into_iter()
            .collect();
        calls.into_iter().try_for_each(|call| call.join().expect("no panic"))
    })?;
    for database in ["app", "second"] {
        let mut client = server.client_in(database)?;
        assert!(client.query_one("SELECT ok FROM shard_run_on_nodes('SELECT 1')", &[])?.get::<_, bool>(0));
    }
    Ok(())
}
