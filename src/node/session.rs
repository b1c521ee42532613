//! Own sessions with nodes: for work that outlives a transaction or must not be part of one.
//!
//! One tokio runtime per process, on the process's own thread; name look-ups happen there too, so that a backend never
//! has a second thread. `wait` drives any number of sessions at once and looks for cancel and termination meanwhile:
//!
//! ```ignore
//! let target = ConnectionParams::of("n1", role)?;
//! let count: i64 = own::wait(async {
//!     let mut session = Session::open(&target, Limits::SHORT).await?;
//!     session.one("SELECT count(*) FROM t WHERE i = $1", &[&1]).await
//! })?;
//! ```

mod answer;
mod connect;
mod connection_params;
mod pin;
mod remote;
mod reuse;
mod runtime;
mod statements;
mod stream;
mod tls;
mod wire;

pub use answer::{document, text, value};
pub use connection_params::{ConnectionParams, Options, mapping_options};
pub use pin::MARK;
pub use reuse::{Lent, keep_sessions};
pub use runtime::{wait, wait_for_answers, wait_until};
pub use statements::{Session, Timeouts};
