//! The session channel: SQL on a node inside postgres_fdw's own remote transaction, so that it commits, rolls back and
//! follows savepoints with the caller.
//!
//! Each node has the view `shardkeeper.session`; the coordinator has a foreign table over it, named like the node, in
//! the schema `shardkeeper_nodes`. That schema is no member of the extension, so tables outlive `DROP EXTENSION`.

use super::session;
use crate::background;
use crate::catalog::node::{SCHEMA, unknown_node};
use crate::catalog::transaction;
use crate::error::{Report, Result};
use crate::name::{QualifiedName, ident, literal};
use crate::pg::{reraise, sql, wal};
use pgrx::PgSqlErrorCode as Code;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What a statement returned: the number of rows returned or changed, and the rows themselves.
#[derive(Debug, Default, Deserialize)]
pub struct Answer {
    pub rows: i64,
    pub result: Option<Value>,
}

/// The way to one node within the current transaction.
#[derive(Debug, Clone)]
pub struct Channel {
    pub node: String,
    table: QualifiedName,
}

impl Channel {
    /// Errors: 42704 no such node.
    pub fn open(node: &str) -> Result<Self> {
        let table = QualifiedName::new(SCHEMA, node);
        let allowed = sql::one::<bool>(
            "SELECT pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'INSERT')
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_foreign_table t ON t.ftrelid = c.oid
             JOIN pg_catalog.pg_foreign_server s ON s.oid = t.ftserver AND s.srvname = $2
             WHERE c.relname = $2 AND c.relnamespace = pg_catalog.to_regnamespace($1)",
            &[SCHEMA.into(), node.into()],
        )?;
        match allowed {
            Some(true) => {}
            Some(false) => return no_way(node)?,
            None => return unknown_node(node).into(),
        }
        // At once, not when this transaction commits: what an earlier one left may be in its way.
        background::ensure_now()?;
        Ok(Self { node: node.to_string(), table })
    }

    /// The first value of a query on the node.
    pub fn query(&self, query: &str) -> Result<Option<String>> {
        let ask = format!("INSERT INTO {} (command) VALUES ($1) RETURNING result", self.table);
        reraise::naming(&self.node, || sql::one(&ask, &[query.into()]))
    }

    /// A query on the node that returns one JSON document.
    pub fn document<T: DeserializeOwned>(&self, query: &str) -> Result<Option<T>> {
        self.query(query)?.map(|text| session::document(&self.node, &text)).transpose()
    }

    /// Runs a user's statement, of which nothing is journaled: it commits with postgres_fdw's transaction, and is undone with it.
    pub fn answer(&self, statement: &str) -> Result<Answer> {
        let timeout = lock_timeout()?;
        if !timeout.is_empty() {
            sql::run(&format!("INSERT INTO {} (command) VALUES ($1)", self.table), &[timeout.into()])?;
        }
        let answer = self.document(&format!("SELECT shardkeeper.answer({})", literal(statement)))?;
        Ok(answer.unwrap_or_default())
    }

    /// Runs `command`, one or several statements, and journals `inverse`, which undoes it, in the same transaction on
    /// the node. Where only the node's commit takes effect, the worker runs the inverse there.
    pub fn run(&self, command: &str, inverse: &str) -> Result<()> {
        let transaction = self.register()?;
        let command = format!("{}{command}", lock_timeout()?);
        let order = format!(
            "INSERT INTO {} (command, inverse, coordinator, timeline, lsn, transaction, xid)
             SELECT $1, $2, {COORDINATOR}, {TIMELINE}, pg_catalog.pg_current_wal_flush_lsn()::text, $3,
                    pg_catalog.pg_current_xact_id()::text",
            self.table
        );
        reraise::naming(&self.node, || sql::run(&order, &[command.into(), inverse.into(), transaction.into()]))?;
        Ok(())
    }

    /// Notes on the coordinator that this transaction changes the node: the row is there if it commits.
    ///
    /// The number of the transaction is on disk before any node hears of it. A crash could make it free again otherwise, and
    /// another transaction's outcome would be taken for that of this one.
    fn register(&self) -> Result<String> {
        let (id, is_known) = transaction::register(&self.node)?;
        if !is_known {
            wal::flush_own();
        }
        Ok(id)
    }
}

/// How a coordinator signs its journal rows: the same after a restart and on a promoted standby, another one in a
/// restored dump.
pub const COORDINATOR: &str = "(SELECT system_identifier FROM pg_catalog.pg_control_system()) || '/' || (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())";

/// The timeline that the coordinator writes now.
pub const TIMELINE: &str =
    "('x' || pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8))::bit(32)::int";

/// The caller's patience holds on the node too: without it, a call would wait there for as long as another session keeps
/// its lock.
fn lock_timeout() -> Result<String> {
    let timeout = sql::one::<String>("SELECT pg_catalog.current_setting('lock_timeout')", &[])?.unwrap_or_default();
    Ok(if timeout == "0" { String::new() } else { format!("SET LOCAL lock_timeout = {};\n", literal(&timeout)) })
}

fn no_way<T>(node: &str) -> Result<T> {
    let role = sql::one::<String>("SELECT current_user::text", &[])?.unwrap_or_default();
    Report::new(
        Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("role {} has no access to node {}", ident(&role), ident(node)),
    )
    .hint(format!(
        "Its owner can give it with SELECT shard_grant_node({}, {}, username, password);",
        literal(node),
        literal(&role)
    ))
    .into()
}
