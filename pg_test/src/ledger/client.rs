//! A client: runs transactions one after the other, repeats those that lost a conflict, and notes how each ended.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use postgres::Client;

use super::outcome::{Diary, Failure, Timing};
use super::row::{State, Verdict};
use super::session::{Session, Trouble};
use super::work::{Dice, End, Work, plan};
use super::{Address, Gate, Site, Tolerate, lock};
use crate::matrix;

/// More of them say nothing new.
const MOST_FAILURES: usize = 10;
/// After a broken connection.
pub(super) const REST: Duration = Duration::from_millis(20);

/// What a client of either sort needs.
pub(super) struct Worker {
    pub name: i32,
    pub site: Site,
    pub gate: Arc<Gate>,
    pub diary: Arc<Mutex<Diary>>,
    pub dice: Dice,
}

/// What an error means for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A conflict: the same again.
    Again,
    /// A server is away, and may be.
    Broken,
    Failure,
}

impl Worker {
    pub fn new(name: i32, site: Site, gate: Arc<Gate>, diary: Arc<Mutex<Diary>>) -> Worker {
        let dice = Dice(matrix::rotation() << 32 | u64::from(name.unsigned_abs()) << 24);
        Worker { name, site, gate, diary, dice }
    }

    pub fn diary(&self) -> MutexGuard<'_, Diary> {
        lock(&self.diary)
    }

    pub fn meaning(&self, error: &postgres::Error) -> Meaning {
        let code = error.code().map(|code| code.code());
        let tolerate = self.site.workload.tolerate;
        let broken = match code {
            Some("40001" | "40P01") => return Meaning::Again,
            Some("57014") if self.site.workload.cancels => return Meaning::Again,
            Some("57P01" | "57P02" | "57P03") => true,
            Some("42P01") => {
                return if tolerate == Tolerate::SplitCommits { Meaning::Broken } else { Meaning::Failure };
            }
            Some(code) => code.starts_with("08"),
            // No answer of a server at all.
            None => true,
        };
        if broken && tolerate != Tolerate::Nothing { Meaning::Broken } else { Meaning::Failure }
    }

    pub fn fail(&self, during: &'static str, text: String) {
        self.diary().tally.failures.push(Failure { client: self.name, at: Instant::now(), during, text });
    }

    pub fn has_failed_enough(&self) -> bool {
        self.diary().tally.failures.len() >= MOST_FAILURES
    }

    pub fn settle(&self, kind: &'static str, taken: &[i64], changes: &HashMap<i64, State>, hot: i64, verdict: Verdict) {
        let mut diary = self.diary();
        diary.book.settle(taken, changes, hot, verdict);
        if verdict == Verdict::Committed {
            diary.tally.commits.push(Instant::now());
            *diary.tally.kinds.entry(kind).or_default() += 1;
        }
    }

    pub fn note(&self, timings: &mut Vec<Timing>) {
        self.diary().tally.timings.append(timings);
    }

    /// Tries until the server is there, if it may be away. `None`: not this time.
    pub fn connect(&self, address: &Address) -> Option<Client> {
        let deadline = Instant::now() + self.site.workload.patience;
        loop {
            let error = match self.site.connect(address) {
                Ok(client) => return Some(client),
                Err(error) => error,
            };
            if self.meaning(&error) != Meaning::Broken || Instant::now() > deadline {
                self.fail("connecting", describe(&error));
                return None;
            }
            if !self.gate.is_open() {
                return None;
            }
            std::thread::sleep(REST);
        }
    }
}

pub(super) fn run(mut worker: Worker) {
    let mut session = None;
    while !worker.has_failed_enough() && worker.gate.enter() {
        if session.is_none() {
            session = connected(&worker);
        }
        if let Some(present) = &mut session
            && !transact(&mut worker, present)
        {
            session = None;
        }
        worker.gate.leave();
        std::thread::sleep(worker.site.workload.think);
    }
}

fn connected(worker: &Worker) -> Option<Session> {
    let client = worker.connect(&worker.site.coordinator)?;
    match Session::new(client, worker.site.keys, &worker.site.table) {
        Ok(session) => Some(session),
        Err(error) if worker.meaning(&error) == Meaning::Failure => {
            worker.fail("preparing statements", describe(&error));
            None
        }
        Err(_) => None,
    }
}

/// One transaction, as often as needed. `false`: the connection is of no use any more.
fn transact(worker: &mut Worker, session: &mut Session) -> bool {
    let work = plan(&mut lock(&worker.diary).book, &mut worker.dice, worker.site.workload.key_updates);
    let (verdict, usable) = loop {
        let Err(trouble) = session.run(&work) else {
            break (Verdict::Committed, true);
        };
        let again = matches!(&trouble, Trouble::Sql(error) if worker.meaning(error) == Meaning::Again);
        let verdict = if may_be_committed(&work, session, &trouble) { Verdict::Unknown } else { Verdict::Undone };
        let usable = session.is_usable();
        report(worker, &work, &trouble);
        if !again || verdict == Verdict::Unknown || !usable || !worker.gate.is_open() {
            break (verdict, usable);
        }
    };
    worker.note(&mut session.timings);
    if verdict == Verdict::Committed && work.end == End::Rollback {
        *worker.diary().tally.kinds.entry(work.kind).or_default() += 1;
        worker.settle(work.kind, &work.taken, &work.changes, work.hot, Verdict::Undone);
    } else {
        worker.settle(work.kind, &work.taken, &work.changes, work.hot, verdict);
    }
    usable
}

fn may_be_committed(work: &Work, session: &Session, trouble: &Trouble) -> bool {
    let ended_early = match trouble {
        Trouble::Sql(error) => work.end == End::Itself && ends_before_commit(error),
        Trouble::Wrong(_) => false,
    };
    session.deciding && !ended_early
}

/// Whether an error of a statement that commits itself is one from before that: a conflict, a server that was away when
/// it was needed, or one that was lost at another command than its COMMIT. A wrong guess hides a lost row.
pub(super) fn ends_before_commit(error: &postgres::Error) -> bool {
    let Some(error) = error.as_db_error() else {
        return false;
    };
    let remote = error.where_().and_then(|context| context.split_once("remote SQL command: "));
    matches!(error.code().code(), "40001" | "40P01" | "57014" | "08001" | "57P03")
        || remote.is_some_and(|(_, command)| !command.starts_with("COMMIT"))
}

fn report(worker: &Worker, work: &Work, trouble: &Trouble) {
    let error = match trouble {
        Trouble::Wrong(text) => return worker.fail(work.kind, text.clone()),
        Trouble::Sql(error) => error,
    };
    match worker.meaning(error) {
        Meaning::Again => worker.diary().tally.retries += 1,
        Meaning::Failure => worker.fail(work.kind, describe(error)),
        Meaning::Broken => {
            worker.diary().tally.broken += 1;
            std::thread::sleep(REST);
        }
    }
}

/// All that a server says of an error.
pub(super) fn describe(error: &postgres::Error) -> String {
    let Some(error) = error.as_db_error() else {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        return format!("{error}{cause}");
    };
    let parts = [("DETAIL", error.detail()), ("HINT", error.hint()), ("CONTEXT", error.where_())];
    let parts: String = parts.iter().filter_map(|(name, text)| Some(format!("\n{name}: {}", (*text)?))).collect();
    format!("{} {}: {}{parts}", error.severity(), error.code().code(), error.message())
}
