//! The task that empties the coordinator's own trash. A node's is emptied when it is visited.

use super::task::Task;
use crate::background::log::Log;
use crate::error::Result;
use crate::node::trash;
use std::time::Duration;

/// After a table could not be dropped.
const AGAIN: Duration = Duration::from_secs(60);

pub struct Trash;

impl Task for Trash {
    fn subject(&self) -> &'static str {
        "trash"
    }

    fn interval(&self) -> Duration {
        Duration::ZERO
    }

    fn rest(&self) -> Duration {
        AGAIN
    }

    fn run(&mut self, log: &mut Log) -> Result<()> {
        let mut errors = trash::empty_local()?;
        let Some(last) = errors.pop() else { return Ok(()) };
        for error in errors {
            log.failure(self.subject(), error);
        }
        Err(last)
    }
}
