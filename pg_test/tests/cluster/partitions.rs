//! Single partitions added to a hierarchy, wherever they and their siblings live.
use anyhow::{Context, Result, ensure};
use pg_test::objects::settled;
use pg_test::sql::{code, column, leaves, refused, rows};
use pg_test::{Cluster, Objects, PATIENCE, Snapshot};

const EVENTS: &str = r#"
    CREATE TABLE events (id int, at date, note text, PRIMARY KEY (id, at));
    CREATE INDEX events_note ON events (note);
    SELECT shard_create_parent('events', '{"method": "range", "key": "at", "interval": "1 month",
        "start": "2024-01-01", "end": "2024-03-01", "nodes": ["n1", "n2"]}')"#;

#[test]
fn a_month_is_added_to_a_range() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(3)?;
    client.batch_execute(EVENTS)?;
    assert_eq!(code(&mut client, "INSERT INTO events VALUES (1, '2024-03-15')")?, "23514");
    let made =
        column(&mut client, r#"SELECT shard_add_partition('events', '{"from": "2024-03-01", "to": "2024-04-01"}')"#)?;
    assert_eq!(made, ["events_2024_03"]);
    // On a node of one's choice, under a name of one's choice.
    client.batch_execute(
        r#"SELECT shard_add_partition('events', '{"from": "2024-04-01", "to": "2024-07-01", "name": "events_q2"}', 'n3');
           SELECT shard_add_partition('events', '{"from": "MINVALUE", "to": "2024-01-01", "label": "before"}', 'local')"#,
    )?;
    client.batch_execute("INSERT INTO events SELECT i, date '2023-12-01' + i, 'n' FROM generate_series(0, 200) i")?;
    assert_eq!(
        leaves(&mut client, "events")?,
        [
            "events_2024_01 FOR VALUES FROM ('2024-01-01') TO ('2024-02-01') n1",
            "events_2024_02 FOR VALUES FROM ('2024-02-01') TO ('2024-03-01') n2",
            "events_2024_03 FOR VALUES FROM ('2024-03-01') TO ('2024-04-01') n1",
            "events_before FOR VALUES FROM (MINVALUE) TO ('2024-01-01') local",
            "events_q2 FOR VALUES FROM ('2024-04-01') TO ('2024-07-01') n3",
        ]
    );
    assert_eq!(cluster.node(1).count("events")?, 62);
    assert_eq!(cluster.node(3).count("events_q2")?, 79);
    // The key and the index are there, as on the others.
    for server in [cluster.node(1), cluster.node(3)] {
        let keys = "SELECT count(DISTINCT i.inhparent) FROM pg_inherits i JOIN pg_index x ON indexrelid = inhrelid AND indisvalid";
        assert_eq!(server.value::<i64>(keys)?, 2, "{}", server.name);
    }
    let before = Snapshot::take(&cluster)?;
    for (bounds, expected) in [
        (r#"{"from": "2024-03-10", "to": "2024-03-20"}"#, "42P17"),
        (r#"{"from": "2024-12-01", "to": "2024-11-01"}"#, "22023"),
        (r#"{"from": "2024-12-01", "to": "2024-12-01"}"#, "22023"),
        (r#"{"from": "2024-12-01"}"#, "22023"),
        (r#"{"in": ["2024-12-01"]}"#, "22023"),
        (r#"{"from": "soon", "to": "later"}"#, "22023"),
        (r#"{"from": "2024-12-01", "to": "2025-01-01", "node": "n1"}"#, "22023"),
        (r#"{"from": "2024-12-01", "to": "2025-01-01", "name": "events_q2"}"#, "42P07"),
        ("{}", "22023"),
    ] {
        let call = format!("SELECT shard_add_partition('events', '{bounds}')");
        assert_eq!(code(&mut client, &call)?, expected, "{bounds}");
    }
    assert_eq!(
        code(
            &mut client,
            r#"SELECT shard_add_partition('events', '{"from": "2025-01-01", "to": "2025-02-01"}', 'n9')"#
        )?,
        "42704"
    );
    assert_eq!(
        code(&mut client, r#"SELECT shard_add_partition('events_q2', '{"from": "2025-01-01", "to": "2025-02-01"}')"#)?,
        "42809"
    );
    assert_eq!(
        code(&mut client, r#"SELECT shard_add_partition('pg_class', '{"from": "2025-01-01", "to": "2025-02-01"}')"#)?,
        "42P01"
    );
    before.is_unchanged(&cluster)?;
    Ok(())
}

#[test]
fn a_node_that_had_no_leaf_gets_the_same_mirror_as_the_others() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(3)?;
    client.batch_execute(
        r#"CREATE TABLE orders (id int, region text COLLATE "C" NOT NULL, total numeric(10, 2) DEFAULT 1.5 CHECK (total > 0),
               tax numeric GENERATED ALWAYS AS (total * 0.2) STORED, note text, PRIMARY KEY (id, region), UNIQUE (id, region, note));
           CREATE INDEX ON orders USING brin (total) WITH (pages_per_range = 4);
           CREATE INDEX ON orders (lower(note)) WHERE total > 5;
           CREATE STATISTICS orders_stats ON region, note FROM orders;
           ALTER TABLE orders ALTER COLUMN note SET STATISTICS 500;
           ALTER TABLE orders SET (fillfactor = 70);
           SELECT shard_create_parent('orders', '{"method": "list", "key": "region", "nodes": ["n1"], "values": {"us": ["US"]},
               "partitions": {"method": "hash", "key": "id", "modulus": 2}}');
           SELECT shard_add_partition('orders', '{"in": ["JP"], "label": "jp"}', 'n2')"#,
    )?;
    settled(&cluster, PATIENCE)?;
    // What the mirrors look like but for the name and the bound of their partition.
    let shape = |number: usize, label: &str| -> Result<Vec<String>> {
        let lines = Objects::of(cluster.node(number))?.with(&["orders"]);
        let text = |line: &String| {
            line.replace(&format!("n{number}: "), "")
                .replace(&format!("orders_{label}"), "orders_x")
                .replace(&format!("'{}'", label.to_uppercase()), "'X'")
        };
        let mut found: Vec<String> = lines.iter().map(text).collect();
        found.sort();
        Ok(found)
    };
    assert!(shape(1, "us")?.len() > 50);
    assert_eq!(shape(2, "jp")?, shape(1, "us")?);
    client.batch_execute("INSERT INTO orders (id, region, note) SELECT i, r, i FROM generate_series(1, 20) i, unnest('{US,JP}'::text[]) r")?;
    assert_eq!((cluster.node(1).count("orders")?, cluster.node(2).count("orders")?), (20, 20));
    Ok(())
}

#[test]
fn a_partition_is_added_below_a_partition() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(3)?;
    client.batch_execute(
        r#"CREATE TABLE orders (id int, at date, region text, PRIMARY KEY (id, at, region));
           SELECT shard_create_parent('orders', '{"method": "range", "key": "at", "interval": "1 year", "start": "2024-01-01", "end": "2026-01-01",
               "nodes": ["n1", "n2"],
               "partitions": {"method": "list", "key": "region", "values": {"us": ["US"], "eu": ["EU"]},
                   "partitions": {"method": "hash", "key": "id", "modulus": 2}}}');
           SELECT shard_add_partition('orders_2024', '{"in": ["JP"], "label": "jp"}', 'n3');
           SELECT shard_add_partition('orders', '{"from": "2026-01-01", "to": "2027-01-01"}');
           INSERT INTO orders SELECT i, at, r FROM generate_series(1, 10) i, unnest('{US,EU}'::text[]) r, unnest('{2024-05-05,2025-05-05,2026-05-05}'::date[]) at;
           INSERT INTO orders SELECT i, '2024-05-05', 'JP' FROM generate_series(1, 10) i"#,
    )?;
    assert_eq!(code(&mut client, "INSERT INTO orders VALUES (1, '2025-05-05', 'JP')")?, "23514");
    assert_eq!(leaves(&mut client, "orders")?.len(), 4 + 4 + 2 + 4);
    assert_eq!(
        rows(
            &mut client,
            r#"SELECT node FROM shard_locate('orders', '{"id": 1, "at": "2024-02-02", "region": "JP"}')"#
        )?,
        [["n3"]]
    );
    // A whole branch leaves, from all its servers, and stays one table here.
    client.batch_execute("SELECT shard_detach_partition('orders_2024')")?;
    assert_eq!(
        rows(&mut client, "SELECT count(*) FROM orders UNION ALL SELECT count(*) FROM orders_2024")?.concat(),
        ["40", "30"]
    );
    client.batch_execute("INSERT INTO orders_2024 VALUES (11, '2024-01-01', 'EU')")?;
    assert!(!cluster.node(3).has("orders")?, "a table without leaves is left behind");
    assert_eq!(cluster.node(3).count("orders_2024")?, 10);
    client.batch_execute("SELECT shard_drop_partition('orders_2025_us')")?;
    assert_eq!(column(&mut client, "SELECT count(*) FROM orders")?, ["30"]);
    for hash in ["shard_drop_partition('orders_2025_eu_0')", "shard_detach_partition('orders_2025_eu_1')"] {
        assert_eq!(code(&mut client, &format!("SELECT {hash}"))?, "0A000");
    }
    // And again in its place.
    client.batch_execute(
        r#"SELECT shard_add_partition('orders_2025', '{"in": ["US"], "label": "us"}', 'n3');
           INSERT INTO orders VALUES (1, '2025-01-01', 'US')"#,
    )?;
    assert_eq!(cluster.node(3).count("orders_2025")?, 1);
    Ok(())
}

/// Where the default partition lives, and where the new one goes.
const PLACES: [(&str, &str); 6] =
    [("n1", "n1"), ("n1", "n2"), ("n1", "local"), ("local", "n1"), ("local", "local"), ("n3", "n2")];

#[test]
fn rows_of_the_default_partition_that_belong_to_a_new_one_are_refused() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(3)?;
    for (default, new) in PLACES {
        let case = format!("default on {default}, new on {new}");
        client.batch_execute(&format!(
            r#"CREATE TABLE orders (id int, region text);
               SELECT shard_create_parent('orders', '{{"method": "list", "key": "region", "default": {{"nodes": ["{default}"]}},
                   "values": {{"us": {{"in": ["US"], "nodes": ["n1"]}}, "cn": {{"in": ["CN", null], "nodes": ["n2"]}}}}}}');
               INSERT INTO orders VALUES (1, 'US'), (2, 'JP'), (3, 'BR')"#
        ))?;
        // The worker forgets what was committed a moment later.
        pg_test::objects::settled(&cluster, pg_test::PATIENCE)?;
        let before = Objects::of_all(&cluster)?;
        let add = format!(r#"SELECT shard_add_partition('orders', '{{"in": ["JP"], "label": "jp"}}', '{new}')"#);
        assert_eq!(code(&mut client, &add)?, "23514", "{case}");
        assert_eq!(Objects::of_all(&cluster)?.changes_since(&before), [""; 0], "{case}");
        client.batch_execute(&format!(
            "BEGIN; CREATE TEMP TABLE moved AS SELECT * FROM orders WHERE region = 'JP'; DELETE FROM orders WHERE region = 'JP';
             {add}; INSERT INTO orders SELECT * FROM moved; DROP TABLE moved; COMMIT"
        ))?;
        assert_eq!(
            rows(&mut client, "SELECT tableoid::regclass, id FROM orders ORDER BY id")?,
            [["orders_us", "1"], ["orders_jp", "2"], ["orders_default", "3"]],
            "{case}"
        );
        // The default refuses them from now on, on its own server too.
        let server = cluster.servers().find(|server| server.name == default).unwrap_or(&cluster.coordinator);
        let mut there = server.client()?;
        for wrong in ["'JP'", "'US'", "'CN'", "NULL"] {
            let insert = format!("INSERT INTO orders_default VALUES (4, {wrong})");
            assert_eq!(code(&mut there, &insert)?, "23514", "{case}: {wrong}");
            assert_eq!(code(&mut client, &insert)?, "23514", "{case}: {wrong}");
        }
        // Once the new one is gone, they belong there again.
        client.batch_execute("SELECT shard_drop_partition('orders_jp'); INSERT INTO orders VALUES (5, 'JP')")?;
        assert_eq!(
            rows(&mut client, "SELECT tableoid::regclass FROM orders WHERE id = 5")?,
            [["orders_default"]],
            "{case}"
        );
        client.batch_execute("SELECT shard_detach_partition('orders_us'); INSERT INTO orders VALUES (6, 'US')")?;
        assert_eq!(
            rows(&mut client, "SELECT tableoid::regclass FROM orders WHERE id = 6")?,
            [["orders_default"]],
            "{case}"
        );
        client.batch_execute("SELECT shard_drop_parent('orders'); DROP FOREIGN TABLE orders_us")?;
        cluster.node(1).run("DROP TABLE orders_us")?;
    }
    Ok(())
}

#[test]
fn a_default_partition_comes_and_goes() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(3)?;
    client.batch_execute(EVENTS)?;
    client.batch_execute(r#"SELECT shard_add_partition('events', '{"default": true}', 'n3')"#)?;
    client.batch_execute("INSERT INTO events VALUES (1, '2024-01-15'), (2, '2030-01-01')")?;
    assert_eq!(cluster.node(3).count("events_default")?, 1);
    let mut there = cluster.node(3).client()?;
    assert_eq!(code(&mut there, "INSERT INTO events VALUES (3, '2024-01-15')")?, "23514");
    assert_eq!(
        code(&mut client, r#"SELECT shard_add_partition('events', '{"default": true, "name": "rest"}', 'n2')"#)?,
        "42P17"
    );
    assert_eq!(
        code(
            &mut client,
            r#"SELECT shard_add_partition('events', '{"from": "2030-01-01", "to": "2031-01-01"}', 'n1')"#
        )?,
        "23514"
    );
    client.batch_execute(
        "SELECT shard_detach_partition('events_default'); SELECT shard_detach_partition('events_2024_01')",
    )?;
    assert_eq!(code(&mut client, "INSERT INTO events VALUES (3, '2030-01-01')")?, "23514");
    // What was detached is an ordinary table: it takes any row.
    client.batch_execute(
        "INSERT INTO events_default VALUES (4, '2024-01-15'); INSERT INTO events_2024_01 VALUES (4, '2050-01-15')",
    )?;
    there.batch_execute("INSERT INTO events_default VALUES (5, '2024-01-15')")?;
    Ok(())
}

#[test]
fn the_first_leaf_on_another_server_moves_the_keys_of_the_parent_to_its_leaves() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(3)?;
    client.batch_execute(
        r#"CREATE TABLE orders (id int, region text, code text, PRIMARY KEY (id, region), UNIQUE (code, region));
           CREATE UNIQUE INDEX orders_lower ON orders (id, region, lower(code));
           CREATE INDEX orders_code ON orders (code);
           SELECT shard_create_parent('orders', '{"method": "list", "key": "region", "values": {"us": ["US"], "eu": ["EU"]}}');
           INSERT INTO orders SELECT i, r, i FROM generate_series(1, 100) i, unnest('{US,EU}'::text[]) r"#,
    )?;
    assert_eq!(code(&mut client, "INSERT INTO orders VALUES (1, 'US', 'x')")?, "23505");
    client.batch_execute(r#"SELECT shard_add_partition('orders', '{"in": ["JP"], "label": "jp"}', 'n1'); INSERT INTO orders VALUES (1, 'JP', 'x')"#)?;
    let unique = "SELECT count(*) FROM pg_index WHERE indisunique AND indrelid = 'orders_us'::regclass";
    assert_eq!(column(&mut client, unique)?, ["3"]);
    assert_eq!(
        column(&mut client, "SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'orders'::regclass")?,
        ["orders_code"]
    );
    for duplicate in ["(1, 'US', 'x')", "(101, 'EU', '7')", "(1, 'JP', 'y')", "(2, 'JP', 'x')"] {
        assert_eq!(code(&mut client, &format!("INSERT INTO orders VALUES {duplicate}"))?, "23505", "{duplicate}");
    }
    assert_eq!(
        cluster
            .node(1)
            .value::<i64>("SELECT count(*) FROM pg_index WHERE indisunique AND indrelid = 'orders_jp'::regclass")?,
        3
    );
    // Local leaves that come later have them too.
    client.batch_execute(r#"SELECT shard_add_partition('orders', '{"in": ["BR"], "label": "br"}', 'local'); INSERT INTO orders VALUES (1, 'BR', 'x')"#)?;
    assert_eq!(code(&mut client, "INSERT INTO orders VALUES (1, 'BR', 'y')")?, "23505");
    Ok(())
}

#[test]
fn a_parent_whose_last_remote_leaf_is_gone_gets_new_ones_with_the_keys() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(3)?;
    for node in ["n1", "local"] {
        client.batch_execute(&format!(
            r#"CREATE TABLE orders (id int, region text, PRIMARY KEY (id, region));
               SELECT shard_create_parent('orders', '{{"method": "list", "key": "region", "values": {{"us": {{"in": ["US"], "nodes": ["n1"]}}}}}}');
               SELECT shard_drop_partition('orders_us');
               SELECT shard_add_partition('orders', '{{"in": ["JP"], "label": "jp"}}', '{node}');
               INSERT INTO orders VALUES (1, 'JP')"#
        ))
        .with_context(|| format!("the next one on {node}"))?;
        assert_eq!(code(&mut client, "INSERT INTO orders VALUES (1, 'JP')")?, "23505", "the next one on {node}");
        client.batch_execute(r#"SELECT shard_add_partition('orders', '{"in": ["BR"], "label": "br"}', 'n2'); INSERT INTO orders VALUES (1, 'BR')"#)?;
        for value in ["JP", "BR"] {
            assert_eq!(
                code(&mut client, &format!("INSERT INTO orders VALUES (1, '{value}')"))?,
                "23505",
                "the next one on {node}: {value}"
            );
        }
        client.batch_execute("SELECT shard_drop_parent('orders')")?;
        settled(&cluster, PATIENCE)?;
    }
    Ok(())
}

#[test]
fn a_detached_partition_is_dropped_with_its_rows_or_says_where_they_stay() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(2)?;
    client.batch_execute(
        r#"CREATE TABLE e (id int, at date, PRIMARY KEY (id, at));
        SELECT shard_create_parent('e', '{"method": "range", "key": "at", "bounds": ["2024-01-01", "2025-01-01", "2026-01-01", "2027-01-01"],
            "nodes": ["n1"], "partitions": {"method": "hash", "key": "id", "modulus": 2, "nodes": ["n1", "n2"]}}');
        INSERT INTO e SELECT g, '2024-05-05'::date + 365 * (g % 3) FROM generate_series(1, 90) AS g"#,
    )?;
    let parts = leaves(&mut client, "e")?;
    let years: Vec<String> =
        column(&mut client, "SELECT relid::regclass::text FROM pg_partition_tree('e') WHERE level = 1 ORDER BY 1")?;
    ensure!(years.len() == 3 && parts.len() == 6, "{parts:?}");
    let there = |name: &str| -> Result<Vec<bool>> { (1..=2).map(|node| cluster.node(node).has(name)).collect() };
    for year in &years[..2] {
        client.batch_execute(&format!("SELECT shard_detach_partition('{year}')"))?;
        assert_eq!(there(year)?, [true, true]);
    }
    // By the call: all of it goes to the trash, and can come back.
    client.batch_execute(&format!("BEGIN; SELECT shard_drop_partition('{}'); ROLLBACK", years[0]))?;
    assert_eq!(there(&years[0])?, [true, true]);
    client.batch_execute(&format!("SELECT shard_drop_partition('{}')", years[0]))?;
    assert_eq!(there(&years[0])?, [false, false]);
    ensure!(column(&mut client, &format!("SELECT to_regclass('{}') IS NULL", years[0]))? == ["t"]);
    ensure!(column(&mut client, "SELECT DISTINCT node FROM shard_trash WHERE bytes > 0 ORDER BY 1")? == ["n1", "n2"]);
    // By hand: nothing of it goes on the nodes, and that is told.
    let said = cluster.coordinator.psql(&format!("DROP TABLE {} CASCADE", years[1]))?;
    ensure!(said.contains(&format!("table public.{} stays on node n1 with its rows", years[1])), "{said}");
    assert_eq!(there(&years[1])?, [true, true]);
    // A partition again: it is no detached one any more.
    client.batch_execute(&format!("SELECT shard_detach_partition('{}')", years[2]))?;
    let error = refused(&mut client, "SELECT shard_drop_node('n2')")?;
    ensure!(error.code().code() == "2BP01", "{error:?}");
    client.batch_execute(&format!("SELECT shard_drop_partition('{}', keep => '0')", years[2]))?;
    Ok(())
}
