//! Moving data: one engine that replaces a set of leaves by another while applications read and write.
//!
//! `plan` decides what is replaced when a call asks for it, `control` is what people steer with, `run` is the worker of one
//! operation, `group` that of many moves. Its steps are `prepare` (`requirements` is what it asks of servers), `copy` with
//! `finish`, `follow` (catching up), `verify`, `switch` with `swap`, and `sweep` (cleaning up); each can be repeated from its
//! start after a crash. `gate` keeps direct writers out while a commit is split, and `room` spares the switch the reading of
//! a default partition. `back` leads the same steps the other way, by the stream that all
//! ways back of a server share (`shared`) and one worker reads (`kept`); `blocking` takes all from the copy to the switch at once
//! while writers wait. `convert` is the plan and the switch of a plain table that becomes a parent, `unconvert` its switch
//! back. `stage` is where the targets stand, `place` a server, `stream` its changes, `subject` the table that changes,
//! `throttle` what slows a copy down. `trouble` is what becomes of an error,
//! `holders` who is in the way, `health` the doctor's part; `leave` keeps the extension until all has ended, and `copied` forgets
//! what belongs to a database that this one is a copy of.

mod back;
mod blocking;
pub mod control;
pub mod convert;
mod copied;
mod copy;
mod finish;
mod follow;
mod gate;
mod group;
pub mod health;
mod holders;
pub mod kept;
pub mod leave;
mod mirrors;
mod parts;
mod place;
pub mod plan;
mod prepare;
mod requirements;
mod room;
pub mod run;
mod shared;
mod stage;
mod stream;
mod subject;
mod swap;
mod sweep;
mod switch;
mod target;
mod throttle;
mod trouble;
mod unconvert;
mod verify;
