//! The transactions of a client: drawn by lot, and planned as steps with the states that they lead to.
use std::collections::HashMap;

use super::keys::{HOT, mixed};
use super::row::{Book, State, Verdict};

/// SplitMix64: what is drawn only has to differ.
pub(super) struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mixed(self.0 as i64)
    }
}

/// A statement; rows with the state that they have afterwards.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Insert(Vec<(i64, State)>),
    Copy(Vec<(i64, State)>),
    /// `version = version + 1`, and the payload is not named.
    Bump(i64, State),
    /// All columns, the version as a value.
    Set(i64, State),
    /// The key, and all but the payload.
    Rekey(i64, i64, State),
    Hot,
    Delete(Vec<i64>),
    /// The row must be as it is known to be.
    Read(i64, State),
    Lock(i64, State),
    Savepoint,
    RollbackTo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// One statement that is its own transaction.
    Itself,
    Commit,
    Rollback,
}

#[derive(Clone, Debug)]
pub(super) struct Work {
    pub kind: &'static str,
    pub steps: Vec<Step>,
    pub end: End,
    pub taken: Vec<i64>,
    pub changes: HashMap<i64, State>,
    pub hot: i64,
}

impl Work {
    fn new(kind: &'static str) -> Work {
        Work { kind, steps: Vec::new(), end: End::Itself, taken: Vec::new(), changes: HashMap::new(), hot: 0 }
    }
}

/// Each kind with its share of all transactions. About as many rows go as come.
const KINDS: [(&str, u64); 17] = [
    ("insert", 10),
    ("insert of many", 3),
    ("copy", 2),
    ("update", 14),
    ("update of all columns", 8),
    ("hot update", 8),
    ("hot update with another", 3),
    ("delete", 10),
    ("delete of many", 4),
    ("read", 8),
    ("read, then update", 8),
    ("lock, then update", 8),
    ("several updates", 6),
    ("savepoints", 6),
    ("rollback", 4),
    ("new key", 5),
    ("key update", 5),
];

/// The next transaction of a client. `key_updates`: keys may be changed in place.
pub(super) fn plan(book: &mut Book, dice: &mut Dice, key_updates: bool) -> Work {
    let kinds = || KINDS.iter().filter(|(kind, _)| key_updates || *kind != "key update");
    let mut lot = dice.roll() % kinds().map(|(_, share)| share).sum::<u64>();
    let mut kind = "insert";
    for (name, share) in kinds() {
        if lot < *share {
            kind = name;
            break;
        }
        lot -= share;
    }
    let work = Work::new(kind);
    let mut draft = Draft { book, dice, work };
    if draft.fill(kind).is_none() {
        // There are too few rows for it: they come back, and one more comes.
        let taken = std::mem::take(&mut draft.work.taken);
        draft.book.settle(&taken, &HashMap::new(), 0, Verdict::Undone);
        draft.work = Work::new("insert");
        draft.insert(1);
    }
    draft.work
}

struct Draft<'a> {
    book: &'a mut Book,
    dice: &'a mut Dice,
    work: Work,
}

impl Draft<'_> {
    /// `None`: not enough rows.
    fn fill(&mut self, kind: &'static str) -> Option<()> {
        let one = kind != "insert" && kind != "insert of many" && kind != "copy" && kind != "hot update";
        let row = if one { self.row()? } else { HOT };
        match kind {
            "insert" => self.insert(1),
            "insert of many" => self.insert(10),
            // The client library tells the end of a COPY before the server has committed it: a COMMIT of its own is sure.
            "copy" => {
                self.work.end = End::Commit;
                let rows = (0..20).map(|_| self.arriving()).collect();
                self.work.steps.push(Step::Copy(rows));
            }
            "update" => self.bump(row),
            "update of all columns" => self.set(row),
            "hot update" => self.hot(),
            "delete" => self.delete(vec![row]),
            "delete of many" => {
                let mut rows = vec![row];
                for _ in 1..20 {
                    rows.push(self.row()?);
                }
                self.delete(rows);
            }
            "read" => self.read(row, false),
            _ => self.fill_transaction(kind, row)?,
        }
        Some(())
    }

    fn fill_transaction(&mut self, kind: &'static str, row: i64) -> Option<()> {
        self.work.end = End::Commit;
        match kind {
            "hot update with another" => {
                self.bump(row);
                self.hot();
            }
            "read, then update" => {
                self.read(row, false);
                self.set(row);
            }
            "lock, then update" => {
                self.read(row, true);
                self.bump(row);
            }
            "several updates" => {
                let (second, third) = (self.row()?, self.row()?);
                self.bump(row);
                self.set(second);
                self.delete(vec![third]);
                self.insert(1);
                self.bump(row);
            }
            "savepoints" => {
                let second = self.row()?;
                self.bump(row);
                self.work.steps.push(Step::Savepoint);
                let before = self.work.changes.clone();
                self.set(row);
                self.delete(vec![second]);
                self.insert(2);
                self.work.steps.push(Step::RollbackTo);
                self.work.changes = before;
                self.bump(second);
                self.set(row);
            }
            "rollback" => {
                let second = self.row()?;
                self.bump(row);
                self.delete(vec![second]);
                self.insert(2);
                self.work.end = End::Rollback;
            }
            // The row goes, and comes again with another key, on another server perhaps.
            "new key" => {
                self.read(row, true);
                self.delete(vec![row]);
                self.insert(1);
            }
            _ => {
                self.work.end = End::Itself;
                let (from, to) = (self.now(row), self.book.fresh());
                let state = State { version: from.version + 1, client: self.book.client, ..from };
                self.work.steps.push(Step::Rekey(row, to, state));
                self.work.changes.insert(row, State { present: false, ..from });
                self.work.changes.insert(to, state);
            }
        }
        Some(())
    }

    fn row(&mut self) -> Option<i64> {
        let number = self.book.take_live(self.dice.roll())?;
        self.work.taken.push(number);
        Some(number)
    }

    fn now(&self, number: i64) -> State {
        self.work.changes.get(&number).copied().unwrap_or_else(|| self.book.state(number))
    }

    fn next(&mut self, number: i64, seed: Option<i64>) -> State {
        let before = self.now(number);
        let seed = seed.unwrap_or(before.seed);
        let state = State { version: before.version + 1, client: self.book.client, seed, present: true };
        self.work.changes.insert(number, state);
        state
    }

    /// A new key, or one that was deleted.
    fn arriving(&mut self) -> (i64, State) {
        let again = if self.dice.roll().is_multiple_of(3) { self.book.take_dead(self.dice.roll()) } else { None };
        self.work.taken.extend(again);
        let number = again.unwrap_or_else(|| self.book.fresh());
        let seed = self.dice.roll() as i64;
        (number, self.next(number, Some(seed)))
    }

    fn insert(&mut self, rows: usize) {
        let rows = (0..rows).map(|_| self.arriving()).collect();
        self.work.steps.push(Step::Insert(rows));
    }

    fn bump(&mut self, row: i64) {
        let state = self.next(row, None);
        self.work.steps.push(Step::Bump(row, state));
    }

    fn set(&mut self, row: i64) {
        let seed = self.dice.roll() as i64;
        let state = self.next(row, Some(seed));
        self.work.steps.push(Step::Set(row, state));
    }

    fn hot(&mut self) {
        self.work.hot += 1;
        self.work.steps.push(Step::Hot);
    }

    fn delete(&mut self, rows: Vec<i64>) {
        for row in &rows {
            let state = State { present: false, ..self.now(*row) };
            self.work.changes.insert(*row, state);
        }
        self.work.steps.push(Step::Delete(rows));
    }

    fn read(&mut self, row: i64, lock: bool) {
        let state = self.now(row);
        self.work.steps.push(if lock { Step::Lock(row, state) } else { Step::Read(row, state) });
    }
}
