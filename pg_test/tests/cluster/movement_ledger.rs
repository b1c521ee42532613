//! Nothing is lost and nothing doubled, with keys of each kind in each kind of operation, and in large ones.
use anyhow::{Context, Result, ensure};
use pg_test::movement::{joined, under_load};
use pg_test::sql::column;
use pg_test::{Cluster, Keys, Workload, matrix};
use postgres::Client;

#[derive(Clone, Copy, Debug)]
enum Work {
    /// Moduli that are multiples of each other, and some that are not.
    Moduli,
    Moves,
    Ranges,
    Conversion,
}

const WORKS: [Work; 4] = [Work::Moduli, Work::Moves, Work::Ranges, Work::Conversion];

/// Columns of the key as a level names them.
fn names(keys: Keys) -> String {
    keys.columns().iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// A bound of one key, as JSON: about half of the rows lie below the second, and a quarter below the first.
fn bounds(keys: Keys) -> [&'static str; 2] {
    match keys {
        Keys::Bigint => ["1000", "2000"],
        Keys::Text => [r#""4""#, r#""8""#],
        Keys::Uuid => [r#""40000000-0000-0000-0000-000000000000""#, r#""80000000-0000-0000-0000-000000000000""#],
        Keys::TwoColumns => [r#"["eu", 5]"#, r#"["jp", 5]"#],
    }
}

fn ends(keys: Keys) -> [&'static str; 2] {
    match keys {
        Keys::TwoColumns => [r#"["MINVALUE", "MINVALUE"]"#, r#"["MAXVALUE", "MAXVALUE"]"#],
        _ => [r#""MINVALUE""#, r#""MAXVALUE""#],
    }
}

fn filled(cluster: &Cluster, keys: Keys, parent: Option<&str>, rows: i64) -> Result<Client> {
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&keys.create_sql("t"))?;
    if let Some(parent) = parent {
        client.batch_execute(&format!("SELECT shard_create_parent('t', {parent})")).context(parent.to_owned())?;
    }
    keys.load(&mut client, "t", rows)?;
    Ok(client)
}

/// The leaf with the lowest bounds, and the one above it.
fn lowest(client: &mut Client) -> Result<[String; 2]> {
    let leaves = "SELECT partition::text FROM shard_partitions WHERE parent = 't'::regclass AND is_leaf
                  ORDER BY bounds !~ 'MINVALUE', bounds ~ 'MAXVALUE'";
    let mut leaves = column(client, leaves)?.into_iter();
    Ok([leaves.next().context("no leaf")?, leaves.next().context("one leaf")?])
}

fn carry_out(work: Work, keys: Keys) -> Result<()> {
    let cluster = joined(2)?;
    let columns = names(keys);
    let workload = Workload { direct: 1, clients: 3, ..Workload::default() };
    let run = |calls: &[&str]| under_load(&cluster, "t", keys, workload.clone(), calls);
    match work {
        Work::Moduli => {
            let parent = format!("'hash', '{columns}', modulus => 4, nodes => '{{local, n1}}'");
            filled(&cluster, keys, Some(&parent), 4_000)?;
            run(&[
                "shard_set_modulus('t', 2, nodes => '{n1, n2}')",
                "shard_set_modulus('t', 4, nodes => '{n2, local}')",
                "shard_set_modulus('t', 3, nodes => '{local, n1, n2}')",
                "shard_set_modulus('t', 2, nodes => '{local, n2}')",
                "shard_set_modulus('t', 3, nodes => '{n1}')",
                "shard_set_modulus('t', 5, nodes => '{n1, n2, local}')",
            ])
        }
        Work::Moves => {
            let parent = format!("'hash', '{columns}', modulus => 2, nodes => '{{local, n1}}'");
            filled(&cluster, keys, Some(&parent), 4_000)?;
            run(&[
                "shard_move_partition('t_0', 'n1')",
                "shard_move_partition('t_0', 'n2')",
                "shard_move_partition('t_0', 'local')",
            ])
        }
        Work::Ranges => {
            let ([low, high], [min, max]) = (bounds(keys), ends(keys));
            let parent = format!("'range', '{columns}', bounds => '[{min}, {high}, {max}]', nodes => '{{local, n1}}'");
            let mut client = filled(&cluster, keys, Some(&parent), 4_000)?;
            let [first, _] = lowest(&mut client)?;
            run(&[&format!("shard_split('{first}', '[{low}]', nodes => '{{n1, n2}}')")])?;
            let [first, second] = lowest(&mut client)?;
            client.batch_execute("TRUNCATE t")?;
            keys.load(&mut client, "t", 4_000)?;
            run(&[&format!("shard_merge(ARRAY['{first}', '{second}']::regclass[], node => 'n2')")])
        }
        Work::Conversion => {
            filled(&cluster, keys, None, 4_000)?;
            run(&[&format!("shard_create_parent('t', '{}')", levels(keys, bounds(keys)[1]))])
        }
    }
}

/// Two levels, and with two key columns three, over all servers.
fn levels(keys: Keys, bound: &str) -> String {
    let [min, max] = match keys {
        // The range is of the second column.
        Keys::TwoColumns => ends(Keys::Bigint),
        keys => ends(keys),
    };
    let columns: Vec<String> = keys.columns().iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let hash = format!(
        r#"{{"method": "hash", "key": [{}], "modulus": 2, "nodes": ["local", "n1", "n2"]}}"#,
        columns.join(", ")
    );
    let (below, bound) = match keys {
        Keys::TwoColumns => {
            let lists = r#"{"west": ["us", "eu"], "east": ["cn", "jp"]}"#;
            (format!(r#"{{"method": "list", "key": "region", "values": {lists}, "partitions": {hash}}}"#), "2000")
        }
        _ => (hash, bound),
    };
    format!(r#"{{"method": "range", "key": "id", "bounds": [{min}, {bound}, {max}], "partitions": {below}}}"#)
}

#[test]
fn every_kind_of_key_goes_through_every_kind_of_operation() -> Result<()> {
    // Each four neighbours have all kinds of keys and of work.
    let pairs = |shift: usize| (0..4).map(move |at| (WORKS[(at + shift) % 4], Keys::ALL[at]));
    let cases: Vec<(Work, Keys)> = (0..4).flat_map(pairs).collect();
    for (work, keys) in matrix::take(2, &cases) {
        carry_out(*work, *keys).with_context(|| format!("{work:?}, {keys:?}"))?;
    }
    Ok(())
}

#[test]
fn many_leaves_are_shared_out_over_new_nodes_and_one_node_is_emptied() -> Result<()> {
    let (leaves, nodes) = if matrix::is_full() { (40, 5) } else { (6, 3) };
    let cluster = joined(nodes)?;
    let parent = format!("'hash', 'id', modulus => {leaves}, nodes => '{{n1}}'");
    let mut client = filled(&cluster, Keys::Bigint, Some(&parent), 4_000)?;
    let workload = Workload { clients: 2, ..Workload::default() };
    let drain = format!("shard_drain_node('n{nodes}')");
    let all = (1..=nodes).map(|number| format!("n{number}")).collect::<Vec<_>>().join(", ");
    let rebalance = format!("shard_rebalance('t', 'count', nodes => '{{{all}}}')");
    under_load(&cluster, "t", Keys::Bigint, workload, &[&rebalance, &drain])?;
    let counts = column(&mut client, "SELECT leaves FROM shard_nodes ORDER BY name")?;
    let counts: Vec<usize> = counts.iter().map(|count| count.parse()).collect::<Result<_, _>>()?;
    // Nothing is on the coordinator, nor on the last node; what that one had has gone to the node of the spec.
    let share = leaves / nodes;
    let mut expected = vec![share; nodes + 1];
    (expected[0], expected[1], expected[nodes]) = (0, 2 * share, 0);
    assert_eq!(counts, expected);
    Ok(())
}

/// A million rows in a full run.
#[test]
fn a_large_table_becomes_a_tree_of_three_levels() -> Result<()> {
    let rows = if matrix::is_full() { 1_000_000 } else { 20_000 };
    let cluster = joined(2)?;
    let keys = Keys::TwoColumns;
    let mut client = filled(&cluster, keys, None, rows)?;
    let middle = (rows / 2).to_string();
    let spec = levels(keys, "").replace("2000", &middle);
    let workload = Workload { clients: 2, ..Workload::default() };
    under_load(&cluster, "t", keys, workload, &[&format!("shard_create_parent('t', '{spec}')")])?;
    let leaves = "SELECT count(*)::text FROM shard_partitions WHERE parent = 't'::regclass AND is_leaf";
    ensure!(column(&mut client, leaves)? == ["8"]);
    Ok(())
}
