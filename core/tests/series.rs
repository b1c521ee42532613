//! Periods and steps: where they begin, what they are called, and what they never do.

mod common;

use std::collections::{BTreeMap, HashSet};

use common::{error, plan, plan_at, ranges};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use shardkeeper_core::plan::{Bound, DEFAULT_MAX_LEAVES, Limit, PlanInput, expand, parse_bound};
use shardkeeper_core::{KeyKind, SpecError, parse};

fn interval(key: &str, interval: &str, more: Value) -> Value {
    let mut doc = json!({"method": "range", "key": key, "interval": interval, "premake": 1});
    for (name, value) in more.as_object().into_iter().flatten() {
        doc[name] = value.clone();
    }
    doc
}

/// At noon UTC on Saturday 2024-06-15.
fn now(doc: Value) -> Vec<String> {
    ranges(&plan(doc).unwrap())
}

#[test]
fn months_begin_with_the_calendar() {
    assert_eq!(
        now(interval("day", "1 month", json!({}))),
        ["2024_06 2024-06-01..2024-07-01", "2024_07 2024-07-01..2024-08-01"]
    );
    assert_eq!(now(interval("day", "3 mons", json!({})))[0], "2024_04 2024-04-01..2024-07-01");
    assert_eq!(now(interval("day", "1 year 6 mons", json!({})))[0], "2023_07 2023-07-01..2025-01-01");
    assert_eq!(now(interval("day", "P10Y", json!({})))[0], "2020 2020-01-01..2030-01-01");
}

#[test]
fn weeks_begin_on_mondays_and_days_with_1970() {
    assert_eq!(now(interval("day", "1 week", json!({})))[0], "2024_06_10 2024-06-10..2024-06-17");
    assert_eq!(now(interval("day", "3 days", json!({})))[0], "2024_06_13 2024-06-13..2024-06-16");
}

#[test]
fn parts_of_a_day_begin_at_midnight() {
    assert_eq!(
        now(interval("at", "06:00:00", json!({})))[0],
        "2024_06_15_1200 2024-06-15 12:00:00..2024-06-15 18:00:00"
    );
    assert_eq!(
        now(interval("tz", "15 minutes", json!({"timezone": "Asia/Kolkata"})))[0],
        "2024_06_15_1730 2024-06-15 17:30:00+05:30..2024-06-15 17:45:00+05:30"
    );
    assert_eq!(
        now(interval("at", "10 s", json!({"start": "2024-06-15 11:59:55"})))[0],
        "2024_06_15_115955 2024-06-15 11:59:55..2024-06-15 12:00:05"
    );
}

#[test]
fn a_start_is_the_first_bound_and_ends_of_months_do_not_wander() {
    let doc = interval("day", "1 month", json!({"start": "2024-01-31", "end": "2024-05-01"}));
    assert_eq!(
        now(doc),
        [
            "2024_01 2024-01-31..2024-02-29",
            "2024_02 2024-02-29..2024-03-31",
            "2024_03 2024-03-31..2024-04-30",
            "2024_04 2024-04-30..2024-05-31",
        ]
    );
}

#[test]
fn a_start_in_the_future_is_where_it_starts() {
    let doc = interval("day", "1 year", json!({"start": "2030-01-01"}));
    assert_eq!(now(doc), ["2030 2030-01-01..2031-01-01", "2031 2031-01-01..2032-01-01"]);
}

#[test]
fn an_end_replaces_premake() {
    let through = |end| now(interval("day", "1 month", json!({"start": "2024-01-01", "end": end}))).len();
    assert_eq!((through("2024-03-01"), through("2024-03-02")), (2, 3));
}

#[test]
fn days_in_a_zone_carry_its_offset_on_each_side_of_a_change_of_clocks() {
    let doc = interval("tz", "1 day", json!({"timezone": "Europe/Berlin"}));
    let plan = plan_at(doc, "2024-03-30T23:30:00Z").unwrap();
    assert_eq!(ranges(&plan)[0], "2024_03_31 2024-03-31 00:00:00+01..2024-04-01 00:00:00+02");
}

#[test]
fn an_hour_that_the_clock_skips_has_no_partition_and_one_that_it_repeats_has_one() {
    let hours = |now| {
        let doc = interval("tz", "1 hour", json!({"timezone": "Europe/Berlin", "premake": 2}));
        ranges(&plan_at(doc, now).unwrap())
    };
    assert_eq!(
        hours("2024-03-31T00:30:00Z"),
        [
            "2024_03_31_0100 2024-03-31 01:00:00+01..2024-03-31 03:00:00+02",
            "2024_03_31_0300 2024-03-31 03:00:00+02..2024-03-31 04:00:00+02",
        ]
    );
    assert_eq!(hours("2024-10-27T01:30:00Z")[0], "2024_10_27_0200 2024-10-27 02:00:00+02..2024-10-27 03:00:00+01");
}

#[test]
fn a_start_with_an_offset_means_that_instant() {
    let doc = interval("tz", "1 day", json!({"timezone": "Europe/Berlin", "start": "2024-06-13T22:00:00Z"}));
    assert_eq!(now(doc)[0], "2024_06_14 2024-06-14 00:00:00+02..2024-06-15 00:00:00+02");
    let doc = interval("tz", "1 day", json!({"timezone": "Europe/Berlin", "start": "2024-10-27 02:30:00+01"}));
    assert_eq!(error(doc).message, "the start is in an hour that the clock repeats");
}

#[test]
fn uuids_and_epochs_are_called_by_their_time() {
    assert_eq!(
        now(interval("uuid", "1 month", json!({"start": "2024-01-01"})))[0],
        "2024_01 018cc251-f400-0000-0000-000000000000..018d61f7-1800-0000-0000-000000000000"
    );
    assert_eq!(now(interval("id", "1 day", json!({"epoch": "ms"})))[0], "2024_06_15 1718409600000..1718496000000");
    assert_eq!(
        now(interval("int", "1 day", json!({"epoch": "s", "start": 1718409600})))[0],
        "2024_06_15 1718409600..1718496000"
    );
}

#[test]
fn steps_are_exact() {
    let step = |key: &str, more: Value| {
        let mut doc = json!({"method": "range", "key": key, "premake": 1});
        for (name, value) in more.as_object().into_iter().flatten() {
            doc[name] = value.clone();
        }
        ranges(&plan(doc).unwrap())
    };
    assert_eq!(step("id", json!({"step": 1000})), ["0 0..1000", "1000 1000..2000"]);
    assert_eq!(step("id", json!({"step": "500", "start": -500})), ["m500 -500..0", "0 0..500"]);
    assert_eq!(step("num", json!({"step": 0.1, "start": 0.3})), ["0_3 0.3..0.4", "0_4 0.4..0.5"]);
    assert_eq!(step("id", json!({"step": 10, "end": 25})).len(), 3);
    assert_eq!(step("id", json!({"step": 10, "end": 20})).len(), 2);
    assert_eq!(
        step("id", json!({"step": "4611686018427387903", "end": "9223372036854775806"})).len(),
        2,
        "up to the last whole step of a bigint"
    );
}

#[test]
fn what_a_key_cannot_hold_is_refused() {
    let message = |doc| error(doc).message;
    assert_eq!(message(interval("day", "06:00:00", json!({}))), "the interval of a date key has a part of a day");
    assert_eq!(message(interval("id", "1 day", json!({}))), "an interval on a number needs \"epoch\"");
    assert_eq!(message(interval("region", "1 day", json!({}))), "an interval needs a key that is a time");
    assert_eq!(message(interval("day", "1 day", json!({"epoch": "s"}))), "\"epoch\" is for integer and numeric keys");
    assert_eq!(message(interval("nobody", "1 day", json!({}))), "the type of the key \"nobody\" is not known");
    assert_eq!(message(interval("id", "0.5 s", json!({"epoch": "s"}))), "the periods are finer than the key");
    assert_eq!(message(interval("day", "1 mon 1 day", json!({}))), "an interval of 1 mon 1 day needs a start");
    assert_eq!(message(interval("day", "1 day", json!({"end": "2020-01-01"}))), "the end is before the current period");
    assert_eq!(
        message(interval("uuid", "1 day", json!({"start": "1960-01-01"}))),
        "a uuid of version 7 begins with a time after 1970"
    );
    assert_eq!(
        message(interval("int", "1 year", json!({"epoch": "s", "start": "2038-01-01"}))),
        "a bound is beyond the integer type of the key"
    );
    assert_eq!(
        message(interval("day", "9000 years", json!({}))),
        "the partitions leave the range of years from 1 to 9999"
    );
    let step = |key, step: Value| message(json!({"method": "range", "key": key, "step": step}));
    assert_eq!(step("small", json!(20000)), "the partitions leave the range of the key");
    assert_eq!(step("id", json!(0.5)), "0.5 is not a whole number");
    assert_eq!(step("day", json!(5)), "a step needs an integer or numeric key");
}

#[test]
fn a_bound_off_the_series_has_an_exacter_label() {
    let doc = interval("tz", "1 month", json!({}));
    let label = |from| added(&doc, KeyKind::TimestampTz, from, "2024-03-01 00:00:00+00").label;
    assert_eq!(label("2024-02-01 00:00:00+00"), "2024_02");
    assert_eq!(label("2024-02-15 00:00:00+00"), "2024_02_15");
    assert_eq!(label("2024-02-15 06:30:00+00"), "2024_02_15_0630");
}

/// A range and its label.
#[derive(Clone, Debug, PartialEq)]
struct Slot {
    label: String,
    from: String,
    to: String,
}

impl Slot {
    fn of(label: String, bound: &Bound) -> Self {
        let Bound::Range { from, to } = bound else { panic!("{bound:?}") };
        let ([Limit::Value(from), ..], [Limit::Value(to), ..]) = (&from[..], &to[..]) else { panic!("{bound:?}") };
        Self { label, from: from.clone(), to: to.clone() }
    }
}

/// What a plan depends on, with keys of this kind, so many seconds after 1970.
fn input(kind: &dyn Fn(&str) -> Option<KeyKind>, now: i64) -> PlanInput<'_> {
    let now = Timestamp::from_second(now).unwrap();
    PlanInput { root: "t", now, kind, dealt: BTreeMap::new(), max_leaves: DEFAULT_MAX_LEAVES }
}

/// The partitions of a new table, so many seconds after 1970.
fn slots(doc: &Value, kind: KeyKind, now: i64) -> Result<Vec<Slot>, SpecError> {
    let plan = expand(&parse(doc)?, &input(&|_| Some(kind), now))?;
    Ok(plan.tree.partitions.into_iter().map(|made| Slot::of(made.label, &made.bound)).collect())
}

/// The partition with these bounds, as it is added later.
fn added(doc: &Value, kind: KeyKind, from: &str, to: &str) -> Slot {
    let level = parse(doc).unwrap();
    let new = parse_bound(&level.site(), &json!({"from": from, "to": to}), &input(&|_| Some(kind), 0)).unwrap();
    Slot::of(new.label, &new.bound)
}

const ZONES: &[&str] = &[
    "UTC",
    "Europe/Berlin",
    "America/Sao_Paulo",
    "Pacific/Apia",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Monrovia",
    "America/St_Johns",
    "Africa/Casablanca",
    "Asia/Pyongyang",
    "America/New_York",
];

fn some_level() -> impl Strategy<Value = (Value, KeyKind, i64)> {
    let unit = prop_oneof![
        Just("month"),
        Just("year"),
        Just("week"),
        Just("day"),
        Just("hour"),
        Just("minute"),
        Just("second")
    ];
    let kind = prop_oneof![
        Just((KeyKind::Date, None)),
        Just((KeyKind::Timestamp, None)),
        Just((KeyKind::TimestampTz, None)),
        Just((KeyKind::Uuid, None)),
        Just((KeyKind::Integer { bits: 64 }, Some("ns"))),
        Just((KeyKind::Numeric, Some("s"))),
    ];
    // From 2009 to 2099, and around the changes of clocks of 2011 (when Samoa lost a day) more often.
    let now = prop_oneof![1_241_136_000i64..4_070_908_800, 1_293_840_000i64..1_325_376_000];
    (1u32..100, unit, kind, 0..ZONES.len(), now, any::<bool>(), 0u32..60).prop_map(
        |(n, unit, (kind, epoch), zone, now, start, premake)| {
            let unit = if kind == KeyKind::Date && ["hour", "minute", "second"].contains(&unit) { "day" } else { unit };
            let n = if unit == "year" { n % 5 + 1 } else { n };
            let premake = if unit == "year" { premake % 10 } else { premake };
            let mut doc = json!({"method": "range", "key": "k", "interval": format!("{n} {unit}"),
                "timezone": ZONES[zone], "premake": premake});
            if let Some(epoch) = epoch {
                doc["epoch"] = epoch.into();
            }
            if start && ["day", "week", "month", "year"].contains(&unit) {
                doc["start"] = json!("2009-01-31");
            }
            (doc, kind, now)
        },
    )
}

proptest! {
    #[test]
    fn slots_follow_each_other_and_are_called_the_same_when_added((doc, kind, now) in some_level()) {
        let slots = match slots(&doc, kind, now) {
            Ok(slots) => slots,
            // 99 years from 2099 on, in nanoseconds of a bigint.
            Err(error) => { prop_assert!(error.message.contains("beyond"), "{error}"); return Ok(()) }
        };
        prop_assert!(!slots.is_empty());
        let labels: HashSet<_> = slots.iter().map(|slot| &slot.label).collect();
        prop_assert_eq!(labels.len(), slots.len(), "labels are distinct");
        for pair in slots.windows(2) {
            prop_assert_eq!(&pair[0].to, &pair[1].from);
        }
        for slot in slots.iter().take(20) {
            prop_assert!(before(kind, slot), "{:?}", slot);
            prop_assert_eq!(&added(&doc, kind, &slot.from, &slot.to), slot);
        }
    }

    #[test]
    fn the_current_slot_does_not_depend_on_when_the_series_was_made((doc, kind, now) in some_level(), later in 0i64..864_000) {
        if let (Ok(early), Ok(late)) = (slots(&doc, kind, now), slots(&doc, kind, now + later)) {
            let both: Vec<_> = early.iter().filter(|slot| late.iter().any(|other| other.from == slot.from)).collect();
            prop_assert!(both.iter().all(|slot| late.contains(slot)));
            prop_assert!(doc.get("start").is_none() || late.starts_with(&early));
        }
    }

    #[test]
    fn steps_tile_the_numbers(step in 1i64..1_000_000, start in -1_000_000i64..1_000_000, reach in 1i64..1_000_000, scale in 0u32..4) {
        let decimal = |n: i64| format!("{n}e-{scale}");
        let (step, reach) = (step.max(reach / 500), reach);
        let doc = json!({"method": "range", "key": "k", "step": decimal(step), "start": decimal(start), "end": decimal(start + reach)});
        let slots = slots(&doc, KeyKind::Numeric, 0).unwrap();
        prop_assert_eq!(slots.len() as i64, (reach + step - 1) / step);
        for pair in slots.windows(2) {
            prop_assert_eq!(&pair[0].to, &pair[1].from);
        }
        let number = |text: &str| (text.parse::<f64>().unwrap() * 10f64.powi(scale as i32)).round() as i64;
        let (first, last, end) = (&slots[0], &slots[slots.len() - 1], start + reach);
        prop_assert_eq!(number(&first.from), start);
        prop_assert!(number(&last.from) < end && end <= number(&last.to), "the last one reaches the end: {:?}", last);
    }
}

/// Whether the bounds increase, judged from their texts alone.
fn before(kind: KeyKind, slot: &Slot) -> bool {
    match kind {
        KeyKind::Integer { .. } | KeyKind::Numeric => slot.from.parse::<i128>().unwrap() < slot.to.parse().unwrap(),
        KeyKind::TimestampTz => {
            let instant = |text: &str| text.parse::<Timestamp>().unwrap();
            instant(&slot.from) < instant(&slot.to)
        }
        _ => slot.from < slot.to,
    }
}
