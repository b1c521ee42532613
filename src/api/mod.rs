//! SQL functions: parse, call, shape rows.

mod check;
pub mod data_movement;
mod ddl;
mod hierarchies;
pub mod inspect;
mod maintenance;
mod nodes;
pub mod operations;
mod preview;
mod trash;
