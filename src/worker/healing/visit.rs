//! A visit to one node: its journals settled, its trash emptied. Visits to several nodes go on at the same time.

use crate::background::log::Log;
use crate::catalog;
use crate::error::{Error, Report, Result};
use crate::node::in_doubt::{self, Coordinator};
use crate::node::session::{ConnectionParams, Session, Timeouts};
use crate::node::trash;
use crate::pg::transaction;
use pgrx::PgSqlErrorCode as Code;
use shardkeeper_core::plural::count;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Undoing may wait for an application's locks and drop many tables; it is tried again at the next visit.
const LIMITS: Timeouts = Timeouts {
    statement: Some(Duration::from_secs(60)),
    lock: Some(Duration::from_secs(2)),
    application_name: "shardkeeper worker",
};
/// A node that does not even answer a question is frozen or cut off.
const QUESTION: Duration = Duration::from_secs(2);
/// Between attempts on a node that is down: doubled up to this, so that it is found again soon after it is up.
const MOST_PATIENCE: Duration = Duration::from_secs(4);
/// After a table could not be dropped.
const TRASH_AGAIN: Duration = Duration::from_secs(60);

/// One remote role on one node, with the ways to become it.
pub struct Peer {
    pub user: String,
    /// User mappings with that user; the next one is tried when one fails.
    pub targets: Vec<ConnectionParams>,
    session: Option<Session>,
}

impl Peer {
    pub fn new(user: String, targets: Vec<ConnectionParams>) -> Self {
        Self { user, targets, session: None }
    }
}

/// What the worker knows of one node; all of it can be forgotten.
pub struct Node {
    pub name: String,
    peers: Vec<Peer>,
    next: Instant,
    failures: u32,
    trash_next: Instant,
    log: Log,
}

impl Node {
    pub fn new(name: String) -> Self {
        Self {
            name,
            peers: Vec::new(),
            next: Instant::now(),
            failures: 0,
            trash_next: Instant::now(),
            log: Log::default(),
        }
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.next <= now
    }

    /// Takes over how the node is reached now; sessions live on where nothing changed.
    pub fn set_peers(&mut self, wanted: Vec<Peer>) {
        let mut old = std::mem::take(&mut self.peers);
        self.peers = wanted;
        for peer in &mut self.peers {
            if let Some(place) = old.iter().position(|old| old.user == peer.user && same(&old.targets, &peer.targets)) {
                *peer = old.swap_remove(place);
            }
        }
    }

    pub async fn visit(mut self, coordinator: Coordinator, interval: Duration) -> Self {
        let subject = format!("node \"{}\"", self.name);
        match self.settle(&coordinator).await {
            Ok(undone) => {
                if undone > 0 {
                    self.log.note(
                        &subject,
                        format!(
                            "undid {}, rolled back on the coordinator",
                            count(undone, "transaction", "transactions")
                        ),
                    );
                }
                self.log.fine(&subject);
                self.failures = 0;
            }
            Err(error) => {
                self.log.failure(&subject, error);
                self.failures = (self.failures + 1).min(8);
            }
        }
        let pause = interval * 2u32.pow(self.failures.saturating_sub(1));
        self.next = Instant::now() + pause.clamp(interval, MOST_PATIENCE.max(interval));
        self
    }

    async fn settle(&mut self, coordinator: &Coordinator) -> Result<usize> {
        // Before the journals: what was remembered then and is in none of them now is settled.
        let remembered = transaction::run(|| catalog::transaction::remembered(&self.name))?;
        let mut undone = 0;
        let mut left = HashSet::new();
        let mut first_error = None;
        for peer in &mut self.peers {
            match within(LIMITS.statement, settle_peer(peer, coordinator)).await {
                Ok(settled) => {
                    undone += settled.undone;
                    left.extend(settled.left);
                }
                Err(error) => {
                    if !peer.session.as_ref().is_some_and(Session::is_open) {
                        peer.session = None;
                    }
                    first_error = first_error.or(Some(error));
                }
            }
        }
        if let Some(error) = first_error {
            return Err(error);
        }
        let settled: Vec<String> = remembered.into_iter().filter(|id| !left.contains(id)).collect();
        if !settled.is_empty() && !self.peers.is_empty() {
            transaction::run(|| catalog::transaction::forget(&self.name, &settled))?;
        }
        self.empty_trash().await;
        Ok(undone)
    }

    async fn empty_trash(&mut self) {
        if self.trash_next > Instant::now() {
            return;
        }
        let subject = format!("trash of node \"{}\"", self.name);
        let (mut fine, mut stuck) = (true, false);
        for session in self.peers.iter_mut().filter_map(|peer| peer.session.as_mut()) {
            let errors = trash::empty(session).await.unwrap_or_else(|error| vec![error]);
            // What a lost connection left undone is done at the next visit.
            stuck |= !errors.is_empty() && session.is_open();
            for error in errors {
                fine = false;
                self.log.failure(&subject, error);
            }
        }
        if fine {
            self.log.fine(&subject);
        }
        if stuck {
            self.trash_next = Instant::now() + TRASH_AGAIN;
        }
    }
}

async fn settle_peer(peer: &mut Peer, coordinator: &Coordinator) -> Result<in_doubt::Settled> {
    if let Some(session) = &mut peer.session {
        // A connection that died unnoticed, and a node that is frozen, are found by a question.
        if !session.is_open() || within(Some(QUESTION), session.run("SELECT 1")).await.is_err() {
            peer.session = None;
        }
    }
    let session = match &mut peer.session {
        Some(session) => session,
        None => peer.session.insert(open(&mut peer.targets).await?),
    };
    in_doubt::settle(session, coordinator).await
}

async fn open(targets: &mut [ConnectionParams]) -> Result<Session> {
    let Some(target) = targets.first() else {
        return Report::new(Code::ERRCODE_UNDEFINED_OBJECT, "no user mapping").into();
    };
    let opened = Session::open(target, LIMITS).await;
    if opened.is_err() {
        targets.rotate_left(1);
    }
    opened
}

async fn within<T>(limit: Option<Duration>, work: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(limit) = limit else { return work.await };
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(Error::from(Report::new(
            Code::ERRCODE_CONNECTION_FAILURE,
            format!("no answer within {} s", limit.as_secs()),
        ))),
    }
}

fn same(a: &[ConnectionParams], b: &[ConnectionParams]) -> bool {
    a.len() == b.len() && a.iter().all(|target| b.contains(target))
}
