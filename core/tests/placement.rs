//! Which node each leaf goes to: the nearest declaration deals round robin, and counts on.

mod common;

use common::{example, input, level, plan};
use serde_json::{Value, json};
use shardkeeper_core::plan::{Plan, expand, expand_one, parse_bound};

fn nodes(plan: &Plan) -> Vec<&str> {
    plan.tree.leaves().filter_map(|leaf| leaf.node.as_deref()).collect()
}

#[test]
fn without_nodes_everything_is_local() {
    let plan = plan(json!({"method": "hash", "key": "id", "modulus": 3})).unwrap();
    assert_eq!(nodes(&plan), ["local", "local", "local"]);
    assert!(plan.dealt.is_empty());
}

#[test]
fn a_node_listed_twice_gets_twice_as_many() {
    let spec = json!({"method": "hash", "key": "id", "modulus": 4, "nodes": ["local", "local", "b", "b"]});
    assert_eq!(nodes(&plan(spec).unwrap()), ["local", "local", "b", "b"]);
}

#[test]
fn the_counter_of_a_declaration_runs_across_branches() {
    let spec = json!({"method": "list", "key": "region", "nodes": ["a", "b"], "values": {"x": ["x"], "y": ["y"]},
                      "partitions": {"method": "hash", "key": "id", "modulus": 3}});
    let plan = plan(spec).unwrap();
    assert_eq!(nodes(&plan), ["a", "b", "a", "b", "a", "b"]);
    assert_eq!(plan.dealt.get("$.nodes"), Some(&6));
}

#[test]
fn the_nearest_declaration_governs() {
    let spec = json!({"method": "list", "key": "region", "nodes": ["far"],
        "values": {"x": {"in": ["x"], "nodes": ["near"]}, "y": ["y"],
                   "z": {"in": ["z"], "nodes": ["near"],
                         "partitions": {"method": "hash", "key": "id", "modulus": 1, "nodes": ["nearest"]}}},
        "default": {"nodes": ["rest"]}});
    let plan = plan(spec).unwrap();
    let placed: Vec<_> =
        plan.tree.leaves().map(|leaf| (leaf.name.as_str(), leaf.node.as_deref(), &*leaf.deal)).collect();
    assert_eq!(
        placed,
        [
            ("t_x", Some("near"), "$.values.x.nodes"),
            ("t_y", Some("far"), "$.nodes"),
            ("t_z_0", Some("nearest"), "$.values.z.partitions.nodes"),
            ("t_default", Some("rest"), "$.default.nodes"),
        ]
    );
}

#[test]
fn the_example_places_each_region_on_its_own_nodes() {
    let plan = plan(example()).unwrap();
    assert_eq!(plan.tree.leaves().count(), 21);
    assert_eq!(nodes(&plan)[..7], ["us_1", "us_2", "us_3", "local", "eu_2", "local", "eu_2"]);
    assert_eq!(plan.dealt.get("$.partitions.values.us.nodes"), Some(&9));
}

#[test]
fn a_later_partition_continues_the_deal() {
    let level = level(json!({"method": "range", "key": "order_date", "interval": "1 month", "start": "2024-01-01",
        "end": "2024-04-01", "nodes": ["a", "b"]}));
    let mut input = input("t", "2024-01-15T00:00:00Z");
    let first = expand(&level, &input).unwrap();
    assert_eq!(nodes(&first), ["a", "b", "a"]);
    input.dealt = first.dealt;
    let site = level.site();
    let bound = parse_bound(&site, &json!({"from": "2024-04-01", "to": "2024-05-01"}), &input).unwrap();
    let (added, dealt) = expand_one(&site, &bound, None, &input).unwrap();
    assert_eq!((added.name.as_str(), added.node.as_deref()), ("t_2024_04", Some("b")));
    assert_eq!(dealt.get("$.nodes"), Some(&4));
}

#[test]
fn a_forced_node_takes_all_leaves_and_counts_none() {
    let level = level(example());
    let input = input("t", "2024-01-15T00:00:00Z");
    let site = level.site();
    let bound = parse_bound(&site, &json!({"from": "2030-01-01", "to": "2031-01-01"}), &input).unwrap();
    let (added, dealt) = expand_one(&site, &bound, Some("cold"), &input).unwrap();
    let sub = added.sub.unwrap();
    assert_eq!(sub.leaves().count(), 7);
    assert!(sub.leaves().all(|leaf| leaf.node.as_deref() == Some("cold") && leaf.deal.is_empty()));
    assert!(dealt.is_empty());
}

#[test]
fn an_added_partition_below_a_branch_is_dealt_by_that_branch() {
    let level = level(example());
    let site = level.at(&["2024", "us"]).unwrap();
    assert_eq!(site.path(), "$.partitions.values.us.partitions");
    let mut input = input("t_2024_us", "2024-01-15T00:00:00Z");
    input.dealt.insert("$.partitions.values.us.nodes".into(), 1);
    let bound = parse_bound(&site, &json!({"modulus": 3, "remainder": 2}), &input).unwrap();
    let (added, _) = expand_one(&site, &bound, None, &input).unwrap();
    assert_eq!((added.name.as_str(), added.node.as_deref()), ("t_2024_us_2", Some("us_2")));
    assert!(level.at(&["2024", "us", "0"]).is_none());
}

#[test]
fn bounds_of_numbers_and_uuids_can_be_written_as_times() {
    let bounds = |spec: Value, doc: Value| {
        let level = level(spec);
        let read = parse_bound(&level.site(), &doc, &input("t", "2024-06-15T12:00:00Z")).map_err(|e| e.to_string())?;
        Ok::<_, String>((format!("{:?}", read.bound), read.label))
    };
    let same = |spec: Value, time: Value, plain: Value| {
        let read = bounds(spec.clone(), time).unwrap();
        assert_eq!(read, bounds(spec, plain).unwrap());
        read.1
    };
    let epoch = json!({"method": "range", "key": "id", "interval": "1 month", "epoch": "s", "start": "2024-01-01"});
    let label = same(
        epoch.clone(),
        json!({"from": "2024-03-01", "to": "2024-04-01T00:00:00Z"}),
        json!({"from": 1_709_251_200, "to": "1711929600"}),
    );
    assert_eq!(label, "2024_03");
    let zoned = json!({"method": "range", "key": "id", "interval": "1 day", "epoch": "ms", "start": "2024-01-01", "timezone": "Europe/Berlin"});
    same(
        zoned,
        json!({"from": "2024-01-02", "to": "2024-01-03"}),
        json!({"from": 1_704_150_000_000_i64, "to": 1_704_236_400_000_i64}),
    );
    let uuid = json!({"method": "range", "key": "uuid", "interval": "1 month", "start": "2024-01-01"});
    same(
        uuid.clone(),
        json!({"from": "2024-03-01", "to": "MAXVALUE"}),
        json!({"from": "018df74f-8400-0000-0000-000000000000", "to": "MAXVALUE"}),
    );
    for (spec, from) in [(&epoch, "2024-03-01T00:00:00.5Z"), (&uuid, "1960-01-01")] {
        let error = bounds(spec.clone(), json!({"from": from, "to": "MAXVALUE"})).unwrap_err();
        assert_eq!(error, format!("$.from: \"{from}\" is not a time that the key can hold"));
    }
    let error = bounds(epoch, json!({"from": "2024-13-01", "to": "2024-04-01"})).unwrap_err();
    assert!(error.starts_with("$.from: \"2024-13-01\" is not a valid"), "{error}");
}
