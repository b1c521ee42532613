//! The short form: arguments instead of a document, and errors that name them.

mod common;

use common::{input, level};
use serde_json::json;
use shardkeeper_core::parse;
use shardkeeper_core::plan::expand;
use shardkeeper_core::spec::{Level, ShortForm};

const NOW: &str = "2024-06-15T12:00:00Z";

#[test]
fn the_short_form_is_a_document_and_its_errors_name_arguments() {
    let short = |form| Level::short_form(form);
    let form = ShortForm {
        method: Some("hash".into()),
        key: Some(vec!["id".into()]),
        modulus: Some(4),
        ..ShortForm::default()
    };
    let document = level(json!({"method": "hash", "key": "id", "modulus": 4}));
    assert_eq!(short(form.clone()).unwrap().to_json(), document.to_json());
    assert_eq!(short(ShortForm { modulus: Some(0), ..form.clone() }).unwrap_err().path, "modulus");
    let list = ShortForm { method: Some("list".into()), modulus: None, lists: Some(json!({"a": []})), ..form.clone() };
    assert_eq!(short(list).unwrap_err().path, "lists.a");
    let default = ShortForm { default_partition: Some(true), ..form.clone() };
    assert_eq!(short(default).unwrap_err().path, "default_partition");
    let missing = |method: &str| short(ShortForm { method: Some(method.into()), modulus: None, ..form.clone() });
    assert_eq!(missing("hash").unwrap_err().to_string(), "\"modulus\" is missing");
    assert_eq!(missing("list").unwrap_err().to_string(), "\"lists\" is missing");
    let foreign = short(ShortForm { lists: Some(json!({"a": [1]})), ..form }).unwrap_err();
    assert_eq!(foreign.to_string(), "lists: a hash level has no argument \"lists\"");
    assert_eq!(foreign.detail.unwrap(), "Its arguments are method, key, nodes and modulus.");
}

#[test]
fn what_is_found_late_is_told_in_the_words_of_the_call() {
    let range = |form: ShortForm| {
        Level::short_form(ShortForm { method: Some("range".into()), key: Some(vec!["int".into()]), ..form })
    };
    let late = |form| expand(&range(form).unwrap(), &input("t", NOW)).unwrap_err().to_string();
    let bounds = |points| ShortForm { bounds: Some(points), ..ShortForm::default() };
    assert_eq!(late(bounds(json!([1, 5, 5]))), "bounds[2]: the bounds do not increase");
    assert_eq!(
        late(bounds(json!({"a": {"from": 1, "to": 5}, "b c": {"from": 4, "to": 9}}))),
        "bounds[\"b c\"]: the range overlaps with bounds.a"
    );
    let step = |until: &str| ShortForm { step: Some("10".into()), until: Some(until.into()), ..ShortForm::default() };
    assert_eq!(late(step("0")), "until: the end is not after the start");
    let foreign = ShortForm { until: Some("9".into()), ..bounds(json!([1, 5])) };
    assert_eq!(range(foreign).unwrap_err().to_string(), "until: \"until\" has no meaning with \"bounds\"");
    assert_eq!(late(step("99999999")), "the spec makes too many partitions");
}

#[test]
fn counters_have_one_name_in_both_forms() {
    let form = ShortForm {
        method: Some("hash".into()),
        key: Some(vec!["int".into()]),
        modulus: Some(2),
        nodes: Some(vec!["a".into()]),
        ..ShortForm::default()
    };
    let short = Level::short_form(form).unwrap();
    let plan = expand(&short, &input("t", NOW)).unwrap();
    assert_eq!(plan.dealt, expand(&parse(&short.to_json()).unwrap(), &input("t", NOW)).unwrap().dealt);
    assert_eq!(plan.dealt.keys().collect::<Vec<_>>(), ["$.nodes"]);
}
