//! Partitions that follow each other without end: one per period of time, or one per so many numbers.

mod grid;
mod steps;

use jiff::Timestamp;

use crate::error::{Result, SpecError};
use crate::path::Path;
use crate::spec::{Level, Rule, Site};
use crate::{KeyKind, Scalar};

use grid::Grid;
use steps::Steps;

/// One partition of a series; the bounds are texts that Postgres reads the same in every session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub label: String,
    pub from: String,
    /// Exclusive.
    pub to: String,
}

/// The partitions of an interval or step level, those that exist and those that may come.
#[derive(Clone, Debug)]
pub struct Series(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Grid(Grid),
    Steps(Steps),
}

impl Series {
    /// `None` if the level at `site` is neither an interval nor a step level.
    pub fn new(site: &Site<'_>, kind: Option<KeyKind>) -> Result<Option<Self>> {
        Self::of(site.level, &site.path, kind)
    }

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
    pub fn initial(&self, now: Timestamp) -> Result<Vec<Slot>> {
        let (first, last) = self.span(now)?;
        (first..=last).filter_map(|n| self.slot(n).transpose()).collect()
    }

    /// The partition that holds the key `value`, whether it exists or not.
    pub fn containing(&self, value: &str) -> Result<Slot> {
        let n = self.index(value)?;
        self.slot(n)?.ok_or_else(|| self.beyond())
    }

    /// The first partition that begins at `from` or later: of an existing upper bound, the one that comes next.
    pub fn next(&self, from: &str) -> Result<Slot> {
        let at = self.index(from)?;
        let n = if self.begins(at, from)? { at } else { at + 1 };
        self.slot(n)?.ok_or_else(|| self.beyond())
    }

    /// What a partition with this lower bound is called. One that begins off the series gets an exacter label.
    pub fn label(&self, from: &str) -> Result<String> {
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

    /// Whether the spec ends the series at or before `from`, so that no partition begins there.
    pub fn is_ended_by(&self, from: &str) -> Result<bool> {
        let value = Scalar::from(from);
        match &self.0 {
            Kind::Grid(grid) => grid.is_ended_by(&value),
            Kind::Steps(steps) => steps.is_ended_by(&value),
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

    fn index(&self, value: &str) -> Result<i128> {
        let value = Scalar::from(value);
        match &self.0 {
            Kind::Grid(grid) => grid.index_of(&value),
            Kind::Steps(steps) => steps.index_of(&value),
        }
    }

    fn begins(&self, n: i128, value: &str) -> Result<bool> {
        let value = Scalar::from(value);
        match &self.0 {
            Kind::Grid(grid) => grid.begins(n, &value),
            Kind::Steps(steps) => steps.begins(n, &value),
        }
    }

    fn beyond(&self) -> SpecError {
        match &self.0 {
            Kind::Grid(grid) => grid.beyond(),
            Kind::Steps(steps) => steps.beyond(),
        }
    }
}

fn unknown_kind(key: &str, path: &Path) -> SpecError {
    SpecError::new(path.field("key"), format!("the type of the key \"{key}\" is not known"))
}
