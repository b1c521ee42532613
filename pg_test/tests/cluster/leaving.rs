//! What leaves a hierarchy: partitions detached and dropped, the trash, and parents released.
use std::time::Duration;

use anyhow::{Context, Result};
use pg_test::objects::settled;
use pg_test::sql::{code, column, leaves, refused, rows};
use pg_test::{Cluster, Objects, PATIENCE, Snapshot, eventually};

const REGIONS: &str = r#"
    CREATE TABLE orders (id int, region text, total int, PRIMARY KEY (id, region));
    SELECT shard_create_parent('orders', '{"method": "list", "key": "region",
        "values": {"us": {"in": ["US"], "nodes": ["n1"]}, "eu": {"in": ["EU", "UK"], "nodes": ["n2"]}, "cn": {"in": ["CN"], "nodes": ["local"]}}}');
    INSERT INTO orders SELECT i, r, i FROM generate_series(1, 10) i, unnest('{US,EU,UK,CN}'::text[]) r"#;

#[test]
fn a_detached_partition_keeps_its_rows_and_goes_on_as_a_table() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(3)?;
    client.batch_execute(REGIONS)?;
    client.batch_execute("SELECT shard_detach_partition('orders_eu'); SELECT shard_detach_partition('orders_cn')")?;
    assert_eq!(rows(&mut client, "SELECT count(*), sum(total) FROM orders")?, [["10", "55"]]);
    assert_eq!(rows(&mut client, "SELECT count(*), sum(total) FROM orders_eu")?, [["20", "110"]]);
    assert_eq!(rows(&mut client, "SELECT count(*), sum(total) FROM orders_cn")?, [["10", "55"]]);
    client.batch_execute(
        "INSERT INTO orders VALUES (11, 'US', 1); UPDATE orders SET total = 0;
         INSERT INTO orders_eu VALUES (11, 'EU', 1), (12, 'anywhere', 1); DELETE FROM orders_eu WHERE id = 1;
         INSERT INTO orders_cn VALUES (11, 'anywhere', 1)",
    )?;
    for (table, server) in [("orders_eu", cluster.node(2)), ("orders_cn", &cluster.coordinator)] {
        assert_eq!(
            code(
                &mut server.client()?,
                &format!("INSERT INTO {table} VALUES (11, 'EU', 1), (11, 'anywhere', 2), (11, 'EU', 1)")
            )?,
            "23505",
            "{table}"
        );
    }
    assert_eq!(cluster.node(2).count("orders_eu")?, 20);
    assert_eq!(code(&mut client, "INSERT INTO orders VALUES (1, 'EU', 1)")?, "23514");
    assert_eq!(leaves(&mut client, "orders")?, ["orders_us FOR VALUES IN ('US') n1"]);
    for call in ["shard_detach_partition('orders_eu')", "shard_drop_partition('orders_cn')"] {
        assert_eq!(code(&mut client, &format!("SELECT {call}"))?, "42P01", "{call}");
    }
    assert_eq!(code(&mut client, "SELECT shard_detach_partition('orders')")?, "42809");
    // The name is taken, the bounds are free.
    assert_eq!(
        code(&mut client, r#"SELECT shard_add_partition('orders', '{"in": ["EU"], "label": "eu"}', 'n2')"#)?,
        "42P07"
    );
    client.batch_execute(r#"SELECT shard_add_partition('orders', '{"in": ["EU"], "label": "eu_2"}', 'n2'); INSERT INTO orders VALUES (1, 'EU', 1)"#)?;
    // Only the emptied table above it is gone from its node.
    let thrown = "SELECT coalesce(string_agg(DISTINCT schema || '.' || name, ', '), '') FROM shardkeeper.trash WHERE relation = root";
    assert_eq!(cluster.node(2).value::<String>(thrown)?, "public.orders");
    assert_eq!(cluster.coordinator.value::<String>(thrown)?, "");
    Ok(())
}

#[test]
fn a_dropped_partition_is_in_the_trash_and_can_be_taken_out_by_hand() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(3)?;
    client.batch_execute(REGIONS)?;
    client.batch_execute("SELECT shard_drop_partition('orders_us'); SELECT shard_drop_partition('orders_cn')")?;
    assert_eq!(column(&mut client, "SELECT count(*) FROM orders")?, ["20"]);
    assert!(
        !cluster.node(1).has("orders_us")?
            && !cluster.coordinator.has("orders_us")?
            && !cluster.coordinator.has("orders_cn")?
    );
    // The place is free.
    client.batch_execute(r#"SELECT shard_add_partition('orders', '{"in": ["US"], "label": "us"}', 'n1'); INSERT INTO orders VALUES (1, 'US', 7)"#)?;
    client.batch_execute("SELECT shard_drop_partition('orders_us')")?;
    settled(&cluster, PATIENCE)?;
    let mut app = cluster.node(1).client_as("app", "app", "app")?;
    assert_eq!(
        column(
            &mut app,
            "SELECT schema || '.' || name FROM shardkeeper.trash WHERE relation = root AND name <> 'orders'"
        )?,
        ["public.orders_us"; 2]
    );
    // The newest first, under its old name, with its key.
    app.batch_execute("SELECT shardkeeper.restore('public', 'orders_us'); ALTER TABLE orders_us RENAME TO orders_us_2; ALTER INDEX orders_us_pkey RENAME TO orders_us_2_pkey")?;
    app.batch_execute("SELECT shardkeeper.restore('public', 'orders_us')")?;
    assert_eq!(rows(&mut app, "SELECT count(*), sum(total) FROM orders_us")?, [["10", "55"]]);
    assert_eq!(rows(&mut app, "SELECT count(*), sum(total) FROM orders_us_2")?, [["1", "7"]]);
    assert_eq!(code(&mut app, "INSERT INTO orders_us VALUES (1, 'US', 1)")?, "23505");
    assert_eq!(code(&mut app, "SELECT shardkeeper.restore('public', 'orders_us')")?, "42P01");
    assert_eq!(column(&mut app, "SELECT count(*) FROM shardkeeper.trash WHERE name LIKE 'orders_us%'")?, ["0"]);
    client.batch_execute("SELECT shardkeeper.restore('public', 'orders_cn')")?;
    assert_eq!(rows(&mut client, "SELECT count(*), sum(total) FROM orders_cn")?, [["10", "55"]]);
    assert_eq!(code(&mut client, "INSERT INTO orders_cn VALUES (1, 'CN', 1)")?, "23505");
    Ok(())
}

#[test]
fn the_trash_is_emptied_when_nothing_is_to_be_kept() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(3)?;
    client.batch_execute(REGIONS)?;
    client.batch_execute("SELECT shard_drop_partition('orders_eu'); SET shardkeeper.trash_keep = 0; SELECT shard_drop_partition('orders_us'); SELECT shard_drop_partition('orders_cn')")?;
    let trash = "SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace('shardkeeper_trash')";
    for server in [cluster.node(1), &cluster.coordinator] {
        eventually(&format!("the trash of {} is emptied", server.name), Duration::from_secs(10), || {
            Ok(server.value::<i64>(trash)? + server.count("shardkeeper.trash")? == 0)
        })?;
    }
    assert!(cluster.node(2).value::<i64>(trash)? > 0);
    // The same for a whole parent, and for one whose drop is rolled back it is not.
    client.batch_execute("BEGIN; SELECT shard_drop_parent('orders'); ROLLBACK")?;
    client.batch_execute(r#"SELECT shard_add_partition('orders', '{"in": ["JP"], "label": "jp"}', 'n3'); INSERT INTO orders VALUES (1, 'JP', 1)"#)?;
    client.batch_execute("SELECT shard_drop_parent('orders')")?;
    eventually("the trash of n3 is emptied", Duration::from_secs(10), || Ok(cluster.node(3).value::<i64>(trash)? == 0))
}

#[test]
fn a_released_parent_is_an_ordinary_partitioned_table_on_all_servers() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(3)?;
    client.batch_execute(REGIONS)?;
    settled(&cluster, PATIENCE)?;
    let before = Objects::of_all(&cluster)?;
    client.batch_execute("SELECT shard_release_parent('orders')")?;
    let changes = Objects::of_all(&cluster)?.changes_since(&before);
    assert!(changes.iter().all(|line| line.starts_with("- coordinator: row of shardkeeper.")), "{changes:?}");
    assert_eq!(rows(&mut client, "SELECT count(*), sum(total) FROM orders")?, [["40", "220"]]);
    client.batch_execute(
        "INSERT INTO orders VALUES (11, 'US', 1); UPDATE orders SET total = total + 1; DELETE FROM orders WHERE id = 1",
    )?;
    assert_eq!(rows(&mut client, "SELECT parent FROM shard_parents")?.len(), 0);
    for call in [
        "shard_release_parent('orders')",
        "shard_drop_parent('orders')",
        "shard_detach_partition('orders_us')",
        "shard_tree('orders')",
    ] {
        assert_eq!(code(&mut client, &format!("SELECT {call}"))?, "42P01", "{call}");
    }
    cluster.node(1).run("ALTER TABLE orders DETACH PARTITION orders_us; DROP TABLE orders, orders_us")?;
    client.batch_execute("DROP TABLE orders")?;
    Ok(())
}

#[test]
fn what_depends_on_a_partition_keeps_it_from_being_dropped() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(3)?;
    client.batch_execute(REGIONS)?;
    client.batch_execute("CREATE VIEW us AS SELECT * FROM orders_us; CREATE VIEW cn AS SELECT * FROM orders_cn")?;
    let before = Snapshot::take(&cluster)?;
    for call in
        ["shard_drop_partition('orders_us')", "shard_drop_partition('orders_cn')", "shard_drop_parent('orders')"]
    {
        let error = refused(&mut client, &format!("SELECT {call}"))?;
        assert_eq!(error.code().code(), "2BP01", "{call}");
        assert!(error.detail().is_some_and(|detail| detail.contains("view")), "{error:?}");
    }
    before.is_unchanged(&cluster)?;
    // It may stand on its own.
    client.batch_execute(
        "SELECT shard_detach_partition('orders_us'); DROP VIEW us, cn; SELECT shard_drop_partition('orders_cn')",
    )?;
    // On the node, too.
    cluster.node(2).run("CREATE VIEW eu AS SELECT * FROM orders_eu")?;
    client
        .batch_execute("SELECT shard_drop_partition('orders_eu')")
        .context("a view on a node follows its table into the trash")?;
    assert_eq!(cluster.node(2).count("eu")?, 20);
    Ok(())
}
