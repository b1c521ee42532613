//! What a worker does, as entries of a list: each with its own interval, its rest after an error, and its subject in the log. The
//! list of a database's worker is in `database.rs`.

use crate::background::log::Log;
use crate::error::Result;
use std::time::{Duration, Instant};

/// One thing that the worker does again and again.
pub trait Task {
    /// What its errors are told of in the log.
    fn subject(&self) -> &'static str;

    /// From the end of one turn to the next one. Zero: in each round, and a round follows each wake-up.
    fn interval(&self) -> Duration;

    /// After a turn that failed.
    fn rest(&self) -> Duration {
        self.interval()
    }

    /// One turn. Each begins and ends transactions of its own. What fails for one of several objects is logged by the task itself.
    fn run(&mut self, log: &mut Log) -> Result<()>;

    /// Something goes on beside the rounds, and wants `drive`.
    fn is_busy(&self) -> bool {
        false
    }

    /// Goes on with that until the moment has come, or it is over. An error ends the worker.
    fn drive(&mut self, _until: Instant) -> Result<()> {
        Ok(())
    }

    /// The worker is switched off: what is kept open is let go.
    fn pause(&mut self) {}
}

/// A task with the time of its next turn.
pub struct Entry {
    task: Box<dyn Task>,
    next: Instant,
}

/// All tasks of a worker, in the order in which they take their turns.
pub struct Tasks(Vec<Entry>);

impl Tasks {
    pub fn new(tasks: Vec<Box<dyn Task>>) -> Self {
        Self(tasks.into_iter().map(|task| Entry { task, next: Instant::now() }).collect())
    }

    /// A turn for each that is due.
    pub fn round(&mut self, log: &mut Log) {
        for Entry { task, next } in &mut self.0 {
            if *next > Instant::now() {
                continue;
            }
            let pause = match task.run(log) {
                Ok(()) => {
                    log.fine(task.subject());
                    task.interval()
                }
                Err(error) => {
                    log.failure(task.subject(), error);
                    task.rest()
                }
            };
            *next = Instant::now() + pause;
        }
    }

    pub fn pause(&mut self) {
        self.0.iter_mut().for_each(|entry| entry.task.pause());
    }

    pub fn are_busy(&self) -> bool {
        self.0.iter().any(|entry| entry.task.is_busy())
    }

    /// Each that is busy goes on, one after the other, until the moment has come.
    pub fn drive(&mut self, until: Instant) -> Result<()> {
        self.0.iter_mut().filter(|entry| entry.task.is_busy()).try_for_each(|entry| entry.task.drive(until))
    }
}
