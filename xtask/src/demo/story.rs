//! What the demo shows: from an ordinary table to a hierarchy over five servers, correct and enforced.
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use pg_test::flights::{self, FLIGHTS, LEAVES, OTHERS, content};
use pg_test::sql::{column, refused};
use pg_test::{Cluster, Server};
use postgres::Client;

use super::screen::{Screen, number, seconds};

pub fn tell(screen: &mut Screen, cluster: &Cluster) -> Result<()> {
    let mut client = cluster.coordinator.client()?;
    screen.step("Make the servers known as nodes", |screen| nodes(screen, cluster, &mut client))?;
    screen.step("Create an ordinary table", |screen| table(screen, &mut client))?;
    screen.step("Make it a hierarchy over all servers: month, airport, airline", |screen| {
        hierarchy(screen, &mut client)
    })?;
    screen.step("Load all flights that left New York in 2013", |screen| load(screen, &mut client))?;
    screen.step("Is everything where it belongs?", |screen| check(screen, cluster, &mut client))?;
    screen.step("Look at the tree", |screen| tree(screen, &mut client))?;
    screen.step("Ask a question to all servers", |screen| question(screen, cluster))?;
    screen.step("Ask for one key: one leaf on one server answers", |screen| one_key(screen, cluster, &mut client))?;
    screen.step("Send wrong rows straight to a node: it refuses them itself", |screen| {
        wrong_rows(screen, cluster, &mut client)
    })?;
    screen.step("Change all servers in one transaction, and change your mind", |screen| {
        change_of_mind(screen, cluster, &mut client)
    })
}

/// The tree as an SVG beside the servers' data, so that it goes when they go.
pub fn picture(cluster: &Cluster) -> Result<PathBuf> {
    let svg: String = cluster.coordinator.value("SELECT shard_tree('flights', 'svg')")?;
    let path = cluster.directory().join("flights.svg");
    std::fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn nodes(screen: &Screen, cluster: &Cluster, client: &mut Client) -> Result<()> {
    for node in cluster.nodes() {
        let command = format!(
            "SELECT finding FROM shard_add_node('{}', host => '127.0.0.1', port => {}, username => 'app', password => 'app');",
            node.name,
            node.port()
        );
        screen.command(&command);
        for finding in column(client, &command)? {
            screen.say(&finding);
        }
    }
    Ok(())
}

fn table(screen: &Screen, client: &mut Client) -> Result<()> {
    screen.command(
        "CREATE TABLE flights (\n    \
         year smallint, month smallint, …, carrier text, flight integer, …, origin text, dest text, …,\n    \
         time_hour timestamptz,\n    \
         PRIMARY KEY (time_hour, origin, carrier, flight));",
    );
    client.batch_execute(&FLIGHTS.create("flights"))?;
    Ok(())
}

fn hierarchy(screen: &Screen, client: &mut Client) -> Result<()> {
    let command = format!("SELECT shard_create_parent('flights', '{}');", flights::SPEC);
    screen.command(&command);
    client.batch_execute(&command)?;
    let row = client.query_one("SELECT leaves, levels, array_to_string(nodes, ', ') FROM shard_parents", &[])?;
    let (leaves, levels, nodes): (i64, i32, String) = (row.get(0), row.get(1), row.get(2));
    ensure!(leaves == LEAVES, "{leaves} leaves instead of {LEAVES}");
    screen.say(&format!("{leaves} leaves on {levels} levels, on {nodes}; the primary key is kept on each of them"));
    Ok(())
}

fn load(screen: &Screen, client: &mut Client) -> Result<()> {
    for table in OTHERS {
        client.batch_execute(&table.create(table.name))?;
        table.copy_into(client, table.name)?;
    }
    let names = OTHERS.map(|table| table.name).join(", ");
    screen.say(&format!("{names}: ordinary tables on the coordinator"));
    client.batch_execute(&FLIGHTS.create("flights_plain"))?;
    screen.command("COPY flights_plain FROM STDIN (FORMAT csv, HEADER, NULL 'NA');");
    FLIGHTS.copy_into(client, "flights_plain")?;
    screen.say(&format!("{} rows in an ordinary table, to compare with", number(FLIGHTS.rows)));
    screen.command("INSERT INTO flights SELECT * FROM flights_plain;");
    let start = Instant::now();
    let count = client.execute("INSERT INTO flights SELECT * FROM flights_plain", &[])?;
    let took = start.elapsed();
    let speed = count as f64 / took.as_secs_f64();
    let text = format!("{} rows through the parent in {}", number(i64::try_from(count)?), seconds(took));
    screen.say(&format!("{text}: {} a second", number(speed as i64)));
    screen.command("ANALYZE flights;");
    client.batch_execute("ANALYZE flights")?;
    Ok(())
}

fn check(screen: &Screen, cluster: &Cluster, client: &mut Client) -> Result<()> {
    let plain = content(client, "flights_plain")?;
    ensure!(content(client, "flights")? == plain, "the hierarchy and the ordinary table differ");
    screen.say(&format!("{} rows, with the same checksum as the ordinary table", number(plain.rows)));
    let located = "SELECT count(*) FROM flights f, shard_locate('flights', jsonb_build_object(
                   'time_hour', f.time_hour, 'origin', f.origin, 'carrier', f.carrier)) l WHERE l.partition = f.tableoid";
    let right: i64 = client.query_one(located, &[])?.get(0);
    ensure!(right == plain.rows, "{right} of {} rows are where shard_locate says", plain.rows);
    screen.say("each row is in the leaf that shard_locate names for its key");
    let local = column(
        client,
        "SELECT partition FROM shard_partitions WHERE parent = 'flights'::regclass AND node = 'local' ORDER BY 1",
    )?;
    let mut parts = vec![("local".to_owned(), 0)];
    for leaf in local {
        parts[0].1 += content(client, &leaf)?.rows;
    }
    for node in cluster.nodes() {
        parts.push((node.name.clone(), node.value("SELECT count(*) FROM flights")?));
    }
    ensure!(parts.iter().map(|(_, rows)| rows).sum::<i64>() == plain.rows, "the shares are {parts:?}");
    let parts: Vec<String> = parts.iter().map(|(node, rows)| format!("{node} {}", number(*rows))).collect();
    screen.say(&format!("every node asked by itself: {}", parts.join(" + ")));
    Ok(())
}

fn tree(screen: &Screen, client: &mut Client) -> Result<()> {
    screen.command("SELECT shard_tree('flights');");
    // The bounds of months read best where the months are counted.
    client.batch_execute("SET timezone = 'America/New_York'")?;
    let tree: String = client.query_one("SELECT shard_tree('flights')", &[])?.get(0);
    client.batch_execute("RESET timezone")?;
    for line in tree.lines().filter(|line| !is_detail(line)) {
        screen.say(line);
    }
    screen.note("Airports and airlines are shown for January only: the other months are alike.");
    Ok(())
}

/// A line below a month other than the first.
fn is_detail(line: &str) -> bool {
    let name = line.trim_start_matches(['│', '├', '└', '─', ' ']);
    let depth = line.chars().count() - name.chars().count();
    depth > 3 && name.starts_with("flights_") && !name.starts_with("flights_2013_01_")
}

fn question(screen: &Screen, cluster: &Cluster) -> Result<()> {
    let question = "SELECT a.name AS airline, count(*) AS flights, round(avg(f.arr_delay)) AS minutes_late\n\
                    FROM flights f JOIN airlines a USING (carrier)\n\
                    WHERE f.dest = 'SFO' GROUP BY 1 ORDER BY 2 DESC;";
    ask(screen, &cluster.coordinator, question)
}

fn one_key(screen: &Screen, cluster: &Cluster, client: &mut Client) -> Result<()> {
    let key = r#"{"time_hour": "2013-07-04 12:00-04", "origin": "JFK", "carrier": "B6"}"#;
    let locate = format!("SELECT * FROM shard_locate('flights', '{key}');");
    ask(screen, &cluster.coordinator, &locate)?;
    let explain = "EXPLAIN (COSTS OFF)\nSELECT * FROM flights\n\
                   WHERE time_hour = '2013-07-04 12:00-04' AND origin = 'JFK' AND carrier = 'B6';";
    screen.command(explain);
    for line in column(client, explain)? {
        screen.say(&line);
    }
    Ok(())
}

fn wrong_rows(screen: &Screen, cluster: &Cluster, client: &mut Client) -> Result<()> {
    let node = cluster.node(1);
    let leaves = format!("SELECT partition FROM shard_partitions WHERE is_leaf AND node = '{}' ORDER BY 1", node.name);
    let leaves = column(client, &leaves)?;
    let [leaf, other, ..] = &leaves[..] else { anyhow::bail!("{} has fewer than two leaves", node.name) };
    let mut there = node.client()?;
    screen.say(&format!("on {}:", node.name));
    for command in [
        format!("INSERT INTO {leaf} TABLE {other} LIMIT 1;"),
        format!("UPDATE {leaf} SET time_hour = '2013-12-24 12:00Z';"),
        format!("INSERT INTO {leaf} TABLE {leaf} LIMIT 1;"),
    ] {
        screen.command(&command);
        let error = refused(&mut there, &command)?;
        screen.say(&format!("ERROR:  {}", error.message()));
    }
    Ok(())
}

fn change_of_mind(screen: &Screen, cluster: &Cluster, client: &mut Client) -> Result<()> {
    let mut transaction = client.transaction()?;
    screen.command("BEGIN;");
    let add = "SELECT shard_add_partition('flights', '{\"from\": \"2014-01-01\", \"to\": \"2014-02-01\"}');";
    screen.command(add);
    transaction.batch_execute(add)?;
    let insert = "INSERT INTO flights SELECT later.* FROM flights_plain f,\n    \
                  jsonb_populate_record(f, jsonb_build_object('time_hour', f.time_hour + interval '1 year')) later\n\
                  WHERE f.month = 1;";
    screen.command(insert);
    let inserted = transaction.execute(insert.trim_end_matches(';'), &[])?;
    let count: i64 = transaction.query_one("SELECT count(*) FROM flights", &[])?.get(0);
    let inserted = number(i64::try_from(inserted)?);
    screen.say(&format!("{inserted} rows in six new leaves on five servers, {} in all", number(count)));
    screen.command("ROLLBACK;");
    transaction.rollback()?;
    let mut left = 0;
    for server in cluster.servers() {
        left += server.value::<i64>("SELECT count(*) FROM pg_class WHERE relname LIKE 'flights_2014%'")?;
    }
    ensure!(left == 0, "{left} tables of 2014 are left");
    let count: i64 = client.query_one("SELECT count(*) FROM flights", &[])?.get(0);
    screen.say(&format!("{} rows, and no table of 2014 on any server", number(count)));
    Ok(())
}

/// Shows a query and what psql shows for it.
fn ask(screen: &Screen, server: &Server, sql: &str) -> Result<()> {
    screen.command(sql);
    screen.say(&server.psql(sql)?);
    Ok(())
}
