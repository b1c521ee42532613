//! The only module with `unsafe`: safe wrappers over what Postgres offers in C.

mod attribute;
pub mod bounds;
#[allow(dead_code, reason = "for the worker of an operation")]
mod context;
#[allow(dead_code, reason = "for the worker of an operation")]
pub mod copy_from;
#[allow(dead_code, reason = "for the worker of an operation")]
pub mod copy_to;
#[allow(dead_code, reason = "for the worker of an operation")]
pub mod deadline;
#[allow(dead_code, reason = "for the worker of an operation")]
mod expression;
pub mod fdw;
pub mod foreign;
pub mod interrupt;
pub mod latest;
pub mod lock;
pub mod managed;
pub mod parse;
mod partition;
pub mod process;
pub mod regclass;
pub mod regrole;
pub mod relation;
pub mod role;
pub mod route;
#[allow(dead_code, reason = "for the worker of an operation")]
pub mod router;
pub mod secret;
pub mod sql;
pub mod subtransaction;
pub mod transaction;
pub mod worker;
