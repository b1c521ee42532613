//! The calls that change a tree of partitions: `create` (with `create_from_partitioned`), `add`, `detach`, `drop_parent` (with
//! release), `adopt`, and `trash` for what was dropped.
//!
//! `preflight` refuses what would fail on a node; `partition_ddl`, `mirror_path`, `default_partition` and `grants` say which commands
//! make what is wanted; `script` runs them, here and on nodes, with what undoes them.

pub mod add;
pub mod adopt;
pub mod create;
pub mod create_from_partitioned;
pub mod default_partition;
pub mod detach;
pub mod drop_parent;
pub mod grants;
pub mod mirror;
pub mod mirror_path;
pub mod partition_ddl;
pub mod preflight;
pub mod script;
pub mod trash;
