//! Options of a node: what a caller may set, what we set, and why.

use super::session::Options;
use crate::error::{Report, Result};
use crate::guc;
use pgrx::PgSqlErrorCode as Code;
use serde_json::Value;

/// Options that a caller may give, with the first major version of the coordinator that knows them.
const KNOWN: &[(&str, u32)] = &[
    ("analyze_sampling", 16),
    ("application_name", 15),
    ("async_capable", 15),
    ("batch_size", 15),
    ("channel_binding", 15),
    ("connect_timeout", 15),
    ("extensions", 15),
    ("fdw_startup_cost", 15),
    ("fdw_tuple_cost", 15),
    ("fetch_size", 15),
    ("gssencmode", 15),
    ("hostaddr", 15),
    ("keep_connections", 15),
    ("keepalives", 15),
    ("keepalives_count", 15),
    ("keepalives_idle", 15),
    ("keepalives_interval", 15),
    ("load_balance_hosts", 16),
    ("options", 15),
    ("parallel_abort", 16),
    ("parallel_commit", 15),
    ("port", 15),
    ("require_auth", 16),
    ("ssl_max_protocol_version", 15),
    ("ssl_min_protocol_version", 15),
    ("sslcert", 15),
    ("sslcrl", 15),
    ("sslcrldir", 15),
    ("sslkey", 15),
    ("sslmode", 15),
    ("sslrootcert", 15),
    ("sslsni", 15),
    ("target_session_attrs", 15),
    ("tcp_user_timeout", 15),
    ("truncatable", 15),
    ("updatable", 15),
    ("use_remote_estimate", 15),
];

/// What postgres_fdw would do and sessions of our own cannot: a node is reached the same way on both, or not at all.
const ONE_WAY: &[(&str, &str)] = &[
    ("gssdelegation", NO_KERBEROS),
    ("gsslib", NO_KERBEROS),
    ("krbsrvname", NO_KERBEROS),
    ("max_protocol_version", "sessions of shardkeeper's own speak one version of the protocol, 3.0"),
    ("min_protocol_version", "sessions of shardkeeper's own speak one version of the protocol, 3.0"),
    ("oauth_client_id", NO_OAUTH),
    ("oauth_client_secret", NO_OAUTH),
    ("oauth_issuer", NO_OAUTH),
    ("oauth_scope", NO_OAUTH),
    ("requirepeer", "sessions of shardkeeper's own do not ask who the other side of a socket is"),
    ("scram_client_key", "a password is the argument password"),
    ("scram_server_key", "a password is the argument password"),
    ("service", "the address is given by host, port and dbname"),
    (
        "sslcertmode",
        "sessions of shardkeeper's own show a certificate when the server asks for one and sslcert is there",
    ),
    ("sslcompression", "no session compresses what TLS carries"),
    ("sslkeylogfile", "keys of sessions are written nowhere"),
    ("sslnegotiation", "sessions of shardkeeper's own ask the server for TLS before they begin it"),
];
const NO_KERBEROS: &str = "sessions of shardkeeper's own cannot use Kerberos";
const NO_OAUTH: &str = "sessions of shardkeeper's own cannot use OAuth";

pub type Setting = (&'static str, &'static str);

/// Settings of postgres_fdw's sessions. Of those that a value depends on, postgres_fdw itself sets the others; the timeouts are
/// the coordinator's to have, for the caller's session has its own, and a node that ended one of these would end the caller's
/// transaction. The last says who comes.
const PINNED: &[Setting] = &[
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    ("standard_conforming_strings", "on"),
    ("bytea_output", "hex"),
    ("xmloption", "content"),
    ("exit_on_error", "off"),
    ("statement_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("shardkeeper_session.coordinator", "on"),
];
/// Not for every node: where a role or a database has it the other way round, as libpq chooses among several hosts by it; and
/// from 17 on.
pub const WRITES: Setting = ("default_transaction_read_only", "off");
pub const NO_END: Setting = ("transaction_timeout", "0");

/// Belong to arguments of their own, or to a user mapping.
const ELSEWHERE: &[(&str, &str)] = &[
    ("host", "the argument host"),
    ("dbname", "the argument dbname"),
    ("user", "the argument username"),
    ("password", "the argument password"),
    ("passfile", "the argument password"),
    ("sslpassword", "a key file without a password"),
];

/// What we set on every server, unless the caller does.
pub fn defaults() -> Options {
    let settings = [
        // By this name a node knows sessions that come through the parent: see shardkeeper.write_fence() there.
        ("application_name", "shardkeeper coordinator".to_string()),
        // A hundred rows a round trip: many times faster than one by one, and more makes wide rows slower, as the node plans
        // each batch anew.
        ("batch_size", "100".to_string()),
        // The default of 100 makes a scan of a million rows ten thousand round trips.
        ("fetch_size", "10000".to_string()),
        // Leaves on several nodes are scanned at the same time.
        ("async_capable", "true".to_string()),
        // Commits on several nodes take as long as one, and the moment in which they can split is short.
        ("parallel_commit", "true".to_string()),
        ("connect_timeout", guc::connect_timeout_seconds().to_string()),
        // A machine that vanished is noticed within a minute; the system's default is two hours.
        ("keepalives_idle", "30".to_string()),
        ("keepalives_interval", "10".to_string()),
        ("keepalives_count", "3".to_string()),
        ("tcp_user_timeout", "60000".to_string()),
    ];
    settings.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

/// Lays our settings before the caller's own in the option `options`: what the caller gives comes last and wins. `more` are
/// those that not every node has; `None` leaves them as they are.
pub fn pin(server: &mut Options, more: Option<&[Setting]>) {
    let given = server.get("options").map(String::as_str).unwrap_or_default();
    let (mut rest, mut had) = (given.trim(), Vec::new());
    for setting in [WRITES, NO_END].into_iter().chain(PINNED.iter().copied()) {
        if let Some(behind) = without(rest, setting) {
            rest = behind;
            had.push(setting);
        }
    }
    let more = more.unwrap_or(&had).iter().copied().filter(|setting| [WRITES, NO_END].contains(setting));
    let ours = more.chain(PINNED.iter().copied()).map(written);
    let all: Vec<String> = ours.chain(Some(rest.to_string()).filter(|rest| !rest.is_empty())).collect();
    server.insert("options".into(), all.join(" "));
}

pub fn written((name, value): Setting) -> String {
    format!("-c {name}={value}")
}

/// The text behind a setting of ours that it begins with.
fn without(text: &str, setting: Setting) -> Option<&str> {
    let rest = text.strip_prefix(&written(setting))?;
    (rest.is_empty() || rest.starts_with(' ')).then(|| rest.trim_start())
}

/// Why a node cannot have the option, though libpq knows it.
pub fn why_not(name: &str, value: &str) -> Option<&'static str> {
    match name {
        "gssencmode" if value == "require" => Some(NO_KERBEROS),
        _ => ONE_WAY.iter().find(|(known, _)| *known == name).map(|(_, reason)| *reason),
    }
}

/// The caller's options: `None` takes a default away.
pub fn parse(json: &Value) -> Result<Vec<(String, Option<String>)>> {
    let Value::Object(members) = json else {
        return Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, "options: not a JSON object")
            .hint("Write for example options => '{\"sslmode\": \"verify-full\"}'.")
            .into();
    };
    members
        .iter()
        .map(|(name, value)| {
            let value = text(name, value)?;
            if let Some(reason) = why_not(name, value.as_deref().unwrap_or_default()) {
                return Report::new(Code::ERRCODE_FEATURE_NOT_SUPPORTED, format!("options.{name}: not supported"))
                    .detail(format!(
                        "A node is reached by postgres_fdw and by sessions of shardkeeper's own, and {reason}."
                    ))
                    .into();
            }
            check_name(name)?;
            Ok((name.clone(), value))
        })
        .collect()
}

fn check_name(name: &str) -> Result<()> {
    if let Some((_, place)) = ELSEWHERE.iter().find(|(known, _)| *known == name) {
        return Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, format!("options.{name}: not allowed here"))
            .hint(format!("Use {place}."))
            .into();
    }
    let major = pgrx::pg_sys::PG_VERSION_NUM / 10_000;
    let valid = || KNOWN.iter().filter(|(_, since)| *since <= major).map(|(known, _)| *known);
    if valid().any(|known| known == name) {
        return Ok(());
    }
    let all = valid().collect::<Vec<_>>().join(", ");
    Report::new(Code::ERRCODE_FDW_INVALID_OPTION_NAME, format!("options.{name}: unknown option"))
        .hint(format!("There are {all}."))
        .into()
}

fn text(name: &str, value: &Value) -> Result<Option<String>> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Bool(_) | Value::Number(_) => Ok(Some(value.to_string())),
        Value::Array(_) | Value::Object(_) => {
            Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, format!("options.{name}: not a single value"))
                .hint("Several hosts or ports are one string with commas between.")
                .into()
        }
    }
}

/// Lays `given` over `base`.
pub fn merge(mut base: Options, given: impl IntoIterator<Item = (String, Option<String>)>) -> Options {
    for (name, value) in given {
        match value {
            Some(value) => base.insert(name, value),
            None => base.remove(&name),
        };
    }
    base
}
