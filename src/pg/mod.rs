//! The only module with `unsafe`: safe wrappers over what Postgres offers in C.

pub mod subtransaction;
pub mod route;
pub mod managed;
pub mod foreign;
pub mod bounds;
pub mod fdw;
pub mod interrupt;
pub mod lock;
pub mod parse;
pub mod process;
pub mod regclass;
pub mod regrole;
pub mod relation;
pub mod role;
pub mod secret;
pub mod sql;
pub mod transaction;
pub mod worker;
