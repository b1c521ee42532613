//! What the passing of time asks of hierarchies.
use anyhow::{Result, ensure};
use pg_test::Cluster;
use pg_test::sql::{code, column, refused};

const DUE: &str = "SELECT partition || ' ' || array_to_string(nodes, ',') || ' ' || detail FROM shard_plan_maintenance";

#[test]
fn partitions_are_made_ahead_of_the_clock_on_their_nodes() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(2)?;
    client.batch_execute(
        r#"CREATE TABLE visits (day date NOT NULL, id bigint, PRIMARY KEY (day, id));
           CREATE INDEX ON visits (id);
           SELECT shard_create_parent('visits', '{"method": "range", "key": "day", "interval": "1 month", "premake": 2,
               "nodes": ["n1", "n2"], "partitions": {"method": "hash", "key": "id", "modulus": 2}}')"#,
    )?;
    assert!(column(&mut client, &format!("{DUE}('visits')"))?.is_empty());
    let next = "date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month'";
    let due = column(&mut client, &format!("{DUE}('visits', {next})"))?;
    ensure!(due.len() == 1 && due[0].contains(" n1,n2 "), "{due:?}");
    let made = column(&mut client, &format!("SELECT unnest(shard_maintain_parent('visits', {next}))"))?;
    ensure!(made.len() == 1 && due[0].starts_with(&made[0]), "{due:?} {made:?}");
    assert!(column(&mut client, &format!("{DUE}('visits', {next})"))?.is_empty());
    // With its leaves on both nodes, their keys and indexes.
    let later = "(date_trunc('month', now()) + interval '3 months 10 days')::date";
    client.batch_execute(&format!("INSERT INTO visits SELECT {later}, g FROM generate_series(1, 100) g"))?;
    for node in cluster.nodes() {
        let indexes = "SELECT count(*) FROM pg_index WHERE indrelid IN (SELECT tableoid FROM public.visits)";
        assert_eq!(node.value::<i64>(indexes)?, 2);
    }
    // Rows lie ahead of the clock now: two more months follow the last one of them.
    let due = column(&mut client, &format!("{DUE}('visits', {next})"))?;
    ensure!(due.len() == 2, "{due:?}");
    Ok(())
}

#[test]
fn gaps_are_filled_at_every_level_and_what_the_plan_says_is_a_call() -> Result<()> {
    let (_cluster, mut client) = Cluster::joined(1)?;
    client.batch_execute(
        r#"CREATE TABLE t (region text, id int, PRIMARY KEY (region, id));
           SELECT shard_create_parent('t', '{"method": "list", "key": "region", "values": {"eu": ["EU"], "us": ["US"]},
               "partitions": {"method": "range", "key": "id", "step": 100, "premake": 1, "nodes": ["n1", "local"]}}');
           SELECT shard_drop_partition('t_eu_100');
           INSERT INTO t VALUES ('US', 199)"#,
    )?;
    let plan = "SELECT command FROM shard_plan_maintenance('t') ORDER BY partition";
    assert_eq!(
        column(&mut client, plan)?,
        [
            r#"SELECT shard_add_partition('public.t_eu', '{"from":"100","to":"200"}');"#,
            r#"SELECT shard_add_partition('public.t_us', '{"from":"200","to":"300"}');"#
        ]
    );
    let first = column(&mut client, plan)?.remove(0);
    client.batch_execute(&first)?;
    client.batch_execute("CALL shard_run_maintenance()")?;
    assert!(column(&mut client, plan)?.is_empty());
    client.batch_execute("INSERT INTO t VALUES ('EU', 150), ('US', 250)")?;
    Ok(())
}

#[test]
fn one_parent_that_fails_keeps_no_other_from_its_partitions() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(2)?;
    client.batch_execute(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (LIKE a INCLUDING ALL); CREATE TABLE c (LIKE a INCLUDING ALL); CREATE TABLE d (LIKE a INCLUDING ALL);
         SELECT shard_create_parent('a', 'range', 'id', step => '10', premake => 1);
         SELECT shard_create_parent('b', 'range', 'id', step => '10', premake => 1, nodes => '{n1}');
         SELECT shard_create_parent('c', 'range', 'id', step => '10', premake => 1, default_partition => true);
         SELECT shard_create_parent('d', 'range', 'id', step => '10', premake => 1, nodes => '{n2}');
         INSERT INTO a VALUES (15); INSERT INTO b VALUES (15); INSERT INTO c VALUES (15), (25); INSERT INTO d VALUES (15)",
    )?;
    cluster.node(1).stop()?;
    let error = refused(&mut client, "CALL shard_run_maintenance()")?;
    assert_eq!(error.message(), "maintenance failed for 2 of 4 parents");
    assert_eq!(error.detail(), Some("They are: b, c. What was due for the others is done."));
    assert_eq!(
        column(&mut client, "SELECT to_regclass('a_20') IS NOT NULL AND to_regclass('d_20') IS NOT NULL")?,
        ["t"]
    );
    cluster.node(1).start()?;
    client.batch_execute("DELETE FROM c WHERE id = 25")?;
    client.batch_execute("CALL shard_run_maintenance()")?;
    assert_eq!(
        column(&mut client, "SELECT to_regclass('b_20') IS NOT NULL AND to_regclass('c_20') IS NOT NULL")?,
        ["t"]
    );
    Ok(())
}

#[test]
fn wrong_calls_of_maintenance_are_refused() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(1)?;
    client.batch_execute(
        "CREATE TABLE t (id int); SELECT shard_create_parent('t', 'range', 'id', step => '10'); CREATE TABLE plain (id int)",
    )?;
    let of = |client: &mut postgres::Client, call: &str| code(client, call);
    assert_eq!(of(&mut client, "CALL shard_run_maintenance('plain')")?, "42P01");
    assert_eq!(of(&mut client, "BEGIN; CALL shard_run_maintenance()")?, "2D000");
    client.batch_execute("ROLLBACK")?;
    assert_eq!(of(&mut client, "SELECT * FROM shard_plan_maintenance('plain')")?, "42P01");
    assert_eq!(of(&mut client, "SELECT shard_maintain_parent('t_0')")?, "42809");
    assert_eq!(of(&mut client, "SELECT shard_maintain_parent('t', 'infinity')")?, "22008");
    assert_eq!(of(&mut client, "SELECT shard_maintain_parent('t', NULL)")?, "22004");
    assert_eq!(of(&mut client, "SELECT shard_maintain_parent(NULL)")?, "22004");
    let mut app = cluster.coordinator.client_as("app", "app", "app")?;
    assert_eq!(of(&mut app, "SELECT shard_maintain_parent('t')")?, "42501");
    assert_eq!(of(&mut app, "SELECT * FROM shard_plan_maintenance('t')")?, "42501");
    assert!(column(&mut app, "SELECT * FROM shard_plan_maintenance()")?.is_empty());
    Ok(())
}

#[test]
fn a_schedule_shows_its_next_times() -> Result<()> {
    let (_cluster, mut client) = Cluster::joined(0)?;
    client.batch_execute("SET timezone = 'America/New_York'")?;
    let times =
        |client: &mut postgres::Client, arguments: &str| column(client, &format!("SELECT shard_plan_job({arguments})"));
    assert_eq!(
        times(&mut client, "'30 1 * * *', 'America/New_York', 2, '2024-11-02 12:00'")?,
        ["2024-11-03 01:30:00-04", "2024-11-04 01:30:00-05"]
    );
    assert_eq!(
        times(&mut client, "'every 90 s', count => 1, after => '2024-01-01 00:00:10'")?,
        ["2024-01-01 00:01:30-05"]
    );
    assert_eq!(times(&mut client, "'0 0 29 2 *', count => 1, after => '2025-01-01'")?, ["2028-02-28 19:00:00-05"]);
    for (arguments, expected) in [
        ("'61 * * * *'", "22023"),
        ("'0 0 30 2 *'", "22023"),
        ("'every 1 day'", "22023"),
        ("'@daily', 'Mars/Olympus'", "22023"),
        ("'@daily', count => 0", "22023"),
        ("'@daily', count => 1001", "22023"),
        ("'@daily', after => 'infinity'", "22008"),
        ("NULL", "22004"),
    ] {
        assert_eq!(code(&mut client, &format!("SELECT shard_plan_job({arguments})"))?, expected, "{arguments}");
    }
    Ok(())
}
