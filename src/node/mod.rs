//! Talking to nodes: the session channel inside the caller's transaction, own sessions for what outlives it.

pub mod bootstrap;
pub mod change;
pub mod channel;
pub mod facts;
pub mod fanout;
pub mod finding;
pub mod heal;
pub mod left;
pub mod options;
pub mod own;
pub mod pooler;
pub mod register;
pub mod reset;
pub mod settle;
pub mod trash;
