//! Nodes that the current transaction has dropped while postgres_fdw had work of it there. That goes on in its session until
//! the transaction ends, and a second session with the same node would wait for it for ever.

use super::session::{ConnectionParams, Options};
use crate::error::{Report, Result};
use crate::name::{QualifiedName, literal};
use crate::pg::sql;
use pgrx::PgSqlErrorCode as Code;
use pgrx::{PgXactCallbackEvent, register_xact_callback};
use std::cell::RefCell;

thread_local! {
    static LEFT: RefCell<Vec<Way>> = const { RefCell::new(Vec::new()) };
}

struct Way {
    node: String,
    identity: Option<String>,
    address: Vec<Option<String>>,
}

/// Closes postgres_fdw's session with the node, and whether this transaction still works in it.
pub fn is_busy(node: &str) -> Result<bool> {
    let schema =
        "SELECT n.nspname::text FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
                  WHERE e.extname = 'postgres_fdw'";
    let Some(schema) = sql::one::<String>(schema, &[])? else { return Ok(false) };
    let function = |name: &str| QualifiedName::new(schema.as_str(), name);
    sql::run_quietly(&format!("SELECT {}({})", function("postgres_fdw_disconnect"), literal(node)))?;
    let open = format!("SELECT true FROM {}() WHERE server_name = $1", function("postgres_fdw_get_connections"));
    Ok(sql::one::<bool>(&open, &[node.into()])?.is_some())
}

/// The node is dropped while the transaction is at work there.
pub fn note(node: &str, identity: Option<String>, server: &Options) {
    LEFT.with_borrow_mut(|left| left.push(Way { node: node.to_string(), identity, address: address(server) }));
    register_xact_callback(PgXactCallbackEvent::Commit, clear);
    register_xact_callback(PgXactCallbackEvent::Abort, clear);
}

fn clear() {
    LEFT.with_borrow_mut(Vec::clear);
}

fn address(server: &Options) -> Vec<Option<String>> {
    ["host", "port", "dbname"].map(|name| server.get(name).cloned()).into()
}

/// Errors: 55006 it is a database that this transaction has left so.
pub fn check(target: &ConnectionParams, identity: Option<&str>, server: &Options) -> Result<()> {
    let address = address(server);
    let same = |way: &Way| way.address == address || way.identity.is_some() && way.identity.as_deref() == identity;
    let left = LEFT.with_borrow(|left| left.iter().find(|way| same(way)).map(|way| way.node.clone()));
    match left {
        None => Ok(()),
        Some(before) => Report::new(
            Code::ERRCODE_OBJECT_IN_USE,
            format!("node \"{}\" is a database that this transaction is still at work in", target.node),
        )
        .detail(format!("It was dropped as node \"{before}\"; what it was told meanwhile ends with the transaction."))
        .hint("Commit first, then add it.")
        .into(),
    }
}
