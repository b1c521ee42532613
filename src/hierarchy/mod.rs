//! Hierarchies: building trees of partitions over the coordinator and the nodes, changing them, taking them apart.
//!
//! `description`, `key`, `hashing`, `members` and `managed` read what is there, `validate`, `overlap` and `survey` refuse what will not
//! work, `newer` what a node is too old for, `needs`, `rebuild`, `way`, `build` and `grants` say which commands make it, `script` runs them; `create`, `extend`, `adopt`, `add`, `detach` and `remove` are the
//! calls that change, `locate`, `sizes`, `picture`, `health`, `drift` and `gaps` those that look; `by_hand` judges what users
//! change themselves, and `trash` is what becomes of what is dropped.

mod add;
pub mod adopt;
pub mod bound;
pub mod build;
pub mod by_hand;
pub mod columns;
mod come_back;
pub mod create;
mod defaults;
pub mod description;
pub mod detach;
pub mod drift;
mod extend;
pub mod gaps;
pub mod grants;
mod hashing;
pub mod health;
pub mod key;
pub mod locate;
pub mod managed;
pub mod members;
pub mod mirror;
pub mod needs;
mod newer;
pub mod overlap;
pub mod picture;
pub mod publications;
pub mod rebuild;
pub mod remove;
pub mod script;
pub mod sizes;
pub mod survey;
pub mod trash;
pub mod validate;
pub mod way;

pub use add::add_partition;
