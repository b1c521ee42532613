//! A spec derived from tables makes these tables again.

mod common;

use common::{example, plan};
use proptest::prelude::*;
use serde_json::{Value, json};
use shardkeeper_core::plan::{Bound, Partition, Tree, derive};

/// Bounds and nodes of all leaves.
fn leaves(tree: &Tree) -> Vec<(Vec<Bound>, Option<String>)> {
    fn walk(tree: &Tree, above: &[Bound], found: &mut Vec<(Vec<Bound>, Option<String>)>) {
        for partition in &tree.partitions {
            let path = [above, std::slice::from_ref(&partition.bound)].concat();
            match &partition.sub {
                Some(sub) => walk(sub, &path, found),
                None => found.push((path, partition.node.clone())),
            }
        }
    }
    let mut found = Vec::new();
    walk(tree, &[], &mut found);
    found.sort_by_key(|leaf| format!("{leaf:?}"));
    found
}

fn tree(doc: Value) -> Tree {
    plan(doc).unwrap().tree
}

fn again(tree: &Tree) -> Tree {
    let derived = derive(tree, "t").unwrap();
    assert!(tree.walk().all(|partition| derived.labels.contains_key(&partition.name)));
    plan(derived.level.to_json()).unwrap().tree
}

#[test]
fn the_example_comes_back_with_its_nodes() {
    let tree = tree(example());
    assert_eq!(leaves(&again(&tree)), leaves(&tree));
}

#[test]
fn labels_are_names_without_that_of_the_table_above() {
    let mut tree =
        tree(json!({"method": "list", "key": "region", "values": {"x": ["x"], "y": ["y"]}, "default": true}));
    let labels = |tree: &Tree| derive(tree, "t").unwrap().labels.into_values().collect::<Vec<_>>();
    assert_eq!(labels(&tree), ["default", "x", "y"]);
    tree.partitions[0].name = "x".into();
    tree.partitions[1].name = "t_x".into();
    assert_eq!(labels(&tree), ["default", "t_x", "x"]);
}

#[test]
fn hash_partitions_share_what_is_below_them() {
    let spec = json!({"method": "hash", "key": "id", "modulus": 2,
        "partitions": {"method": "list", "key": "region", "nodes": ["a", "b"], "values": {"x": ["x"], "y": ["y"], "z": ["z"]}}});
    let mut tree = tree(spec);
    let derived = derive(&tree, "t").unwrap();
    assert_eq!(derived.level.to_json()["partitions"]["values"]["x"]["nodes"], json!(["a", "b"]));
    let sub = tree.partitions[1].sub.as_mut().unwrap();
    sub.partitions.pop();
    let error = derive(&tree, "t").unwrap_err();
    assert_eq!(
        (error.path.as_str(), error.message.as_str()),
        ("$.partitions", "the hash partitions of t are not alike below")
    );
    assert!(error.detail.is_some() && error.hint.is_some());
}

#[test]
fn mixed_moduli_and_bare_tables_are_refused() {
    let mut mixed = tree(json!({"method": "hash", "key": "id", "modulus": 2}));
    mixed.partitions[1].bound = Bound::Hash { modulus: 4, remainder: 1 };
    let error = derive(&mixed, "t").unwrap_err();
    assert_eq!(error.path, "$.modulus");
    assert!(error.detail.is_some_and(|detail| detail.contains("t_1 has modulus 4, remainder 1")));

    let mut bare = tree(json!({"method": "list", "key": "region", "values": {"x": ["x"]}}));
    let sub = Tree { partitions: Vec::new(), ..tree(json!({"method": "range", "key": "id", "bounds": [0, 1]})) };
    bare.partitions[0] = Partition { sub: Some(sub), node: None, ..bare.partitions[0].clone() };
    let error = derive(&bare, "t").unwrap_err();
    assert_eq!(
        (error.path.as_str(), error.message.as_str()),
        ("$.values.x.partitions.bounds", "table t_x has no partitions")
    );

    let mut rest = tree(json!({"method": "list", "key": "region", "values": {"x": ["x"]}}));
    rest.partitions[0].bound = Bound::Default;
    let error = derive(&rest, "t").unwrap_err();
    assert_eq!((error.path.as_str(), error.message.as_str()), ("$.values", "table t has a default partition only"));
}

fn nodes() -> impl Strategy<Value = Value> {
    prop::collection::vec(prop::sample::select(vec!["local", "a", "b"]), 1..4).prop_map(|nodes| json!(nodes))
}

fn specs() -> impl Strategy<Value = Value> {
    let hash = (1..5u32, nodes())
        .prop_map(|(modulus, nodes)| json!({"method": "hash", "key": "id", "modulus": modulus, "nodes": nodes}))
        .boxed();
    let list = |below: BoxedStrategy<Value>| {
        (prop::collection::btree_map("[a-z]{1,3}", (nodes(), below), 1..4), any::<bool>()).prop_map(
            |(parts, default)| {
                let values: serde_json::Map<_, _> = parts
                    .into_iter()
                    .map(|(label, (nodes, below))| {
                        let value = json!({"in": [format!("value {label}")], "nodes": nodes, "partitions": below});
                        (format!("p{label}"), value)
                    })
                    .collect();
                json!({"method": "list", "key": "region", "values": values, "default": default})
            },
        )
    };
    let range = |below: BoxedStrategy<Value>| {
        (prop::collection::btree_set(-50..50i32, 2..5), below)
            .prop_map(|(points, below)| json!({"method": "range", "key": "int", "bounds": points, "partitions": below}))
    };
    let list_of_hash = list(prop_oneof![Just(json!(false)), hash.clone()].boxed()).boxed();
    prop_oneof![hash, list_of_hash.clone(), range(list_of_hash)]
}

proptest! {
    #[test]
    fn what_was_made_by_a_spec_is_derived_again(spec in specs()) {
        let tree = tree(spec);
        prop_assert_eq!(leaves(&again(&tree)), leaves(&tree));
    }
}
