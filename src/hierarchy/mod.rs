//! The model of a managed hierarchy, read only: `managed_parent` with its `tree_tables`, `bound`s and `partition_keys` (`hashing`,
//! `overlap`); what a table must be to become a parent (`validate`); and looking at it: `locate`, `sizes`, `draw`.

pub mod bound;
pub mod draw;
pub mod hashing;
pub mod locate;
pub mod managed_parent;
pub mod overlap;
pub mod partition_keys;
pub mod sizes;
pub mod tree_tables;
pub mod validate;
