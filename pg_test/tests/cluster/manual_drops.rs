//! Partitions, nodes and parents that users drop or detach themselves: refused with the call that does it right; and with
//! `shardkeeper.allow_manual_ddl` the doctor names what is missing and how it comes back.
use anyhow::{Context, Result, ensure};
use pg_test::PATIENCE;
use pg_test::movement;
use pg_test::sql::{column, refused};
use postgres::Client;

fn count(client: &mut Client, table: &str) -> Result<i64> {
    Ok(client.query_one(&format!("SELECT count(*) FROM {table}"), &[])?.get(0))
}

/// Findings about hierarchies, with their hint.
fn findings(client: &mut Client) -> Result<Vec<String>> {
    column(
        client,
        "SELECT concat_ws(' | ', object, severity, finding, hint) FROM shard_check() WHERE area = 'hierarchy' AND severity <> 'ok' ORDER BY 1",
    )
}

const TABLES: &str = r#"
    CREATE TABLE v (id bigint PRIMARY KEY);
    SELECT shard_create_parent('v', 'hash', 'id', modulus => 4, nodes => '{local, n1}');
    INSERT INTO v SELECT generate_series(1, 1000);
    CREATE SCHEMA shop; CREATE TABLE shop.r (id bigint, region text, PRIMARY KEY (id, region));
    SELECT shard_create_parent('shop.r', '{"method": "list", "key": "region", "values": {"us": {"in": ["US"], "nodes": ["local"]},
        "eu": {"in": ["EU"], "nodes": ["n1", "local"], "partitions": {"method": "hash", "key": "id", "modulus": 2}}}}');
    INSERT INTO shop.r SELECT i, CASE i % 2 WHEN 0 THEN 'US' ELSE 'EU' END FROM generate_series(1, 100) AS i;
    CREATE TABLE flat (id bigint PRIMARY KEY);
    SELECT shard_create_parent('flat', 'hash', 'id', modulus => 2);
    CREATE TABLE part (id bigint) PARTITION BY LIST (id)"#;

#[test]
fn what_belongs_to_a_hierarchy_is_not_dropped_by_hand() -> Result<()> {
    let cluster = movement::joined(2)?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(TABLES)?;
    let cases = [
        ("DROP TABLE v_0", "SELECT shard_drop_partition('public.v_0')"),
        ("DROP FOREIGN TABLE v_1", "SELECT shard_drop_partition('public.v_1')"),
        ("ALTER TABLE v DETACH PARTITION v_2", "SELECT shard_detach_partition('public.v_2')"),
        ("ALTER TABLE v DETACH PARTITION v_1", "SELECT shard_detach_partition('public.v_1')"),
        ("ALTER TABLE v DETACH PARTITION v_2 CONCURRENTLY", "SELECT shard_detach_partition('public.v_2')"),
        ("ALTER TABLE shop.r_eu DETACH PARTITION shop.r_eu_1", "SELECT shard_detach_partition('shop.r_eu_1')"),
        ("DROP TABLE shop.r_eu", "SELECT shard_drop_partition('shop.r_eu')"),
        ("DROP TABLE v_0, flat", "SELECT shard_drop_partition('public.v_0')"),
        ("DROP TABLE flat_0", "SELECT shard_drop_partition('public.flat_0')"),
        ("ALTER TABLE flat DETACH PARTITION flat_1 CONCURRENTLY", "SELECT shard_detach_partition('public.flat_1')"),
        ("DROP TABLE v", "SELECT shard_drop_parent('public.v')"),
        ("DROP TABLE v CASCADE", "SELECT shard_drop_parent('public.v')"),
        ("DROP SCHEMA shop CASCADE", "SELECT shard_drop_parent('shop.r')"),
        ("DROP SERVER n1 CASCADE", "SELECT shard_drop_partition('public.v_1')"),
        ("DROP SERVER n2 CASCADE", "SELECT shard_drop_node('n2')"),
        ("DROP SCHEMA shardkeeper_nodes CASCADE", "SELECT shard_drop_node('n1')"),
        ("DROP USER MAPPING FOR postgres SERVER n1", "SELECT shard_grant_node('n1', 'postgres'"),
    ];
    let mut wrong = Vec::new();
    for (command, hint) in cases {
        match client.batch_execute(command) {
            Ok(()) => wrong.push(format!("{command} was accepted")),
            Err(error) => {
                let told = error.as_db_error().with_context(|| command.to_owned())?;
                let said = format!("{} {}", told.message(), told.hint().unwrap_or_default());
                if !said.contains(hint) || told.code().code() != "2BP01" {
                    wrong.push(format!("{command}: {told:?}"));
                }
            }
        }
        ensure!(count(&mut client, "v")? == 1000 && count(&mut client, "shop.r")? == 100, "{command}");
    }
    // The same by the owner of all of it.
    client.batch_execute("CREATE ROLE keeper; GRANT CREATE ON SCHEMA public TO keeper; CREATE TABLE other (id int); ALTER TABLE other OWNER TO keeper")?;
    client.batch_execute(
        "SET shardkeeper.allow_manual_ddl = on; ALTER TABLE v_0 OWNER TO keeper; RESET shardkeeper.allow_manual_ddl",
    )?;
    let error = refused(&mut client, "DROP OWNED BY keeper")?;
    ensure!(error.hint().unwrap_or_default().contains("shard_drop_partition('public.v_0')"), "{error:?}");
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(findings(&mut client)?, Vec::<String>::new());

    // Whole hierarchies that are here alone go as any table, and calls of ours go on.
    client.batch_execute("DROP TABLE flat, part; DROP TABLE other")?;
    client.batch_execute("SELECT shard_drop_partition('shop.r_us'); SELECT shard_detach_partition('shop.r_eu'); SELECT shard_drop_parent('v')")?;
    client.batch_execute("DROP TABLE shop.r_eu; SELECT shard_drop_parent('shop.r')")?;
    assert_eq!(column(&mut client, "SELECT parent FROM shard_parents")?, Vec::<String>::new());
    Ok(())
}

#[test]
fn what_was_dropped_by_hand_is_told_and_comes_back() -> Result<()> {
    let cluster = movement::joined(2)?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(TABLES)?;
    client.batch_execute(
        "SET shardkeeper.allow_manual_ddl = on; DROP FOREIGN TABLE v_1; ALTER TABLE v DETACH PARTITION v_2; DROP TABLE v_0;
         ALTER TABLE shop.r DETACH PARTITION shop.r_us; ALTER TABLE shop.r_eu DETACH PARTITION shop.r_eu_0; RESET shardkeeper.allow_manual_ddl",
    )?;
    let found = findings(&mut client)?;
    let told = |words: &str| -> Result<String> {
        let finding =
            found.iter().find(|finding| finding.contains(words)).with_context(|| format!("{words} in {found:#?}"))?;
        let (_, command) = finding.split_once("Run ").with_context(|| finding.clone())?;
        Ok(command.trim_end_matches(" it comes back empty.").to_owned())
    };
    let commands = [
        told("public.v | error | has no partition for remainder 0 of 4")?,
        told("public.v | error | has no partition for remainder 1 of 4")?,
        told("public.v_2 | error | was detached by hand")?,
        told("shop.r_us | error | was detached by hand")?,
        told("shop.r_eu_0 | error | was detached by hand")?,
    ];
    ensure!(found.iter().filter(|finding| finding.contains("remainder 2")).count() == 1, "{found:#?}");
    for command in commands {
        client.batch_execute(&format!("{command}; RESET shardkeeper.allow_manual_ddl")).context(command)?;
    }
    assert_eq!(findings(&mut client)?, Vec::<String>::new());
    let left = count(&mut client, "v")?;
    ensure!((700..800).contains(&left), "{left}: all rows but those of the dropped table");
    assert_eq!(count(&mut client, "shop.r")?, 100);
    // They are partitions as before.
    client.batch_execute("INSERT INTO v SELECT generate_series(2001, 2100)")?;
    for (at, leaf) in ["v_0", "v_1", "v_2", "shop.r_us", "shop.r_eu_0"].into_iter().enumerate() {
        let id: i64 = client.query_one(&format!("SELECT shard_move_partition('{leaf}', 'n2')"), &[])?.get(0);
        client.query_one("SELECT shard_wait($1)", &[&id]).with_context(|| format!("{at} {leaf}"))?;
        client.query_one("SELECT shard_finish($1)", &[&id])?;
    }
    assert_eq!(count(&mut client, "v")?, left + 100);
    assert_eq!(count(&mut client, "shop.r")?, 100);
    Ok(())
}

const LOST: &str = r#"
    CREATE SCHEMA web; CREATE TABLE web.dl (id bigint, kind text, PRIMARY KEY (id, kind)); CREATE INDEX ON web.dl (kind);
    SELECT shard_create_parent('web.dl', '{"method": "list", "key": "kind", "nodes": ["n1"], "values": {"a": ["a"], "b": {"in": ["b"], "nodes": ["n2"]},
        "c": {"in": ["c"], "partitions": {"method": "range", "key": "id", "nodes": ["n1", "n2"], "bounds": [0, 50, 101]}}}}');
    INSERT INTO web.dl SELECT i, chr(97 + i % 3) FROM generate_series(1, 100) AS i;
    CREATE TABLE r (at timestamptz PRIMARY KEY);
    SELECT shard_create_parent('r', '{"method": "range", "key": "at", "bounds": ["2026-01-01", "2026-02-01", "2026-03-01"], "timezone": "UTC", "nodes": ["n1", "n2"]}');
    INSERT INTO r SELECT timestamptz '2026-01-01 00:00+00' + i * interval '1 day' FROM generate_series(0, 58) AS i"#;

/// The catalog forgets what is dropped; the mirror on the node does not.
#[test]
fn list_and_range_partitions_that_were_dropped_by_hand_are_found_on_their_nodes() -> Result<()> {
    let cluster = movement::joined(2)?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute("CREATE ROLE keeper; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO keeper")?;
    client.batch_execute(LOST)?;
    let labels = "SELECT concat_ws(' ', partition, parent, label) FROM shardkeeper.partitions ORDER BY 1";
    let owners = "SELECT concat_ws(' ', oid::regclass, relowner::regrole, has_table_privilege('keeper', oid, 'SELECT')) FROM pg_class
        WHERE relispartition AND relkind IN ('r', 'p', 'f') ORDER BY 1";
    let before = (column(&mut client, labels)?, column(&mut client, owners)?);
    let second: String = column(
        &mut client,
        "SELECT partition::text FROM shard_partitions WHERE parent = 'r'::regclass AND node = 'n2'",
    )?
    .into_iter()
    .next()
    .context("a partition on n2")?;
    client.batch_execute(&format!(
        "SET shardkeeper.allow_manual_ddl = on; DROP FOREIGN TABLE web.dl_b, {second}; DROP TABLE web.dl_c; RESET shardkeeper.allow_manual_ddl"
    ))?;
    let error = refused(&mut client, r#"SELECT shard_add_partition('web.dl', '{"in": ["b"]}', 'n2')"#)?;
    ensure!(error.message() == "relation web.dl_b already exists on node n2", "{error:?}");
    ensure!(error.hint().unwrap_or_default().contains("shard_check('web.dl')"), "{error:?}");

    let lost = "SELECT object || ' ' || node FROM shard_check() WHERE finding LIKE 'the node has this partition of %' AND severity = 'error' ORDER BY 1";
    let found = column(&mut client, lost)?;
    ensure!(found.len() == 4, "{found:?}: web.dl_b, {second} and both leaves of web.dl_c");
    ensure!(found.contains(&"web.dl_b n2".to_owned()) && found.contains(&format!("public.{second} n2")), "{found:?}");
    ensure!(
        column(&mut client, "SELECT object FROM shard_check('r') WHERE finding LIKE 'the node has this%'")?.len() == 1
    );
    for finding in findings(&mut client)? {
        let (_, command) = finding.split_once("Run ").with_context(|| finding.clone())?;
        client.batch_execute(&format!("{command} RESET shardkeeper.allow_manual_ddl")).context(command.to_owned())?;
    }
    assert_eq!(findings(&mut client)?, Vec::<String>::new());
    assert_eq!((column(&mut client, labels)?, column(&mut client, owners)?), before);
    assert_eq!((count(&mut client, "web.dl")?, count(&mut client, "r")?), (100, 59));
    let id: i64 = client.query_one("SELECT shard_move_partition('web.dl_b', 'n1')", &[])?.get(0);
    client.query_one("SELECT shard_wait($1)", &[&id])?;
    client.query_one("SELECT shard_finish($1)", &[&id])?;
    // While it is at the parent, nothing is told of partitions that come and go.
    movement::ends(&cluster, id, PATIENCE)?;
    assert_eq!(count(&mut client, "web.dl")?, 100);
    assert_eq!(findings(&mut client)?, Vec::<String>::new());
    // One that was made anew on another server hides none that is there still.
    client.batch_execute(
        r#"SET shardkeeper.allow_manual_ddl = on; DROP FOREIGN TABLE web.dl_a; RESET shardkeeper.allow_manual_ddl;
           SELECT shard_add_partition('web.dl', '{"in": ["a"]}', 'n2')"#,
    )?;
    let found = findings(&mut client)?;
    ensure!(found.len() == 1 && found[0].contains("its rows there are not in the parent"), "{found:#?}");
    ensure!(found[0].contains("ALTER TABLE web.dl DETACH PARTITION web.dl_a;"), "{found:#?}");
    Ok(())
}

/// Somebody was faster on the node: the rest goes all the same, and a warning tells of it.
#[test]
fn what_a_node_has_lost_does_not_keep_the_rest_from_being_dropped() -> Result<()> {
    let cluster = movement::joined(2)?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(LOST)?;
    let leaf = "SELECT partition::text FROM shard_partitions WHERE parent = 'r'::regclass AND node = 'n1'";
    let leaf = column(&mut client, leaf)?.concat();
    cluster.node(1).run(&format!("DROP TABLE {leaf}; DROP TABLE web.dl_a; DROP TABLE web.dl_c"))?;
    cluster.node(2).run("DROP TABLE web.dl CASCADE")?;
    let says = |call: &str| cluster.coordinator.psql(&format!("SELECT {call}"));
    // A call that is rolled back leaves everything as it was.
    client.batch_execute(&format!("BEGIN; SELECT shard_drop_partition('{leaf}'); ROLLBACK"))?;
    let text = says(&format!("shard_drop_partition('{leaf}')"))?;
    ensure!(text.contains(&format!("WARNING:  table public.{leaf} is not on node n1")), "{text}");
    let text = says("shard_drop_partition('web.dl_a')")?;
    ensure!(text.contains("WARNING:  table web.dl_a is not on node n1") && !text.contains("ERROR"), "{text}");
    let text = says("shard_drop_parent('web.dl')")?;
    ensure!(text.contains("WARNING:  table web.dl is not on node n2") && !text.contains("ERROR"), "{text}");
    assert_eq!(findings(&mut client)?, Vec::<String>::new());
    assert_eq!(count(&mut client, "r")?, 28);
    let there = "SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace('web') AND relkind IN ('r', 'p')";
    assert_eq!(cluster.node(1).value::<i64>(there)?, 0);
    Ok(())
}
