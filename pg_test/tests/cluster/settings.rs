//! Settings of roles and databases do not matter, on no server: what is read to be written again is read alike everywhere.
use std::time::Duration;

use anyhow::{Context, Result};
use pg_test::movement::{self, field, told};
use pg_test::sql::{column, refused, rows};
use pg_test::{Cluster, Options, PATIENCE, Server, eventually};
use postgres::Client;

const LIMIT: Duration = Duration::from_secs(60);

/// Each the other way round, or so short that nothing gets through.
const STYLES: &[(&str, &str)] = &[
    ("DateStyle", "SQL, DMY"),
    ("IntervalStyle", "sql_standard"),
    ("extra_float_digits", "-3"),
    ("bytea_output", "escape"),
    ("TimeZone", "Asia/Kathmandu"),
    ("xmloption", "document"),
    ("array_nulls", "off"),
    ("transform_null_equals", "on"),
    ("standard_conforming_strings", "off"),
    ("quote_all_identifiers", "on"),
    ("default_tablespace", "pg_default"),
    ("synchronous_commit", "off"),
    ("default_transaction_isolation", "serializable"),
];
const HARD: &[(&str, &str)] = &[
    ("search_path", "nowhere"),
    ("row_security", "off"),
    ("exit_on_error", "on"),
    ("default_transaction_read_only", "on"),
    ("statement_timeout", "5ms"),
    ("idle_session_timeout", "20ms"),
    ("idle_in_transaction_session_timeout", "20ms"),
    ("client_min_messages", "error"),
    ("client_encoding", "LATIN1"),
];

fn set(server: &Server, whose: &str, settings: &[(&str, &str)]) -> Result<()> {
    let all: Vec<String> =
        settings.iter().map(|(name, value)| format!("ALTER {whose} SET {name} = '{value}'")).collect();
    server.run(&all.join(";"))?;
    if server.install.major >= 17 {
        server.run(&format!("ALTER {whose} SET transaction_timeout = '1s'"))?;
    }
    Ok(())
}

/// All of them, for the role on nodes, and for the database on the coordinator: also for its workers.
fn perverse() -> Result<Cluster> {
    let cluster = movement::cluster(2)?;
    set(cluster.node(1), "ROLE app", &[STYLES, HARD].concat())?;
    // The superuser of the tests needs a session there all the same.
    let spared =
        ["statement_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout"].map(|it| (it, "0"));
    let spared = [&spared[..], &[("default_transaction_read_only", "off"), ("exit_on_error", "off")]].concat();
    let spared: Vec<String> = spared
        .iter()
        .map(|(name, value)| format!("ALTER ROLE postgres IN DATABASE app SET {name} = '{value}'"))
        .collect();
    cluster.node(2).run(&spared.join(";"))?;
    set(cluster.node(2), "DATABASE app", &[STYLES, HARD].concat())?;
    cluster.add_nodes()?;
    set(&cluster.coordinator, "DATABASE app", STYLES)?;
    let hard = [
        "row_security = off",
        "idle_in_transaction_session_timeout = '20ms'",
        "postgres_fdw.application_name = 'an application'",
    ];
    hard.iter().try_for_each(|setting| cluster.coordinator.run(&format!("ALTER DATABASE app SET {setting}")))?;
    cluster.coordinator.restart()?;
    Ok(cluster)
}

/// A session in that database: what would end it is off, all else as it is.
fn caller(cluster: &Cluster) -> Result<Client> {
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(
        "SET idle_in_transaction_session_timeout = 0; SET default_transaction_isolation = 'read committed'",
    )?;
    if cluster.coordinator.install.major >= 17 {
        client.batch_execute("SET transaction_timeout = 0")?;
    }
    Ok(client)
}

fn finished(cluster: &Cluster, client: &mut Client, call: &str) -> Result<()> {
    let id: i64 = client.query_one(&format!("SELECT {call}"), &[]).context(call.to_owned())?.get(0);
    let state: String = client
        .query_one("SELECT shard_wait($1, '18 s')", &[&id])
        .with_context(|| format!("{call}: {}", told(cluster)))?
        .get(0);
    if state == "switched" {
        client.execute("SELECT shard_finish($1)", &[&id])?;
    }
    movement::ends(cluster, id, LIMIT).context(call.to_owned())?;
    let end = field(cluster, id, "state")?;
    assert_eq!(end, "finished", "{call}: {}", told(cluster));
    Ok(())
}

/// As a session sees it that has nothing set.
const PLAIN: &str = "SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET extra_float_digits = 3; SET bytea_output = 'hex';
    SET TimeZone = 'UTC'; SET standard_conforming_strings = on; SET quote_all_identifiers = off; SET search_path = public;
    SET row_security = on; SET statement_timeout = 0; SET idle_session_timeout = 0; SET array_nulls = on";

fn plain(server: &Server) -> Result<Client> {
    let mut client = server.client()?;
    client.batch_execute(PLAIN)?;
    Ok(client)
}

/// Bounds of all leaves.
fn bounds(cluster: &Cluster, parent: &str) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT c.relname || ' ' || pg_get_expr(c.relpartbound, c.oid) FROM pg_partition_tree('{parent}') t
         JOIN pg_class c ON c.oid = t.relid WHERE t.isleaf ORDER BY c.relname"
    );
    column(&mut plain(&cluster.coordinator)?, &sql)
}

/// Bounds, columns and checks of a leaf where it lives.
fn definition(server: &Server, leaf: &str) -> Result<Vec<Vec<String>>> {
    let sql = format!(
        "SELECT 0, c.relname::text, pg_get_expr(c.relpartbound, c.oid) FROM pg_class c WHERE c.oid = 'public.{leaf}'::regclass
         UNION ALL SELECT 1, a.attname, pg_get_expr(d.adbin, d.adrelid) FROM pg_attribute a
             LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
             WHERE a.attrelid = 'public.{leaf}'::regclass AND a.attnum > 0
         UNION ALL SELECT 2, k.conname, pg_get_constraintdef(k.oid) FROM pg_constraint k
             WHERE k.conrelid = 'public.{leaf}'::regclass AND k.contype = 'c' AND k.conname NOT LIKE 'shardkeeper%'
         ORDER BY 1, 2"
    );
    rows(&mut plain(server)?, &sql)
}

const MANY: &str = r"
    CREATE TABLE m (id bigint, note text DEFAULT E'back\\slash ''quoted''', span interval DEFAULT '-1 day +02:03:04'::interval,
        at timestamptz DEFAULT '2024-02-01 03:04:05+05:45', day date DEFAULT date '2024-02-01', raw bytea DEFAULT E'\\x00ff5c',
        x float8 DEFAULT 0.1::float8 + 1234567.1234567891, tags text[] DEFAULT ARRAY['a', NULL], price money DEFAULT 1234.5::numeric::money,
        PRIMARY KEY (id),
        CHECK (note IS DISTINCT FROM E'\\'), CHECK (x <> 1234567.1234567891::float8), CHECK (array_length(tags, 1) = 2),
        CHECK (raw <> E'\\x5c5c'), CHECK (span < '3 mons 1 day'::interval), CHECK (day <> date '2024-01-02'))";

#[test]
fn what_roles_and_databases_set_changes_nothing() -> Result<()> {
    let cluster = perverse()?;
    let mut client = caller(&cluster)?;
    // Numbers with as many digits as they have.
    client.batch_execute(
        r#"CREATE TABLE f (x float8 PRIMARY KEY, note text);
           SELECT shard_create_parent('f', '{"method": "range", "key": "x", "bounds": ["0", "1234567.1234567891", "5000000"], "nodes": ["n1", "n2"]}');
           INSERT INTO f SELECT 1234567.1234567891::float8 + i * 1e-9::float8, i FROM generate_series(-50, 50) AS i"#,
    )?;
    let before = bounds(&cluster, "f")?;
    assert!(before[0].contains("1234567.1234567892") && before[1].contains("1234567.1234567892"), "{before:?}");
    let upper = before[1].split(' ').next().context("a name")?.to_owned();
    let sums = "SELECT tableoid::regclass, count(*), sum(note::int) FROM f GROUP BY 1 ORDER BY 1";
    let rows_before = rows(&mut client, sums)?;
    for node in ["n1", "local", "n2"] {
        finished(&cluster, &mut client, &format!("shard_move_partition('{upper}', '{node}')"))?;
        assert_eq!(bounds(&cluster, "f")?, before, "on {node}");
        assert_eq!(rows(&mut client, sums)?, rows_before, "on {node}");
    }
    assert_eq!(definition(cluster.node(2), &upper)?[0][2], before[1].split_once(' ').context("a bound")?.1);
    // Defaults, checks and rows of all kinds, in a conversion and in changes of the modulus; the 5 ms of the role are over soon.
    client.batch_execute(MANY)?;
    client.batch_execute("INSERT INTO m SELECT i FROM generate_series(1, 20000) AS i")?;
    finished(&cluster, &mut client, "shard_create_parent('m', 'hash', 'id', modulus => 2, nodes => '{n1, local}')")?;
    finished(&cluster, &mut client, "shard_set_modulus('m', 3, nodes => '{n1, n2, local}')")?;
    let here = definition(&cluster.coordinator, "m_2")?;
    for (node, leaf) in [(1, "m_0"), (2, "m_1")] {
        let there = definition(cluster.node(node), leaf)?;
        assert_eq!(there[1..], here[1..], "{leaf}");
    }
    client.batch_execute(
        "INSERT INTO m (id, tags) SELECT i, ARRAY[NULL, 'NULL'] FROM generate_series(20001, 20100) AS i",
    )?;
    let told = rows(
        &mut plain(&cluster.coordinator)?,
        "SELECT count(*), count(*) FILTER (WHERE tags[1] IS NULL), count(*) FILTER (WHERE tags[2] IS NULL),
             bool_and(raw = '\\x00ff5c'), bool_and(note = 'back\\slash ''quoted'''), count(DISTINCT (at, day, span, x)) FROM m",
    )?;
    assert_eq!(told, [["20100", "100", "20000", "t", "t", "1"]]);
    Ok(())
}

/// The three lists are one: of the functions here, of the session channel, and of our own sessions.
#[test]
fn functions_channel_and_sessions_pin_the_same() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(1)?;
    let config = |function: &str| {
        format!(
            "SELECT lower(split_part(s, '=', 1)) || '=' || btrim(substr(s, 1 + strpos(s, '=')), '\"') FROM pg_proc, unnest(proconfig) AS s
             WHERE oid = {function} AND s NOT LIKE 'search_path=%' ORDER BY 1"
        )
    };
    let here =
        column(&mut client, &config("'shard_move_partition(regclass, text, text, interval, text[])'::regprocedure"))?;
    assert!(here.len() > 10, "{here:?}");
    let channel = column(&mut cluster.node(1).client()?, &config("'shardkeeper.execute()'::regprocedure"))?;
    assert_eq!(channel, here);
    for setting in &here {
        let (name, value) = setting.split_once('=').context("a setting")?;
        let member = rows(
            &mut client,
            &format!("SELECT value FROM shard_run_on_nodes('SHOW {name}'), jsonb_each_text(result -> 0)"),
        )?;
        assert_eq!(member, [[value.to_owned()]], "{name}");
    }
    let lacking =
        "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.deptype = 'e'
        JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'shardkeeper'
        WHERE d.classid = 'pg_proc'::regclass AND p.proname LIKE 'shard\\_%' AND p.proname <> 'shard_locate'
          -- A procedure that commits cannot have any, and only calls functions that do.
          AND p.prokind = 'f' AND coalesce(cardinality(p.proconfig), 0) < 10";
    assert!(column(&mut client, lacking)?.is_empty());
    Ok(())
}

/// A server that is read-only by its configuration, or a standby, is no node; one that becomes so is told of.
#[test]
fn a_server_that_cannot_be_written_is_no_node() -> Result<()> {
    let cluster = Cluster::with(Options { nodes: 2, ..Options::default() })?;
    let mut client = cluster.coordinator.client()?;
    let standby = cluster.node(2);
    standby.stop()?;
    std::fs::write(standby.data_dir().join("standby.signal"), "")?;
    standby.start()?;
    let error = refused(&mut client, &cluster.call_to_add(2, ", password => 'app'"))?;
    assert_eq!((error.code().code(), error.message()), ("25006", "node \"n2\" cannot be written"));
    assert_eq!(error.detail(), Some("The server is a standby."));
    cluster.node(1).run("ALTER ROLE app SET default_transaction_read_only = on")?;
    client.batch_execute(&cluster.call_to_add(1, ", password => 'app'"))?;
    client.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY);
         SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1}');
         INSERT INTO t SELECT generate_series(1, 10)",
    )?;
    cluster.node(1).configure(&[("default_transaction_read_only", "on")])?;
    cluster.node(1).run("ALTER ROLE app RESET default_transaction_read_only")?;
    cluster.node(1).reload()?;
    client.batch_execute("SELECT shard_alter_node('n1', region => 'x')")?;
    let said = "SELECT finding FROM shard_check() WHERE node = 'n1' AND severity = 'error'";
    // Sessions through the parent were given the way round a default; the server's own word is told of when that is gone.
    client.batch_execute("ALTER SERVER n1 OPTIONS (SET options '')")?;
    eventually("shard_check tells", PATIENCE, || {
        Ok(column(&mut client, said)?.iter().any(|finding| finding.contains("cannot be written")))
    })?;
    Ok(())
}

/// Rows are compared on sessions that are idle for longer than a role allows.
#[test]
fn a_comparison_outlives_the_idle_timeouts_of_its_role() -> Result<()> {
    let cluster = movement::cluster(2)?;
    for node in cluster.nodes() {
        node.run("ALTER ROLE app SET idle_session_timeout = '30ms'; ALTER ROLE app SET idle_in_transaction_session_timeout = '30ms'")?;
    }
    cluster.add_nodes()?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, note text); INSERT INTO t SELECT i, i FROM generate_series(1, 40000) AS i")?;
    finished(
        &cluster,
        &mut client,
        "shard_create_parent('t', 'hash', 'id', modulus => 4, nodes => '{local, n1, n2}')",
    )?;
    for mode in ["online", "block_writes"] {
        finished(&cluster, &mut client, &format!("shard_move_partition('t_1', 'n2', mode => '{mode}')"))?;
        finished(&cluster, &mut client, &format!("shard_move_partition('t_1', 'local', mode => '{mode}')"))?;
    }
    assert_eq!(column(&mut client, "SELECT count(*), sum(id) FROM t")?, ["40000"]);
    let lost = cluster.coordinator.log();
    assert!(!lost.contains("was lost"), "{lost}");
    Ok(())
}

#[test]
fn a_node_that_became_read_only_by_default_is_told_of_and_is_written_again() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(1)?;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); SELECT shard_create_parent('t', 'hash', 'id', modulus => 1, nodes => '{n1}')")?;
    cluster.node(1).run("ALTER ROLE app SET default_transaction_read_only = on")?;
    let mut late = cluster.coordinator.patient()?;
    assert_eq!(refused(&mut late, "INSERT INTO t VALUES (1)")?.code().code(), "25006");
    let said = "SELECT hint FROM shard_check() WHERE node = 'n1' AND severity = 'error' AND finding LIKE 'default_transaction_read_only is on%'";
    let hints = column(&mut late, said)?;
    assert_eq!(hints, ["Run SELECT shard_alter_node('n1')."]);
    late.batch_execute("SELECT shard_alter_node('n1')")?;
    cluster.coordinator.patient()?.batch_execute("INSERT INTO t VALUES (1)")?;
    assert!(column(&mut late, said)?.is_empty());
    Ok(())
}

#[test]
fn a_setting_that_is_misspelt_is_refused() -> Result<()> {
    let (_cluster, mut client) = Cluster::joined(1)?;
    let error = refused(&mut client, "SET shardkeeper.allow_manual_dll = on")?;
    assert_eq!(error.code().code(), "42602", "{error:?}");
    client.batch_execute("SET shardkeeper.allow_manual_ddl = on")?;
    Ok(())
}
