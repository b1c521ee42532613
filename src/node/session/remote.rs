//! What went wrong on the way to a node or there, as our report: the node is named, a password never.

use super::answer::unreadable;
use super::connect::Address;
use super::connection_params::ConnectionParams;
use crate::error::{Error, Report};
use crate::guc;
use crate::name::{ident, literal};
use crate::node::pooler;
use pgrx::PgSqlErrorCode as Code;
use tokio_postgres::error::{DbError, Severity};

/// No host of the node let us in.
pub fn unreachable(node: &str, tried: &str) -> Report {
    Report::new(Code::ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION, format!("node \"{node}\" cannot be reached"))
        .detail(format!("Tried {tried}."))
        .hint(format!(
            "The server must be up and reachable from the coordinator's machine; shardkeeper.connect_timeout is {} s.",
            guc::connect_timeout_seconds()
        ))
}

/// The server answered, and said no.
pub(super) fn refused(target: &ConnectionParams, address: &Address, error: tokio_postgres::Error) -> Error {
    let Some(db) = error.as_db_error() else {
        return unreachable(&target.node, &sentence(&error)).into();
    };
    let code = code(db);
    let at = format!("At {}:{}, database \"{}\", role \"{}\".", address.host, address.port, target.dbname, target.user);
    let report = match code {
        Code::ERRCODE_INVALID_PASSWORD => Report::new(code, format!("node \"{}\" rejects the password", target.node))
            .hint(format!(
                "See that role {} exists there, and give its password as the argument password; for your own way to a node that exists already, with SELECT shard_alter_node({}, password => …).",
                ident(&target.user),
                literal(&target.node)
            )),
        Code::ERRCODE_TOO_MANY_CONNECTIONS => {
            Report::new(code, format!("node \"{}\" refuses the connection: {}", target.node, db.message())).hint(
                "Raise there the CONNECTION LIMIT of the role or of the database, or max_connections, or end sessions that nobody needs.",
            )
        }
        // PgBouncer's words.
        _ if db.message().starts_with("unsupported startup parameter") => {
            Report::new(code, format!("node \"{}\" is behind a pooler that refuses start-up options", target.node))
                .hint(pooler::SESSIONS)
        }
        _ => Report::new(code, format!("node \"{}\" refuses the connection: {}", target.node, db.message())),
    };
    let report = match (&report.hint, db.hint()) {
        (None, Some(hint)) => report.hint(hint),
        _ => report,
    };
    report.detail(at).into()
}

/// A statement failed on the node: its own words, with the node named.
pub(super) fn failed(node: &str, error: &tokio_postgres::Error) -> Report {
    match error.as_db_error() {
        Some(db) => from_db(node, db),
        None if is_unreadable(error) => unreadable(node, &sentence(error)),
        None => lost(node, &sentence(error)),
    }
}

/// The server has ended the session with these words.
pub(super) fn ends_session(error: &tokio_postgres::Error) -> bool {
    let severity = error.as_db_error().and_then(DbError::parsed_severity);
    matches!(severity, Some(Severity::Fatal | Severity::Panic))
}

/// The connection is sound; what came over it does not fit the question.
fn is_unreadable(error: &tokio_postgres::Error) -> bool {
    let source = std::error::Error::source(error);
    !error.is_closed() && source.is_some_and(|source| !source.is::<std::io::Error>())
}

pub(super) fn from_db(node: &str, db: &DbError) -> Report {
    let mut report = Report::new(code(db), format!("{} (on node \"{node}\")", db.message()));
    let context = db.where_().map(|text| format!("Context on the node: {text}"));
    report.detail = match (db.detail(), context) {
        (Some(detail), Some(context)) => Some(format!("{detail}\n{context}")),
        (Some(detail), None) => Some(detail.to_string()),
        (None, context) => context,
    };
    report.hint = db.hint().map(String::from);
    report
}

/// The connection ended under a statement.
pub(super) fn lost(node: &str, reason: &str) -> Report {
    Report::new(Code::ERRCODE_CONNECTION_FAILURE, format!("connection to node \"{node}\" was lost"))
        .detail(reason.to_string())
}

/// The node keeps the connection and says nothing.
pub(super) fn silent(node: &str, limit: std::time::Duration) -> Report {
    Report::new(Code::ERRCODE_CONNECTION_FAILURE, format!("node \"{node}\" does not answer"))
        .detail(format!("It had {} s.", limit.as_secs_f32()))
        .hint("See whether the server or the network between is frozen.")
}

pub(super) fn password_missing(target: &ConnectionParams) -> Report {
    Report::new(
        Code::ERRCODE_INVALID_PASSWORD,
        format!("node \"{}\" asks for a password, and none is known", target.node),
    )
    .detail(format!("The role is \"{}\".", target.user))
    .hint(format!(
        "Give it as the argument password; for a node that exists already, with SELECT shard_alter_node({}, password => …).",
        literal(&target.node)
    ))
}

pub(super) fn password_required(target: &ConnectionParams) -> Report {
    Report::new(Code::ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED, "password is required")
        .detail(format!("A role that is no superuser must give a password for node \"{}\".", target.node))
        .hint("Give it as the argument password.")
}

pub(super) fn password_not_asked(target: &ConnectionParams) -> Report {
    Report::new(
        Code::ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED,
        format!("node \"{}\" did not ask for the password", target.node),
    )
    .detail("A role that is no superuser may only use nodes that ask for its password.")
    .hint("Let the node's pg_hba.conf ask for it (scram-sha-256), or let a superuser add the node.")
}

pub(super) fn tls(target: &ConnectionParams, detail: &str) -> Report {
    Report::new(Code::ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE, format!("TLS to node \"{}\" cannot be set up", target.node))
        .detail(detail)
}

/// The innermost cause: the outer ones only say that there was one.
pub(super) fn sentence(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return db.message().to_string();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Five characters, six bits each, as Postgres packs them.
fn code(db: &DbError) -> Code {
    let packed = db
        .code()
        .code()
        .bytes()
        .take(5)
        .enumerate()
        .fold(0, |sum, (place, byte)| sum | (i32::from(byte.wrapping_sub(b'0') & 0x3f) << (6 * place)));
    Code::from(packed)
}
