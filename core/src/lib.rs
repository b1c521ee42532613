//! The decisions of shardkeeper, without I/O: what a spec means, which partitions it makes, where they live.

mod decimal;
mod error;
mod interval;
pub mod name;
mod path;
pub mod plan;
mod scalar;
pub mod series;
pub mod spec;
pub mod tree;
mod value;
pub mod words;
mod zone;

pub use decimal::Decimal;
pub use error::SpecError;
pub use interval::Interval;
pub use scalar::Scalar;
pub use spec::{Level, parse};
pub use value::KeyKind;
pub use zone::Zone;
