//! The launcher: knows no database from inside, and asks for a worker in each. A worker that finds no extension leaves
//! at once; then the launcher asks again later.

use crate::guc;
use crate::pg::lock::{self, Single};
use crate::pg::worker::{self, Handle};
use crate::pg::{transaction, worker::sleep};
use pgrx::pg_sys::Oid;
use std::collections::HashMap;
use std::time::{Duration, Instant};

const ROUND: Duration = Duration::from_secs(1);
/// A database without the extension is looked at again and again, in the end after that time; so an extension created
/// elsewhere than through our calls, by a restore for example, gets its worker.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// A worker that had work to do is started again soon. So is one that we did not see at work: it may have left at once
/// because somebody wanted the database. From then on the time doubles.
const START_AGAIN: Duration = Duration::from_secs(2);
/// Workers that are starting at the same time, so that a server with many databases keeps its slots.
const AT_ONCE: usize = 4;

struct Known {
    handle: Option<Handle>,
    started: Instant,
    next: Instant,
    /// How often in a row a worker ended that we did not see at work.
    idle: u32,
    /// A worker was there, ours or one that a session asked for: the database needs one.
    had_worker: bool,
}

pub fn run() {
    worker::report_activity(c"", false);
    lock::become_single(Single::Launcher);
    let mut known: HashMap<Oid, Known> = HashMap::new();
    loop {
        worker::reload_if_asked();
        if guc::worker_enabled() {
            round(&mut known);
        }
        sleep(ROUND);
    }
}

fn round(known: &mut HashMap<Oid, Known>) {
    let Ok(databases) = transaction::run(|| Ok(worker::databases())) else { return };
    known.retain(|database, _| databases.contains(database));
    let now = Instant::now();
    for (database, state) in known.iter_mut() {
        let ended = state.handle.take_if(|handle| !handle.is_running()).is_some();
        if lock::is_taken(Single::Worker, *database) {
            state.had_worker = true;
        } else if state.handle.is_none() && (ended || state.had_worker) {
            state.idle = if state.had_worker { 0 } else { (state.idle + 1).min(6) };
            state.next = now + (START_AGAIN * 2u32.pow(state.idle.saturating_sub(1))).min(LOOK_AGAIN);
            state.had_worker = false;
        }
    }
    let mut starting = known.values().filter(|state| state.handle.is_some() && now - state.started < ROUND).count();
    for database in databases {
        if starting >= AT_ONCE {
            break;
        }
        let is_due =
            known.get(&database).is_none_or(|state| state.handle.is_none() && !state.had_worker && state.next <= now);
        if is_due {
            let handle = worker::start(database);
            let idle = known.get(&database).map_or(0, |state| state.idle);
            known.insert(database, Known { handle, started: now, next: now + START_AGAIN, idle, had_worker: false });
            starting += 1;
        }
    }
}
