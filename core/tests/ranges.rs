//! Written ranges: what is empty, what overlaps, and how their values are understood.

mod common;

use common::{error, plan, ranges};
use proptest::prelude::*;
use serde_json::{Value, json};

fn bounds(key: Value, bounds: Value) -> Value {
    json!({"method": "range", "key": key, "bounds": bounds})
}

#[test]
fn points_make_consecutive_ranges() {
    let plan = plan(bounds(json!("id"), json!(["MINVALUE", -5, 0, 1e3, "MAXVALUE"]))).unwrap();
    assert_eq!(ranges(&plan), ["min MINVALUE..-5", "m5 -5..0", "0 0..1000", "1000 1000..MAXVALUE"]);
    let error = error(bounds(json!("id"), json!([1, 3, 2])));
    assert_eq!((error.path.as_str(), error.message.as_str()), ("$.bounds[2]", "the bounds do not increase"));
}

#[test]
fn points_of_several_columns_are_arrays() {
    let doc = bounds(json!(["id", "day"]), json!([[1, "MINVALUE"], [1, "2024-01-01"], [2, "MAXVALUE"]]));
    assert_eq!(
        ranges(&plan(doc).unwrap()),
        ["1_min 1,MINVALUE..1,2024-01-01", "1_2024_01_01 1,2024-01-01..2,MAXVALUE"]
    );
    let wrong = error(bounds(json!(["id", "day"]), json!([[1], [2]])));
    assert_eq!(wrong.message, "a range bound needs one value per key column");
    let wrong = error(bounds(json!(["id", "num"]), json!([["MINVALUE", 3], [2, 1]])));
    assert_eq!(
        (wrong.path.as_str(), wrong.message.as_str()),
        ("$.bounds[0][1]", "every bound following MINVALUE must also be MINVALUE")
    );
}

#[test]
fn times_without_an_offset_are_in_the_zone_of_the_level() {
    let doc = json!({"method": "range", "key": "tz", "timezone": "Europe/Berlin", "bounds": ["2024-01-01", "2024-07-01 06:00", "2024-08-01T00:00:00Z"]});
    assert_eq!(
        ranges(&plan(doc).unwrap()),
        [
            "2024_01_01 2024-01-01 00:00:00+01..2024-07-01 06:00:00+02",
            "2024_07_01_0600 2024-07-01 06:00:00+02..2024-08-01 02:00:00+02",
        ]
    );
}

#[test]
fn empty_and_overlapping_ranges_are_named() {
    let empty = error(bounds(json!("day"), json!({"a": {"from": "2024-01-01", "to": "2024-01-01"}})));
    assert_eq!((empty.path.as_str(), empty.message.as_str()), ("$.bounds.a", "the range is empty"));
    let overlap = error(bounds(
        json!("day"),
        json!({
        "a": {"from": "2024-01-01", "to": "2024-03-01"}, "b": {"from": "2025-01-01", "to": "2026-01-01"},
        "c": {"from": "2024-02-01", "to": "2024-04-01"}}),
    ));
    assert_eq!((overlap.path.as_str(), overlap.message.as_str()), ("$.bounds.c", "the range overlaps with $.bounds.a"));
    assert_eq!(
        overlap.detail.unwrap(),
        "$.bounds.a is from ('2024-01-01') to ('2024-03-01'), $.bounds.c is from ('2024-02-01') to ('2024-04-01')."
    );
}

#[test]
fn the_order_of_texts_is_left_to_postgres() {
    let doc = |to: &str| bounds(json!("region"), json!({"a": {"from": "a", "to": to}}));
    assert!(plan(doc("B")).is_ok());
    assert_eq!(error(doc("a")).message, "the range is empty");
}

#[test]
fn values_that_are_none_of_the_key_are_named() {
    let message = |key: &str, value: Value| {
        let error = error(bounds(json!(key), json!({"a": {"from": value, "to": "MAXVALUE"}})));
        assert_eq!(error.path, "$.bounds.a.from");
        error.message
    };
    assert_eq!(message("id", json!("abc")), "\"abc\" is not a valid bigint");
    assert_eq!(message("small", json!(40_000)), "40000 is not a valid smallint");
    assert_eq!(message("day", json!("2024-02-30")), "\"2024-02-30\" is not a valid date");
    assert_eq!(message("day", json!("2024-01-01 06:00")), "\"2024-01-01 06:00\" is not a valid date");
    assert_eq!(message("uuid", json!("xyz")), "\"xyz\" is not a valid uuid");
    assert_eq!(message("flag", json!("maybe")), "\"maybe\" is not a valid boolean");
    assert_eq!(message("num", json!(true)), "true is not a valid numeric");
}

#[test]
fn infinities_are_beyond_every_value() {
    for key in ["day", "at", "tz"] {
        let points = json!(["-infinity", "2024-01-01", "infinity", "MAXVALUE"]);
        assert_eq!(plan(bounds(json!(key), points)).unwrap().tree.leaves().count(), 3);
    }
    for key in ["num", "float"] {
        assert_eq!(
            plan(bounds(json!(key), json!(["-inf", "-1e-5", 0, "1e5", "inf", "nan"]))).unwrap().tree.leaves().count(),
            5
        );
    }
}

/// A limit of a column: half-steps are keys that exist between two bounds.
const MIN: i32 = -100;
const MAX: i32 = 100;

fn limit(n: i32) -> Value {
    match n {
        MIN => json!("MINVALUE"),
        MAX => json!("MAXVALUE"),
        n => json!(n),
    }
}

fn column() -> impl Strategy<Value = i32> {
    prop_oneof![1 => Just(MIN), 6 => 0i32..5, 1 => Just(MAX)]
}

fn edge() -> impl Strategy<Value = (i32, i32)> {
    (column(), column()).prop_map(|(a, b)| if a == MIN || a == MAX { (a, a) } else { (a, b) })
}

proptest! {
    #[test]
    fn ranges_are_refused_exactly_when_a_key_has_none_or_two(edges in prop::collection::vec((edge(), edge()), 1..5)) {
        // Keys on a grid of half and quarter steps; a lower bound is inclusive, and MINVALUE is below all keys.
        let keys = || (-2..12).flat_map(|a| (-2..12).map(move |b| (f64::from(a) / 2.0, f64::from(b) / 2.0)));
        let holds = |(from, to): &((i32, i32), (i32, i32)), key: (f64, f64)| {
            let at = |edge: (i32, i32)| (f64::from(edge.0), f64::from(edge.1));
            at(*from) <= key && key < at(*to)
        };
        let empty = edges.iter().any(|range| !keys().any(|key| holds(range, key)));
        let twice = keys().any(|key| edges.iter().filter(|range| holds(range, key)).count() > 1);
        let parts: Value = edges.iter().enumerate().map(|(n, (from, to))| {
            let pair = |edge: &(i32, i32)| json!([limit(edge.0), limit(edge.1)]);
            (format!("p{n}"), json!({"from": pair(from), "to": pair(to)}))
        }).collect::<serde_json::Map<_, _>>().into();
        let result = plan(bounds(json!(["num", "float"]), parts));
        prop_assert_eq!(result.is_err(), empty || twice, "{:?}", result);
    }

    #[test]
    fn whole_numbers_are_ordered_as_numbers(mut points in prop::collection::hash_set(any::<i64>(), 2..20)) {
        let mut sorted: Vec<_> = points.drain().collect();
        sorted.sort_unstable();
        let texts: Vec<_> = sorted.iter().map(|n| json!(n.to_string())).collect();
        prop_assert!(plan(bounds(json!("id"), json!(texts))).is_ok());
        prop_assert!(plan(bounds(json!("num"), json!(texts))).is_ok());
        let reversed: Vec<_> = texts.iter().rev().collect();
        prop_assert!(plan(bounds(json!("id"), json!(reversed))).is_err());
    }
}
