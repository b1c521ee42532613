//! The decisions of shardkeeper, without I/O: what a spec means, which partitions it makes, where they live.

pub mod apply;
pub mod balance;
pub mod copy;
mod decimal;
pub mod division;
mod error;
mod interval;
mod lsn;
pub mod name;
pub mod operation;
pub mod pace;
mod path;
pub mod pgoutput;
pub mod plan;
mod scalar;
pub mod series;
pub mod snapshot;
pub mod spec;
pub mod tree;
mod value;
pub mod words;
mod zone;

pub use decimal::Decimal;
pub use error::SpecError;
pub use interval::Interval;
pub use lsn::{Lsn, NotLsn};
pub use scalar::Scalar;
pub use spec::{Level, parse};
pub use value::KeyKind;
pub use zone::Zone;
