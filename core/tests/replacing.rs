//! What the spec says once partitions are replaced by others, and once a node has gone.

mod common;

use common::{input, level};
use serde_json::{Value, json};
use shardkeeper_core::plan::{Bound, Limit, replaced};

fn range(from: &str, to: &str) -> Bound {
    let limit = |text: &str| vec![Limit::Value(text.into())];
    Bound::Range { from: limit(from), to: limit(to) }
}

fn list(values: &[&str]) -> Bound {
    Bound::List { values: values.iter().map(|value| Some((*value).into())).collect() }
}

fn after(spec: Value, gone: &[(&str, &Bound)], come: &[(&str, &Bound)]) -> Option<Value> {
    let level = level(spec);
    replaced(&level.site(), gone, come, &input("t", "2024-06-15T12:00:00Z")).map(|level| level.to_json())
}

#[test]
fn points_are_put_between_others_and_taken_away() {
    let spec = json!({"method": "range", "key": "id", "bounds": [0, 100, 200, 300]});
    let (whole, low, high) = (range("100", "200"), range("100", "150"), range("150", "200"));
    let split = after(spec.clone(), &[("100", &whole)], &[("100", &low), ("150", &high)]).unwrap();
    assert_eq!(split["bounds"], json!([0, 100, "150", 200, 300]));
    let merged = after(split, &[("100", &low), ("150", &high)], &[("100", &whole)]).unwrap();
    assert_eq!(merged["bounds"], spec["bounds"]);
}

#[test]
fn a_split_list_hands_on_what_it_said_for_itself() {
    let spec = json!({"method": "list", "key": "region",
        "values": {"a": ["a"], "bc": {"in": ["b", "c"], "nodes": ["n1"]}, "d": ["d"]}});
    let both = list(&["b", "c"]);
    let (b, c) = (list(&["b"]), list(&["c"]));
    let split = after(spec, &[("bc", &both)], &[("b", &b), ("c", &c)]).unwrap();
    let expected =
        json!({"a": ["a"], "b": {"in": ["b"], "nodes": ["n1"]}, "c": {"in": ["c"], "nodes": ["n1"]}, "d": ["d"]});
    assert_eq!(split["values"], expected);
}

#[test]
fn what_is_not_listed_is_not_described() {
    let period = json!({"method": "range", "key": "at", "interval": "1 month"});
    let whole = range("2024-01-01", "2024-02-01");
    assert_eq!(after(period, &[("2024_01", &whole)], &[("2024_01", &whole)]), None);
    let lists = json!({"method": "list", "key": "region", "values": {"a": ["a"]}});
    assert_eq!(after(lists, &[("later", &list(&["x"]))], &[("x", &list(&["x"]))]), None);
}

#[test]
fn a_node_is_taken_off_all_lists() {
    let mut spec = level(json!({"method": "list", "key": "region", "nodes": ["n1", "n2"],
        "values": {"a": {"in": ["a"], "nodes": ["n1"]}, "b": ["b"]}, "default": {"nodes": ["n3", "n1"]},
        "partitions": {"method": "hash", "key": "id", "modulus": 2, "nodes": ["n1", "n1", "n4"]}}));
    assert!(spec.forget_node("n1"));
    let left = spec.to_json();
    assert_eq!(left["nodes"], json!(["n2"]));
    assert_eq!(left["values"]["a"], json!(["a"]));
    assert_eq!(left["default"]["nodes"], json!(["n3"]));
    assert_eq!(left["partitions"]["nodes"], json!(["n4"]));
    assert!(!spec.forget_node("n1"));
}
