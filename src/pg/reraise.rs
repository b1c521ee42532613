//! Errors that postgres_fdw raises for a node, with the node named.

use super::subtransaction::report;
use crate::error::{Error, Report, Result};
use pgrx::pg_sys::panic::{CaughtError, ErrorReport};
use pgrx::{PgLogLevel, PgSqlErrorCode as Code, PgTryBuilder};
use std::panic::AssertUnwindSafe;

/// Runs `work`, which asks `node` something by SQL. An error is raised again with the node in it, not returned: nothing was
/// rolled back, so nobody may go on from here. A cancel or a shutdown stays as it is.
pub fn naming<T>(node: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    PgTryBuilder::new(AssertUnwindSafe(work)).catch_others(|error| raise(node, error)).execute()
}

fn raise(node: &str, error: CaughtError) -> ! {
    let code = match &error {
        CaughtError::PostgresError(found) | CaughtError::ErrorReport(found) => found.sql_error_code(),
        CaughtError::RustPanic { .. } => error.rethrow(),
    };
    if matches!(code, Code::ERRCODE_QUERY_CANCELED | Code::ERRCODE_ADMIN_SHUTDOWN) {
        error.rethrow();
    }
    let mut found = report(error);
    if code == Code::ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION && found.hint.is_none() {
        found.hint = Some("Run SELECT * FROM shard_check(); it says what is wrong with the node.".to_string());
    }
    let named = if found.message.contains(&format!("\"{node}\"")) {
        found
    } else {
        Report { message: format!("{} (on node \"{node}\")", found.message), ..found }
    };
    ErrorReport::from(Error::from(named)).report(PgLogLevel::ERROR);
    unreachable!("an error does not return")
}
