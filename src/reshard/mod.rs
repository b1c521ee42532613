//! Moving data: one engine that replaces a set of leaves by another while applications read and write.
//!
//! `plan` decides what is replaced when a call asks for it, `control` is what people steer with, `run` is the worker of one
//! operation, `group` that of many moves. Its steps are `prepare`, `copy`, `follow` (catching up), `verify`, `switch` and `sweep`
//! (cleaning up); each can be repeated from its start after a crash. `back` leads the same steps the other way. `health` is the doctor's part. `stage` is where the targets
//! stand, `place` a server, `stream` its changes, `subject` the table that changes. `convert` is the plan and the switch of a
//! plain table that becomes a parent, `unconvert` its switch back, `blocking` all steps from the copy to the switch at once,
//! while writers wait.

mod back;
mod blocking;
pub mod control;
pub mod convert;
mod copy;
mod follow;
mod group;
pub mod health;
mod mirrors;
mod place;
pub mod plan;
mod prepare;
pub mod run;
mod stage;
mod stream;
mod subject;
mod sweep;
mod switch;
mod target;
mod throttle;
mod trouble;
mod unconvert;
mod verify;
