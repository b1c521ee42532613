//! What a session of ours sets before anything else, whatever the role, the database or the server has set: see
//! `crate::pg::settings`.

use super::statements::Timeouts;
use crate::pg::settings::{TEXT, TRANSACTIONS};

/// A setting that nobody knows, to find out whether start-up options get through.
pub const MARK: &str = "shardkeeper_session.options";

/// Start-up options, in force before the first command: what could end the session until then. A node that loses us without
/// a word lets go of our locks and slots soon.
pub fn at_start(limits: Timeouts) -> String {
    format!(
        "-c search_path=pg_catalog -c statement_timeout={} -c lock_timeout={} -c idle_session_timeout=0 \
         -c idle_in_transaction_session_timeout=0 -c exit_on_error=off -c {MARK}=on \
         -c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3",
        milliseconds(limits.statement),
        milliseconds(limits.lock),
    )
}

/// The first commands. A pooler may have dropped the options, and some settings are not known to every version. What is as it
/// should be is not set again: a role may have been given what it has no right to set.
pub fn commands(limits: Timeouts) -> String {
    let (statement, lock) = (milliseconds(limits.statement), milliseconds(limits.lock));
    let more = [
        ("statement_timeout", statement.as_str()),
        ("lock_timeout", lock.as_str()),
        ("session_replication_role", "origin"),
    ];
    let wanted: Vec<String> = TEXT
        .iter()
        .chain(&TRANSACTIONS)
        .chain(&more)
        // Words of ours, with nothing in them to be quoted.
        .map(|(name, value)| format!("('{name}', '{value}')"))
        .collect();
    // What is committed on a node counts as safe there. A server that is read-only by its configuration stays so: that is
    // somebody's order, and shard_check tells of it; what a role or a database has is a default for other sessions.
    format!(
        "SET search_path = pg_catalog;
         SELECT set_config(name, value, false) FROM (VALUES {}) AS wanted (name, value) WHERE current_setting(name, true) <> value;
         SELECT set_config('synchronous_commit', 'local', false) WHERE current_setting('synchronous_commit') = 'off';
         SELECT set_config('default_transaction_read_only', 'off', false) WHERE current_setting('default_transaction_read_only')::boolean
             AND EXISTS (SELECT FROM pg_settings WHERE name = 'default_transaction_read_only' AND source IN ('database', 'user', 'database user'))",
        wanted.join(", ")
    )
}

fn milliseconds(limit: Option<std::time::Duration>) -> String {
    limit.map_or(0, |limit| limit.as_millis()).to_string()
}
