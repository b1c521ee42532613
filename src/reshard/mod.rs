//! Moving data: one engine that replaces a set of leaves by another while applications read and write.
//!
//! `plan` decides what is replaced when a call asks for it; `control` is what people steer with. `run` is the worker of one
//! operation, which takes it from state to state; `operation_group` and `modulus_group` are those of many that belong together.
//!
//! The steps, each of which can be repeated from its start after a crash: `prepare` asks what the servers must have and builds
//! the staging tables; `copy` brings the rows and builds indexes; `apply` follows what changed since; `verify` compares;
//! `switch` puts the new partitions in the place of the old ones; `cleanup` takes away what is left. `revert` leads the same
//! steps the other way, `convert` is plan and switch of a plain table that becomes a parent, and `block_writes` takes all from
//! the copy to the switch at once while writers wait.
//!
//! `server` is where a step happens, here or on a node; `outcome` what becomes of an error, `lock_holders` who is in the way,
//! `check` the part of `shard_check`; `extension_drop` keeps the extension until all operations have ended.

mod apply;
mod block_writes;
pub mod check;
mod cleanup;
pub mod control;
pub mod convert;
mod copy;
pub mod extension_drop;
mod lock_holders;
mod modulus_group;
mod operation_group;
mod outcome;
pub mod plan;
mod prepare;
pub mod revert;
pub mod run;
mod server;
mod switch;
mod verify;
