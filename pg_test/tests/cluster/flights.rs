//! A real data set in a hierarchy over five servers: nothing is lost, everything lies where it belongs, and each server
//! enforces its part.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use pg_test::flights::{self, Content, FLIGHTS, LEAVES, OTHERS, content};
use pg_test::sql::{column, refused, rows, scanned};
use pg_test::{Cluster, Options};

const NODES: usize = 4;
/// The same rows in an ordinary table.
const PLAIN: &str = "flights_plain";

/// `flights` loaded through the parent and beside it as a plain table; the tests only read it, or roll back.
fn loaded() -> Result<&'static Cluster> {
    static LOADED: OnceLock<Result<Cluster>> = OnceLock::new();
    let cluster = LOADED.get_or_init(load);
    cluster.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))
}

fn load() -> Result<Cluster> {
    let cluster = Cluster::with(Options { nodes: NODES, ..Options::default() })?;
    cluster.add_nodes()?;
    let mut client = cluster.coordinator.client()?;
    for table in OTHERS {
        client.batch_execute(&table.create(table.name))?;
        table.copy_into(&mut client, table.name)?;
    }
    client.batch_execute(&FLIGHTS.create(PLAIN))?;
    FLIGHTS.copy_into(&mut client, PLAIN)?;
    client.batch_execute(&FLIGHTS.create(FLIGHTS.name))?;
    client.batch_execute(&format!("SELECT shard_create_parent('flights', '{}')", flights::SPEC))?;
    client.batch_execute(&format!("INSERT INTO flights SELECT * FROM {PLAIN}; ANALYZE"))?;
    Ok(cluster)
}

/// Leaf and node of all leaves, as Postgres knows them.
const LEAVES_AND_NODES: &str = "
    SELECT t.relid::regclass::text, coalesce(s.srvname, 'local') FROM pg_partition_tree('flights') t
    LEFT JOIN pg_foreign_table f ON f.ftrelid = t.relid LEFT JOIN pg_foreign_server s ON s.oid = f.ftserver
    WHERE t.isleaf ORDER BY 1";

#[test]
fn the_parent_holds_exactly_the_rows_that_were_loaded() -> Result<()> {
    let mut client = loaded()?.coordinator.client()?;
    let plain = content(&mut client, PLAIN)?;
    assert_eq!(plain.rows, FLIGHTS.rows);
    assert_eq!(content(&mut client, "flights")?, plain);
    Ok(())
}

#[test]
fn leaves_are_dealt_evenly_over_all_servers() -> Result<()> {
    let mut client = loaded()?.coordinator.client()?;
    let mut count: BTreeMap<String, i64> = BTreeMap::new();
    for leaf in rows(&mut client, LEAVES_AND_NODES)? {
        *count.entry(leaf[1].clone()).or_default() += 1;
    }
    assert_eq!(count.values().sum::<i64>(), LEAVES);
    let servers: Vec<&str> = count.keys().map(String::as_str).collect();
    assert_eq!(servers, ["local", "n1", "n2", "n3", "n4"]);
    assert!(count.values().all(|leaves| (14..=15).contains(leaves)), "{count:?}");
    Ok(())
}

#[test]
fn a_leaf_holds_one_month_of_new_york_and_one_airport() -> Result<()> {
    let mut client = loaded()?.coordinator.client()?;
    // The columns month and origin are data, not bounds: the time zone of the spec must fit them, in any session.
    client.batch_execute("SET timezone = 'Asia/Tokyo'")?;
    let sql = "SELECT DISTINCT tableoid::regclass::text, format('flights_%s_%s_%s', year, lpad(month::text, 2, '0'), lower(origin))
               FROM flights ORDER BY 1";
    let found = rows(&mut client, sql)?;
    assert_eq!(found.len() as i64, LEAVES, "each leaf has one month and one airport, and none is empty");
    for leaf in found {
        assert!(leaf[0] == format!("{}_0", leaf[1]) || leaf[0] == format!("{}_1", leaf[1]), "{leaf:?}");
    }
    Ok(())
}

#[test]
fn every_row_lies_where_shard_locate_says() -> Result<()> {
    let mut client = loaded()?.coordinator.client()?;
    let sql = "SELECT count(*), count(*) FILTER (WHERE l.partition = f.leaf AND l.node = coalesce(s.srvname, 'local'))
               FROM (SELECT tableoid AS leaf, time_hour, origin, carrier FROM flights) f
               CROSS JOIN LATERAL shard_locate('flights', jsonb_build_object(
                   'time_hour', f.time_hour, 'origin', f.origin, 'carrier', f.carrier)) l
               LEFT JOIN pg_foreign_table t ON t.ftrelid = f.leaf LEFT JOIN pg_foreign_server s ON s.oid = t.ftserver";
    let row = client.query_one(sql, &[])?;
    assert_eq!((row.get(0), row.get(1)), (FLIGHTS.rows, FLIGHTS.rows));
    Ok(())
}

#[test]
fn shard_locate_names_the_server_where_the_row_is() -> Result<()> {
    let cluster = loaded()?;
    let mut client = cluster.coordinator.client()?;
    let one_of_each = "SELECT DISTINCT ON (tableoid) time_hour, origin, carrier, flight FROM flights ORDER BY tableoid";
    let sql = format!(
        "SELECT l.partition::text, l.node, l.host, l.port, l.dbname, f.time_hour::text, f.origin, f.carrier, f.flight
         FROM ({one_of_each}) f, shard_locate('flights', to_jsonb(f)) l ORDER BY 1"
    );
    let found = rows(&mut client, &sql)?;
    assert_eq!(found.len() as i64, LEAVES);
    for row in found {
        let [leaf, node, host, port, dbname, time, origin, carrier, flight] = &row[..] else {
            anyhow::bail!("{row:?}");
        };
        let server = match cluster.nodes().iter().find(|server| server.name == *node) {
            Some(server) => {
                assert_eq!((host.as_str(), port.clone()), ("127.0.0.1", server.port().to_string()));
                server
            }
            None => {
                assert_eq!((node.as_str(), host.as_str()), ("local", "∅"));
                &cluster.coordinator
            }
        };
        assert_eq!(dbname, "app");
        let sql = format!(
            "SELECT count(*) FROM {leaf} WHERE time_hour = '{time}' AND origin = '{origin}' AND carrier = '{carrier}' AND flight = {flight}"
        );
        assert_eq!(server.value::<i64>(&sql)?, 1, "{row:?}");
    }
    Ok(())
}

#[test]
fn each_node_s_mirror_holds_exactly_its_share() -> Result<()> {
    let cluster = loaded()?;
    let mut client = cluster.coordinator.client()?;
    let mut of_node: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for leaf in rows(&mut client, LEAVES_AND_NODES)? {
        of_node.entry(leaf[1].clone()).or_default().push(leaf[0].clone());
    }
    let mut everywhere: Vec<Content> = Vec::new();
    for leaf in of_node.remove("local").context("no leaf is local")? {
        everywhere.push(content(&mut client, &leaf)?);
    }
    ensure!(of_node.len() == NODES, "{of_node:?}");
    for (node, leaves) in of_node {
        let server = cluster.nodes().iter().find(|server| server.name == node).context(node)?;
        let mut there = server.client()?;
        let sql = "SELECT relid::regclass::text FROM pg_partition_tree('flights') WHERE isleaf ORDER BY 1";
        assert_eq!(column(&mut there, sql)?, leaves);
        let mut share: Vec<Content> = Vec::new();
        for leaf in &leaves {
            let seen_there = content(&mut there, leaf)?;
            assert!(seen_there.rows > 0, "{leaf} is empty");
            assert_eq!(content(&mut client, leaf)?, seen_there, "{leaf}");
            share.push(seen_there);
        }
        let mirror = content(&mut there, "flights")?;
        assert_eq!(mirror, share.into_iter().sum());
        everywhere.push(mirror);
    }
    assert_eq!(everywhere.into_iter().sum::<Content>(), content(&mut client, PLAIN)?);
    Ok(())
}

#[test]
fn a_full_key_touches_one_leaf() -> Result<()> {
    let mut client = loaded()?.coordinator.client()?;
    let sql = "SELECT DISTINCT ON (tableoid) tableoid::regclass::text, time_hour::text, origin, carrier FROM flights ORDER BY tableoid";
    let keys = rows(&mut client, sql)?;
    assert_eq!(keys.len() as i64, LEAVES);
    for key in keys {
        let (time, origin, carrier) = (&key[1], &key[2], &key[3]);
        let sql = format!(
            "SELECT * FROM flights WHERE time_hour = '{time}' AND origin = '{origin}' AND carrier = '{carrier}'"
        );
        assert_eq!(scanned(&mut client, &sql)?, [key[0].clone()]);
    }
    // The counter-example: without a key every leaf is read.
    assert_eq!(scanned(&mut client, "SELECT * FROM flights WHERE dest = 'BOS'")?.len() as i64, LEAVES);
    Ok(())
}

#[test]
fn queries_and_joins_give_the_answers_of_a_plain_table() -> Result<()> {
    let mut client = loaded()?.coordinator.client()?;
    let questions = [
        // Delays by airline.
        "SELECT a.name, count(*), round(avg(f.arr_delay), 3) FROM {} f JOIN airlines a USING (carrier) GROUP BY 1 ORDER BY 1",
        // Makers of the planes, unknown ones too.
        "SELECT p.manufacturer, count(*), sum(f.distance) FROM {} f LEFT JOIN planes p USING (tailnum)
         GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20",
        // Wind and departures.
        "SELECT f.origin, width_bucket(w.wind_speed, 0, 40, 8), count(*), round(avg(f.dep_delay), 3)
         FROM {} f JOIN weather w ON w.origin = f.origin AND w.time_hour = f.time_hour GROUP BY 1, 2 ORDER BY 1, 2",
        // The farthest destinations of one airport in one month.
        "SELECT DISTINCT f.dest, o.name, f.distance FROM {} f JOIN airports o ON o.faa = f.dest
         WHERE f.origin = 'JFK' AND f.time_hour >= '2013-07-01 00:00-04' AND f.time_hour < '2013-08-01 00:00-04'
         ORDER BY 3 DESC, 1 LIMIT 10",
        // The longest queue of cancelled flights, by a window over all.
        "SELECT month, day, count(*) AS lost, rank() OVER (ORDER BY count(*) DESC) FROM {} WHERE dep_time IS NULL
         GROUP BY 1, 2 ORDER BY 4, 1, 2 LIMIT 10",
        // Planes that left from all three airports on one day.
        "SELECT tailnum, month, day FROM {} WHERE tailnum IS NOT NULL GROUP BY 1, 2, 3
         HAVING count(DISTINCT origin) = 3 ORDER BY 1, 2, 3",
        "SELECT count(*), count(arr_delay), min(dep_delay), max(air_time) FROM {} WHERE carrier IN ('AS', 'HA')",
    ];
    for question in questions {
        let sharded = rows(&mut client, &question.replace("{}", "flights"))?;
        let plain = rows(&mut client, &question.replace("{}", PLAIN))?;
        assert!(!plain.is_empty(), "{question}");
        assert_eq!(sharded, plain, "{question}");
    }
    Ok(())
}

#[test]
fn copy_and_delete_through_the_parent_reach_the_leaves() -> Result<()> {
    let mut client = loaded()?.coordinator.client()?;
    let day = "time_hour >= '2013-01-01 00:00-05' AND time_hour < '2013-01-02 00:00-05'";
    let mut transaction = client.transaction()?;
    let before = content(&mut transaction, &format!("(SELECT * FROM flights WHERE {day})"))?;
    assert_eq!(before.rows, 842);
    let deleted = transaction.execute(&format!("DELETE FROM flights WHERE {day}"), &[])?;
    assert_eq!(deleted, 842);
    assert_eq!(content(&mut transaction, "flights")?.rows, FLIGHTS.rows - 842);
    let mut csv = Vec::new();
    let sql = format!("COPY (SELECT * FROM {PLAIN} WHERE {day}) TO STDOUT");
    std::io::Read::read_to_end(&mut transaction.copy_out(&sql)?, &mut csv)?;
    let mut copy = transaction.copy_in("COPY flights FROM STDIN")?;
    std::io::Write::write_all(&mut copy, &csv)?;
    assert_eq!(copy.finish()?, 842);
    assert_eq!(content(&mut transaction, &format!("(SELECT * FROM flights WHERE {day})"))?, before);
    transaction.rollback()?;
    Ok(())
}

#[test]
fn a_server_refuses_rows_that_belong_elsewhere_and_duplicates() -> Result<()> {
    let cluster = loaded()?;
    for server in cluster.servers() {
        let mut there = server.client()?;
        // On the coordinator, one of the leaves that are stored there.
        let sql =
            "SELECT t.relid::regclass::text FROM pg_partition_tree('flights') t JOIN pg_class c ON c.oid = t.relid
                   WHERE t.isleaf AND c.relkind = 'r' ORDER BY 1";
        let leaves = column(&mut there, sql)?;
        let leaf = leaves.first().with_context(|| format!("{} has no leaf", server.name))?;
        let row = |change: &str| {
            format!("INSERT INTO {leaf} SELECT r.* FROM {leaf} t, jsonb_populate_record(t, '{change}') r LIMIT 1")
        };
        let error = refused(&mut there, &row("{}"))?;
        assert_eq!((error.code().code(), error.table()), ("23505", Some(leaf.as_str())));
        let wrong = [r#"{"origin": "BOS"}"#, r#"{"time_hour": "2012-12-31T00:00:00Z"}"#];
        for change in wrong {
            let error = refused(&mut there, &row(change))?;
            assert_eq!((error.code().code(), error.table()), ("23514", Some(leaf.as_str())), "{change}");
        }
        // Of any two remainders, a leaf takes one.
        let mut codes = BTreeSet::new();
        for carrier in ["AA", "UA", "B6", "DL"] {
            let result = there.batch_execute(&format!(
                "BEGIN; {}; ROLLBACK",
                row(&format!(r#"{{"carrier": "{carrier}", "flight": 0}}"#))
            ));
            codes.insert(result.err().and_then(|error| Some(error.code()?.code().to_owned())));
            there.batch_execute("ROLLBACK")?;
        }
        assert_eq!(codes, BTreeSet::from([None, Some("23514".to_owned())]));
    }
    Ok(())
}
