//! The runtime of this process, and waiting that can be interrupted.

use crate::error::{Report, Result};
use crate::pg::interrupt;
use once_cell::unsync::OnceCell;
use pgrx::PgSqlErrorCode as Code;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::CancelToken;

use super::connect::{Address, reach};
use super::stream::WaysIn;
use super::tls::Tls;

/// How often a wait looks for requests to end.
const TICK: Duration = Duration::from_millis(100);
/// How long telling the nodes about a cancellation may take.
const CANCEL_LIMIT: Duration = Duration::from_secs(1);

thread_local! {
    /// Never dropped: when the process ends, what tokio keeps for its threads may be gone before, and its panic then would
    /// abort the process and with it the server.
    static RUNTIME: OnceCell<&'static Runtime> = const { OnceCell::new() };
    /// The statements that run on nodes now: what to cancel when the wait is interrupted.
    static BUSY: RefCell<Vec<(u64, Canceller)>> = const { RefCell::new(Vec::new()) };
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

/// How to cancel what one session does.
#[derive(Clone)]
pub(super) struct Canceller {
    pub address: Address,
    pub tls: Option<Tls>,
    pub token: CancelToken,
}

/// While it lives, the session counts as busy.
pub(super) struct Busy(u64);

impl Busy {
    pub fn begin(canceller: Canceller) -> Self {
        let number = NEXT.get();
        NEXT.set(number.wrapping_add(1));
        BUSY.with_borrow_mut(|busy| busy.push((number, canceller)));
        Busy(number)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.with_borrow_mut(|busy| busy.retain(|(number, _)| *number != self.0));
    }
}

/// Waits for `future`. Cancel, timeouts and termination end it, and what it runs on nodes.
pub fn wait<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    match drive(None, future)? {
        Some(result) => result,
        None => interrupted().into(),
    }
}

/// The same, but no longer than `deadline`: then `None`, and `future` can be waited for again.
pub fn wait_until<T>(deadline: Instant, future: impl Future<Output = T>) -> Result<Option<T>> {
    drive(Some(deadline), future)
}

/// Waits for `future`, of what commits on nodes by itself. Cancel and timeouts are passed on to the nodes, and then their
/// answers are waited for all the same: an end taken here would say that nothing happened, when a node may just have
/// committed. The caller sees by `interrupt::is_ending` that it was cancelled. `None` where the answers do not come within
/// `patience` after that.
pub fn wait_for_answers<T>(patience: Duration, future: impl Future<Output = T>) -> Result<Option<T>> {
    with_runtime(|runtime| {
        let mut future = pin!(future);
        let mut end: Option<Instant> = None;
        loop {
            if let Ok(out) = runtime.block_on(async { tokio::time::timeout(TICK, &mut future).await }) {
                return Ok(Some(out));
            }
            if interrupt::is_terminated() {
                runtime.block_on(cancel_busy());
                interrupt::check();
            }
            match end {
                Some(end) if Instant::now() >= end => return Ok(None),
                Some(_) => {}
                None if interrupt::is_ending() => {
                    runtime.block_on(cancel_busy());
                    end = Some(Instant::now() + patience);
                }
                None => interrupt::check(),
            }
        }
    })
}

fn drive<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Result<Option<T>> {
    with_runtime(|runtime| {
        let mut future = pin!(future);
        loop {
            let left = deadline.map_or(TICK, |deadline| deadline.saturating_duration_since(Instant::now()));
            let tick = left.min(TICK);
            if let Ok(out) = runtime.block_on(async { tokio::time::timeout(tick, &mut future).await }) {
                return Ok(Some(out));
            }
            if interrupt::is_ending() {
                runtime.block_on(cancel_busy());
            }
            // Raises when it is about us; `future` and its sockets end with it.
            interrupt::check();
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(None);
            }
        }
    })
}

/// Tells all nodes at once; what cannot be reached in time dies with its connection.
async fn cancel_busy() {
    let busy = BUSY.with_borrow_mut(std::mem::take);
    let requests = busy.into_iter().map(|(_, Canceller { address, tls, token })| async move {
        let Ok(stream) = reach(&address, WaysIn::default()).await else { return };
        let _ = match tls {
            Some(tls) => token.cancel_query_raw(stream, tls.connector(&address.host)).await,
            None => token.cancel_query_raw(stream, tokio_postgres::NoTls).await,
        };
    });
    let _ = tokio::time::timeout(CANCEL_LIMIT, futures_util::future::join_all(requests)).await;
}

fn with_runtime<T>(work: impl FnOnce(&Runtime) -> Result<T>) -> Result<T> {
    RUNTIME.with(|cell| {
        let runtime = cell.get_or_try_init(|| match Builder::new_current_thread().enable_io().enable_time().build() {
            Ok(runtime) => Ok(&*Box::leak(Box::new(runtime))),
            Err(error) => Report::new(Code::ERRCODE_SYSTEM_ERROR, "cannot start the network runtime")
                .detail(error.to_string())
                .into(),
        });
        work(runtime?)
    })
}

fn interrupted() -> Report {
    Report::new(Code::ERRCODE_QUERY_CANCELED, "waiting for nodes was interrupted")
}
