//! A batch of changes leaves a target as the changes one by one leave it.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;
use shardkeeper_core::apply::{ApplyError, Batch, Outcome, Patch};
use shardkeeper_core::pgoutput::Value;

type Row = Vec<Value>;

fn text(value: impl ToString) -> Value {
    Value::Text(value.to_string().into_bytes())
}

/// A row of texts; `-` is an unchanged value.
fn row(values: &str) -> Row {
    values.split(' ').map(|value| if value == "-" { Value::Unchanged } else { text(value) }).collect()
}

/// A batch of rows whose first column is the key.
fn batch() -> Batch {
    Batch::new(vec![0])
}

fn outcome(deletes: &[&str], patches: &[(&str, &[(usize, &str)])], rows: &[&str]) -> Outcome {
    let patch = |(key, set): &(&str, &[(usize, &str)])| Patch {
        key: row(key),
        set: set.iter().map(|(column, value)| (*column, text(value))).collect(),
    };
    Outcome {
        deletes: deletes.iter().map(|key| row(key)).collect(),
        patches: patches.iter().map(patch).collect(),
        rows: rows.iter().map(|values| row(values)).collect(),
    }
}

#[test]
fn a_row_of_the_batch_needs_no_delete() {
    let mut batch = batch();
    assert!(batch.is_empty());
    assert_eq!(batch.insert(row("1 a b")), Ok(()));
    assert_eq!(batch.update(None, row("1 c -")), Ok(()));
    assert_eq!(batch.insert(row("2 a b")), Ok(()));
    assert_eq!(batch.delete(row("2")), Ok(()));
    assert_eq!(batch.len(), 2);
    assert_eq!(batch.finish(), outcome(&[], &[], &["1 c b"]));
}

#[test]
fn a_row_of_the_target_is_deleted_once() {
    let mut batch = batch();
    assert_eq!(batch.update(None, row("1 a b")), Ok(()));
    assert_eq!(batch.delete(row("1")), Ok(()));
    assert_eq!(batch.insert(row("1 c d")), Ok(()));
    assert_eq!(batch.update(None, row("1 - e")), Ok(()));
    assert_eq!(batch.delete(row("2")), Ok(()));
    assert_eq!(batch.finish(), outcome(&["1", "2"], &[], &["1 c e"]));
}

#[test]
fn unchanged_values_of_the_target_are_kept_by_a_patch() {
    let mut batch = batch();
    assert_eq!(batch.update(None, row("1 a - -")), Ok(()));
    assert_eq!(batch.update(None, row("1 - b -")), Ok(()));
    assert_eq!(batch.update(None, row("2 - - -")), Ok(()));
    assert_eq!(batch.update(None, row("3 a - c")), Ok(()));
    assert_eq!(batch.update(None, row("3 a b c")), Ok(()));
    assert_eq!(batch.update(None, row("4 a - c")), Ok(()));
    assert_eq!(batch.delete(row("4")), Ok(()));
    assert_eq!(batch.finish(), outcome(&["3", "4"], &[("1", &[(1, "a"), (2, "b")])], &["3 a b c"]));
}

#[test]
fn a_row_moves_to_another_key() {
    let mut batch = batch();
    assert_eq!(batch.update(Some(row("1")), row("2 a b")), Ok(()));
    assert_eq!(batch.update(Some(row("2")), row("3 - c")), Ok(()));
    assert_eq!(batch.insert(row("1 x y")), Ok(()));
    assert_eq!(batch.update(None, row("5 a -")), Ok(()));
    assert_eq!(batch.update(Some(row("5")), row("6 - b")), Ok(()));
    assert_eq!(batch.finish(), outcome(&["1", "5"], &[], &["1 x y", "3 a c", "6 a b"]));
}

#[test]
fn a_move_with_values_of_the_target_is_given_back() {
    let mut batch = batch();
    assert_eq!(batch.update(None, row("1 a - -")), Ok(()));
    let refused = batch.update(Some(row("1")), row("2 - b -"));
    assert_eq!(refused, Err(ApplyError::NeedsOrder { old_key: row("1"), new: row("2 - b -") }));
    let refused = batch.update(Some(row("3")), row("4 a - c"));
    assert_eq!(refused, Err(ApplyError::NeedsOrder { old_key: row("3"), new: row("4 a - c") }));
    assert_eq!(batch.finish(), outcome(&[], &[("1", &[(1, "a")])], &[]));
}

#[test]
fn an_old_key_that_is_the_new_one_moves_nothing() {
    // Postgres tells the old key when a column of it is stored out of line, and not the new value.
    let mut batch = Batch::new(vec![2, 0]);
    assert_eq!(batch.update(Some(row("k 1")), row("1 a -")), Ok(()));
    assert_eq!(
        batch.update(Some(row("k 2")), row("3 - -")),
        Err(ApplyError::NeedsOrder { old_key: row("k 2"), new: row("3 - k") })
    );
    assert_eq!(batch.update(Some(row("k 2")), row("3 b -")), Ok(()));
    assert_eq!(batch.finish(), outcome(&["k 1", "k 2"], &[], &["1 a k", "3 b k"]));
}

#[test]
fn changes_that_no_source_makes_are_refused() {
    let mut batch = batch();
    assert_eq!(batch.insert(row("1 a")), Ok(()));
    assert_eq!(batch.delete(row("2")), Ok(()));
    assert_eq!(batch.insert(row("1 b")), Err(ApplyError::Exists));
    assert_eq!(batch.update(Some(row("3")), row("1 b")), Err(ApplyError::Exists));
    assert_eq!(batch.update(None, row("2 b")), Err(ApplyError::Missing));
    assert_eq!(batch.update(Some(row("2")), row("3 b")), Err(ApplyError::Missing));
    assert_eq!(batch.delete(row("2")), Err(ApplyError::Missing));
    assert_eq!(batch.insert(row("4 b c")), Err(ApplyError::Columns { expected: 2, found: 3 }));
    assert_eq!(batch.delete(row("4 b")), Err(ApplyError::Columns { expected: 1, found: 2 }));
    assert_eq!(batch.insert(row("4 -")), Err(ApplyError::Unknown(1)));
    assert_eq!(batch.update(None, row("- a")), Err(ApplyError::Unknown(0)));
    assert_eq!(batch.delete(row("-")), Err(ApplyError::Unknown(0)));
    assert_eq!(batch.finish(), outcome(&["2"], &[], &["1 a"]));
    assert_eq!(Batch::new(vec![2]).insert(row("1 a")), Err(ApplyError::Columns { expected: 3, found: 2 }));
}

/// Rows have a key of two columns, here at the positions 3 and 0, a unique column and another.
const KEY: [usize; 2] = [3, 0];
const UNIQUE: usize = 1;

fn key_of(row: &[Value]) -> Row {
    KEY.iter().map(|column| row[*column].clone()).collect()
}

/// A table with a primary key and, if asked for, a unique column: it refuses what Postgres would refuse.
#[derive(Clone, Debug, Default, PartialEq)]
struct Table {
    rows: BTreeMap<Vec<String>, Row>,
    unique: bool,
}

impl Table {
    fn index(key: &[Value]) -> Vec<String> {
        key.iter().map(|value| format!("{value:?}")).collect()
    }

    fn get(&self, key: &[Value]) -> Option<&Row> {
        self.rows.get(&Self::index(key))
    }

    fn is_taken(&self, row: &[Value]) -> bool {
        self.unique && self.rows.values().any(|other| other[UNIQUE] == row[UNIQUE])
    }

    fn insert(&mut self, row: Row) {
        assert!(!row.contains(&Value::Unchanged) && !self.is_taken(&row), "{row:?}");
        assert_eq!(self.rows.insert(Self::index(&key_of(&row)), row), None);
    }

    fn delete(&mut self, key: &[Value]) -> Row {
        self.rows.remove(&Self::index(key)).expect("a row of the key")
    }

    /// Updates all columns that are told.
    fn update(&mut self, key: &[Value], new: impl IntoIterator<Item = (usize, Value)>) {
        let mut row = self.delete(key);
        for (column, value) in new {
            if value != Value::Unchanged {
                row[column] = value;
            }
        }
        self.insert(row);
    }

    fn execute(&mut self, outcome: Outcome) {
        let mut once = HashSet::new();
        for key in outcome.deletes {
            self.delete(&key);
            assert!(once.insert(key));
        }
        let mut once = HashSet::new();
        for Patch { key, set } in outcome.patches {
            assert!(!set.is_empty() && set.iter().all(|(column, _)| !KEY.contains(column)));
            self.update(&key, set);
            assert!(once.insert(key));
        }
        for row in outcome.rows {
            assert!(once.insert(key_of(&row)));
            self.insert(row);
        }
    }
}

/// What is tried on the source; what the source refuses is left out.
#[derive(Clone, Debug)]
struct Attempt {
    what: u8,
    key: (u8, u8),
    other_key: (u8, u8),
    values: (u8, Option<u8>),
    /// Columns that an update keeps and does not tell.
    unchanged: [bool; 4],
}

fn attempts() -> impl Strategy<Value = Vec<Attempt>> {
    let key = || (0u8..3, 0u8..2);
    let attempt = (any::<u8>(), key(), key(), (0u8..12, prop::option::of(0u8..3)), any::<[bool; 4]>())
        .prop_map(|(what, key, other_key, values, unchanged)| Attempt { what, key, other_key, values, unchanged });
    prop::collection::vec(attempt, 0..60)
}

/// The source runs the attempts; the target is brought after it by batches of these sizes.
fn follow(attempts: &[Attempt], unique: bool, untold: bool, sizes: &[usize]) {
    let mut source = Table { unique, ..Table::default() };
    let mut target = source.clone();
    let mut batch = Batch::new(KEY.to_vec());
    let mut sizes = sizes.iter().cycle();
    let mut left = *sizes.next().expect("a size");
    for attempt in attempts {
        let key = vec![text(attempt.key.0), text(attempt.key.1)];
        let (unique_value, other) = (text(attempt.values.0), attempt.values.1.map_or(Value::Null, text));
        let moves = attempt.what & 1 == 0;
        let new_key = if moves { attempt.other_key } else { attempt.key };
        let mut new = vec![text(new_key.1), unique_value, other, text(new_key.0)];
        let before = source.get(&key).cloned();
        match before {
            None => {
                let row = vec![key[1].clone(), new[1].clone(), new[2].clone(), key[0].clone()];
                if source.is_taken(&row) {
                    continue;
                }
                source.insert(row.clone());
                batch.insert(row).expect("an insert");
            }
            Some(_) if attempt.what % 4 == 3 => {
                source.delete(&key);
                batch.delete(key).expect("a delete");
            }
            Some(before) => {
                for (column, unchanged) in attempt.unchanged.iter().enumerate() {
                    if *unchanged {
                        new[column].clone_from(&before[column]);
                    }
                }
                let mut rest = source.clone();
                rest.delete(&key);
                if rest.get(&key_of(&new)).is_some() || rest.is_taken(&new) {
                    continue;
                }
                source = rest;
                source.insert(new.clone());
                let old_key = (key_of(&new) != key || attempt.what & 2 == 0).then_some(key);
                for (column, unchanged) in attempt.unchanged.iter().enumerate() {
                    if *unchanged && untold && (old_key.is_some() || !KEY.contains(&column)) {
                        new[column] = Value::Unchanged;
                    }
                }
                let known_by = old_key.clone().unwrap_or_else(|| key_of(&new));
                if unique && new.contains(&Value::Unchanged) && !batch.knows(&known_by) {
                    let row = target.get(&known_by).expect("a row that no change waits for");
                    for (value, before) in new.iter_mut().zip(row).filter(|(value, _)| **value == Value::Unchanged) {
                        value.clone_from(before);
                    }
                }
                match batch.update(old_key, new) {
                    Ok(()) => {}
                    Err(ApplyError::NeedsOrder { old_key, new }) => {
                        target.execute(std::mem::replace(&mut batch, Batch::new(KEY.to_vec())).finish());
                        target.update(&old_key, new.into_iter().enumerate());
                        assert_eq!(target, source);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        left = left.saturating_sub(1);
        if left == 0 {
            left = *sizes.next().expect("a size");
            target.execute(std::mem::replace(&mut batch, Batch::new(KEY.to_vec())).finish());
            assert_eq!(target, source);
        }
    }
    target.execute(batch.finish());
    assert_eq!(target, source);
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1usize..40, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_outcome_is_that_of_the_changes_one_by_one(attempts in attempts(), sizes in sizes()) {
        follow(&attempts, false, true, &sizes);
    }

    #[test]
    fn deletes_and_rows_violate_no_unique_constraint(attempts in attempts(), sizes in sizes()) {
        follow(&attempts, true, false, &sizes);
    }

    #[test]
    fn nor_do_rows_whose_untold_values_were_looked_up(attempts in attempts(), sizes in sizes()) {
        follow(&attempts, true, true, &sizes);
    }
}
