//! Partitions as time goes on: at each instant there is no gap, enough ahead, and nothing too old.

mod common;

use common::level;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde_json::{Value, json};
use shardkeeper_core::plan::{self, Bound, Limit, PlanInput, Ranges, expand};
use shardkeeper_core::{KeyKind, Level};
use std::collections::BTreeMap;

const PREMAKE: u32 = 3;
const MOST: usize = 1000;

fn input<'a>(now: Timestamp, kind: &'a dyn Fn(&str) -> Option<KeyKind>) -> PlanInput<'a> {
    PlanInput { root: "t", now, kind, dealt: BTreeMap::new(), max_leaves: plan::DEFAULT_MAX_LEAVES }
}

/// A table's partitions, kept as a worker keeps them.
struct Table {
    level: Level,
    kind: KeyKind,
    limits: Vec<(Limit, Limit)>,
    names: Vec<String>,
    newest: Option<String>,
}

impl Table {
    fn new(doc: Value, kind: KeyKind) -> Self {
        Self { level: level(doc), kind, limits: Vec::new(), names: Vec::new(), newest: None }
    }

    fn keep(&mut self, now: Timestamp, retention: &str) {
        let kind = |_: &str| Some(self.kind);
        let input = input(now, &kind);
        let site = self.level.site();
        let ranges = Ranges { limits: &self.limits, newest: self.newest.as_deref() };
        let missing = plan::missing(&site, ranges, Some(PREMAKE), MOST, &input).unwrap().unwrap();
        for new in missing {
            let Bound::Range { mut from, mut to } = new.bound else { panic!("a range") };
            self.limits.push((from.remove(0), to.remove(0)));
            assert!(!self.names.contains(&new.label), "{} again", new.label);
            self.names.push(new.label);
        }
        let ranges = Ranges { limits: &self.limits, newest: self.newest.as_deref() };
        let expired = plan::expired(&site, ranges, retention, &input).unwrap();
        let mut expired = expired.into_iter();
        self.limits.retain(|_| !expired.next().unwrap());
        let ranges = Ranges { limits: &self.limits, newest: self.newest.as_deref() };
        let ahead = plan::ahead(&site, ranges, &input).unwrap().unwrap();
        assert!(ahead >= u128::from(PREMAKE), "{ahead} ahead at {now}");
    }

    fn no_gap(&self) {
        for pair in self.limits.windows(2) {
            assert_eq!(pair[0].1, pair[1].0);
        }
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Three years in strides, over leap days and all changes of the clock.
fn walk(doc: Value, kind: KeyKind, stride: SignedDuration, retention: &str, kept: SignedDuration) {
    let mut table = Table::new(doc.clone(), kind);
    let zone = doc["timezone"].as_str().unwrap_or("UTC").to_owned();
    let tz = TimeZone::get(&zone).unwrap();
    let (mut now, end) = (at("2023-01-01T00:00:00Z"), at("2026-01-02T00:00:00Z"));
    let mut all = BTreeMap::new();
    while now < end {
        table.keep(now, retention);
        table.no_gap();
        for (from, to) in &table.limits {
            let (Limit::Value(from), Limit::Value(to)) = (from, to) else { panic!("a value") };
            all.insert(instant(from, &tz), instant(to, &tz));
        }
        // The current instant has its place, and nothing that ended before the retention is left.
        let place = all.range(..=now).next_back().unwrap();
        assert!(*place.1 > now, "{now} has no partition");
        let Limit::Value(oldest) = &table.limits[0].1 else { panic!("a value") };
        assert!(instant(oldest, &tz) + kept > now, "{oldest} at {now}");
        now += stride;
    }
    // The same boundaries as a table would have that was made at once.
    let kind = |_: &str| Some(kind);
    let mut whole = doc;
    whole["start"] = json!(table_start(&all));
    whole["end"] = json!("2026-01-01T00:00:00Z");
    let tree = expand(&level(whole), &input(now, &kind)).unwrap().tree;
    let made: Vec<Timestamp> = tree
        .partitions
        .iter()
        .map(|partition| {
            let Bound::Range { from, .. } = &partition.bound else { panic!("a range") };
            let Limit::Value(from) = &from[0] else { panic!("a value") };
            instant(from, &tz)
        })
        .collect();
    let walked: Vec<Timestamp> = all.into_keys().filter(|from| *from < at("2026-01-01T00:00:00Z")).collect();
    assert_eq!(walked, made);
}

fn table_start(all: &BTreeMap<Timestamp, Timestamp>) -> String {
    all.keys().next().unwrap().to_string()
}

/// A bound as an instant: with an offset, or of the wall clock.
fn instant(bound: &str, tz: &TimeZone) -> Timestamp {
    let text = bound.replacen(' ', "T", 1);
    text.parse().or_else(|_| format!("{text}:00").parse()).unwrap_or_else(|_| {
        let civil: jiff::civil::DateTime = text.parse().unwrap();
        tz.to_timestamp(civil).unwrap()
    })
}

fn hours(count: i64) -> SignedDuration {
    SignedDuration::from_hours(count)
}

fn doc(interval: &str, zone: &str) -> Value {
    json!({"method": "range", "key": "at", "interval": interval, "timezone": zone})
}

#[test]
fn hours_and_half_hours_are_kept_over_changes_of_the_clock() {
    for zone in ["Europe/Berlin", "America/New_York"] {
        walk(doc("1 hour", zone), KeyKind::TimestampTz, hours(1), "4 hours", hours(6));
    }
    walk(doc("30 minutes", "Australia/Lord_Howe"), KeyKind::TimestampTz, hours(1), "4 hours", hours(6));
}

#[test]
fn days_and_weeks_are_kept() {
    for zone in ["Europe/Berlin", "America/New_York"] {
        walk(doc("1 day", zone), KeyKind::TimestampTz, hours(7), "30 days", hours(31 * 24 + 2));
        walk(doc("1 week", zone), KeyKind::TimestampTz, hours(7), "8 weeks", hours(9 * 7 * 24 + 2));
    }
}

#[test]
fn months_quarters_and_years_are_kept() {
    for zone in ["Europe/Berlin", "America/New_York"] {
        walk(doc("1 month", zone), KeyKind::TimestampTz, hours(7), "3 months", hours(93 * 24));
        walk(doc("3 months", zone), KeyKind::TimestampTz, hours(7), "1 year", hours(366 * 24 + 2));
        walk(doc("1 year", zone), KeyKind::TimestampTz, hours(25), "1 year", hours(366 * 24 + 2));
    }
}

/// A number grows with the rows, and not with the clock.
#[test]
fn numbers_are_kept_by_their_rows() {
    let doc = json!({"method": "range", "key": "id", "step": 1000, "start": 500});
    let mut table = Table::new(doc, KeyKind::Integer { bits: 64 });
    let now = at("2024-01-01T00:00:00Z");
    for turn in 0..200i64 {
        table.newest = (turn > 0).then(|| (500 + turn * 1000).to_string());
        table.keep(now, "5000");
        table.no_gap();
    }
    let last = table.limits.last().unwrap();
    assert_eq!(last.1, Limit::Value((500 + (199 + i64::from(PREMAKE) + 1) * 1000).to_string()));
    assert_eq!(table.limits.len(), 5 + 1 + PREMAKE as usize);
}

fn limits(pairs: &[(&str, &str)]) -> Vec<(Limit, Limit)> {
    let limit = |text: &str| match text {
        "MINVALUE" => Limit::MinValue,
        "MAXVALUE" => Limit::MaxValue,
        text => Limit::Value(text.into()),
    };
    pairs.iter().map(|(from, to)| (limit(from), limit(to))).collect()
}

fn missing(interval: &str, have: &[(&str, &str)], newest: Option<&str>, premake: u32, now: &str) -> Vec<String> {
    let level = level(doc(interval, "UTC"));
    let kind = |_: &str| Some(KeyKind::Date);
    let limits = limits(have);
    let ranges = Ranges { limits: &limits, newest };
    let found = plan::missing(&level.site(), ranges, Some(premake), MOST, &input(at(now), &kind)).unwrap().unwrap();
    found
        .into_iter()
        .map(|new| {
            let Bound::Range { from, to } = new.bound else { panic!("a range") };
            let (Limit::Value(from), Limit::Value(to)) = (&from[0], &to[0]) else { panic!("values") };
            format!("{} {from}..{to}", new.label)
        })
        .collect()
}

#[test]
fn gaps_are_filled_and_rests_of_periods_too() {
    let have = [("2024-01-01", "2024-02-01"), ("2024-03-10", "2024-04-01")];
    assert_eq!(
        missing("1 month", &have, None, 1, "2024-03-20T00:00:00Z"),
        ["2024_02 2024-02-01..2024-03-01", "2024_03 2024-03-01..2024-03-10", "2024_04 2024-04-01..2024-05-01"]
    );
    let wide = [("MINVALUE", "2024-02-10")];
    assert_eq!(
        missing("1 month", &wide, None, 0, "2024-03-20T00:00:00Z"),
        ["2024_02_10 2024-02-10..2024-03-01", "2024_03 2024-03-01..2024-04-01"]
    );
    assert!(missing("1 month", &[("2024-01-01", "MAXVALUE")], None, 5, "2024-03-20T00:00:00Z").is_empty());
    assert!(missing("1 month", &[("MINVALUE", "MAXVALUE")], None, 5, "2024-03-20T00:00:00Z").is_empty());
}

#[test]
fn rows_ahead_of_the_clock_count_and_a_table_that_begins_later_gets_the_current_period() {
    let have = [("2024-03-01", "2024-04-01"), ("2024-04-01", "2024-05-01")];
    assert_eq!(
        missing("1 month", &have, Some("2024-04-01"), 1, "2024-03-20T00:00:00Z"),
        ["2024_05 2024-05-01..2024-06-01"]
    );
    // A clock that is wrong makes no more than it needs.
    assert_eq!(
        missing("1 month", &have, Some("2024-04-01"), 0, "1970-01-20T00:00:00Z"),
        ["1970_01 1970-01-01..1970-02-01"]
    );
    let later = [("2024-05-01", "2024-06-01")];
    assert_eq!(
        missing("1 month", &later, None, 1, "2024-03-20T00:00:00Z"),
        ["2024_03 2024-03-01..2024-04-01", "2024_04 2024-04-01..2024-05-01"]
    );
}

#[test]
fn a_series_with_an_end_stops_there() {
    let level = level(
        json!({"method": "range", "key": "at", "interval": "1 month", "start": "2024-01-01", "end": "2024-03-01"}),
    );
    let kind = |_: &str| Some(KeyKind::Date);
    let have = limits(&[("2024-01-01", "2024-02-01")]);
    let ranges = Ranges { limits: &have, newest: None };
    let input = input(at("2025-01-01T00:00:00Z"), &kind);
    let found = plan::missing(&level.site(), ranges, Some(4), MOST, &input).unwrap().unwrap();
    assert_eq!(found.len(), 1);
    let all = limits(&[("2024-01-01", "2024-03-01")]);
    let ranges = Ranges { limits: &all, newest: None };
    assert_eq!(plan::ahead(&level.site(), ranges, &input).unwrap(), None);
}

/// A converted table's wide first partition goes when all of it is too old.
#[test]
fn what_is_too_old_is_told_by_real_bounds() {
    let level = level(doc("1 month", "UTC"));
    let kind = |_: &str| Some(KeyKind::Date);
    let have = limits(&[("MINVALUE", "2024-03-15"), ("2024-03-15", "2024-04-01"), ("2024-04-01", "MAXVALUE")]);
    let ranges = Ranges { limits: &have, newest: None };
    let expired = |now: &str| plan::expired(&level.site(), ranges, "1 month", &input(at(now), &kind)).unwrap();
    assert_eq!(expired("2024-04-14T23:59:59Z"), [false, false, false]);
    assert_eq!(expired("2024-04-15T00:00:00Z"), [true, false, false]);
    assert_eq!(expired("2034-04-15T00:00:00Z"), [true, true, false]);
    let wrong = plan::expired(&level.site(), ranges, "soon", &input(at("2024-04-14T00:00:00Z"), &kind)).unwrap_err();
    assert_eq!((wrong.path.as_str(), wrong.message.as_str()), ("$.retention", "\"soon\" is not an interval"));
}
