//! The task that forgets which tables were moved, when no snapshot is left that would miss their rows.

use super::task::Task;
use crate::background::log::Log;
use crate::catalog::moved;
use crate::error::Result;
use crate::pg::transaction;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(60);

pub struct Moved;

impl Task for Moved {
    fn subject(&self) -> &'static str {
        "moved tables"
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn run(&mut self, _log: &mut Log) -> Result<()> {
        transaction::run(moved::forget_seen)
    }
}
