//! One server of an operation, asked the same way whether it is the coordinator itself or a node.
//!
//! On a node, statements run in an own session as the user mapping of the parent's owner. On the coordinator there is no
//! session to be had: they run in a transaction of the worker, as the parent's owner.

use crate::catalog::operation::Operation;
use crate::error::Result;
use crate::name::literal;
use crate::node::session::{self, ConnectionParams, Lent, Session, Timeouts};
use crate::pg::{role, sql, transaction};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::Oid;
use postgres_types::ToSql;
use serde::de::DeserializeOwned;
use shardkeeper_core::plan::LOCAL;
use std::time::Duration;

/// For steps that may read a whole table. A node that says nothing at all is noticed by TCP.
pub const LONG: Timeouts =
    Timeouts { statement: None, lock: Some(Duration::from_secs(2)), application_name: "shardkeeper operation" };
/// For steps that a healthy server answers soon.
pub const BRIEF: Timeouts = Timeouts {
    statement: Some(Duration::from_secs(20)),
    lock: Some(Duration::from_secs(2)),
    application_name: "shardkeeper operation",
};

/// No row is left out in silence: what row security would hide is an error.
pub const EVERY_ROW: &str = "SET row_security = off";

/// A session for rows and changes. Within a transaction.
pub fn session(operation: &Operation, node: &str) -> Result<Session> {
    let way = ConnectionParams::of(node, operation.role())?;
    session::wait(async {
        let mut session = Session::open(&way, LONG).await?;
        session.run(&format!("SET application_name = {}; {EVERY_ROW}", literal(&name_of(operation)))).await?;
        Ok(session)
    })
}

/// What sessions of an operation are known by on nodes, there and back.
fn name_of(operation: &Operation) -> String {
    let staging = &operation.staging;
    let number = staging.trim_start_matches("shardkeeper_op_").trim_start_matches("shardkeeper_old_");
    format!("shardkeeper operation {number}")
}

/// Ends sessions of workers that are no more. Where the network swallowed the end of a connection, a server goes on trying
/// to send rows to nobody, for a quarter of an hour, and keeps the lock of the copy. A node that is down has none.
pub fn end_lost_sessions(operation: &Operation) {
    const END: &str = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
         WHERE application_name = $1 AND usename = current_user AND pid <> pg_catalog.pg_backend_pid()";
    let name = name_of(operation);
    for node in operation.plan.remote_nodes() {
        let way = transaction::run(|| ConnectionParams::of(&node, operation.role()));
        let _ = way.and_then(|way| {
            session::wait(async { Session::open(&way, BRIEF).await?.rows(END, &[&name]).await.map(drop) })
        });
    }
}

/// Nothing is set in the session but for its transaction: others come after. Boxed: a session is much larger than a role.
pub enum Server {
    Local {
        role: Oid,
    },
    /// The coordinator too, within a transaction that the worker has open.
    Within {
        role: Oid,
    },
    Node(Box<Lent>),
}

impl Server {
    /// Outside a transaction.
    pub async fn open(node: &str, role: Oid, limits: Timeouts) -> Result<Self> {
        if node == LOCAL {
            return Ok(Server::Local { role });
        }
        let target = transaction::run(|| ConnectionParams::of(node, role))?;
        Ok(Server::Node(Box::new(Lent::open(&target, limits).await?)))
    }

    /// Within a transaction: what is done on the coordinator is a part of it.
    pub fn within(node: &str, role: Oid, limits: Timeouts) -> Result<Self> {
        if node == LOCAL {
            return Ok(Server::Within { role });
        }
        let target = ConnectionParams::of(node, role)?;
        Ok(Server::Node(Box::new(session::wait(Lent::open(&target, limits))?)))
    }

    /// One or several statements in one transaction.
    pub async fn run(&mut self, commands: &str) -> Result<()> {
        match self {
            Server::Local { role } => transaction::run(|| role::acting_as(*role, || sql::run_quietly(commands))),
            Server::Within { role } => role::acting_as(*role, || sql::run_quietly(commands)),
            Server::Node(lent) => lent.session().await?.run(commands).await,
        }
    }

    /// A query with one column of JSON documents as text. Arguments are text, cast in the query.
    pub async fn documents<T: DeserializeOwned>(&mut self, query: &str, args: &[&str]) -> Result<Vec<T>> {
        match self {
            Server::Local { role } => transaction::run(|| role::acting_as(*role, || local_documents(query, args))),
            Server::Within { role } => role::acting_as(*role, || local_documents(query, args)),
            Server::Node(lent) => {
                let params: Vec<&(dyn ToSql + Sync)> = args.iter().map(|arg| arg as &(dyn ToSql + Sync)).collect();
                lent.session().await?.documents(query, &params).await
            }
        }
    }

    pub async fn document<T: DeserializeOwned>(&mut self, query: &str, args: &[&str]) -> Result<Option<T>> {
        Ok(self.documents(query, args).await?.into_iter().next())
    }
}

pub fn local_documents<T: DeserializeOwned>(query: &str, args: &[&str]) -> Result<Vec<T>> {
    let args: Vec<DatumWithOid<'_>> = args.iter().map(|arg| (*arg).into()).collect();
    sql::documents(query, &args)
}
