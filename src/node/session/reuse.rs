//! Sessions that outlive one question. To open one costs a node a process and both sides a handshake, many times what most
//! questions cost; a worker that asks all the time keeps the last ones for its next questions.
//!
//! Only processes that say `keep_sessions` do: the backend of a client would hold sessions on nodes for as long as its client
//! is connected. Nothing may be set in a lent session but for its transaction.

use super::connection_params::ConnectionParams;
use super::statements::{Session, Timeouts};
use crate::error::Result;
use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

/// No session is kept for longer: what a role may do and what a certificate is worth are looked at again.
const AGE: Duration = Duration::from_secs(30);
/// A node that is well says so in no time. From one that is not, the next session's own error tells more.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
const MOST: usize = 16;

struct Kept {
    target: ConnectionParams,
    limits: Timeouts,
    session: Session,
    opened: Instant,
}

thread_local! {
    static KEEPS: Cell<bool> = const { Cell::new(false) };
    /// Never dropped, for the same reason as the runtime: see `runtime`.
    static KEPT: &'static RefCell<Vec<Kept>> = Box::leak(Box::default());
}

/// From now on, this process keeps what it opened for one question for the next.
pub fn keep_sessions() {
    KEEPS.set(true);
}

/// A session that is given back when it is dropped.
pub struct Lent {
    target: ConnectionParams,
    limits: Timeouts,
    kept: Option<Kept>,
}

impl Lent {
    pub async fn open(target: &ConnectionParams, limits: Timeouts) -> Result<Self> {
        let kept = open(target, limits).await?;
        Ok(Lent { target: target.clone(), limits, kept: Some(kept) })
    }

    pub async fn session(&mut self) -> Result<&mut Session> {
        let kept = match self.kept.take() {
            Some(kept) => kept,
            None => open(&self.target, self.limits).await?,
        };
        Ok(&mut self.kept.insert(kept).session)
    }
}

/// One that was kept, if it still answers, or a new one.
async fn open(target: &ConnectionParams, limits: Timeouts) -> Result<Kept> {
    while let Some(mut kept) = take(target, limits) {
        let answers = tokio::time::timeout(SIGN_OF_LIFE, kept.session.run("")).await;
        if matches!(answers, Ok(Ok(()))) {
            return Ok(kept);
        }
    }
    let session = Session::open(target, limits).await?;
    Ok(Kept { target: target.clone(), limits, session, opened: Instant::now() })
}

fn take(target: &ConnectionParams, limits: Timeouts) -> Option<Kept> {
    KEPT.with(|all| {
        let mut all = all.borrow_mut();
        all.retain(|kept| kept.session.is_open() && kept.opened.elapsed() < AGE);
        let place = all.iter().position(|kept| kept.limits == limits && kept.target == *target)?;
        Some(all.swap_remove(place))
    })
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(kept) = self.kept.take() else { return };
        // After an error, or an end amid a statement, nobody knows what it is in.
        if KEEPS.get() && kept.session.is_well() {
            KEPT.with(|all| {
                let mut all = all.borrow_mut();
                if all.len() < MOST {
                    all.push(kept);
                }
            });
        }
    }
}
