//! Partitions that follow each other without end: one per period of time, or one per so many numbers.

mod grid;
mod steps;
mod upkeep;

use jiff::Timestamp;

use crate::error::{Result, SpecError};
use crate::path::Path;
use crate::spec::{Level, Rule};
use crate::{Decimal, Interval, KeyKind, Scalar};

use grid::Grid;
use steps::Steps;
pub(crate) use upkeep::State;

/// One partition of a series; the bounds are texts that Postgres reads the same in every session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub label: String,
    /// Included.
    pub from: String,
    /// Not included.
    pub to: String,
}

/// The partitions of an interval or step level, those that exist and those that may come.
#[derive(Clone, Debug)]
pub(crate) struct Series(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Grid(Grid),
    Steps(Steps),
}

/// For how long partitions are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Retention {
    /// By the clock.
    Time(Interval),
    /// By the distance from the last rows.
    Number(Decimal),
}

impl Series {
    /// `None` if `level`, which stands at `path`, is neither an interval nor a step level.
    pub(crate) fn of(level: &Level, path: &Path, kind: Option<KeyKind>) -> Result<Option<Self>> {
        let key = level.key.first().map_or("", String::as_str);
        Ok(Some(Self(match &level.rule {
            Rule::Interval(rule) => Kind::Grid(Grid::new(rule, key, kind, path)?),
            Rule::Step(rule) => Kind::Steps(Steps::new(rule, key, kind, path)?),
            Rule::Bounds(_) | Rule::List(_) | Rule::Hash { .. } => return Ok(None),
        })))
    }

    /// How many partitions a new table gets at `now`, before any is made.
    pub(crate) fn count(&self, now: Timestamp) -> Result<u128> {
        let (first, last) = self.span(now)?;
        Ok(last.abs_diff(first) + 1)
    }

    /// The partitions that a new table gets at `now`: from the start (or the current one) through the current one and
    /// `premake` more, or up to the end.
    pub(crate) fn initial(&self, now: Timestamp) -> Result<Vec<Slot>> {
        let (first, last) = self.span(now)?;
        (first..=last).filter_map(|n| self.slot(n).transpose()).collect()
    }

    /// What a partition with this lower bound is called. One that begins off the series gets an exacter label.
    pub(crate) fn label(&self, from: &str) -> Result<String> {
        let value = Scalar::from(from);
        match &self.0 {
            Kind::Grid(grid) => grid.label_of(&value),
            Kind::Steps(steps) => steps.label_of(&value),
        }
    }

    /// A time, for a key that holds it as a number or in a uuid, as a value of that key; `None` if `value` is one already, or
    /// the key holds times as they are. It was written at `place`.
    pub(crate) fn key_of_time(&self, value: &Scalar, place: &Path) -> Result<Option<String>> {
        match &self.0 {
            Kind::Grid(grid) => grid.key_of_time(value, place),
            Kind::Steps(_) => Ok(None),
        }
    }

    fn span(&self, now: Timestamp) -> Result<(i128, i128)> {
        match &self.0 {
            Kind::Grid(grid) => grid.span(now),
            Kind::Steps(steps) => steps.span(),
        }
    }

    /// `None` for a period that a change of clocks leaves empty.
    fn slot(&self, n: i128) -> Result<Option<Slot>> {
        match &self.0 {
            Kind::Grid(grid) => grid.slot(n),
            Kind::Steps(steps) => steps.slot(n).map(Some),
        }
    }
}

fn unknown_kind(key: &str, path: &Path) -> SpecError {
    SpecError::new(path.field("key"), format!("the type of the key \"{key}\" is not known"))
}
