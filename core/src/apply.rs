//! The changes of whole transactions, collapsed into what is to be done on a target.

use std::collections::HashMap;
use std::mem;

use crate::pgoutput::Value;

/// Changes of one table in commit order, to be applied to a target at once.
///
/// A key is the values of the columns of the replica identity, compared as they are written. Two keys that are
/// equal to Postgres but written differently (`1.0` and `1.00`) count as two; as a change always names a row by the
/// key that is stored, and as deletes come first, the outcome is right all the same.
///
/// All rows have the same columns: finish the batch and begin another when a `Relation` message tells of others.
/// No two rows of the source have one key; a full replica identity promises that only with a unique key among it.
/// A change that is refused with an error leaves the outcome as it was.
#[derive(Debug)]
pub struct Batch {
    key: Vec<usize>,
    /// How many columns a row has; known from the first one.
    width: Option<usize>,
    /// Where in `entries` a key is.
    index: HashMap<Vec<Value>, usize>,
    /// One for each key that was touched, in the order of the first touch.
    entries: Vec<Entry>,
}

/// What became of one key.
#[derive(Debug)]
struct Entry {
    /// The target had a row of this key before the batch.
    existed: bool,
    /// The row that the key has now. A value is `Unchanged` only while it is the target's own row, updated and
    /// never removed in between.
    row: Option<Vec<Value>>,
}

/// What leaves a target as the changes one by one would have left it, provided that it is as before the changes.
///
/// To be executed in one transaction in this order: all deletes, all patches in their order, all rows. A key is at
/// most once in `patches` and `rows` together, and at most once in `deletes`. Each delete and each patch meets
/// exactly one row; another number tells that the target was not as before the changes.
///
/// Unique constraints other than the key: deletes and rows never violate one that the source kept, since every state
/// on the way is part of the one before or the one after. Patches can, among themselves, if they set a column of
/// such a constraint: rows that swap values, or pass them on in another order. Where there is one, look up what a change
/// leaves out before it is taken, unless the batch [`knows`](Batch::knows) its key: then there are no patches.
/// Foreign keys onto the target must not be checked before the end, as a row that is updated is deleted first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Keys whose row goes, values in the order of the key columns.
    pub deletes: Vec<Vec<Value>>,
    /// Rows that keep values which the stream did not tell.
    pub patches: Vec<Patch>,
    /// Whole rows to be inserted, without `Unchanged`.
    pub rows: Vec<Vec<Value>>,
}

/// `UPDATE … SET … WHERE key`. No column of the key is set; the columns not named keep their values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// The values of the key columns, in the order of the key.
    pub key: Vec<Value>,
    /// Positions of columns and their new values; never empty.
    pub set: Vec<(usize, Value)>,
}

/// Why a change cannot be taken into a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The row moves to another key with values that only the target has. Execute the outcome of the batch so far,
    /// then this change alone as an `UPDATE` of all but the `Unchanged` columns, and go on with a new batch;
    /// or apply all changes of the batch one by one. The arguments of the call are given back; `Unchanged` values
    /// in them may have been filled.
    #[error("a row changes its key, and its unchanged values are known to the target alone")]
    NeedsOrder {
        /// The key that the row had, values in the order of the key columns.
        old_key: Vec<Value>,
        /// The row as it shall be: a value for each column.
        new: Vec<Value>,
    },
    /// Inserted, or moved to, where the batch left a row: not what one source can have done.
    #[error("the key has a row already")]
    Exists,
    /// Updated, deleted, or moved from, where the batch left no row: not what one source can have done.
    #[error("the key has no row")]
    Missing,
    /// A row or key of another number of columns than those before.
    #[error("expected {expected} columns, found {found}")]
    Columns {
        /// Of a row, as many as the first row of the batch had; of a key, as many as the batch was made for.
        expected: usize,
        /// How many the refused row or key has.
        found: usize,
    },
    /// An `Unchanged` value in an inserted row or in a key, where nothing tells what it is.
    #[error("the value of column {0} is not known")]
    Unknown(usize),
}

impl Batch {
    /// An empty batch. `key` has the positions of the columns of the replica identity in a row, at least one.
    pub fn new(key: Vec<usize>) -> Self {
        Self { key, width: None, index: HashMap::new(), entries: Vec::new() }
    }

    /// How many keys were touched: the outcome has at most as many deletes, and as many patches and rows.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no change was taken: the outcome has nothing to do.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a change before touched the key: only then does the batch know more of its row than the target does.
    pub fn knows(&self, key: &[Value]) -> bool {
        self.index.contains_key(key)
    }

    /// Takes an inserted row: a value for each column.
    ///
    /// Errors: `Exists`, `Columns`, `Unknown`.
    pub fn insert(&mut self, new: Vec<Value>) -> Result<(), ApplyError> {
        self.check_row(&new)?;
        if let Some(column) = new.iter().position(is_unchanged) {
            return Err(ApplyError::Unknown(column));
        }
        let key = self.key_of(&new)?;
        self.put(key, new)
    }

    /// Takes an updated row: a value for each column, and `old_key` if the message has an old row.
    ///
    /// `old_key` has the old values of the key columns, in the order of the key; they may be equal to the new ones.
    /// `Unchanged` values become what an earlier change of the batch told of them, if any did.
    ///
    /// Errors: `NeedsOrder`, `Exists`, `Missing`, `Columns`, `Unknown`.
    pub fn update(&mut self, old_key: Option<Vec<Value>>, mut new: Vec<Value>) -> Result<(), ApplyError> {
        self.check_row(&new)?;
        if let Some(old_key) = &old_key {
            self.check_key(old_key)?;
            for (column, value) in self.key.iter().zip(old_key) {
                if is_unchanged(&new[*column]) {
                    new[*column].clone_from(value);
                }
            }
        }
        let key = self.key_of(&new)?;
        match old_key {
            Some(old_key) if old_key != key => self.move_row(old_key, key, new),
            _ => self.replace(key, new),
        }
    }

    /// Takes a deleted row: the old values of the key columns, in the order of the key.
    ///
    /// Errors: `Missing`, `Columns`, `Unknown`.
    pub fn delete(&mut self, key: Vec<Value>) -> Result<(), ApplyError> {
        self.check_key(&key)?;
        match self.index.get(&key) {
            Some(at) => self.entries[*at].row.take().map(drop).ok_or(ApplyError::Missing),
            None => {
                self.add(key, Entry { existed: true, row: None });
                Ok(())
            }
        }
    }

    /// What is to be done on the target.
    pub fn finish(self) -> Outcome {
        // The index owns the keys, in no order; the entries have the order.
        let mut keys: Vec<Vec<Value>> = vec![Vec::new(); self.entries.len()];
        for (key, at) in self.index {
            keys[at] = key;
        }
        let mut outcome = Outcome::default();
        for (key, entry) in keys.into_iter().zip(self.entries) {
            let row = match entry.row {
                Some(row) if row.iter().any(is_unchanged) => {
                    let told = row.into_iter().enumerate().filter(|(_, value)| !is_unchanged(value));
                    let set: Vec<_> = told.filter(|(column, _)| !self.key.contains(column)).collect();
                    if !set.is_empty() {
                        outcome.patches.push(Patch { key, set });
                    }
                    continue;
                }
                row => row,
            };
            if entry.existed {
                outcome.deletes.push(key);
            }
            outcome.rows.extend(row);
        }
        outcome
    }

    /// Puts a whole row where none is.
    fn put(&mut self, key: Vec<Value>, row: Vec<Value>) -> Result<(), ApplyError> {
        match self.index.get(&key) {
            Some(at) if self.entries[*at].row.is_some() => return Err(ApplyError::Exists),
            Some(at) => self.entries[*at].row = Some(row),
            None => self.add(key, Entry { existed: false, row: Some(row) }),
        }
        Ok(())
    }

    /// Updates the row of a key that stays.
    fn replace(&mut self, key: Vec<Value>, mut new: Vec<Value>) -> Result<(), ApplyError> {
        let Some(at) = self.index.get(&key) else {
            self.add(key, Entry { existed: true, row: Some(new) });
            return Ok(());
        };
        let row = self.entries[*at].row.as_mut().ok_or(ApplyError::Missing)?;
        fill(&mut new, row);
        *row = new;
        Ok(())
    }

    /// Updates a row and moves it to another key.
    fn move_row(&mut self, old_key: Vec<Value>, key: Vec<Value>, mut new: Vec<Value>) -> Result<(), ApplyError> {
        if self.index.get(&key).is_some_and(|at| self.entries[*at].row.is_some()) {
            return Err(ApplyError::Exists);
        }
        let Some(at) = self.index.get(&old_key).copied() else {
            if new.iter().any(is_unchanged) {
                return Err(ApplyError::NeedsOrder { old_key, new });
            }
            self.add(old_key, Entry { existed: true, row: None });
            return self.put(key, new);
        };
        let row = self.entries[at].row.as_mut().ok_or(ApplyError::Missing)?;
        if new.iter().zip(&*row).any(|(value, before)| is_unchanged(value) && is_unchanged(before)) {
            return Err(ApplyError::NeedsOrder { old_key, new });
        }
        fill(&mut new, row);
        self.entries[at].row = None;
        self.put(key, new)
    }

    fn add(&mut self, key: Vec<Value>, entry: Entry) {
        self.index.insert(key, self.entries.len());
        self.entries.push(entry);
    }

    /// The key of a row: the one copy of its values, which the index keeps.
    fn key_of(&self, row: &[Value]) -> Result<Vec<Value>, ApplyError> {
        let value = |column: &usize| match &row[*column] {
            Value::Unchanged => Err(ApplyError::Unknown(*column)),
            value => Ok(value.clone()),
        };
        self.key.iter().map(value).collect()
    }

    /// Checks that a row has the columns of those before, and those of the key.
    fn check_row(&mut self, row: &[Value]) -> Result<(), ApplyError> {
        let found = row.len();
        let needed = self.key.iter().max().map_or(0, |last| last + 1);
        match self.width {
            Some(expected) if expected != found => Err(ApplyError::Columns { expected, found }),
            None if needed > found => Err(ApplyError::Columns { expected: needed, found }),
            _ => {
                self.width = Some(found);
                Ok(())
            }
        }
    }

    fn check_key(&self, key: &[Value]) -> Result<(), ApplyError> {
        if key.len() != self.key.len() {
            return Err(ApplyError::Columns { expected: self.key.len(), found: key.len() });
        }
        match key.iter().zip(&self.key).find(|(value, _)| is_unchanged(value)) {
            Some((_, column)) => Err(ApplyError::Unknown(*column)),
            None => Ok(()),
        }
    }
}

fn is_unchanged(value: &Value) -> bool {
    *value == Value::Unchanged
}

/// Gives `Unchanged` values of a row what they were before; the row before is not used again.
fn fill(new: &mut [Value], before: &mut [Value]) {
    for (value, before) in new.iter_mut().zip(before) {
        if is_unchanged(value) {
            mem::swap(value, before);
        }
    }
}
