//! Typed rows in and out of the extension's own tables.

pub mod carried;
pub mod copied;
pub mod drain;
pub mod node;
pub mod operation;
pub mod parent;
pub mod plan;
pub mod tries;
pub mod way_back;
