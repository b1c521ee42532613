//! Trees that were built by hand come under management, with their partitions on nodes, and everything works on them.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::movement::{ends, joined, nothing_is_left, reaches, told, under_load};
use pg_test::objects::settled;
use pg_test::sql::{column, refused, rows};
use pg_test::{Cluster, Keys, PATIENCE, Snapshot, Workload, eventually};
use postgres::Client;

/// Runs an operation to its switch.
fn moves(cluster: &Cluster, client: &mut Client, call: &str) -> Result<()> {
    let id: i64 = client.query_one(&format!("SELECT {call}"), &[]).context(call.to_string())?.get(0);
    let mut waiting = cluster.coordinator.client()?;
    let state: String =
        waiting.query_one("SELECT shard_wait($1, '90 s')", &[&id]).with_context(|| told(cluster))?.get(0);
    ensure!(state == "switched", "{call}: {state}");
    client.batch_execute(&format!("SELECT shard_finish({id})"))?;
    let over = format!("SELECT ended_at IS NOT NULL FROM shard_operations WHERE id = {id}");
    eventually("it is over", Duration::from_secs(30), || cluster.coordinator.value(&over))
}

fn findings(client: &mut Client) -> Result<Vec<String>> {
    column(client, "SELECT concat_ws(' ', object, node, finding) FROM shard_check() WHERE area = 'hierarchy'")
}

/// A remote table for a foreign partition of `t`, and the foreign table.
fn foreign(cluster: &Cluster, client: &mut Client, node: usize, name: &str, values: &str) -> Result<()> {
    cluster.node(node).run(&format!(
        "CREATE TABLE {name} (id bigint NOT NULL, region text NOT NULL, note text, PRIMARY KEY (id, region));
         ALTER TABLE {name} OWNER TO app"
    ))?;
    client.batch_execute(&format!(
        "CREATE FOREIGN TABLE {name} PARTITION OF t_hash {values} SERVER n{node} OPTIONS (schema_name 'public', table_name '{name}')"
    ))?;
    Ok(())
}

/// `t` of three levels: two ranges here, in the second one two lists, in the second of these hash partitions on two nodes.
fn scene() -> Result<(Cluster, Client)> {
    let cluster = joined(3)?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(
        "CREATE TABLE t (id bigint NOT NULL, region text NOT NULL, note text) PARTITION BY RANGE (id);
         CREATE TABLE t_low PARTITION OF t FOR VALUES FROM (MINVALUE) TO (1000);
         ALTER TABLE t_low ADD PRIMARY KEY (id, region);
         CREATE TABLE t_high PARTITION OF t FOR VALUES FROM (1000) TO (MAXVALUE) PARTITION BY LIST (region);
         CREATE TABLE t_us PARTITION OF t_high FOR VALUES IN ('us');
         ALTER TABLE t_us ADD PRIMARY KEY (id, region);
         CREATE TABLE t_hash PARTITION OF t_high DEFAULT PARTITION BY HASH (id)",
    )?;
    foreign(&cluster, &mut client, 1, "t_h0", "FOR VALUES WITH (MODULUS 2, REMAINDER 0)")?;
    foreign(&cluster, &mut client, 2, "t_h1", "FOR VALUES WITH (MODULUS 2, REMAINDER 1)")?;
    client.batch_execute(
        "INSERT INTO t SELECT i, (ARRAY['us', 'eu', 'cn'])[i % 3 + 1], 'row ' || i FROM generate_series(1, 3000) AS i",
    )?;
    Ok((cluster, client))
}

const CONTENT: &str = "SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t";

#[test]
fn a_tree_over_three_servers_is_adopted_and_everything_works_on_it() -> Result<()> {
    let (cluster, mut client) = scene()?;
    let before = column(&mut client, CONTENT)?;
    client.batch_execute("SELECT shard_adopt_parent('t')")?;
    ensure!(findings(&mut client)?.is_empty(), "{:?}", findings(&mut client)?);
    let spec: serde_json::Value = client.query_one("SELECT spec FROM shardkeeper.parents", &[])?.get(0);
    let lists = &spec["bounds"]["high"]["partitions"];
    assert_eq!(lists["default"]["partitions"]["nodes"], serde_json::json!(["n1", "n2"]), "{spec}");
    assert_eq!(lists["values"]["t_us"]["in"], serde_json::json!(["us"]), "{spec}");
    ensure!(column(&mut client, "SELECT shard_tree('t')")?.concat().contains("t_h1"));
    // The mirror keeps wrong rows out, whoever writes them.
    for wrong in ["(5, 'eu')", "(2000, 'us')"] {
        let error = refused(&mut cluster.node(1).client()?, &format!("INSERT INTO t_h0 VALUES {wrong}"))?;
        assert_eq!(error.code().code(), "23514", "{wrong}");
    }
    let located = "SELECT partition::text, node FROM shard_locate('t', '{\"id\": 2999, \"region\": \"cn\"}')";
    let located = rows(&mut client, located)?;
    ensure!(located.len() == 1 && ["n1", "n2"].contains(&located[0][1].as_str()), "{located:?}");
    let there = "SELECT count(*) FROM t WHERE id = 2999";
    let node = if located[0][1] == "n1" { 1 } else { 2 };
    assert_eq!(cluster.node(node).value::<i64>(there)?, 1);

    moves(&cluster, &mut client, "shard_move_partition('t_h0', 'n3')")?;
    moves(&cluster, &mut client, "shard_set_modulus('t_hash', 3, nodes => '{n1, n2, local}')")?;
    moves(&cluster, &mut client, "shard_move_partition('t_low', 'n1')")?;
    moves(&cluster, &mut client, "shard_move_partition('t_us', 'n2', mode => 'block_writes')")?;
    assert_eq!(column(&mut client, CONTENT)?, before);
    client.batch_execute(
        "SELECT shard_add_partition('t_high', '{\"in\": [\"jp\"]}', 'n3'); INSERT INTO t VALUES (5000, 'jp')",
    )?;
    assert_eq!(cluster.node(3).count("t")?, 1);
    for node in 1..=3 {
        let keys = "SELECT count(*) FROM pg_class c WHERE relkind = 'r' AND relname ~ '^t_' AND relnamespace = 'public'::regnamespace
                    AND NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisprimary)";
        assert_eq!(cluster.node(node).value::<i64>(keys)?, 0, "leaves without a key on node {node}");
    }
    ensure!(findings(&mut client)?.is_empty());
    client.batch_execute("SELECT shard_release_parent('t')")?;
    assert_eq!(cluster.coordinator.count("t")?, 3001);
    Ok(())
}

#[test]
fn a_local_tree_is_adopted_and_moves_while_clients_write() -> Result<()> {
    let cluster = joined(2)?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&Keys::Bigint.create_sql("plain"))?;
    client.batch_execute(
        "CREATE TABLE t (LIKE plain INCLUDING ALL) PARTITION BY HASH (id);
         CREATE TABLE t_a PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE t_b PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         SELECT shard_adopt_parent('t')",
    )?;
    Keys::Bigint.load(&mut client, "t", 3_000)?;
    let calls = ["shard_move_partition('t_a', 'n1')", "shard_set_modulus('t', 3, nodes => '{local, n1, n2}')"];
    under_load(&cluster, "t", Keys::Bigint, Workload::default(), &calls)
}

#[test]
fn what_is_undone_leaves_the_nodes_as_they_were() -> Result<()> {
    let (cluster, mut client) = scene()?;
    settled(&cluster, PATIENCE)?;
    let before = Snapshot::take(&cluster)?;
    client.batch_execute(
        "BEGIN; SELECT shard_adopt_parent('t'); SELECT shard_locate('t', '{\"id\": 1, \"region\": \"us\"}'); ROLLBACK",
    )?;
    settled(&cluster, PATIENCE)?;
    before.is_unchanged(&cluster)?;

    // A row that the coordinator would never find.
    cluster.node(2).run("INSERT INTO t_h1 VALUES (7, 'eu', 'lost')")?;
    let error = refused(&mut client, "SELECT shard_adopt_parent('t')")?;
    ensure!(error.code().code() == "23514" && error.message().contains("t_h1"), "{error:?}");
    settled(&cluster, PATIENCE)?;
    before.is_unchanged(&cluster)?;
    cluster.node(2).run("DELETE FROM t_h1 WHERE note = 'lost'")?;
    client.batch_execute("SELECT shard_adopt_parent('t')")?;
    let error = refused(&mut client, "SELECT shard_adopt_parent('t')")?;
    assert_eq!(error.code().code(), "42710");
    Ok(())
}

#[test]
fn what_cannot_be_adopted_is_told_with_the_command_that_mends_it() -> Result<()> {
    let (cluster, mut client) = scene()?;
    cluster.node(3).run("CREATE SCHEMA far; CREATE TABLE far.other (id int); ALTER TABLE far.other OWNER TO app")?;
    cluster.node(3).run("CREATE TABLE loose_1 (id int, \"Kind\" text, note text); ALTER TABLE loose_1 OWNER TO app")?;
    client.batch_execute(
        "CREATE TABLE plain (id int);
         CREATE TABLE base (id int); CREATE TABLE child () INHERITS (base);
         CREATE TABLE mixed (id int) PARTITION BY HASH (id);
         CREATE TABLE mixed_0 PARTITION OF mixed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE mixed_1 PARTITION OF mixed FOR VALUES WITH (MODULUS 4, REMAINDER 1);
         CREATE TABLE bare (id int) PARTITION BY LIST (id);
         CREATE TABLE rest (id int) PARTITION BY LIST (id); CREATE TABLE rest_0 PARTITION OF rest DEFAULT;
         CREATE TABLE uneven (id int, k int) PARTITION BY HASH (id);
         CREATE TABLE uneven_0 PARTITION OF uneven FOR VALUES WITH (MODULUS 2, REMAINDER 0) PARTITION BY LIST (k);
         CREATE TABLE uneven_1 PARTITION OF uneven FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         CREATE TABLE uneven_0_1 PARTITION OF uneven_0 FOR VALUES IN (1);
         CREATE SCHEMA apart; CREATE TABLE away (id int) PARTITION BY LIST (id);
         CREATE TABLE apart.away_1 PARTITION OF away FOR VALUES IN (1);
         CREATE TABLE others (id int) PARTITION BY LIST (id);
         CREATE TABLE others_1 PARTITION OF others FOR VALUES IN (1); ALTER TABLE others_1 OWNER TO app;
         CREATE SERVER strange FOREIGN DATA WRAPPER postgres_fdw;
         CREATE TABLE strangers (id int) PARTITION BY LIST (id);
         CREATE FOREIGN TABLE strangers_1 PARTITION OF strangers FOR VALUES IN (1) SERVER strange;
         CREATE TABLE named (id int) PARTITION BY LIST (id);
         CREATE FOREIGN TABLE named_1 PARTITION OF named FOR VALUES IN (1) SERVER n3 OPTIONS (schema_name 'far', table_name 'other');
         CREATE TABLE loose (id int NOT NULL, \"Kind\" text NOT NULL, note text) PARTITION BY LIST (\"Kind\");
         CREATE FOREIGN TABLE loose_1 PARTITION OF loose FOR VALUES IN ('a') SERVER n3 OPTIONS (schema_name 'public', table_name 'loose_1');
         CREATE TABLE gone (id int) PARTITION BY LIST (id);
         CREATE FOREIGN TABLE gone_1 PARTITION OF gone FOR VALUES IN (1) SERVER n3;
         CREATE TABLE collated (name text) PARTITION BY LIST (name COLLATE \"C\");
         CREATE TABLE collated_1 PARTITION OF collated FOR VALUES IN ('a')",
    )?;
    let cases = [
        ("plain", "42809", "public.plain is not partitioned", "shard_create_parent"),
        ("base", "0A000", "takes part in table inheritance", "NO INHERIT"),
        ("t_high", "42809", "is a partition of another table", "root"),
        ("mixed", "22023", "$.modulus: the hash partitions of mixed are not all of one modulus", "one modulus"),
        ("bare", "22023", "$.values: table bare has no partitions", "Attach"),
        ("rest", "22023", "$.values: table rest has a default partition only", "Attach"),
        ("uneven", "22023", "$.partitions: the hash partitions of uneven are not alike below", "alike"),
        ("away", "55000", "is in another schema than its parent", "ALTER TABLE apart.away_1 SET SCHEMA public"),
        ("others", "55000", "belongs to another role than its parent", "ALTER TABLE public.others_1 OWNER TO postgres"),
        ("strangers", "42704", "is on the server strange, which is no node", "shard_add_node"),
        (
            "named",
            "55000",
            "has another name on node n3",
            "ALTER TABLE far.other RENAME TO named_1; ALTER TABLE far.named_1 SET SCHEMA public",
        ),
        (
            "loose",
            "42804",
            "column id of public.loose_1 takes NULL on node n3, not here",
            "ALTER TABLE public.loose_1 ALTER COLUMN id SET NOT NULL, ALTER COLUMN \"Kind\" SET NOT NULL;",
        ),
        ("gone", "42P01", "partition public.gone_1 does not exist on node n3", "detach"),
        ("collated", "0A000", "the partition key of public.collated is not one that a spec can say", "Collations"),
    ];
    let mut wrong = Vec::new();
    for (table, code, message, hint) in cases {
        let error = refused(&mut client, &format!("SELECT shard_adopt_parent('{table}')"))?;
        let hinted = error.hint().unwrap_or_default();
        if error.code().code() != code || !error.message().contains(message) || !hinted.contains(hint) {
            wrong.push(format!("{table}: {} {} / {hinted}", error.code().code(), error.message()));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What the hint says helps.
    cluster.node(3).run("ALTER TABLE far.other RENAME TO named_1; ALTER TABLE far.named_1 SET SCHEMA public")?;
    let loose = refused(&mut client, "SELECT shard_adopt_parent('loose')")?;
    cluster.node(3).run(loose.hint().and_then(|hint| hint.strip_prefix("There, run ")).context("a command")?)?;
    client.batch_execute("SELECT shard_adopt_parent('loose'); INSERT INTO loose VALUES (1, 'a')")?;
    client.batch_execute(
        "ALTER FOREIGN TABLE named_1 OPTIONS (SET schema_name 'public', SET table_name 'named_1'); SELECT shard_adopt_parent('named')",
    )?;
    let mut other = cluster.coordinator.client_as("app", "app", "app")?;
    assert_eq!(refused(&mut other, "SELECT shard_adopt_parent('t')")?.code().code(), "42501");
    assert_eq!(refused(&mut client, "SELECT shard_adopt_parent(NULL)")?.code().code(), "22004");
    Ok(())
}

#[test]
fn a_default_partition_on_a_node_knows_its_siblings_elsewhere() -> Result<()> {
    let cluster = joined(2)?;
    let mut client = cluster.coordinator.patient()?;
    for (node, table) in [(1, "d_rest"), (2, "d_de")] {
        cluster.node(node).run(&format!("CREATE TABLE {table} (country text); ALTER TABLE {table} OWNER TO app"))?;
    }
    client.batch_execute(
        "CREATE TABLE d (country text) PARTITION BY LIST (country);
         CREATE FOREIGN TABLE d_de PARTITION OF d FOR VALUES IN ('DE') SERVER n2;
         CREATE FOREIGN TABLE d_rest PARTITION OF d DEFAULT SERVER n1;
         INSERT INTO d VALUES ('DE'), ('FR'), (NULL);
         SELECT shard_adopt_parent('d')",
    )?;
    let error = refused(&mut cluster.node(1).client()?, "INSERT INTO d VALUES ('DE')")?;
    assert_eq!(error.code().code(), "23514");
    // A new sibling is excluded there too.
    client.batch_execute("SELECT shard_add_partition('d', '{\"in\": [\"IT\"]}', 'n2')")?;
    assert_eq!(refused(&mut cluster.node(1).client()?, "INSERT INTO d_rest VALUES ('IT')")?.code().code(), "23514");
    assert_eq!(cluster.coordinator.count("d")?, 3);
    Ok(())
}

/// As a foreign table is written that is called the same on both sides.
#[test]
fn a_foreign_table_that_does_not_say_its_remote_name_moves_there_and_back() -> Result<()> {
    let cluster = joined(2)?;
    let mut client = cluster.coordinator.client()?;
    for node in 1..=2 {
        cluster.node(node).run("CREATE TABLE a_n (id int NOT NULL, k text NOT NULL, PRIMARY KEY (id, k))")?;
    }
    cluster.node(2).run("DROP TABLE a_n")?;
    cluster.node(1).run("ALTER TABLE a_n OWNER TO app")?;
    client.batch_execute(
        "CREATE TABLE a (id int, k text) PARTITION BY LIST (k); CREATE TABLE a_l PARTITION OF a (PRIMARY KEY (id, k)) FOR VALUES IN ('l');
         CREATE FOREIGN TABLE a_n PARTITION OF a FOR VALUES IN ('n') SERVER n1;
         INSERT INTO a VALUES (1, 'l'), (2, 'n'); SELECT shard_adopt_parent('a')",
    )?;
    for (to, revert) in [("n2", true), ("local", true), ("n2", false)] {
        let id: i64 = client.query_one(&format!("SELECT shard_move_partition('a_n', '{to}')"), &[])?.get(0);
        reaches(&cluster, id, "switched", PATIENCE)?;
        if revert {
            client.execute("SELECT shard_revert($1)", &[&id])?;
            reaches(&cluster, id, "reverted", PATIENCE)?;
        } else {
            client.execute("SELECT shard_finish($1)", &[&id])?;
        }
        ends(&cluster, id, PATIENCE)?;
        assert_eq!(column(&mut client, "SELECT id::text FROM a ORDER BY 1")?, ["1", "2"]);
    }
    nothing_is_left(&cluster)
}
