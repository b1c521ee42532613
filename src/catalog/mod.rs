//! Typed rows in and out of the extension's own tables, which no other module names in SQL.
//!
//! Some queries of others are about Postgres's own catalogs, and need to know in between what is ours. For them there are
//! constants such as `parent::MANAGED`: items of a `WITH` clause, each named in SQL as in Rust. They are not materialized, so
//! that such a query is planned as if it named the table itself.

pub mod carried;
pub mod copied;
pub mod detached;
pub mod drain;
pub mod mirror;
pub mod moved;
pub mod node;
pub mod operation;
pub mod operation_look;
pub mod parent;
pub mod partition;
pub mod plan;
pub mod progress;
pub mod transaction;
pub mod tries;
pub mod way_back;
