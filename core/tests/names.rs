//! Names: short enough, stable, apart from each other.

mod common;

use common::{error, input, level, plan};
use proptest::prelude::*;
use serde_json::json;
use shardkeeper_core::name::MAX_BYTES;
use shardkeeper_core::plan::{expand, expand_one, parse_bound};

#[test]
fn a_template_says_where_parent_and_label_go() {
    let doc = json!({"method": "hash", "key": "id", "modulus": 1, "name": "{label}-{parent}",
        "partitions": {"method": "hash", "key": "id", "modulus": 1}});
    let names: Vec<_> = plan(doc).unwrap().tree.walk().map(|p| p.name.clone()).collect();
    assert_eq!(names, ["0-t", "0-t_0"]);
}

#[test]
fn two_tables_of_one_name_are_refused_with_both_places() {
    let doc = json!({"method": "list", "key": "region", "values": {"a": ["a"], "a_0": ["b"]},
        "partitions": {"method": "hash", "key": "id", "modulus": 1}});
    let mut doc_leaf = doc;
    doc_leaf["values"]["a_0"] = json!({"in": ["b"], "partitions": false});
    let error = error(doc_leaf);
    assert_eq!((error.path.as_str(), error.message.as_str()), ("$.values.a_0", "two tables would be called \"t_a_0\""));
    assert!(error.detail.unwrap().starts_with("The name is given by $.partitions.modulus and by $.values.a_0"));
}

#[test]
fn a_partition_is_not_called_like_the_table() {
    let doc = json!({"method": "list", "key": "region", "name": "{label}", "values": {"t": ["a"]}});
    assert_eq!(error(doc).message, "two tables would be called \"t\"");
}

#[test]
fn an_added_partition_can_be_named() {
    let level = level(json!({"method": "list", "key": "region", "values": {"a": ["a"]}, "default": true}));
    let (site, input) = (level.site(), input("t", "2024-01-01T00:00:00Z"));
    let name = |doc| {
        let bound = parse_bound(&site, &doc, &input).map_err(|error| error.message)?;
        expand_one(&site, &bound, None, &input).map(|(p, _)| p.name).map_err(|error| error.message)
    };
    assert_eq!(name(json!({"in": ["North East", null]})).unwrap(), "t_north_east_null");
    assert_eq!(name(json!({"in": ["NE"], "label": "ne"})).unwrap(), "t_ne");
    assert_eq!(name(json!({"in": ["NE"], "name": "other"})).unwrap(), "other");
    assert_eq!(name(json!({"default": true})).unwrap(), "t_default");
    assert_eq!(name(json!({"in": ["NE"], "name": "x".repeat(64)})).unwrap_err(), "the name is too long");
    assert_eq!(name(json!({"in": []})).unwrap_err(), "a list partition needs at least one value");
    assert_eq!(name(json!({"from": 1, "to": 2})).unwrap_err(), "the bounds are not those of a list partition");
    assert_eq!(name(json!({"inn": [1]})).unwrap_err(), "unknown field \"inn\"");
}

proptest! {
    #[test]
    fn every_table_of_a_plan_has_its_own_name_and_every_leaf_a_node(
        root in "[a-z]{1,63}", months in 1u32..6, moduli in (1u32..5, 1u32..5), nodes in prop::collection::vec("[a-z]", 1..5),
    ) {
        let level = level(json!({"method": "range", "key": "day", "interval": "1 month", "premake": months - 1, "nodes": nodes,
            "partitions": {"method": "hash", "key": "id", "modulus": moduli.0,
                           "partitions": {"method": "hash", "key": "id", "modulus": moduli.1}}}));
        let plan = expand(&level, &input(&root, "2024-06-01T00:00:00Z")).unwrap();
        let names: std::collections::HashSet<_> = plan.tree.walk().map(|p| p.name.as_str()).collect();
        prop_assert_eq!(names.len(), plan.tree.walk().count());
        prop_assert!(names.iter().all(|name| name.len() <= MAX_BYTES));
        let leaves: Vec<_> = plan.tree.leaves().collect();
        prop_assert_eq!(leaves.len() as u32, months * moduli.0 * moduli.1);
        prop_assert_eq!(plan.dealt.get("$.nodes"), Some(&(leaves.len() as u64)));
        for (turn, leaf) in leaves.iter().enumerate() {
            prop_assert_eq!(leaf.node.as_ref(), nodes.get(turn % nodes.len()));
        }
    }

    #[test]
    fn too_many_leaves_are_refused_before_they_are_made(moduli in prop::collection::vec(1u32..=2_147_483_647, 1..6)) {
        let doc = moduli.iter().fold(serde_json::Value::Null, |below, n| {
            json!({"method": "hash", "key": "id", "modulus": n, "partitions": below})
        });
        let mut input = input("t", "2024-06-01T00:00:00Z");
        input.max_leaves = 5000;
        let count = moduli.iter().fold(1u64, |product, n| product.saturating_mul(u64::from(*n)));
        let error = expand(&level(doc), &input).err();
        prop_assert_eq!(error.is_some(), count > 5000);
        prop_assert!(error.is_none_or(|error| error.detail.unwrap().contains("the limit is 5000")));
    }
}
