//! SQL functions: parse, call, shape rows.

mod hierarchies;
mod look;
mod check;
mod nodes;
