//! What the ledger knows of its rows: the last acknowledged state of each, and what it may be where a commit broke.
use std::collections::HashMap;
use std::fmt;

use super::keys::mixed;

/// A row at one moment. All values of its columns follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// One more with every change, also over a deletion.
    pub version: i64,
    /// Who wrote it; 0 loaded it.
    pub client: i32,
    /// What the payload is made from: it stays when an update leaves the payload unchanged.
    pub seed: i64,
    pub present: bool,
}

impl State {
    pub(super) fn loaded(number: i64) -> State {
        State { version: 1, client: 0, seed: number, present: true }
    }

    pub(super) const NEVER: State = State { version: 0, client: 0, seed: 0, present: false };

    /// The values of `VALUES`. Some payloads are long enough for TOAST, some values are NULL.
    pub(super) fn values(&self) -> [Option<String>; 5] {
        let State { version, client, seed, .. } = *self;
        [Some(version.to_string()), Some(client.to_string()), payload(seed), Some(self.amount()), self.doc()]
    }

    pub(super) fn amount(&self) -> String {
        format!("{}.{:03}", self.version * 7, self.client)
    }

    /// As jsonb writes it.
    pub(super) fn doc(&self) -> Option<String> {
        let State { version, client, .. } = *self;
        (version % 5 != 0).then(|| format!(r#"{{"by": {client}, "tags": ["v{version}", null], "version": {version}}}"#))
    }

    /// The first column that is not as it should be, with what was expected and what was found.
    pub(super) fn difference(&self, found: &[Option<String>]) -> Option<String> {
        let expected = self.values();
        let (at, _) = expected.iter().zip(found).enumerate().find(|(_, (a, b))| a != b)?;
        let (expected, found) = (short(&expected[at]), short(&found[at]));
        Some(format!("{} is {found} instead of {expected}", super::keys::VALUES[at]))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.present, self.version) {
            (true, version) => write!(f, "version {version} of client {}", self.client),
            (false, 0) => write!(f, "no row"),
            (false, version) => write!(f, "no row (deleted at version {version})"),
        }
    }
}

fn payload(seed: i64) -> Option<String> {
    let words = |count: i64| (0..count).map(|at| format!("{:016x}", mixed(seed ^ (at << 40)))).collect::<String>();
    match mixed(seed) % 64 {
        0 => None,
        // 8 to 16 kB of what does not get small by compression.
        1 => Some(words(500 + seed.rem_euclid(500))),
        // Not a character more than fits into the row.
        2 => Some(words(100)),
        _ => Some(format!("payload {seed}: {}", words(2))),
    }
}

fn short(value: &Option<String>) -> String {
    match value {
        None => "NULL".to_owned(),
        Some(text) if text.len() > 60 => format!("{:.40}… ({} bytes)", text, text.len()),
        Some(text) => text.clone(),
    }
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Committed,
    Undone,
    /// The answer to COMMIT was lost: each of its rows may be as before or as after.
    Unknown,
}

/// One row: what was acknowledged, and what it may be as well.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fate {
    pub known: State,
    pub or: Option<State>,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.known)?;
        self.or.map_or(Ok(()), |or| write!(f, ", or {or}"))
    }
}

/// The rows of one client. No other client writes them, so it knows each.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub client: i32,
    /// Rows that were there before all clients have numbers below.
    loaded: i64,
    next: i64,
    fates: HashMap<i64, Fate>,
    /// Rows to write to, and deleted ones whose keys can come again. Who works with a row takes it out.
    live: Vec<i64>,
    dead: Vec<i64>,
    pub hot_known: i64,
    pub hot_unknown: i64,
}

/// Each client makes new rows in a range of numbers of its own.
const RANGE: i64 = 1_000_000_000_000;

impl Book {
    /// Client `client` of `1..=clients` has every `clients`-th of the loaded rows.
    pub fn new(client: i32, clients: usize, loaded: i64) -> Book {
        let live = (i64::from(client) - 1..loaded).step_by(clients.max(1)).collect();
        Book { client, loaded, next: i64::from(client) * RANGE, live, ..Book::default() }
    }

    pub fn fresh(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    /// A row that is there; `dice` chooses.
    pub fn take_live(&mut self, dice: u64) -> Option<i64> {
        take(&mut self.live, dice)
    }

    /// A key that was deleted.
    pub fn take_dead(&mut self, dice: u64) -> Option<i64> {
        take(&mut self.dead, dice)
    }

    pub fn state(&self, number: i64) -> State {
        self.fates.get(&number).map_or_else(|| self.first(number), |fate| fate.known)
    }

    fn first(&self, number: i64) -> State {
        if (0..self.loaded).contains(&number) { State::loaded(number) } else { State::NEVER }
    }

    /// Notes how a transaction with these changes ended. `taken` come back, except those that are in doubt.
    pub fn settle(&mut self, taken: &[i64], changes: &HashMap<i64, State>, hot: i64, verdict: Verdict) {
        for (number, state) in changes {
            let before = self.state(*number);
            match verdict {
                Verdict::Committed => _ = self.fates.insert(*number, Fate { known: *state, or: None }),
                Verdict::Unknown => _ = self.fates.insert(*number, Fate { known: before, or: Some(*state) }),
                Verdict::Undone => {}
            }
        }
        match verdict {
            Verdict::Committed => self.hot_known += hot,
            Verdict::Unknown => self.hot_unknown += hot,
            Verdict::Undone => {}
        }
        let fresh = changes.keys().filter(|number| !taken.contains(number));
        for number in taken.iter().chain(fresh) {
            let state = self.state(*number);
            if verdict == Verdict::Unknown && changes.contains_key(number) {
                continue;
            }
            if state.present {
                self.live.push(*number);
            } else if state.version > 0 {
                self.dead.push(*number);
            }
        }
    }

    /// Rows that this client has changed, or may have.
    pub fn fates(&self) -> impl Iterator<Item = (i64, Fate)> {
        self.fates.iter().map(|(number, fate)| (*number, *fate))
    }

    pub fn in_doubt(&self) -> usize {
        self.fates.values().filter(|fate| fate.or.is_some()).count()
    }
}

fn take(numbers: &mut Vec<i64>, dice: u64) -> Option<i64> {
    let length = numbers.len() as u64;
    (length > 0).then(|| numbers.swap_remove((dice % length) as usize))
}
