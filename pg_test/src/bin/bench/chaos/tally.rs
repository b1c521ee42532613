//! What was done, and how it went.
use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::Report;

#[derive(Default)]
pub struct Tally(Mutex<BTreeMap<String, Count>>);

#[derive(Default)]
struct Count {
    done: usize,
    refused: usize,
}

impl Tally {
    pub fn done(&self, what: &str) {
        self.count(what, |count| count.done += 1);
    }

    pub fn refused(&self, what: &str) {
        self.count(what, |count| count.refused += 1);
    }

    fn count(&self, what: &str, note: impl FnOnce(&mut Count)) {
        let mut counts = self.0.lock().unwrap_or_else(|e| e.into_inner());
        note(counts.entry(what.to_owned()).or_default());
    }

    /// How often each was done; the baseline is how often it was asked for.
    pub fn print(&self, report: &Report) {
        for (what, count) in self.0.lock().unwrap_or_else(|e| e.into_inner()).iter() {
            report.case(what, count.done as f64, "times", Some((count.done + count.refused) as f64));
        }
    }
}
