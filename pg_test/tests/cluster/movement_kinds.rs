//! Partitions are split, merged, emptied off nodes and shared out anew while clients write.
use std::time::Duration;

use anyhow::{Result, ensure};
use pg_test::movement::{complains, ends, joined as cluster, nothing_is_left, reaches, under_load};
use pg_test::objects::settled;
use pg_test::sql::{column, leaves, refused, rows};
use pg_test::{Cluster, Keys, PATIENCE, Workload};
use postgres::Client;

const LIMIT: Duration = Duration::from_secs(60);

/// A filled table `t`.
fn filled(cluster: &Cluster, keys: Keys, parent: &str) -> Result<Client> {
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&keys.create_sql("t"))?;
    client.batch_execute(&format!("SELECT shard_create_parent('t', {parent})"))?;
    keys.load(&mut client, "t", 4_000)?;
    Ok(client)
}

#[test]
fn ranges_are_split_and_merged() -> Result<()> {
    let cluster = cluster(2)?;
    let parent = r#"'range', 'id', bounds => '["MINVALUE", 2500, "MAXVALUE"]', nodes => '{local, n1}'"#;
    let mut client = filled(&cluster, Keys::Bigint, parent)?;
    let workload = Workload { direct: 1, ..Workload::default() };
    under_load(&cluster, "t", Keys::Bigint, workload, &["shard_split('t_min', '[0, 1000]', nodes => '{n1, n2}')"])?;
    let expected = [
        "t_0 FOR VALUES FROM ('0') TO ('1000') n2",
        "t_1000 FOR VALUES FROM ('1000') TO ('2500') n1",
        "t_2500 FOR VALUES FROM ('2500') TO (MAXVALUE) n1",
        "t_min FOR VALUES FROM (MINVALUE) TO ('0') n1",
    ];
    ensure!(leaves(&mut client, "t")? == expected, "{:?}", leaves(&mut client, "t")?);
    let spec = "SELECT spec ->> 'bounds' FROM shardkeeper.parents";
    ensure!(
        column(&mut client, spec)? == [r#"["MINVALUE", "0", "1000", 2500, "MAXVALUE"]"#],
        "{:?}",
        column(&mut client, spec)?
    );
    let calls =
        ["shard_merge('{t_1000, t_0}', node => 'n2')", "shard_merge('{t_2500, t_0, t_min}', name => 'all_of_t')"];
    let mut client = cluster.coordinator.client()?;
    client.batch_execute("TRUNCATE t")?;
    Keys::Bigint.load(&mut client, "t", 4_000)?;
    under_load(&cluster, "t", Keys::Bigint, workload_of(2), &calls)?;
    ensure!(leaves(&mut client, "t")? == ["all_of_t FOR VALUES FROM (MINVALUE) TO (MAXVALUE) n1"]);
    ensure!(column(&mut client, spec)? == [r#"["MINVALUE", "MAXVALUE"]"#]);
    Ok(())
}

fn workload_of(clients: usize) -> Workload {
    Workload { clients, ..Workload::default() }
}

#[test]
fn lists_are_split_and_merged_and_give_away_values() -> Result<()> {
    let cluster = cluster(2)?;
    let parent = r#"'list', 'region', lists => '{"us": ["us"], "eu": ["eu"], "asia": ["cn", "jp"]}', nodes => '{local, n1}',
        default_partition => true"#;
    let mut client = filled(&cluster, Keys::TwoColumns, parent)?;
    let calls = [
        r#"shard_split('t_asia', '{"cn": ["cn"], "jp": ["jp"]}', nodes => '{n1, n2}')"#,
        "shard_merge('{t_us, t_eu}', node => 'n2')",
        r#"shard_move_values('t_us_eu', 't_cn', '["eu"]')"#,
    ];
    under_load(&cluster, "t", Keys::TwoColumns, workload_of(3), &calls)?;
    let found = leaves(&mut client, "t")?;
    let nodes: Vec<&str> = found.iter().filter_map(|leaf| leaf.rsplit(' ').next()).collect();
    ensure!(found.len() == 4 && found.iter().any(|leaf| leaf == "t_cn FOR VALUES IN ('cn', 'eu') n1"), "{found:?}");
    ensure!(found.iter().any(|leaf| leaf == "t_us_eu FOR VALUES IN ('us') n2"), "{found:?} {nodes:?}");
    let spec = column(&mut client, "SELECT spec ->> 'values' FROM shardkeeper.parents")?;
    ensure!(spec == [r#"{"cn": ["cn", "eu"], "jp": ["jp"], "us_eu": ["us"]}"#], "{spec:?}");
    Ok(())
}

#[test]
fn ranges_of_two_columns_and_of_uuids_are_cut() -> Result<()> {
    let cluster = cluster(2)?;
    let parent = r#"'range', 'region, id', nodes => '{n1}',
        bounds => '[["MINVALUE", "MINVALUE"], ["jp", 100], ["MAXVALUE", "MAXVALUE"]]'"#;
    let mut client = filled(&cluster, Keys::TwoColumns, parent)?;
    let calls = [
        r#"shard_split('t_min_min', '[["cn", 5], ["eu", 7]]', nodes => '{local, n2}')"#,
        "shard_merge('{t_eu_7, t_cn_5}')",
    ];
    under_load(&cluster, "t", Keys::TwoColumns, workload_of(2), &calls)?;
    ensure!(leaves(&mut client, "t")?.len() == 3);
    client.batch_execute("SELECT shard_drop_parent('t')")?;

    let middle = "80000000-0000-0000-0000-000000000000";
    let parent = format!(r#"'range', 'id', bounds => '["MINVALUE", "{middle}", "MAXVALUE"]', nodes => '{{n1, n2}}'"#);
    let mut client = filled(&cluster, Keys::Uuid, &parent)?;
    let first = leaves(&mut client, "t")?[0].split(' ').next().unwrap_or_default().to_owned();
    let split =
        format!(r#"shard_split('{first}', '["c0000000-0000-0000-0000-000000000000"]', nodes => '{{local, n1}}')"#);
    under_load(&cluster, "t", Keys::Uuid, workload_of(2), &[&split])
}

#[test]
fn a_node_is_drained_and_dropped() -> Result<()> {
    let cluster = cluster(3)?;
    let mut client = filled(&cluster, Keys::Uuid, "'hash', 'id', modulus => 6, nodes => '{n1, n2, n3}'")?;
    client.batch_execute(
        "CREATE TABLE small (id int PRIMARY KEY); SELECT shard_create_parent('small', 'hash', 'id', modulus => 2, nodes => '{n1}');
         INSERT INTO small SELECT generate_series(1, 100)",
    )?;
    let error = refused(&mut client, "SELECT shard_drop_node('n1')")?;
    ensure!(error.hint() == Some("Run SELECT shard_drain_node('n1'); then drop it again."), "{error:?}");
    let planned = rows(&mut client, "SELECT node, action FROM shard_plan_drain_node('n1')")?;
    ensure!(planned.len() == 4 && planned.iter().all(|row| row[0] == "n1"), "{planned:?}");

    under_load(&cluster, "t", Keys::Uuid, workload_of(3), &["shard_drain_node('n1')"])?;
    ensure!(client.query_one("SELECT count(*) FROM small", &[])?.get::<_, i64>(0) == 100);
    let specs = column(&mut client, "SELECT spec ->> 'nodes' FROM shardkeeper.parents ORDER BY parent::text DESC")?;
    ensure!(specs[0] == r#"["n2", "n3"]"#, "{specs:?}");
    client.batch_execute("SELECT shard_drop_node('n1')")?;
    let left = "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace";
    ensure!(cluster.node(1).value::<i64>(left)? == 0);
    Ok(())
}

#[test]
fn a_node_that_keeps_what_was_moved_says_for_whom() -> Result<()> {
    let cluster = cluster(2)?;
    let mut client = filled(&cluster, Keys::Bigint, "'hash', 'id', modulus => 2, nodes => '{n1, n2}'")?;
    let id: i64 = client.query_one("SELECT shard_move_partition('t_0', 'n2')", &[])?.get(0);
    reaches(&cluster, id, "switched", LIMIT)?;
    let error = refused(&mut client, "SELECT shard_drop_node('n1')")?;
    assert_eq!((error.code().code(), error.message()), ("2BP01", "node \"n1\" still stores 1 replaced partition"));
    ensure!(error.hint().is_some_and(|hint| hint.contains(&format!("shard_finish({id})"))), "{error:?}");
    client.execute("SELECT shard_finish($1)", &[&id])?;
    ends(&cluster, id, LIMIT)?;
    settled(&cluster, PATIENCE)?;
    client.batch_execute("SELECT shard_drop_node('n1')")?;
    nothing_is_left(&cluster)
}

#[test]
fn a_drain_counts_for_operations_called_for_before_it() -> Result<()> {
    let cluster = cluster(3)?;
    let mut client = filled(&cluster, Keys::Bigint, "'hash', 'id', modulus => 2, nodes => '{n1, n2}'")?;
    let mut holder = cluster.coordinator.client()?;
    holder.batch_execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")?;
    let earlier: i64 = client.query_one("SELECT shard_move_partition('t_0', 'n3')", &[])?.get(0);
    complains(&cluster, earlier, "nobody holds the parent", LIMIT)?;
    for call in ["shard_drain_node('n3')", "shard_plan_drain_node('n3')"] {
        let error = refused(&mut client, &format!("SELECT {call}"))?;
        ensure!(error.code().code() == "55006", "{error:?}");
        assert_eq!(error.message(), format!("operation {earlier} brings partitions to node n3"));
    }
    let drain: i64 = client.query_one("SELECT shard_drain_node('n2')", &[])?.get(0);
    holder.batch_execute("COMMIT")?;
    reaches(&cluster, earlier, "switched", LIMIT)?;
    reaches(&cluster, drain, "finished", LIMIT)?;
    assert_eq!(column(&mut client, "SELECT spec ->> 'nodes' FROM shardkeeper.parents")?, [r#"["n1"]"#]);
    client.execute("SELECT shard_finish($1)", &[&earlier])?;
    ends(&cluster, earlier, LIMIT)?;
    client.batch_execute("SELECT shard_drop_node('n2')")?;
    nothing_is_left(&cluster)
}

#[test]
fn leaves_are_shared_out_anew() -> Result<()> {
    let cluster = cluster(3)?;
    let mut client = filled(&cluster, Keys::Bigint, "'hash', 'id', modulus => 12, nodes => '{n1}'")?;
    under_load(
        &cluster,
        "t",
        Keys::Bigint,
        workload_of(2),
        &["shard_rebalance('t', 'count', nodes => '{n1, n2, n3}')"],
    )?;
    let counts = column(&mut client, "SELECT leaves FROM shard_nodes ORDER BY name")?;
    ensure!(counts == ["0", "4", "4", "4"], "{counts:?}");
    let more = rows(&mut client, "SELECT * FROM shard_plan_rebalance('t', 'count', nodes => '{n1, n2, n3}')")?;
    ensure!(more.is_empty(), "{more:?}");
    Ok(())
}

#[test]
fn leaves_stay_in_their_regions_and_nodes_get_their_share() -> Result<()> {
    let cluster = cluster(3)?;
    let mut client = filled(&cluster, Keys::Bigint, "'hash', 'id', modulus => 9, nodes => '{n1}'")?;
    let plan = |client: &mut Client, arguments: &str| -> Result<Vec<String>> {
        column(
            client,
            &format!(
                "SELECT right(split_part(action, ',', 1), 2) FROM shard_plan_rebalance('t', 'count', {arguments}) WHERE action ~ '^move'"
            ),
        )
    };
    let to = |moves: &[String], node: &str| moves.iter().filter(|to| *to == node).count();
    let all = "nodes => '{n1, n2, n3}'";
    // The share follows the weight.
    let moves = plan(&mut client, &format!(r#"{all}, capacities => '{{"n2": 4}}'"#))?;
    assert_eq!(to(&moves, "n2"), 6, "{moves:?}");
    let moves = plan(&mut client, &format!(r#"{all}, capacities => '{{"n1": 0, "n3": 0.5}}'"#))?;
    assert_eq!((to(&moves, "n2"), to(&moves, "n3")), (6, 3), "{moves:?}");
    // Without a region it may go anywhere; with one, only where that is.
    client.batch_execute("SELECT shard_alter_node('n2', region => 'us'), shard_alter_node('n3', region => 'eu')")?;
    assert_eq!(plan(&mut client, all)?.len(), 6);
    client.batch_execute("SELECT shard_alter_node('n1', region => 'eu')")?;
    let moves = plan(&mut client, all)?;
    assert_eq!((to(&moves, "n2"), to(&moves, "n3")), (0, 4), "{moves:?}");
    let drained = rows(&mut client, "SELECT * FROM shard_plan_drain_node('n1') WHERE action ~ '^move'")?;
    assert_eq!(drained.len(), 9, "n3 takes all: {drained:?}");
    client.batch_execute("SELECT shard_alter_node('n3', region => 'asia')")?;
    let error = refused(&mut client, "SELECT shard_drain_node('n1')")?;
    ensure!(error.detail().unwrap_or_default().contains("in its regions (eu)"), "{error:?}");
    // What is gained has to be worth it.
    client.batch_execute("SELECT shard_alter_node('n3', region => 'eu')")?;
    let some = plan(&mut client, &format!("{all}, minimum_gain => 1"))?;
    ensure!(some.len() < moves.len(), "{some:?}");
    Ok(())
}

#[test]
fn a_cancelled_drain_ends_its_moves() -> Result<()> {
    let cluster = cluster(2)?;
    let mut client = filled(&cluster, Keys::Bigint, "'hash', 'id', modulus => 8, nodes => '{n1, n2}'")?;
    let id: i64 = client.query_one("SELECT shard_drain_node('n1')", &[])?.get(0);
    let error = refused(&mut client, "SELECT shard_rebalance()")?;
    ensure!(error.code().code() == "55006", "{error:?}");
    client.execute("SELECT shard_cancel($1)", &[&id])?;
    let state: String = client.query_one("SELECT shard_wait($1, '60 s')", &[&id])?.get(0);
    ensure!(state == "cancelled", "{state}");
    nothing_is_left(&cluster)?;
    ensure!(client.query_one("SELECT count(*) FROM t", &[])?.get::<_, i64>(0) == 4_001);
    Ok(())
}

#[test]
fn plans_change_nothing() -> Result<()> {
    let (_cluster, mut client) = Cluster::joined(1)?;
    client.batch_execute(
        r#"CREATE TABLE t (id int PRIMARY KEY);
           SELECT shard_create_parent('t', 'range', 'id', bounds => '[0, 100, 200]', nodes => '{n1}');
           CREATE TABLE h (id int PRIMARY KEY);
           SELECT shard_create_parent('h', 'hash', 'id', modulus => 2)"#,
    )?;
    let before = leaves(&mut client, "t")?;
    for call in [
        "shard_plan_move_partition('t_0', 'local')",
        "shard_plan_set_modulus('h', 3)",
        "shard_plan_split('t_0', '[50]')",
        "shard_plan_merge('{t_0, t_100}')",
    ] {
        let steps = column(&mut client, &format!("SELECT step || ' ' || node || ': ' || action FROM {call}"))?;
        println!("{call}\n{}", steps.join("\n"));
        ensure!(steps.len() >= 5, "{steps:?}");
    }
    ensure!(leaves(&mut client, "t")? == before);
    ensure!(client.query_one("SELECT count(*) FROM shard_operations", &[])?.get::<_, i64>(0) == 0);
    Ok(())
}

#[test]
fn wrong_calls_are_refused_before_anything_is_made() -> Result<()> {
    let (_cluster, mut client) = Cluster::joined(1)?;
    client.batch_execute(
        r#"CREATE TABLE r (id int PRIMARY KEY);
           SELECT shard_create_parent('r', 'range', 'id', bounds => '[0, 100, 200, 300]', default_partition => true);
           CREATE TABLE l (region text PRIMARY KEY);
           SELECT shard_create_parent('l', 'list', 'region', lists => '{"de": ["DE", "AT"], "fr": ["FR"]}');
           CREATE TABLE h (id int PRIMARY KEY);
           SELECT shard_create_parent('h', 'hash', 'id', modulus => 2);
           CREATE TABLE plain (id int)"#,
    )?;
    // The call, its SQLSTATE, its message, and a piece of its hint.
    let cases = [
        ("shard_split('plain', '[1]')", "42P01", "plain is not a managed parent", "shard_create_parent"),
        ("shard_split('r', '[1]')", "42809", "r is a parent, not a partition", ""),
        ("shard_split(NULL, '[1]')", "22004", "partition is NULL", ""),
        ("shard_split('r_0', '[]')", "22023", "bounds of a range partition must be a list", "2024-07-01"),
        ("shard_split('r_0', '{}')", "22023", "bounds of a range partition must be a list", ""),
        ("shard_split('r_0', '[\"x\"]')", "22023", "bounds[0]: \"x\" is not a valid", ""),
        (
            "shard_split('r_0', '[100]')",
            "22023",
            "bounds[0]: the point is not within the partition's range",
            "within the partition",
        ),
        (
            "shard_split('r_100', '[100]')",
            "22023",
            "bounds[0]: the point is not within the partition's range",
            "within the partition",
        ),
        (
            "shard_split('r_100', '[150, 250]')",
            "22023",
            "bounds[1]: the point is not within the partition's range",
            "within the partition",
        ),
        (
            "shard_split('r_0', '[50, 40]')",
            "22023",
            "bounds[1]: the point does not lie beyond what is before it",
            "in their order",
        ),
        ("shard_split('r_0', '[[1, 2]]')", "22023", "bounds[0]: a range bound needs one value per key column", ""),
        ("shard_split('r_0', '[50]', nodes => '{nowhere}')", "42704", "node \"nowhere\" does not exist", ""),
        ("shard_split('r_0', '[50]', nodes => '{}')", "22023", "nodes is empty", ""),
        ("shard_split('r_default', '[50]')", "22023", "bounds of a default partition must be", "shard_add_partition"),
        ("shard_merge('{r_default, r_0}')", "0A000", "is the default partition", "shard_split"),
        ("shard_split('h_0', '[50]')", "0A000", "is a hash partition", "shard_set_modulus"),
        ("shard_split('l_de', '[\"DE\"]')", "22023", "bounds of a list partition must be an object", "rest"),
        ("shard_split('l_de', '{\"a\": [\"DE\"], \"b\": [\"XX\"]}')", "22023", "bounds.b[0]: the value is not in", ""),
        (
            "shard_split('l_de', '{\"a\": [\"DE\"], \"b\": [\"DE\"]}')",
            "22023",
            "bounds.b[0]: the value is in \"a\"",
            "",
        ),
        (
            "shard_split('l_de', '{\"a\": [\"DE\"], \"fr\": [\"AT\"]}')",
            "22023",
            "two partitions would have the label \"fr\"",
            "",
        ),
        ("shard_merge('{r_0}')", "22023", "two partitions or more", ""),
        ("shard_merge('{r_0, r_0}')", "22023", "is named twice", ""),
        ("shard_merge('{r_0, r_200}')", "22023", "are not adjacent", "without a gap"),
        ("shard_merge('{r_0, l_de}')", "22023", "are not partitions of one table", ""),
        ("shard_merge('{h_0, h_1}')", "0A000", "is a hash partition", "shard_set_modulus"),
        (
            "shard_merge('{r_0, r_100}', name => 'plain')",
            "42P07",
            "relation public.plain already exists",
            "another name",
        ),
        ("shard_merge('{l_de, l_fr}', node => 'nowhere')", "42704", "node \"nowhere\" does not exist", ""),
        ("shard_move_values('l_de', 'l_fr', '[\"FR\"]')", "22023", "values[0]: the value is not in", ""),
        ("shard_move_values('l_de', 'l_fr', '[\"DE\", \"AT\"]')", "22023", "no value would be left in", "shard_merge"),
        ("shard_move_values('r_0', 'r_100', '[1]')", "42809", "is not a list partition", "shard_split"),
        ("shard_drain_node('nowhere')", "42704", "node \"nowhere\" does not exist", ""),
        ("shard_drain_node('local')", "22023", "the coordinator cannot be drained", "shard_rebalance"),
        ("shard_rebalance('r', 'weight')", "22023", "by cannot be \"weight\"", "bytes"),
        ("shard_rebalance('r', capacities => '[2]')", "22023", "capacities: not a JSON object", "\"n1\": 2"),
        ("shard_rebalance('r', capacities => '{\"n1\": \"much\"}')", "22023", "capacities.n1: not a number", ""),
        ("shard_rebalance('r', capacities => '{\"n1\": -1}')", "22023", "the capacity of node \"n1\" must be", ""),
        ("shard_rebalance('r', capacities => '{\"n7\": 1}')", "42704", "node \"n7\" does not exist", ""),
        ("shard_rebalance('r', minimum_gain => 2)", "22023", "minimum_gain must be a number from 0 to 1", ""),
        ("shard_rebalance('r_0')", "42809", "is a partition, not a parent", "Its parent is"),
        ("shard_rebalance('plain')", "42P01", "plain is not a managed parent", ""),
    ];
    let mut wrong = Vec::new();
    for (call, code, message, hint) in cases {
        let error = refused(&mut client, &format!("SELECT {call}"))?;
        let hinted = error.hint().unwrap_or_default();
        if error.code().code() != code || !error.message().contains(message) || !hinted.contains(hint) {
            wrong.push(format!("{call}: {} {} / {hinted}", error.code().code(), error.message()));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(client.query_one("SELECT count(*) FROM shard_operations", &[])?.get::<_, i64>(0) == 0);
    Ok(())
}
