//! The worker of one database: takes its tasks in turn, for as long as the extension is there. The list of them is in `run`.

use super::healing::Healing;
use super::moved::Moved;
use super::operations::{Keeping, Operations};
use super::task::Tasks;
use super::trash::Trash;
use crate::background::log::Log;
use crate::error::Result;
use crate::guc;
use crate::pg::lock::{self, Single};
use crate::pg::{settings, sql, transaction, worker};
use std::time::{Duration, Instant};

/// DROP DATABASE waits five seconds for everybody to leave.
const LOOK_AT_LOCKS: Duration = Duration::from_secs(1);
/// While something goes on beside the rounds, a wake-up is seen after that time.
const LOOK_AT_LATCH: Duration = Duration::from_millis(50);

/// What one look at the database says.
enum Look {
    Leave,
    Idle,
    Work,
}

pub fn run() {
    let mut log = Log::default();
    match transaction::run(settle_in) {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => return log.failure("worker", error),
    }
    let mut tasks = Tasks::new(vec![
        Box::new(Healing::default()),
        Box::new(Operations::default()),
        Box::new(Keeping::default()),
        Box::new(Trash),
        Box::new(Moved),
    ]);
    loop {
        worker::reload_if_asked();
        if lock::database_is_wanted() {
            return;
        }
        match transaction::run(look) {
            Ok(Look::Leave) => return,
            Ok(Look::Idle) => tasks.pause(),
            Ok(Look::Work) => {
                log.fine("worker");
                tasks.round(&mut log);
            }
            Err(error) => log.failure("worker", error),
        }
        worker::report_activity(c"", false);
        if wait(&mut tasks, guc::heal_interval().min(LOOK_AT_LOCKS)).is_err() {
            return;
        }
    }
}

/// First steps in the database; `false` when there is nothing to do here, or somebody does it already.
fn settle_in() -> Result<bool> {
    settings::settle_worker()?;
    Ok(is_installed()? && become_single())
}

/// The launcher holds the lock for a moment when it looks who has it.
fn become_single() -> bool {
    (0..5).any(|attempt| {
        if attempt > 0 {
            worker::sleep(Duration::from_millis(20));
        }
        lock::become_single(Single::Worker)
    })
}

fn is_installed() -> Result<bool> {
    let found =
        sql::one::<bool>("SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'shardkeeper')", &[])?;
    Ok(found == Some(true))
}

fn look() -> Result<Look> {
    Ok(match (is_installed()?, guc::worker_enabled()) {
        (false, _) => Look::Leave,
        (true, false) => Look::Idle,
        (true, true) => Look::Work,
    })
}

/// Until the next round: what is busy goes on. Whoever has something to do for us ends the wait.
fn wait(tasks: &mut Tasks, pause: Duration) -> Result<()> {
    let end = Instant::now() + pause;
    while tasks.are_busy() {
        tasks.drive(end.min(Instant::now() + LOOK_AT_LATCH))?;
        if worker::is_woken() || Instant::now() >= end {
            return Ok(());
        }
    }
    worker::sleep(end.saturating_duration_since(Instant::now()));
    Ok(())
}
