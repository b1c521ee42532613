//! The cluster harness: real Postgres servers in temporary directories, and faults made for real.
pub mod cluster;
pub mod docs;
pub mod faults;
pub mod flights;
mod home;
pub mod install;
pub mod ledger;
pub mod matrix;
pub mod movement;
pub mod objects;
mod process;
pub mod proxy;
pub mod server;
pub mod sql;
mod template;
pub mod tls;
pub mod user;
pub mod visits;
pub mod wait;

pub use cluster::{Cluster, Options, PATIENCE};
pub use install::Install;
pub use ledger::{Keys, Ledger, Tolerate, Workload};
pub use objects::{Objects, Snapshot};
pub use proxy::{Proxy, Then};
pub use server::Server;
pub use visits::visited;
pub use wait::eventually;
