//! `shard_check`: what is wrong, one file for each area. Each asks what stands below it.

pub mod gaps;
pub mod hierarchies;
pub mod nodes;
