//! One session with a node, and statements in it.

use super::answer;
use super::connect::{Address, connect};
use super::connection_params::ConnectionParams;
use super::pin;
use super::remote;
use super::runtime::{Busy, Canceller};
use super::tls::Tls;
use crate::error::Result;
use postgres_types::{FromSql, ToSql};
use serde::de::DeserializeOwned;
use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;
use tokio_postgres::{Client, Row, SimpleQueryMessage};

/// How long a statement and a wait for a lock may take, and who we say we are. `None` is for ever.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timeouts {
    pub statement: Option<Duration>,
    pub lock: Option<Duration>,
    pub application_name: &'static str,
}

impl Timeouts {
    /// For questions that a healthy node answers at once.
    pub const SHORT: Timeouts = Timeouts {
        statement: Some(Duration::from_secs(5)),
        lock: Some(Duration::from_secs(2)),
        application_name: "shardkeeper check",
    };

    pub const fn named(self, application_name: &'static str) -> Timeouts {
        Timeouts { application_name, ..self }
    }
}

/// The node's own statement_timeout comes first; where it cannot, because the node or the network is frozen, we end it.
const GRACE: Duration = Duration::from_secs(1);

type Connection = Pin<Box<dyn Future<Output = std::result::Result<(), tokio_postgres::Error>> + Send>>;

/// An open session. Dropping it closes the connection.
pub struct Session {
    node: String,
    client: Client,
    /// Moves the bytes; polled beside each statement. `None` once the connection has ended.
    connection: Option<Connection>,
    canceller: Canceller,
    limits: Timeouts,
    /// The last statement ended, and well.
    is_well: bool,
}

impl Session {
    /// Errors: 08001 not reachable, 28P01 wrong password, and what else the node has against it.
    pub async fn open(target: &ConnectionParams, limits: Timeouts) -> Result<Self> {
        let mut session = connect(target, limits).await?;
        session.pin().await?;
        Ok(session)
    }

    /// As the role, the database and a pooler before the server have it: only to look whether there is such a pooler.
    pub async fn open_as_it_comes(target: &ConnectionParams, limits: Timeouts) -> Result<Self> {
        connect(target, limits).await
    }

    /// Sets all that our statements depend on.
    async fn pin(&mut self) -> Result<()> {
        let sql = pin::commands(self.limits);
        self.run(&sql).await
    }

    pub(super) fn new(
        target: &ConnectionParams,
        address: &Address,
        tls: Option<Tls>,
        client: Client,
        connection: Connection,
        limits: Timeouts,
    ) -> Self {
        let canceller = Canceller { address: address.clone(), tls, token: client.cancel_token() };
        Self { node: target.node.clone(), client, connection: Some(connection), canceller, limits, is_well: true }
    }

    pub fn node(&self) -> &str {
        &self.node
    }

    pub fn is_open(&self) -> bool {
        self.connection.is_some() && !self.client.is_closed()
    }

    /// Open, with no statement under way, and none that has failed.
    pub fn is_well(&self) -> bool {
        self.is_well && self.is_open()
    }

    /// One or several statements without parameters and results.
    pub async fn run(&mut self, sql: &str) -> Result<()> {
        self.with(async |client| client.batch_execute(sql).await).await
    }

    pub async fn rows(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        self.with(async |client| client.query(sql, params).await).await
    }

    pub async fn row(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>> {
        self.with(async |client| client.query_opt(sql, params).await).await
    }

    /// The first value of the first row; `None` when there is no row or the value is NULL.
    pub async fn one<T>(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Option<T>>
    where
        T: for<'a> FromSql<'a>,
    {
        let row = self.row(sql, params).await?;
        Ok(row.map(|row| answer::value::<Option<T>>(&self.node, &row, 0)).transpose()?.flatten())
    }

    /// A query whose first value is a JSON document as text.
    pub async fn document<T: DeserializeOwned>(
        &mut self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<T>> {
        let text = self.one::<String>(sql, params).await?;
        text.map(|text| answer::document(&self.node, &text)).transpose()
    }

    /// The same, of all rows.
    pub async fn documents<T: DeserializeOwned>(
        &mut self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<T>> {
        let rows = self.rows(sql, params).await?;
        rows.iter().map(|row| answer::document(&self.node, answer::value(&self.node, row, 0)?)).collect()
    }

    /// Any statement, its rows as text.
    pub async fn text(&mut self, sql: &str) -> Result<Vec<SimpleQueryMessage>> {
        self.with(async |client| client.simple_query(sql).await).await
    }

    /// What the driver itself offers, `COPY` and the like, within the limits of the session.
    pub async fn with<T>(
        &mut self,
        work: impl AsyncFnOnce(&Client) -> std::result::Result<T, tokio_postgres::Error>,
    ) -> Result<T> {
        let _busy = Busy::begin(self.canceller.clone());
        let was_well = std::mem::replace(&mut self.is_well, false);
        let Self { node, client, connection, limits, is_well, .. } = self;
        let mut ended = None;
        let result = {
            let mut work = pin!(work(client));
            let driven = async {
                loop {
                    let Some(moving) = connection else { return work.await };
                    tokio::select! {
                        biased;
                        out = &mut work => return out,
                        end = moving => {
                            ended = end.err();
                            *connection = None;
                        }
                    }
                }
            };
            match limits.statement {
                None => Ok(driven.await),
                Some(limit) => tokio::time::timeout(limit + GRACE, driven).await,
            }
        };
        match (result, ended) {
            (Ok(Ok(value)), _) => {
                *is_well = was_well;
                Ok(value)
            }
            // The server's last words say more than that the connection is closed.
            (Ok(Err(error)), Some(end)) if error.is_closed() => Err(remote::lost(node, &remote::sentence(&end)).into()),
            (Ok(Err(error)), _) if error.is_closed() => Err(remote::lost(node, &remote::sentence(&error)).into()),
            (Ok(Err(error)), _) => {
                // The last words are often here before the end of the connection is.
                if remote::ends_session(&error) {
                    *connection = None;
                }
                Err(remote::failed(node, &error).into())
            }
            (Err(_), _) => {
                // A statement may still be on its way: the session cannot be used any more.
                *connection = None;
                Err(remote::silent(node, limits.statement.unwrap_or_default()).into())
            }
        }
    }
}
