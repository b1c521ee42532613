//! Hierarchies: building trees of partitions over the coordinator and the nodes, changing them, taking them apart.
//!
//! `description` and `key` read what is there, `validate` and `survey` refuse what will not work, `rebuild`, `build` and
//! `grants` say which commands make it, `script` runs them; `create`, `partition` and `remove` are the calls.

mod bound;
mod build;
mod columns;
pub mod create;
pub mod description;
mod grants;
pub mod key;
mod rebuild;
mod script;
mod survey;
mod validate;
