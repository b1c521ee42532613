//! One server of an operation, asked the same way whether it is the coordinator itself or a node.
//!
//! On a node, statements run in an own session as the user mapping of the parent's owner. On the coordinator there is no
//! session to be had: they run in a transaction of the worker, as the parent's owner.

use crate::error::Result;
use crate::node::own::{self, Limits, Session, Target};
use crate::pg::{role, sql, transaction};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::Oid;
use serde::de::DeserializeOwned;
use shardkeeper_core::plan::LOCAL;
use std::time::Duration;
use tokio_postgres::types::ToSql;

/// For steps that may read a whole table. A node that says nothing at all is noticed by TCP.
pub const LONG: Limits =
    Limits { statement: None, lock: Some(Duration::from_secs(2)), application_name: "shardkeeper operation" };
/// For steps that a healthy server answers soon.
pub const BRIEF: Limits = Limits {
    statement: Some(Duration::from_secs(20)),
    lock: Some(Duration::from_secs(2)),
    application_name: "shardkeeper operation",
};

/// How values are written and read, the same on every server, whatever it or the role has set: changes travel as text, rows are
/// found again by it, and hashes are made of it. And no row is left out in silence: what row security would hide is an error.
pub const STYLE: [&str; 8] = [
    "SET TimeZone = 'UTC'",
    "SET DateStyle = 'ISO, YMD'",
    "SET IntervalStyle = 'postgres'",
    "SET extra_float_digits = 3",
    "SET bytea_output = 'hex'",
    "SET lc_monetary = 'C'",
    "SET xmloption = 'content'",
    "SET row_security = off",
];

/// A session for rows and changes. Within a transaction.
pub fn session(node: &str, role: Oid) -> Result<Session> {
    let way = Target::of(node, role)?;
    own::wait(async {
        let mut session = Session::open(&way, LONG).await?;
        session.run(&STYLE.join("; ")).await?;
        Ok(session)
    })
}

/// Boxed: a session is much larger than a role.
pub enum Place {
    Local {
        role: Oid,
    },
    /// The coordinator too, within a transaction that the worker has open.
    Within {
        role: Oid,
    },
    Node(Box<Session>),
}

impl Place {
    /// Outside a transaction.
    pub async fn open(node: &str, role: Oid, limits: Limits) -> Result<Self> {
        if node == LOCAL {
            return Ok(Place::Local { role });
        }
        let target = transaction::run(|| Target::of(node, role))?;
        Ok(Place::Node(Box::new(Session::open(&target, limits).await?)))
    }

    /// Within a transaction: what is done on the coordinator is a part of it.
    pub fn within(node: &str, role: Oid, limits: Limits) -> Result<Self> {
        if node == LOCAL {
            return Ok(Place::Within { role });
        }
        let target = Target::of(node, role)?;
        Ok(Place::Node(Box::new(own::wait(Session::open(&target, limits))?)))
    }

    /// One or several statements in one transaction.
    pub async fn run(&mut self, commands: &str) -> Result<()> {
        match self {
            Place::Local { role } => transaction::run(|| role::acting_as(*role, || sql::run_quietly(commands))),
            Place::Within { role } => role::acting_as(*role, || sql::run_quietly(commands)),
            Place::Node(session) => session.run(commands).await,
        }
    }

    /// A query with one column of JSON documents as text. Arguments are text, cast in the query.
    pub async fn documents<T: DeserializeOwned>(&mut self, query: &str, args: &[&str]) -> Result<Vec<T>> {
        match self {
            Place::Local { role } => transaction::run(|| role::acting_as(*role, || local_documents(query, args))),
            Place::Within { role } => role::acting_as(*role, || local_documents(query, args)),
            Place::Node(session) => {
                let params: Vec<&(dyn ToSql + Sync)> = args.iter().map(|arg| arg as &(dyn ToSql + Sync)).collect();
                let rows = session.rows(query, &params).await?;
                rows.iter().map(|row| Ok(serde_json::from_str(row.get::<_, &str>(0))?)).collect()
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
