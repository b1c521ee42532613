//! Reading a spec: what it says is kept, and what is wrong with it is named by its path.

mod common;

use common::{error, example, input, level};
use proptest::prelude::*;
use serde_json::{Value, json};
use shardkeeper_core::plan::{expand, parse_bound};
use shardkeeper_core::spec::{Method, Site};
use shardkeeper_core::{SpecError, parse};

const NOW: &str = "2024-06-15T12:00:00Z";

#[track_caller]
fn refused(doc: Value, path: &str, message: &str) -> SpecError {
    let error = error(doc);
    assert_eq!((error.path.as_str(), error.message.as_str()), (path, message));
    error
}

#[test]
fn the_example_of_the_documentation_reads_as_it_says() {
    let level = level(example());
    assert_eq!(level.method(), Method::Range);
    let regions = level.at(&["2024"]).unwrap();
    assert_eq!(regions.level.method(), Method::List);
    assert!(regions.lists("us") && regions.lists("eu") && !regions.lists("asia"));
    assert_eq!(parse(&level.to_json()).unwrap(), level);
}

#[test]
fn methods_are_read_in_any_case() {
    assert_eq!(level(json!({"method": "HASH", "key": "id", "modulus": 2})).method(), Method::Hash);
}

#[test]
fn an_unknown_field_is_named_with_the_valid_ones_and_the_nearest() {
    let mut doc = example();
    doc["partitions"]["values"]["us"]["partitions"]["modulos"] = json!(3);
    let error = refused(doc, "$.partitions.values.us.partitions.modulos", "unknown field \"modulos\"");
    assert_eq!(
        error.detail.unwrap(),
        "The fields of a hash level are method, key, nodes, name, partitions and modulus."
    );
    assert_eq!(error.hint.unwrap(), "Perhaps you mean \"modulus\".");
    let doc = json!({"method": "list", "key": "region", "values": {"a": {"is": [1]}}});
    let error = refused(doc, "$.values.a.is", "unknown field \"is\"");
    assert_eq!(error.detail.unwrap(), "The fields of this object are in, nodes and partitions.");
    refused(
        json!({"method": "hash", "key": "id", "modulus": 2, "interval": "1 day"}),
        "$.interval",
        "unknown field \"interval\"",
    );
}

#[test]
fn wrong_types_are_named_by_their_path() {
    refused(json!([]), "$", "invalid type: array, expected an object");
    refused(json!({"method": 1}), "$.method", "invalid type: integer 1, expected a string");
    refused(
        json!({"method": "list", "key": "k", "values": {"a b": [{}]}}),
        "$.values[\"a b\"][0]",
        "invalid type: object, expected a string, a number, a boolean or null",
    );
    refused(
        json!({"method": "list", "key": "k", "values": []}),
        "$.values",
        "invalid type: array, expected an object with one member per partition",
    );
    refused(
        json!({"method": "range", "key": "k", "bounds": {"a": [1, 2]}}),
        "$.bounds.a",
        "invalid type: array, expected an object",
    );
    refused(
        json!({"method": "hash", "key": "k", "modulus": 2, "partitions": 3}),
        "$.partitions",
        "invalid type: integer 3, expected an object that describes a level, or false",
    );
    refused(
        json!({"method": "list", "key": "k", "values": {"a": [1e300]}}),
        "$.values.a[0]",
        &format!("the number {} may have lost digits, it must be written as a string", 1e300),
    );
}

#[test]
fn what_is_missing_or_too_much_is_said() {
    refused(json!({}), "$", "\"method\" is missing");
    refused(json!({"method": "hash", "modulus": 2}), "$", "\"key\" is missing");
    refused(json!({"method": "hash", "key": [], "modulus": 2}), "$.key", "the key is empty");
    refused(json!({"method": "hash", "key": "id"}), "$", "\"modulus\" is missing");
    let both = json!({"method": "range", "key": "id", "step": 1, "interval": "1 day"});
    let error = refused(both, "$", "a range level needs exactly one of \"interval\", \"step\" and \"bounds\"");
    assert_eq!(error.detail.unwrap(), "Given are interval and step.");
    refused(
        json!({"method": "range", "key": "id", "step": 1, "epoch": "s"}),
        "$.epoch",
        "\"epoch\" has no meaning with \"step\"",
    );
    refused(
        json!({"method": "range", "key": ["a", "b"], "step": 1}),
        "$.step",
        "\"step\" needs exactly one key column",
    );
    refused(
        json!({"method": "list", "key": ["a", "b"], "values": {"x": [1]}}),
        "$.key",
        "a list level has exactly one key column",
    );
    refused(json!({"method": "list", "key": "a", "values": {}}), "$.values", "the level has no partitions");
    refused(json!({"method": "hash", "key": "a", "modulus": 1, "nodes": []}), "$.nodes", "the list of nodes is empty");
    refused(
        json!({"method": "hash", "key": "a", "modulus": 1, "default": true}),
        "$.default",
        "a hash level has no default partition",
    );
    refused(
        json!({"method": "list", "key": "a", "values": {"default": [1]}, "default": true}),
        "$.values.default",
        "the label \"default\" belongs to the default partition",
    );
}

#[test]
fn numbers_and_words_have_their_limits() {
    let modulus = |n: Value| json!({"method": "hash", "key": "a", "modulus": n});
    for wrong in [json!(0), json!(-1), json!(1.5), json!("4"), json!(2_147_483_648u64)] {
        refused(modulus(wrong), "$.modulus", "modulus must be a whole number from 1 to 2147483647");
    }
    let interval = |text: &str| json!({"method": "range", "key": "day", "interval": text});
    refused(interval("soon"), "$.interval", "\"soon\" is not an interval");
    refused(interval("-1 day"), "$.interval", "the interval \"-1 day\" is not positive");
    refused(interval("0 days"), "$.interval", "the interval \"0 days\" is not positive");
    let zone = json!({"method": "range", "key": "day", "interval": "1 day", "timezone": "Mars/Olympus"});
    refused(zone, "$.timezone", "time zone \"Mars/Olympus\" is not known");
    let name = |name: &str| json!({"method": "hash", "key": "a", "modulus": 1, "name": name});
    refused(name("{parent}"), "$.name", "the name template \"{parent}\" lacks {label}");
    refused(name("{label}_{x}"), "$.name", "the name template \"{label}_{x}\" has an unknown placeholder");
    refused(json!({"method": "range", "key": "id", "step": 0}), "$.step", "the step is not positive");
}

#[test]
fn null_is_a_value_of_a_list_and_no_bound_of_a_range() {
    let plan =
        common::plan(json!({"method": "list", "key": "region", "values": {"none": [null], "one": ["1"]}})).unwrap();
    let bounds: Vec<_> = plan.tree.partitions.iter().map(|p| format!("{:?}", p.bound)).collect();
    assert_eq!(bounds, ["List { values: [None] }", "List { values: [Some(\"1\")] }"]);
    let doc = json!({"method": "range", "key": "id", "bounds": {"a": {"from": null, "to": 1}}});
    refused(doc, "$.bounds.a.from", "NULL cannot be a range bound");
    refused(
        json!({"method": "range", "key": "id", "bounds": [1, null]}),
        "$.bounds[1]",
        "NULL cannot be a range bound",
    );
}

#[test]
fn a_value_listed_twice_is_named_at_both_places() {
    let doc = json!({"method": "list", "key": "region", "values": {"a": ["x", null], "b": {"in": [null]}}});
    let error = refused(doc, "$.values.b.in[0]", "the value NULL is listed twice");
    assert_eq!(error.detail.unwrap(), "It is at $.values.a[1] and at $.values.b.in[0].");
    let twice = |key: &str, one: Value, other: Value| error_of_values(key, one, other);
    assert!(
        twice("id", json!(1), json!("01"))
            && twice("num", json!(1), json!("1.0"))
            && twice("flag", json!("t"), json!(true))
    );
    assert!(!twice("region", json!("A"), json!("a")));
}

fn error_of_values(key: &str, one: Value, other: Value) -> bool {
    common::plan(json!({"method": "list", "key": key, "values": {"a": [one], "b": [other]}})).is_err()
}

#[test]
fn nesting_ends_somewhere() {
    let nested = |depth| {
        (1..depth).fold(
            json!({"method": "hash", "key": "id", "modulus": 1}),
            |below, _| json!({"method": "hash", "key": "id", "modulus": 1, "partitions": below}),
        )
    };
    assert_eq!(common::plan(nested(16)).unwrap().tree.leaves().count(), 1);
    assert_eq!(error(nested(17)).message, "the levels are nested too deeply");
}

#[test]
fn a_partition_can_refuse_the_partitions_of_its_level() {
    let doc = json!({"method": "list", "key": "region", "values": {"a": ["a"], "b": {"in": ["b"], "partitions": false}},
        "default": {"partitions": false, "name": "{parent}_rest"},
        "partitions": {"method": "hash", "key": "id", "modulus": 2}});
    let plan = common::plan(doc.clone()).unwrap();
    let names: Vec<_> = plan.tree.leaves().map(|leaf| leaf.name.as_str()).collect();
    assert_eq!(names, ["t_a_0", "t_a_1", "t_b", "t_rest"]);
    assert_eq!(parse(&level(doc.clone()).to_json()).unwrap(), level(doc));
}

#[test]
fn a_single_partition_is_read_like_one_of_a_spec() {
    let refused = |spec: Value, doc: Value| {
        let level = level(spec);
        parse_bound(&level.site(), &doc, &input("t", NOW)).unwrap_err().to_string()
    };
    let range = |doc| refused(json!({"method": "range", "key": "num", "bounds": [0, 10]}), doc);
    assert_eq!(range(json!({"from": null, "to": 30})), "$.from: NULL cannot be a range bound");
    assert_eq!(range(json!({"from": 10, "to": null})), "$.to: NULL cannot be a range bound");
    assert_eq!(range(json!({"to": 30})), "$: \"from\" is missing");
    assert_eq!(range(json!({"from": 30, "to": 20})), "$: the range is empty");
    let list = |doc| refused(json!({"method": "list", "key": "num", "values": {"a": [1]}}), doc);
    assert_eq!(list(json!({"in": [2, "2.0"]})), "$.in[1]: the value \"2.0\" is listed twice");
    assert_eq!(list(json!({"in": []})), "$.in: a list partition needs at least one value");
    assert_eq!(list(json!({"in": null})), "$.in: invalid type: null, expected an array");
    let hash = |doc| refused(json!({"method": "hash", "key": "id", "modulus": 2}), doc);
    for modulus in [json!(-4), json!(0), json!(4_294_967_297u64), json!("4"), json!(2.5), json!(null)] {
        assert_eq!(
            hash(json!({"modulus": modulus, "remainder": 3})),
            "$.modulus: modulus must be a whole number from 1 to 2147483647"
        );
    }
    for remainder in [json!(-1), json!(4_294_967_297u64), json!("1"), json!(null)] {
        assert_eq!(
            hash(json!({"modulus": 4, "remainder": remainder})),
            "$.remainder: remainder must be a whole number from 0 to 2147483647"
        );
    }
}

#[test]
fn details_agree_with_their_nouns() {
    let level = level(json!({"method": "range", "key": "int", "interval": "1 day"}));
    let detail = expand(&level, &input("t", NOW)).unwrap_err().detail;
    assert_eq!(detail.as_deref(), Some("The key \"int\" is an integer."));
    let detail = error(json!({"method": "range", "key": "id", "bounds": [1]})).detail;
    assert_eq!(detail.as_deref(), Some("Given: 1 point."));
}

#[test]
fn labels_lead_to_the_level_that_governs_a_table() {
    let level = level(example());
    let at = |labels: &[&str]| level.at(labels).map(|site: Site| site.path().to_owned());
    assert_eq!(at(&[]).unwrap(), "$");
    assert_eq!(at(&["2024"]).unwrap(), "$.partitions");
    assert_eq!(at(&["2031", "eu"]).unwrap(), "$.partitions.values.eu.partitions");
    assert_eq!(at(&["2024", "asia"]), None, "a value that the spec does not list has no partitions there");
}

/// Levels of every kind, as documents.
fn levels() -> impl Strategy<Value = Value> {
    let nodes = || prop_oneof![Just(Value::Null), Just(json!(["a"])), Just(json!(["local", "b", "b"]))];
    let leaf = prop_oneof![
        (1u32..9, nodes())
            .prop_map(|(n, nodes)| json!({"method": "hash", "key": ["id", "lower(x)"], "modulus": n, "nodes": nodes})),
        (0u32..5, any::<bool>()).prop_map(|(n, rest)| json!({"method": "range", "key": "day", "interval": "1 mon",
            "premake": n, "timezone": "Europe/Berlin", "start": "2020-01-01", "end": "2020-05-01", "default": rest})),
        (1i64..1000, nodes())
            .prop_map(|(n, nodes)| json!({"method": "range", "key": "id", "step": n, "start": -n, "nodes": nodes})),
        (1i64..1000).prop_map(|n| json!({"method": "range", "key": "id", "bounds": ["MINVALUE", 0, n, "MAXVALUE"]})),
        nodes().prop_map(
            |nodes| json!({"method": "list", "key": "region", "values": {"é \"x\"": ["x", null], "y": [1.5, true]},
            "name": "{label}_{parent}", "default": {"nodes": nodes}})
        ),
    ];
    leaf.prop_recursive(3, 12, 3, move |below| {
        prop_oneof![
            (below.clone(), below.clone(), nodes()).prop_map(|(a, b, nodes)| json!({"method": "list", "key": "region",
                "values": {"a": {"in": ["a"], "partitions": a, "nodes": nodes}, "c": ["c"], "d": {"in": [2], "partitions": false}},
                "partitions": b, "default": {"name": "{parent}_rest"}})),
            (below.clone(), below.clone()).prop_map(|(a, b)| json!({"method": "range", "key": ["id", "num"], "bounds": {
                "low": {"from": ["MINVALUE", "MINVALUE"], "to": [0, 0], "partitions": a},
                "high": {"from": [0, 0], "to": [1, "MAXVALUE"]}}, "partitions": b})),
            (below, 1u32..4).prop_map(|(a, n)| json!({"method": "Hash", "key": "id", "modulus": n, "partitions": a})),
        ]
    })
}

/// JSON of any shape, made of the words that a spec knows.
fn anything() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "method",
        "key",
        "range",
        "list",
        "hash",
        "interval",
        "1 day",
        "step",
        "bounds",
        "values",
        "modulus",
        "in",
        "from",
        "to",
        "partitions",
        "nodes",
        "default",
        "name",
        "{label}",
        "start",
        "end",
        "premake",
        "2024-01-01",
        "MINVALUE",
        "id",
        "day",
        "epoch",
        "s",
        "timezone",
        "UTC",
        "region",
        "9e99",
        "-1",
        "é",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-5i64..5).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..8)
                .prop_map(|members| members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn a_level_is_the_same_after_the_catalog(doc in levels()) {
        let level = parse(&doc).unwrap();
        let stored = level.to_json();
        let read = parse(&stored).unwrap();
        prop_assert_eq!(&read, &level);
        prop_assert_eq!(read.to_json(), stored);
    }

    #[test]
    fn nothing_makes_it_panic(doc in anything()) {
        if let Ok(level) = parse(&doc) {
            let mut input = common::input("t", "2024-01-01T00:00:00Z");
            input.max_leaves = 1000;
            let _ = shardkeeper_core::plan::expand(&level, &input);
        }
    }

    #[test]
    fn nothing_put_into_a_spec_makes_it_panic(doc in levels(), at in any::<prop::sample::Index>(), junk in anything()) {
        let mut doc = doc;
        let places = pointers(&doc, "");
        if let Some(slot) = doc.pointer_mut(&places[at.index(places.len())]) {
            *slot = junk;
        }
        let mut input = common::input("t", "2024-01-01T00:00:00Z");
        input.max_leaves = 1000;
        match parse(&doc).and_then(|level| shardkeeper_core::plan::expand(&level, &input)) {
            Ok(plan) => prop_assert!(plan.tree.leaves().count() <= 1000),
            Err(error) => prop_assert!(error.path.starts_with('$') && !error.message.ends_with('.'), "{}", error),
        }
    }
}

/// The JSON pointer of every value in a document.
fn pointers(doc: &Value, at: &str) -> Vec<String> {
    let below: Vec<(String, &Value)> = match doc {
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.replace('~', "~0").replace('/', "~1"), value)).collect()
        }
        Value::Array(items) => items.iter().enumerate().map(|(n, value)| (n.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    let deeper = below.iter().flat_map(|(name, value)| pointers(value, &format!("{at}/{name}")));
    std::iter::once(at.to_owned()).chain(deeper).collect()
}
