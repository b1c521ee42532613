//! The decisions of shardkeeper, without I/O: what a spec means, which partitions it makes, where they live.

#![deny(missing_docs)]

pub mod apply;
pub mod balance;
pub mod copy;
mod decimal;
mod error;
mod interval;
mod lsn;
pub mod modulus;
pub mod name;
pub mod operation;
mod path;
pub mod pgoutput;
pub mod plan;
pub mod plural;
pub mod rate_limiter;
mod scalar;
pub mod schedule;
mod series;
pub mod snapshot;
pub mod spec;
mod value;
mod zone;

pub use error::SpecError;
pub use lsn::{Lsn, NotLsn};
pub use spec::{Level, parse};
pub use value::KeyKind;

pub(crate) use decimal::Decimal;
pub(crate) use interval::Interval;
pub(crate) use scalar::Scalar;
pub(crate) use zone::Zone;
