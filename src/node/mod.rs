//! Talking to nodes: the session channel inside the caller's transaction, own sessions for what outlives it.

pub mod add;
pub mod alter;
pub mod bootstrap;
pub mod channel;
pub mod dropped_in_use;
pub mod finding;
pub mod in_doubt;
mod in_use;
pub mod options;
pub mod pooler;
pub mod reset;
pub mod run_on_nodes;
pub mod server_info;
pub mod session;
pub mod trash;
pub mod unsettled;
