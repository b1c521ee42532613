//! Where the processes of the extension begin. The C functions that the server calls are in `pg::worker`, which knows none of
//! what is above it and is handed these.

use super::{database, launcher};
use crate::pg::worker::Entries;
use crate::reshard::revert::keeper;
use crate::reshard::run;

pub const ENTRIES: Entries =
    Entries { launcher: launcher::run, database: database::run, operation: run::run, keeper: keeper::run };
