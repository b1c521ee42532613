//! Typed rows in and out of the extension's own tables.

pub mod parent;
pub mod operation;
