//! The tasks that start the workers of operations: of each that has something to do, and the one that keeps what switched
//! operations replaced current.

use super::task::Task;
use crate::background::log::Log;
use crate::catalog::{operation, way_back};
use crate::error::{Report, Result};
use crate::pg::worker::Handle;
use crate::pg::{transaction, worker};
use pgrx::PgSqlErrorCode as Code;
use std::collections::HashMap;
use std::time::Duration;

/// Between two looks at what changed in tables whose predecessors are kept.
const KEEP: Duration = Duration::from_secs(10);

/// Starts a worker for each operation that needs one and has none.
#[derive(Default)]
pub struct Operations {
    running: HashMap<i64, Handle>,
}

impl Task for Operations {
    fn subject(&self) -> &'static str {
        "operations"
    }

    fn interval(&self) -> Duration {
        Duration::ZERO
    }

    fn run(&mut self, _log: &mut Log) -> Result<()> {
        self.running.retain(|_, handle| handle.is_running());
        for id in transaction::run(operation::wanting)? {
            if self.running.contains_key(&id) {
                continue;
            }
            let Some(handle) = worker::start_operation(id) else {
                return Report::new(
                    Code::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                    format!("operation {id} finds no free background worker"),
                )
                .hint("Raise max_worker_processes and restart the coordinator.")
                .into();
            };
            self.running.insert(id, handle);
        }
        Ok(())
    }
}

/// Starts the keeper, which comes for one look, and leaves.
#[derive(Default)]
pub struct Keeping {
    keeper: Option<Handle>,
}

impl Task for Keeping {
    fn subject(&self) -> &'static str {
        "ways back"
    }

    fn interval(&self) -> Duration {
        KEEP
    }

    fn run(&mut self, _log: &mut Log) -> Result<()> {
        if self.keeper.as_ref().is_some_and(Handle::is_running) {
            return Ok(());
        }
        // Where there is no background worker free, log is kept a little longer.
        self.keeper = match transaction::run(way_back::any_is_open)? {
            true => worker::start_keeper(),
            false => None,
        };
        Ok(())
    }
}
