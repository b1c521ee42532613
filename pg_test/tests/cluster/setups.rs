//! The set-ups that people build by hand today, each as one call, with what the hand-made ones give up.
use anyhow::{Context, Result, ensure};
use pg_test::sql::{column, refused, rows, scanned};
use pg_test::{Cluster, Options};
use postgres::Client;

fn cluster(nodes: usize) -> Result<(Cluster, Client)> {
    let cluster = Cluster::with(Options { nodes, ..Options::default() })?;
    cluster.add_nodes()?;
    let client = cluster.coordinator.client()?;
    Ok((cluster, client))
}

/// Leaves with their servers, by name. `shard_check` has nothing against them.
fn leaves(client: &mut Client, parent: &str) -> Result<Vec<(String, String)>> {
    let found = rows(client, "SELECT object, node, finding FROM shard_check() WHERE area = 'hierarchy'")?;
    ensure!(found.is_empty(), "{found:?}");
    let sql = format!(
        "SELECT partition::text, node FROM shard_partitions WHERE parent = '{parent}'::regclass AND is_leaf ORDER BY 1"
    );
    Ok(rows(client, &sql)?.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect())
}

/// SQLSTATE and table of the error that `sql` must end in.
fn refusal(client: &mut Client, sql: &str) -> Result<(String, String)> {
    let error = refused(client, sql)?;
    Ok((error.code().code().to_owned(), error.table().unwrap_or_default().to_owned()))
}

fn duplicate(table: &str) -> (String, String) {
    ("23505".into(), table.into())
}

fn wrong_place(table: &str) -> (String, String) {
    ("23514".into(), table.into())
}

/// The first id from `from` on whose row `parent` keeps in `leaf`.
fn id_in(client: &mut Client, parent: &str, key: &str, leaf: &str, from: i32) -> Result<i32> {
    let sql = format!(
        "SELECT i FROM generate_series({from}, {from} + 1000) i, shard_locate('{parent}', jsonb_build_object({key})) l
         WHERE l.partition = '{leaf}'::regclass ORDER BY i LIMIT 1"
    );
    Ok(client.query_opt(&sql, &[])?.with_context(|| format!("no id lies in {leaf}"))?.get(0))
}

#[test]
fn orders_by_year_region_and_customer_with_a_primary_key() -> Result<()> {
    let (cluster, mut client) = cluster(4)?;
    client.batch_execute(
        r#"
        CREATE TABLE orders (
            id bigint, order_date date, region text, customer_id int, total numeric(10, 2) NOT NULL,
            PRIMARY KEY (id, order_date, region, customer_id));

        SELECT shard_create_parent('orders', '{
            "method": "range", "key": "order_date", "interval": "1 year", "start": "2024-01-01", "end": "2027-01-01",
            "partitions": {"method": "list", "key": "region", "values": {
                "us": {"in": ["US"], "nodes": ["n1", "n2", "n3"],
                       "partitions": {"method": "hash", "key": "customer_id", "modulus": 3}},
                "eu": {"in": ["EU", "UK"], "nodes": ["local", "n4"],
                       "partitions": {"method": "hash", "key": "customer_id", "modulus": 4}}}}}');

        INSERT INTO orders
        SELECT i, date '2024-01-01' + i % 1096, (ARRAY['US', 'EU', 'UK'])[1 + i % 3], i % 500, i % 97
        FROM generate_series(1, 10000) i"#,
    )?;
    let found = leaves(&mut client, "orders")?;
    assert_eq!(found.len(), 3 * (3 + 4));
    for (node, expected) in [("local", 6), ("n1", 3), ("n2", 3), ("n3", 3), ("n4", 6)] {
        let mine: Vec<&str> = found.iter().filter(|(_, at)| at == node).map(|(leaf, _)| leaf.as_str()).collect();
        assert_eq!(mine.len(), expected, "{node}: {mine:?}");
        let region = if ["local", "n4"].contains(&node) { "_eu_" } else { "_us_" };
        assert!(mine.iter().all(|leaf| leaf.contains(region)), "{node}: {mine:?}");
    }
    assert_eq!(
        rows(&mut client, "SELECT region, count(*), sum(total) FROM orders GROUP BY 1 ORDER BY 1")?,
        rows(
            &mut client,
            "SELECT (ARRAY['US', 'EU', 'UK'])[1 + i % 3], count(*), sum((i % 97)::numeric(10, 2))
             FROM generate_series(1, 10000) i GROUP BY 1 ORDER BY 1"
        )?
    );
    let one = "order_date = '2025-05-05' AND region = 'UK' AND customer_id = 7";
    assert_eq!(scanned(&mut client, &format!("SELECT * FROM orders WHERE {one}"))?.len(), 1);
    // The key that was declared holds for rows on every server.
    for (leaf, node) in found {
        let server = cluster.servers().find(|server| server.name == node).unwrap_or(&cluster.coordinator);
        let mut there = server.client()?;
        let again = format!("INSERT INTO orders SELECT * FROM {leaf} LIMIT 1");
        assert_eq!(refusal(&mut client, &again)?.0, "23505", "{leaf}");
        assert_eq!(refusal(&mut there, &again)?, duplicate(&leaf));
    }
    let nowhere = "INSERT INTO orders VALUES (1, '2024-01-01', 'JP', 1, 0)";
    assert_eq!(refusal(&mut client, nowhere)?.0, "23514");
    Ok(())
}

#[test]
fn persons_by_hash_on_two_servers_keep_their_primary_key() -> Result<()> {
    let (cluster, mut client) = cluster(1)?;
    client.batch_execute(
        "CREATE TABLE person (id int PRIMARY KEY, name text NOT NULL);
         SELECT shard_create_parent('person', 'hash', 'id', modulus => 4, nodes => '{local, n1}');
         INSERT INTO person SELECT i, 'person ' || i FROM generate_series(1, 1000) i",
    )?;
    let found = leaves(&mut client, "person")?;
    let expected = [("person_0", "local"), ("person_1", "n1"), ("person_2", "local"), ("person_3", "n1")];
    assert_eq!(found, expected.map(|(leaf, node)| (leaf.to_owned(), node.to_owned())));

    // A conflicting id is refused wherever it comes in: through the parent, by a leaf here, by the other server itself.
    let here = id_in(&mut client, "person", "'id', i", "person_0", 1)?;
    let there = id_in(&mut client, "person", "'id', i", "person_1", 1)?;
    let mut node = cluster.node(1).client()?;
    let insert = |table: &str, id: i32| format!("INSERT INTO {table} VALUES ({id}, 'somebody else')");
    assert_eq!(refusal(&mut client, &insert("person", here))?, duplicate("person_0"));
    assert_eq!(refusal(&mut client, &insert("person", there))?.0, "23505");
    assert_eq!(refusal(&mut client, &insert("person_0", here))?, duplicate("person_0"));
    assert_eq!(refusal(&mut node, &insert("person", there))?, duplicate("person_1"));
    assert_eq!(refusal(&mut node, &insert("person_1", there))?, duplicate("person_1"));

    // So is an id that belongs elsewhere.
    assert_eq!(refusal(&mut client, &insert("person_0", there))?.0, "23514");
    assert_eq!(refusal(&mut node, &insert("person_1", here))?, wrong_place("person_1"));
    assert_eq!(refusal(&mut node, &insert("person", here))?.0, "23514");

    // An update never leaves a row where its new id does not belong.
    let new_here = id_in(&mut client, "person", "'id', i", "person_0", 1001)?;
    let new_there = id_in(&mut client, "person", "'id', i", "person_1", 1001)?;
    let update = |old: i32, new: i32| format!("UPDATE person SET id = {new} WHERE id = {old}");
    assert_eq!(refused(&mut client, &update(there, new_here))?.code().code(), "23514");
    client.batch_execute(&update(here, new_there))?;
    let place = format!(
        "SELECT tableoid::regclass FROM person WHERE id IN ({here}, {there}, {new_here}, {new_there}) ORDER BY id"
    );
    assert_eq!(column(&mut client, &place)?, ["person_1", "person_1"]);
    assert_eq!(column(&mut client, "SELECT count(*) FROM person")?, ["1000"]);
    Ok(())
}

#[test]
fn customers_by_region_are_each_guarded_by_their_own_server() -> Result<()> {
    let (cluster, mut client) = cluster(3)?;
    client.batch_execute(
        r#"
        CREATE TABLE customer (id int, region text, name text NOT NULL, PRIMARY KEY (id, region));

        SELECT shard_create_parent('customer', '{"method": "list", "key": "region", "values": {
            "us": {"in": ["us"], "nodes": ["n1", "n2", "n3"], "partitions": {"method": "hash", "key": "id", "modulus": 3}},
            "uk": {"in": ["uk"], "nodes": ["local", "n1", "n2"], "partitions": {"method": "hash", "key": "id", "modulus": 3}}}}');

        INSERT INTO customer SELECT i, r, r || i FROM generate_series(1, 600) i, unnest('{us, uk}'::text[]) r"#,
    )?;
    let expected = [
        ("customer_uk_0", "local"),
        ("customer_uk_1", "n1"),
        ("customer_uk_2", "n2"),
        ("customer_us_0", "n1"),
        ("customer_us_1", "n2"),
        ("customer_us_2", "n3"),
    ];
    let found = leaves(&mut client, "customer")?;
    assert_eq!(found, expected.map(|(leaf, node)| (leaf.to_owned(), node.to_owned())));
    for (leaf, node) in expected {
        let server = cluster.servers().find(|server| server.name == node).unwrap_or(&cluster.coordinator);
        let mut there = server.client()?;
        let (region, other) = if leaf.contains("_us_") { ("us", "uk") } else { ("uk", "us") };
        let key = format!("'id', i, 'region', '{region}'");
        let mine = id_in(&mut client, "customer", &key, leaf, 1)?;
        let sibling = format!("{}{}", &leaf[..12], (leaf.as_bytes()[12] - b'0' + 1) % 3);
        let not_mine = id_in(&mut client, "customer", &key, &sibling, 1)?;

        let insert = |id: i32, region: &str| format!("INSERT INTO {leaf} VALUES ({id}, '{region}', 'x')");
        assert_eq!(refusal(&mut there, &insert(mine, region))?, duplicate(leaf), "a conflicting id");
        assert_eq!(refusal(&mut there, &insert(mine, other))?, wrong_place(leaf), "a wrong region");
        assert_eq!(refusal(&mut there, &insert(not_mine, region))?, wrong_place(leaf), "a wrong remainder");
        let update = format!("UPDATE {leaf} SET region = '{other}' WHERE id = {mine}");
        assert_eq!(refusal(&mut there, &update)?, wrong_place(leaf), "a region changed in place");
    }
    // n3 keeps no customer of the UK at all, and says so.
    let mut n3 = cluster.node(3).client()?;
    assert_eq!(refusal(&mut n3, "INSERT INTO customer VALUES (1, 'uk', 'x')")?.0, "23514");
    assert_eq!(
        rows(&mut client, "SELECT region, count(*) FROM customer GROUP BY 1 ORDER BY 1")?,
        [["uk", "600"], ["us", "600"]]
    );
    Ok(())
}

#[test]
fn customers_by_lists_of_countries_with_a_default() -> Result<()> {
    let (cluster, mut client) = cluster(3)?;
    client.batch_execute(
        r#"
        CREATE TABLE customers (id int, country text, PRIMARY KEY (id, country));

        SELECT shard_create_parent('customers', 'list', 'country', nodes => '{n1, n2, n3}', default_partition => true,
            lists => '{"dach": ["DE", "AT", "CH"], "nordic": ["SE", "NO", "DK", "FI"], "iberia": ["ES", "PT"]}');

        INSERT INTO customers SELECT i, c FROM generate_series(1, 100) i, unnest('{DE, AT, SE, FI, PT, JP, BR}'::text[]) c"#,
    )?;
    assert_eq!(
        rows(
            &mut client,
            "SELECT tableoid::regclass::text, country, count(*) FROM customers GROUP BY 1, 2 ORDER BY 1, 2"
        )?,
        [
            ["customers_dach", "AT", "100"],
            ["customers_dach", "DE", "100"],
            ["customers_default", "BR", "100"],
            ["customers_default", "JP", "100"],
            ["customers_iberia", "PT", "100"],
            ["customers_nordic", "FI", "100"],
            ["customers_nordic", "SE", "100"],
        ]
    );
    assert_eq!(scanned(&mut client, "SELECT * FROM customers WHERE country = 'DK'")?, ["customers_nordic"]);
    assert_eq!(scanned(&mut client, "SELECT * FROM customers WHERE country = 'JP'")?, ["customers_default"]);

    // The server of the default partition does not store all others, but knows what belongs to them.
    let found = leaves(&mut client, "customers")?;
    let (_, node) = found.iter().find(|(leaf, _)| leaf == "customers_default").context("no default partition")?;
    let server = cluster.servers().find(|server| server.name == *node).context("the default is not on a node")?;
    let mut there = server.client()?;
    for country in ["DE", "NO", "ES"] {
        let insert = |table: &str| format!("INSERT INTO {table} VALUES (1000, '{country}')");
        assert_eq!(refusal(&mut there, &insert("customers_default"))?, wrong_place("customers_default"), "{country}");
    }
    there.batch_execute("INSERT INTO customers VALUES (1000, 'CL')")?;
    assert_eq!(column(&mut client, "SELECT id FROM customers WHERE country = 'CL'")?, ["1000"]);
    Ok(())
}

#[test]
fn a_list_can_hold_rows_without_a_value() -> Result<()> {
    let (cluster, mut client) = cluster(2)?;
    client.batch_execute(
        r#"
        CREATE TABLE parcels (id int NOT NULL, zone text, UNIQUE NULLS NOT DISTINCT (id, zone));
        SELECT shard_create_parent('parcels', 'list', 'zone', nodes => '{n1, n2}',
            lists => '{"near": ["a", "b"], "unknown": [null, "?"]}');
        INSERT INTO parcels VALUES (1, 'a'), (1, 'b'), (1, NULL), (1, '?')"#,
    )?;
    assert_eq!(
        rows(&mut client, "SELECT tableoid::regclass::text, zone FROM parcels ORDER BY 1, 2")?,
        [["parcels_near", "a"], ["parcels_near", "b"], ["parcels_unknown", "?"], ["parcels_unknown", "∅"]]
    );
    let mut there = cluster.node(2).client()?;
    assert_eq!(refusal(&mut there, "INSERT INTO parcels VALUES (1, NULL)")?, duplicate("parcels_unknown"));
    assert_eq!(refusal(&mut there, "INSERT INTO parcels_unknown VALUES (2, 'a')")?, wrong_place("parcels_unknown"));
    Ok(())
}

#[test]
fn events_by_device_with_a_document_in_each() -> Result<()> {
    let (cluster, mut client) = cluster(2)?;
    client.batch_execute(
        r#"
        CREATE TABLE events (device int NOT NULL, at timestamptz NOT NULL DEFAULT now(), data jsonb NOT NULL);
        CREATE INDEX events_data ON events USING gin (data jsonb_path_ops);

        SELECT shard_create_parent('events', 'hash', 'device', modulus => 4, nodes => '{n1, n2}');

        INSERT INTO events (device, data)
        SELECT i % 50, jsonb_build_object('kind', (ARRAY['on', 'off', 'alarm'])[1 + i % 3], 'value', i, 'tags', jsonb_build_array(i % 7))
        FROM generate_series(1, 5000) i"#,
    )?;
    let by_kind = "SELECT data ->> 'kind', count(*), sum((data ->> 'value')::int) FROM events GROUP BY 1 ORDER BY 1";
    assert_eq!(
        rows(&mut client, by_kind)?,
        rows(
            &mut client,
            "SELECT (ARRAY['on', 'off', 'alarm'])[1 + i % 3], count(*), sum(i) FROM generate_series(1, 5000) i GROUP BY 1 ORDER BY 1"
        )?
    );
    let alarms = r#"SELECT count(*) FROM events WHERE device = 11 AND data @> '{"kind": "alarm"}'"#;
    let expected = "SELECT count(*) FROM generate_series(1, 5000) i WHERE i % 50 = 11 AND i % 3 = 2";
    assert_eq!(column(&mut client, alarms)?, column(&mut client, expected)?);
    assert_eq!(scanned(&mut client, alarms)?.len(), 1);
    // Each leaf has the index, on its server, and the coordinator's clock set the default.
    for node in cluster.nodes() {
        let gin = "SELECT count(*) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am a ON a.oid = i.relam
                   WHERE a.amname = 'gin' AND i.relkind = 'i' AND x.indrelid IN (SELECT relid FROM pg_partition_tree('events') WHERE isleaf)";
        assert_eq!(node.value::<i64>(gin)?, 2, "{}", node.name);
    }
    assert_eq!(column(&mut client, "SELECT count(DISTINCT at) FROM events")?, ["1"]);
    Ok(())
}

#[test]
fn monthly_orders_with_identity_key_and_two_indexes() -> Result<()> {
    let (cluster, mut client) = cluster(3)?;
    client.batch_execute(
        "CREATE TABLE orders (
            id bigint GENERATED ALWAYS AS IDENTITY,
            ordered_at timestamptz NOT NULL,
            customer int NOT NULL,
            state text NOT NULL DEFAULT 'new',
            total numeric NOT NULL CHECK (total >= 0),
            PRIMARY KEY (id, ordered_at));
         CREATE INDEX orders_customer ON orders (customer, ordered_at DESC);
         CREATE INDEX orders_open ON orders (ordered_at) WHERE state <> 'done';

         SELECT shard_create_parent('orders', 'range', 'ordered_at', \"interval\" => '1 month',
             start => '2025-01-01', until => '2026-01-01', nodes => '{n1, n2, n3}');

         INSERT INTO orders (ordered_at, customer, total)
         SELECT timestamptz '2025-01-01 00:00Z' + i * interval '1 hour', i % 40, i FROM generate_series(0, 8759) i",
    )?;
    let found = leaves(&mut client, "orders")?;
    assert_eq!(found.len(), 12);
    assert_eq!(found[0], ("orders_2025_01".into(), "n1".into()));
    assert_eq!(
        rows(&mut client, "SELECT count(*), count(DISTINCT id), min(id), max(id), min(state), max(state) FROM orders")?,
        [["8760", "8760", "1", "8760", "new", "new"]]
    );
    // The identity counts on, for all leaves together, and is not to be given.
    let insert = "INSERT INTO orders (ordered_at, customer, total) VALUES ('2025-12-31', 1, 1) RETURNING id";
    assert_eq!(column(&mut client, insert)?, ["8761"]);
    let given = "INSERT INTO orders (id, ordered_at, customer, total) VALUES (1, '2025-12-31', 1, 1)";
    assert_eq!(refused(&mut client, given)?.code().code(), "428C9");
    let negative = "INSERT INTO orders (ordered_at, customer, total) VALUES ('2025-12-31', 1, -1)";
    assert_eq!(refused(&mut client, negative)?.code().code(), "23514");
    assert_eq!(
        refused(&mut client, "INSERT INTO orders (ordered_at, customer, total) VALUES ('2026-01-01', 1, 1)")?
            .code()
            .code(),
        "23514"
    );
    // A month has all three indexes, where it is stored.
    for (leaf, node) in found {
        let server = cluster.servers().find(|server| server.name == node).with_context(|| node.clone())?;
        let mut there = server.client()?;
        let sql = format!(
            "SELECT regexp_replace(pg_get_indexdef(indexrelid), '^.* USING ', '') FROM pg_index WHERE indrelid = '{leaf}'::regclass ORDER BY 1"
        );
        let expected = [
            "btree (customer, ordered_at DESC)",
            "btree (id, ordered_at)",
            "btree (ordered_at) WHERE (state <> 'done'::text)",
        ];
        assert_eq!(column(&mut there, &sql)?, expected, "{leaf}");
        assert_eq!(refusal(&mut there, &format!("INSERT INTO {leaf} SELECT * FROM {leaf} LIMIT 1"))?, duplicate(&leaf));
    }
    Ok(())
}

#[test]
fn the_short_form_can_be_looked_at_first_with_the_same_arguments() -> Result<()> {
    let (_cluster, mut client) = cluster(2)?;
    client.batch_execute("CREATE TABLE visits (at timestamptz NOT NULL, page text)")?;
    let arguments =
        r#"'range', 'at', "interval" => '1 month', start => '2026-01-01', until => '2026-04-01', nodes => '{n1, n2}'"#;
    let short = rows(&mut client, &format!("SELECT * FROM shard_plan_parent('visits', {arguments})"))?;
    let spec = r#"{"method": "range", "key": "at", "interval": "1 month", "start": "2026-01-01", "end": "2026-04-01", "nodes": ["n1", "n2"]}"#;
    let long = rows(&mut client, &format!("SELECT * FROM shard_plan_parent('visits', '{spec}')"))?;
    assert_eq!(short, long);
    assert_eq!(short.iter().filter(|row| row[2].contains("PARTITION OF")).count(), 6);
    client.batch_execute(&format!("SELECT shard_create_parent('visits', {arguments})"))?;
    assert_eq!(leaves(&mut client, "visits")?.len(), 3);
    Ok(())
}
