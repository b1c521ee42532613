//! Looks at the hierarchy at its widest: questions, keys, rows that do not belong there, and a change that is undone.
use anyhow::{Context, Result, ensure};
use pg_test::sql::{column, refused};
use pg_test::{Cluster, Server};
use postgres::Client;

use super::screen::{Screen, number};

pub fn question(screen: &Screen, cluster: &Cluster) -> Result<()> {
    let question = "SELECT region, count(*) AS orders, count(DISTINCT customer_id) AS customers, sum(amount) AS amount\n\
                    FROM orders GROUP BY 1 ORDER BY 2 DESC;";
    ask(screen, &cluster.coordinator, question)
}

pub fn one_key(screen: &Screen, cluster: &Cluster, client: &mut Client) -> Result<()> {
    ask(
        screen,
        &cluster.coordinator,
        r#"SELECT * FROM shard_locate('orders', '{"region": "US", "customer_id": 42}');"#,
    )?;
    let explain = "EXPLAIN (COSTS OFF) SELECT * FROM orders WHERE region = 'US' AND customer_id = 42;";
    screen.command(explain);
    for line in column(client, explain)? {
        screen.say(&line);
    }
    Ok(())
}

pub fn wrong_rows(screen: &Screen, cluster: &Cluster) -> Result<()> {
    let node = cluster.nodes().iter().find(|node| node.name == "us_1").context("no node us_1")?;
    let mut there = node.client()?;
    screen.say(&format!("on {}:", node.name));
    for command in [
        "INSERT INTO orders VALUES (-1, 'DE', 42, 0, 'an order of Europe');",
        "UPDATE orders_us_0 SET customer_id = customer_id + 1;",
        "INSERT INTO orders_us_0 TABLE orders_us_0 LIMIT 1;",
    ] {
        screen.command(command);
        let error = refused(&mut there, command)?;
        screen.say(&format!("ERROR:  {}", error.message()));
    }
    Ok(())
}

pub fn change_of_mind(screen: &Screen, cluster: &Cluster, client: &mut Client) -> Result<()> {
    let mut transaction = client.transaction()?;
    screen.command("BEGIN;");
    let add = r#"SELECT shard_add_partition('orders', '{"in": ["JP"], "label": "jp"}', 'n2');"#;
    screen.command(add);
    transaction.batch_execute(add)?;
    let insert = "INSERT INTO orders SELECT -i, 'JP', i, 100, 'an order of Japan' FROM generate_series(1, 1000) AS i;";
    screen.command(insert);
    let inserted = transaction.execute(insert.trim_end_matches(';'), &[])?;
    let there: i64 = transaction.query_one("SELECT count(*) FROM orders WHERE region = 'JP'", &[])?.get(0);
    ensure!(there == inserted as i64, "{there} of {inserted} rows are there");
    screen.say(&format!("{} rows in a new branch on n2", number(there)));
    screen.command("ROLLBACK;");
    transaction.rollback()?;
    let mut left = 0;
    for server in cluster.servers() {
        left += server.value::<i64>("SELECT count(*) FROM pg_class WHERE relname LIKE 'orders_jp%'")?;
    }
    ensure!(left == 0, "{left} tables of the branch are left");
    screen.say("no row and no table of it is left, on any server");
    Ok(())
}

/// Shows a query and what psql shows for it.
fn ask(screen: &Screen, server: &Server, sql: &str) -> Result<()> {
    screen.command(sql);
    screen.say(&server.psql(sql)?);
    Ok(())
}
