//! Settings that must be the same wherever we read a value or a definition to write it again, whatever a role, a database or
//! a server has: texts travel between servers, rows are found again by them, and hashes are made of them.
//!
//! Three places set them: our own sessions with nodes and the background workers by this list, and by the same list in SQL the
//! functions on the coordinator (`sql/settings.sql`) and the session channel (`sql/node.sql`).

use super::sql;
use crate::error::Result;

/// How values and definitions are written and read.
pub const TEXT: [(&str, &str); 14] = [
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("xmloption", "content"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    ("standard_conforming_strings", "on"),
    ("quote_all_identifiers", "off"),
    // A row that a policy hides from a role is hidden; what must read every row turns this off, and gets an error.
    ("row_security", "on"),
    // Definitions name a tablespace or an access method where it is not the default, and mean these by none.
    ("default_tablespace", ""),
    ("default_table_access_method", "heap"),
];

/// How transactions run, and what would end them. Where a setting is unknown (`transaction_timeout` before 17) there is
/// nothing to set.
pub const TRANSACTIONS: [(&str, &str); 8] = [
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    ("exit_on_error", "off"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("transaction_timeout", "0"),
    ("client_min_messages", "warning"),
    // Questions about catalogs look costly to the planner: compiling them takes longer than running them.
    ("jit", "off"),
];

/// For a background worker, as its first command. It never asks whether it may write: that is what it is there for.
pub fn settle_worker() -> Result<()> {
    sql::run("SET search_path = pg_catalog, pg_temp", &[])?;
    let more = [
        ("default_transaction_read_only", "off"),
        ("lock_timeout", "2s"),
        ("statement_timeout", "0"),
        // What it commits on nodes counts on what it has committed here.
        ("synchronous_commit", "local"),
    ];
    for (name, value) in TEXT.into_iter().chain(TRANSACTIONS).chain(more) {
        sql::run(
            "SELECT set_config($1, $2, false) WHERE current_setting($1, true) IS NOT NULL",
            &[name.into(), value.into()],
        )?;
    }
    Ok(())
}
