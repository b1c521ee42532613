//! SQL functions: parse, call, shape rows.

mod check;
mod ddl;
mod hierarchies;
mod look;
mod movement;
mod nodes;
mod preview;
mod resharding;
mod trash;
