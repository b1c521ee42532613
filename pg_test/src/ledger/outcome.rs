//! What a run has to tell: how much was acknowledged, how long it took, and what failed.
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::Site;
use super::row::Book;

/// One statement of a client, whether it succeeded or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub what: &'static str,
    pub begun: Instant,
    pub took: Duration,
}

/// An error that no client may see, or a statement that did not find what it should.
#[derive(Clone, Debug)]
pub struct Failure {
    pub client: i32,
    pub at: Instant,
    /// The kind of transaction.
    pub during: &'static str,
    /// All that the server said.
    pub text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}, {}: {}", self.client, self.during, self.text)
    }
}

/// What one client notes besides its rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub timings: Vec<Timing>,
    pub commits: Vec<Instant>,
    pub kinds: BTreeMap<&'static str, u64>,
    pub retries: u64,
    pub broken: u64,
    pub moved: u64,
    pub failures: Vec<Failure>,
}

pub(super) struct Diary {
    pub book: Book,
    pub tally: Tally,
}

/// A run that is over.
pub struct Outcome {
    pub started: Instant,
    pub ended: Instant,
    /// Transactions whose end was acknowledged, by kind; also those that were rolled back on purpose.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Transactions repeated after 40001 or 40P01.
    pub retries: u64,
    /// Transactions that ended with their connection, or with that of the coordinator to a node.
    pub broken: u64,
    /// Writes of direct writers that were refused because the row belongs to another server now, and made there.
    pub moved: u64,
    /// What must be empty.
    pub failures: Vec<Failure>,
    pub(super) timings: Vec<Timing>,
    pub(super) commits: Vec<Instant>,
    pub(super) books: Vec<Book>,
    pub(super) site: Site,
}

/// One part of a run.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    /// Since the start of the run.
    pub from: Duration,
    /// Acknowledged within it.
    pub transactions: usize,
    /// Of the statements that ended within it.
    pub median: Duration,
    pub longest: Duration,
}

impl Outcome {
    pub(super) fn new(site: Site, started: Instant, diaries: Vec<Diary>) -> Outcome {
        let mut outcome = Outcome {
            started,
            ended: Instant::now(),
            kinds: BTreeMap::new(),
            retries: 0,
            broken: 0,
            moved: 0,
            failures: Vec::new(),
            timings: Vec::new(),
            commits: Vec::new(),
            books: Vec::new(),
            site,
        };
        for Diary { book, tally } in diaries {
            outcome.books.push(book);
            outcome.timings.extend(tally.timings);
            outcome.commits.extend(tally.commits);
            outcome.retries += tally.retries;
            outcome.broken += tally.broken;
            outcome.moved += tally.moved;
            outcome.failures.extend(tally.failures);
            for (kind, count) in tally.kinds {
                *outcome.kinds.entry(kind).or_default() += count;
            }
        }
        outcome.failures.sort_by_key(|failure| failure.at);
        outcome.timings.sort_by_key(|timing| timing.begun);
        outcome.commits.sort();
        outcome
    }

    /// Committed transactions.
    pub fn acknowledged(&self) -> usize {
        self.commits.len()
    }

    /// Rows of which nobody knows whether their last change was committed.
    pub fn in_doubt(&self) -> usize {
        self.books.iter().map(Book::in_doubt).sum()
    }

    pub fn longest(&self) -> Option<Timing> {
        self.longest_between(self.started, self.ended)
    }

    /// The longest statement that ran at any time between the two; `begun` tells when.
    pub fn longest_between(&self, from: Instant, to: Instant) -> Option<Timing> {
        let within = |timing: &&Timing| timing.begun <= to && timing.begun + timing.took >= from;
        self.timings.iter().filter(within).max_by_key(|timing| timing.took).copied()
    }

    /// Committed transactions per second.
    pub fn rate(&self) -> f64 {
        self.rate_between(self.started, self.ended)
    }

    pub fn rate_between(&self, from: Instant, to: Instant) -> f64 {
        let count = self.commits.iter().filter(|commit| (from..to).contains(commit)).count();
        count as f64 / to.saturating_duration_since(from).as_secs_f64().max(f64::EPSILON)
    }

    /// The run in equal parts.
    pub fn over_time(&self, step: Duration) -> Vec<Slice> {
        let mut slices = Vec::new();
        let mut from = self.started;
        while from < self.ended {
            let within = |at: Instant| (from..from + step).contains(&at);
            let mut took: Vec<_> = self
                .timings
                .iter()
                .filter(|timing| within(timing.begun + timing.took))
                .map(|timing| timing.took)
                .collect();
            took.sort();
            slices.push(Slice {
                from: from - self.started,
                transactions: self.commits.iter().filter(|at| within(**at)).count(),
                median: took.get(took.len() / 2).copied().unwrap_or_default(),
                longest: took.last().copied().unwrap_or_default(),
            });
            from += step;
        }
        slices
    }
}

/// Two lines for the output of a test.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = self.ended - self.started;
        write!(
            f,
            "{} transactions in {took:.1?} ({:.0} a second), {} retried, {} broken, {} moved, {} rows in doubt, {} failures",
            self.acknowledged(),
            self.rate(),
            self.retries,
            self.broken,
            self.moved,
            self.in_doubt(),
            self.failures.len()
        )?;
        match self.longest() {
            Some(Timing { what, begun, took }) => {
                write!(f, "\nlongest statement: {what}, {took:.1?} from {:.1?} on", begun - self.started)
            }
            None => Ok(()),
        }
    }
}
