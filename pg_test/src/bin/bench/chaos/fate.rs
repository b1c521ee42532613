//! What happens to servers, workers and connections.
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pg_test::{Cluster, Server};

use super::NODES;
use super::dice::Dice;
use super::tally::Tally;

/// Between two of them: time enough for most operations to get somewhere, not for all of them to end.
const REST: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(6));
/// A killed server is away for so long.
const AWAY: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(5));
const FROZEN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(8));

pub struct Fate<'a> {
    cluster: &'a Cluster,
    tally: &'a Tally,
    dice: Dice,
    /// What will be as it was, and when.
    due: Vec<(Instant, usize, Back)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Back {
    Start,
    Thaw,
    Connect,
}

impl<'a> Fate<'a> {
    pub fn new(cluster: &'a Cluster, tally: &'a Tally, dice: Dice) -> Fate<'a> {
        Fate { cluster, tally, dice, due: Vec::new() }
    }

    pub fn run(mut self, until: Instant, stop: &AtomicBool) -> Result<()> {
        let mut next = Instant::now();
        while Instant::now() < until && !stop.load(Ordering::Relaxed) {
            self.bring_back(Instant::now())?;
            if Instant::now() >= next {
                self.strike()?;
                next = Instant::now() + self.dice.between(REST.0, REST.1);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        // Everybody back, whatever time it is.
        self.bring_back(until + FROZEN.1 + AWAY.1 + Duration::from_secs(3600))
    }

    /// The coordinator is number zero.
    fn server(&self, number: usize) -> &'a Server {
        if number == 0 { &self.cluster.coordinator } else { self.cluster.node(number) }
    }

    fn strike(&mut self) -> Result<()> {
        let number = self.dice.roll(NODES + 1);
        if self.due.iter().any(|(_, struck, _)| *struck == number) {
            return Ok(());
        }
        let server = self.server(number);
        let who = if number == 0 { "coordinator" } else { "node" };
        match self.dice.roll(10) {
            0..=2 => {
                server.kill9().with_context(|| format!("kill {}", server.name))?;
                self.later(AWAY, number, Back::Start);
                self.tally.done(&format!("kill -9 of a {who}"));
            }
            3..=4 => {
                server.freeze()?;
                self.later(FROZEN, number, Back::Thaw);
                self.tally.done(&format!("a frozen {who}"));
            }
            5..=6 if number > 0 => {
                self.cluster.proxy(number).cut();
                self.later(FROZEN, number, Back::Connect);
                self.tally.done("connections to a node cut");
            }
            5..=7 => self.end_workers("backend_type LIKE 'shardkeeper%'", "a worker terminated"),
            8 => self.end_workers(
                "application_name LIKE 'shardkeeper%' OR backend_type LIKE 'shardkeeper%'",
                "own sessions ended",
            ),
            _ => self.end_workers("backend_type = 'client backend' AND random() < 0.3", "sessions of clients ended"),
        }
        Ok(())
    }

    /// One server's; it may be away itself.
    fn end_workers(&mut self, which: &str, what: &str) {
        let number = self.dice.roll(NODES + 1);
        let server = self.server(number);
        let sql = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND ({which})"
        );
        let away = self.due.iter().any(|(_, struck, _)| *struck == number);
        if !away && server.value::<i64>(&sql).is_ok_and(|ended| ended > 0) {
            self.tally.done(what);
        }
    }

    fn later(&mut self, range: (Duration, Duration), number: usize, back: Back) {
        self.due.push((Instant::now() + self.dice.between(range.0, range.1), number, back));
    }

    fn bring_back(&mut self, now: Instant) -> Result<()> {
        let (due, rest): (Vec<_>, Vec<_>) = self.due.iter().copied().partition(|(at, ..)| *at <= now);
        self.due = rest;
        for (_, number, back) in due {
            let server = self.server(number);
            match back {
                Back::Start => server.start().with_context(|| format!("start {}", server.name))?,
                Back::Thaw => server.thaw()?,
                Back::Connect => self.cluster.proxy(number).resume(),
            }
        }
        Ok(())
    }
}
