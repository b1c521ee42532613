//! Hierarchies: building trees of partitions over the coordinator and the nodes, changing them, taking them apart.
//!
//! `description`, `key`, `members` and `managed` read what is there, `validate`, `overlap` and `survey` refuse what will not work, `rebuild`,
//! `build` and `grants` say which commands make it, `script` runs them; `create`, `extend`, `add`, `detach` and `remove` are the
//! calls that change, `locate`, `sizes`, `picture` and `health` those that look.

mod add;
mod bound;
mod build;
mod columns;
pub mod create;
mod defaults;
pub mod description;
pub mod detach;
mod extend;
pub mod grants;
pub mod health;
pub mod key;
pub mod locate;
mod managed;
mod members;
mod overlap;
pub mod picture;
mod rebuild;
pub mod remove;
mod script;
pub mod sizes;
mod survey;
mod validate;

pub use add::add_partition;
