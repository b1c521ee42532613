//! Is there a connection pooler before a node, and does it leave each of us a session of its own?
//!
//! What we set, prepare and lock belongs to a session. A pooler that hands out a server for each transaction would give our
//! settings to other clients, and theirs to us.

use super::finding::{Finding, Severity};
use super::session::{ConnectionParams, MARK, Session, Timeouts};
use crate::error::{Report, Result};
use pgrx::PgSqlErrorCode as Code;
use std::hash::{BuildHasher, RandomState};
use tokio_postgres::SimpleQueryMessage;

/// Harmless where it ends up in the wrong session.
const PROBE: &str = "shardkeeper_session.probe";

/// Errors: 0A000 a session's settings reach another one, or are lost. Nothing is prepared and nothing else is set for that.
pub async fn check_sessions(target: &ConnectionParams, limits: Timeouts) -> Result<()> {
    let mut first = Session::open_as_it_comes(target, limits).await?;
    let mut second = Session::open_as_it_comes(target, limits).await?;
    let mine = format!("{:x}", RandomState::new().hash_one(std::process::id()));
    let ask = format!("SELECT pg_catalog.current_setting('{PROBE}', true)");
    second.text(&format!("SELECT pg_catalog.set_config('{PROBE}', '{mine}', false)")).await?;
    // With a transaction open it keeps the server that the pooler thinks fit: most likely the one that was free last.
    let with_first = value(&first.text(&format!("BEGIN; {ask}")).await?);
    if with_first.as_deref() == Some(mine.as_str()) {
        return shared(&target.node).into();
    }
    let with_second = value(&second.text(&ask).await?);
    first.text("ROLLBACK").await?;
    if with_second.as_deref() == Some(mine.as_str()) { Ok(()) } else { shared(&target.node).into() }
}

/// Whether the session got the options that it was begun with. A pooler may drop them without a word.
pub async fn check_options(session: &mut Session) -> Result<Option<Finding>> {
    let sql = format!("SELECT current_setting('{MARK}', true)");
    if session.one::<String>(&sql, &[]).await?.is_some() {
        return Ok(None);
    }
    let text = "a pooler before the server drops start-up options; sessions of postgres_fdw have the settings of the role there";
    let hint = "Add the node by the server's own address, or give that role there the settings with ALTER ROLE … SET: see the page on poolers.";
    Ok(Some(Finding::new(Severity::Warning, text, Some(hint))))
}

fn value(messages: &[SimpleQueryMessage]) -> Option<String> {
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.try_get(0).ok().flatten().map(String::from),
        _ => None,
    })
}

/// What makes PgBouncer fit.
pub const SESSIONS: &str = "Use the server's own address, or in PgBouncer's configuration set pool_mode = session and ignore_startup_parameters = options.";

fn shared(node: &str) -> Report {
    Report::new(
        Code::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("node \"{node}\" is behind a pooler that gives sessions away between transactions"),
    )
    .detail("What one session sets is seen by another, or lost; so would be its prepared statements and locks.")
    .hint(SESSIONS)
}
