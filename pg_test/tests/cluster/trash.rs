//! The trash as people see it: what is in it, how it comes back, how it is emptied, and what it keeps in use.
use anyhow::{Result, ensure};
use pg_test::objects::settled;
use pg_test::sql::{code, column, refused, rows};
use pg_test::{Cluster, PATIENCE, eventually};
use postgres::Client;

/// A parent with a column of a type of its own, and a check that calls a function of its own.
fn scene() -> Result<(Cluster, Client)> {
    let (cluster, mut client) = Cluster::joined(2)?;
    let own = "CREATE TYPE mood AS ENUM ('sad', 'happy');
         CREATE FUNCTION fits(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true'";
    client.batch_execute(own)?;
    for node in cluster.nodes() {
        node.client_as("app", "app", "app")?.batch_execute(own)?;
    }
    make(&mut client)?;
    Ok((cluster, client))
}

fn make(client: &mut Client) -> Result<()> {
    Ok(client.batch_execute(
        r#"CREATE TABLE orders (id int, region text CHECK (public.fits(region)), m mood DEFAULT 'sad', PRIMARY KEY (id, region));
           SELECT shard_create_parent('orders', '{"method": "list", "key": "region",
               "values": {"us": {"in": ["US"], "nodes": ["n1"]}, "eu": {"in": ["EU"], "nodes": ["n2"]}, "cn": ["CN"]}}');
           INSERT INTO orders SELECT i, r FROM generate_series(1, 10) AS i, unnest('{US,EU,CN}'::text[]) AS r"#,
    )?)
}

const SEEN: &str = "SELECT node || ' ' || name FROM shard_trash ORDER BY node, name";

#[test]
fn what_was_dropped_is_seen_with_the_call_that_brings_it_back() -> Result<()> {
    let (cluster, mut client) = scene()?;
    assert_eq!(column(&mut client, SEEN)?, [""; 0]);
    client.batch_execute(
        "SELECT shard_drop_partition('orders_us', keep => '2 days'); SELECT shard_drop_partition('orders_cn')",
    )?;
    // The emptied mirror goes with its last leaf.
    assert_eq!(column(&mut client, SEEN)?, ["local public.orders_cn", "n1 public.orders", "n1 public.orders_us"]);
    let kept =
        "SELECT node, destroyed_at - dropped_at, bytes > 0 FROM shard_trash WHERE name <> 'public.orders' ORDER BY 1";
    assert_eq!(rows(&mut client, kept)?, [["local", "7 days", "t"], ["n1", "2 days", "t"]]);
    // Rolled back, it is still there.
    let calls = column(&mut client, "SELECT restore FROM shard_trash WHERE name <> 'public.orders' ORDER BY node")?;
    client.batch_execute(&format!("BEGIN; {}; ROLLBACK", calls.join(" ")))?;
    assert_eq!(column(&mut client, SEEN)?.len(), 3);
    client.batch_execute(&calls.join(" "))?;
    assert_eq!(column(&mut client, SEEN)?, ["n1 public.orders"]);
    settled(&cluster, PATIENCE)?;
    assert_eq!(column(&mut client, "SELECT count(*) FROM orders_cn")?, ["10"]);
    assert_eq!(cluster.node(1).count("orders_us")?, 10);
    assert_eq!(code(&mut client, "INSERT INTO orders_cn VALUES (1, 'CN')")?, "23505");
    // Under another name where the old one is taken.
    client.batch_execute(r#"SELECT shard_drop_partition('orders_eu'); SELECT shard_add_partition('orders', '{"in": ["EU"], "label": "eu"}', 'n2')"#)?;
    let call = column(&mut client, "SELECT restore FROM shard_trash WHERE name = 'public.orders_eu'")?.concat();
    let taken = refused(&mut client, &call)?;
    ensure!(
        taken.code().code() == "42P07" && taken.hint().is_some_and(|hint| hint.contains("argument name")),
        "{taken:?}"
    );
    client.batch_execute(&call.replace(");", ", name => 'old_eu');"))?;
    assert_eq!(cluster.node(2).count("old_eu")?, 10);
    assert_eq!(code(&mut client, "SELECT shard_restore_trash('n2', 'nothing')")?, "42P01");
    assert_eq!(code(&mut client, "SELECT shard_restore_trash('n9', 'nothing')")?, "42704");
    assert_eq!(code(&mut client, "SELECT shard_restore_trash('n2', 'nothing', '')")?, "22023");
    assert_eq!(code(&mut client, "SELECT shard_restore_trash('n2', 'nothing', repeat('é', 32))")?, "42622");
    Ok(())
}

#[test]
fn what_only_the_trash_uses_is_not_dropped_without_a_word() -> Result<()> {
    let (cluster, mut client) = scene()?;
    // In use elsewhere: Postgres's own answer.
    ensure!(!refused(&mut client, "DROP TYPE mood")?.message().contains("kept for a while"));
    client.batch_execute("SELECT shard_drop_parent('orders')")?;
    for drop in [
        "DROP TYPE mood",
        "DROP TYPE IF EXISTS public.mood",
        "DROP TYPE mood CASCADE",
        "DROP FUNCTION fits(text)",
        "DROP FUNCTION fits CASCADE",
    ] {
        let error = refused(&mut client, drop)?;
        let hint = error.hint().unwrap_or_default();
        ensure!(error.code().code() == "2BP01" && hint.contains("shard_empty_trash()"), "{drop}: {error:?}");
    }
    // Used by something else too, CASCADE takes that and would take a column of the trash with it.
    client.batch_execute("CREATE TABLE other (m mood)")?;
    let error = refused(&mut client, "DROP TYPE mood CASCADE")?;
    ensure!(
        error.message().contains("shardkeeper_trash")
            && error.hint().is_some_and(|hint| hint.contains("shard_empty_trash()")),
        "{error:?}"
    );
    client.batch_execute("DROP TABLE other")?;
    // Not so young a one is given up; a rollback keeps it.
    assert_eq!(rows(&mut client, "SELECT * FROM shard_empty_trash('1 day')")?.len(), 0);
    client.batch_execute("BEGIN; SELECT * FROM shard_empty_trash(); DROP TYPE mood; ROLLBACK")?;
    assert_eq!(column(&mut client, SEEN)?, ["local public.orders", "n1 public.orders", "n2 public.orders"]);
    settled(&cluster, PATIENCE)?;
    let given_up = column(&mut client, "SELECT node || ' ' || name FROM shard_empty_trash() ORDER BY 1")?;
    assert_eq!(given_up, ["local public.orders", "n1 public.orders", "n2 public.orders"]);
    client.batch_execute("DROP TYPE mood; DROP FUNCTION fits")?;
    for node in cluster.nodes() {
        let mut app = node.client_as("app", "app", "app")?;
        eventually("the type is free on the node", PATIENCE, || Ok(app.batch_execute("DROP TYPE mood").is_ok()))?;
    }
    assert_eq!(column(&mut client, SEEN)?, [""; 0]);
    // What is not dropped of a node that does not know us yet is left alone.
    assert_eq!(code(&mut client, "SELECT shard_empty_trash('-1 day')")?, "22023");
    Ok(())
}

/// A migration's way down: the table and its type in one transaction.
#[test]
fn what_is_not_to_be_kept_is_gone_in_the_same_transaction_here_and_soon_on_nodes() -> Result<()> {
    let (cluster, mut client) = scene()?;
    assert_eq!(code(&mut client, "SELECT shard_drop_parent('orders', keep => '-1 s')")?, "22023");
    let down = "BEGIN; SELECT shard_drop_parent('orders', keep => '0'); DROP TYPE mood; DROP FUNCTION fits(text);";
    client.batch_execute(&format!("{down} ROLLBACK"))?;
    assert_eq!(column(&mut client, "SELECT count(*) FROM orders")?, ["30"]);
    settled(&cluster, PATIENCE)?;
    client.batch_execute(
        "SELECT shard_drop_partition('orders_cn', keep => '0'); SELECT shard_drop_partition('orders_us', keep => '0')",
    )?;
    client.batch_execute(&format!("{down} COMMIT"))?;
    assert_eq!(
        cluster
            .coordinator
            .value::<i64>("SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace('shardkeeper_trash')")?,
        0
    );
    for node in cluster.nodes() {
        let mut app = node.client_as("app", "app", "app")?;
        eventually("the type is free on the node", PATIENCE, || Ok(app.batch_execute("DROP TYPE mood").is_ok()))?;
    }
    Ok(())
}

#[test]
fn the_trash_of_an_extension_that_was_dropped_is_told() -> Result<()> {
    let (cluster, mut client) = scene()?;
    client.batch_execute("SELECT shard_drop_parent('orders')")?;
    settled(&cluster, PATIENCE)?;
    client.batch_execute("DROP EXTENSION shardkeeper; CREATE EXTENSION shardkeeper")?;
    let told = "SELECT hint FROM shard_check() WHERE area = 'trash' AND node IS NULL AND severity = 'warning'";
    let hint = column(&mut client, told)?.concat();
    client.batch_execute(hint.split_once("drop them: ").map_or("", |(_, command)| command))?;
    assert_eq!(column(&mut client, told)?, [""; 0]);
    Ok(())
}

#[test]
fn each_role_sees_and_empties_its_own() -> Result<()> {
    let (cluster, mut client) = scene()?;
    client.batch_execute("SELECT shard_drop_parent('orders')")?;
    let mut app = cluster.coordinator.client_as("app", "app", "app")?;
    assert_eq!(column(&mut app, "SELECT name FROM shard_trash WHERE node = 'local'")?, [""; 0]);
    app.batch_execute("SELECT * FROM shard_empty_trash()")?;
    assert_eq!(column(&mut client, "SELECT name FROM shard_trash WHERE node = 'local'")?, ["public.orders"]);
    let call = column(&mut client, "SELECT restore FROM shard_trash WHERE node = 'local'")?.concat();
    assert_eq!(code(&mut app, &call)?, "42P01");
    Ok(())
}

/// The server's last words are there before the end of the connection is.
#[test]
fn a_node_that_ends_the_session_amid_the_trash_is_tried_again_at_once() -> Result<()> {
    let (cluster, mut client) = scene()?;
    client.batch_execute("SELECT shard_drop_partition('orders_us', keep => '4 s')")?;
    let node = cluster.node(1);
    let mut holder = node.client()?;
    holder.batch_execute(
        "BEGIN; DO $$ BEGIN EXECUTE (SELECT 'LOCK TABLE ' || string_agg(oid::regclass::text, ',') FROM pg_class
         WHERE relnamespace = 'shardkeeper_trash'::regnamespace AND relkind = 'r'); END $$",
    )?;
    let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                     WHERE application_name = 'shardkeeper worker' AND wait_event_type = 'Lock'";
    eventually("the worker waits, and its session ends", PATIENCE, || Ok(node.value::<i64>(terminate)? == 1))?;
    holder.batch_execute("ROLLBACK")?;
    let left = "SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace('shardkeeper_trash')";
    eventually("the trash is empty", PATIENCE, || Ok(node.value::<i64>(left)? == 0))
}
