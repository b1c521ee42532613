//! A series as time goes on: which of its partitions are missing, how far it reaches ahead, and which are too old.

use jiff::Timestamp;

use super::{Kind, Retention, Series, Slot};
use crate::error::Result;
use crate::plan::Limit;

/// A series as a line of numbers, cut at its boundaries.
pub(super) trait Line {
    /// A place on the line.
    type Point: Copy + Ord;

    /// Boundary `n`.
    fn at(&self, n: i128) -> Result<Self::Point>;
    /// The last boundary at or before the point.
    fn floor(&self, point: Self::Point) -> Result<i128>;
    /// A bound of a partition.
    fn point(&self, bound: &str) -> Result<Self::Point>;
    fn slot(&self, from: Self::Point, to: Self::Point) -> Result<Slot>;
    /// Beyond it nothing is made.
    fn end(&self) -> Option<Self::Point>;
    /// Where the clock stands; `None` for a series of numbers.
    fn clock(&self, now: Timestamp) -> Option<Self::Point>;
    /// The first boundary of a table without partitions.
    fn first(&self, now: Timestamp) -> Result<i128>;
    /// What lies wholly before this point is too old. `newest` is the last place with rows.
    fn horizon(
        &self,
        retention: &Retention,
        now: Timestamp,
        newest: Option<Self::Point>,
    ) -> Result<Option<Self::Point>>;
}

/// The partitions of one table, and what is known of their rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct State<'a> {
    /// Lower and upper bounds, in no order.
    pub ranges: &'a [(Limit, Limit)],
    /// The lower bound of the last partition that has rows.
    pub newest: Option<&'a str>,
    pub now: Timestamp,
}

impl Series {
    /// What has to be made so that there is no gap from the first partition on, and `premake` periods follow the current one and
    /// the last one with rows; the earliest first, and at most `most`.
    pub(crate) fn missing(&self, state: &State<'_>, premake: u32, most: usize) -> Result<Vec<Slot>> {
        match &self.0 {
            Kind::Grid(line) => missing(line, state, premake, most),
            Kind::Steps(line) => missing(line, state, premake, most),
        }
    }

    /// The places of the ranges that begin after the current period, or of all where there is no clock; the last one first.
    pub(crate) fn later(&self, state: &State<'_>) -> Result<Vec<usize>> {
        match &self.0 {
            Kind::Grid(line) => later(line, state),
            Kind::Steps(line) => later(line, state),
        }
    }

    /// How many whole periods follow the current one without a gap; `None` without an end.
    pub(crate) fn ahead(&self, state: &State<'_>) -> Result<Option<u128>> {
        match &self.0 {
            Kind::Grid(line) => ahead(line, state),
            Kind::Steps(line) => ahead(line, state),
        }
    }

    /// For each of the ranges, whether all that it can hold is too old.
    pub(crate) fn expired(&self, state: &State<'_>, retention: &Retention) -> Result<Vec<bool>> {
        match &self.0 {
            Kind::Grid(line) => expired(line, state, retention),
            Kind::Steps(line) => expired(line, state, retention),
        }
    }
}

/// `None` is without an end on that side.
type Range<P> = (Option<P>, Option<P>);

fn ranges<L: Line>(line: &L, state: &State<'_>) -> Result<Vec<Range<L::Point>>> {
    let point = |limit: &Limit| match limit {
        Limit::Value(text) => line.point(text).map(Some),
        Limit::MinValue | Limit::MaxValue => Ok(None),
    };
    let mut ranges = Vec::with_capacity(state.ranges.len());
    for (from, to) in state.ranges {
        ranges.push((point(from)?, point(to)?));
    }
    Ok(ranges)
}

/// Where the series stands: the period of the clock, or of the last rows if that is later.
fn current<L: Line>(line: &L, state: &State<'_>) -> Result<Option<i128>> {
    let newest = state.newest.map(|bound| line.point(bound)).transpose()?;
    let place = line.clock(state.now).max(newest);
    place.map(|place| line.floor(place)).transpose()
}

fn missing<L: Line>(line: &L, state: &State<'_>, premake: u32, most: usize) -> Result<Vec<Slot>> {
    let mut ranges = ranges(line, state)?;
    ranges.sort();
    let first = line.first(state.now)?;
    let current = current(line, state)?.unwrap_or(first).max(first);
    let reach = |from: i128| -> Result<L::Point> {
        let until = line.at(from + i128::from(premake) + 1)?;
        Ok(line.end().map_or(until, |end| until.min(end)))
    };
    // From the first partition on: what was before it may have been dropped on purpose.
    let begin = match ranges.first() {
        None => line.at(first)?,
        Some((Some(from), _)) => *from,
        Some((None, Some(to))) => *to,
        Some((None, None)) => return Ok(Vec::new()),
    };
    let mut slots = Vec::new();
    // Where the clock stands before that, only what it needs itself: it may be wrong.
    if let Some(clock) = line.clock(state.now) {
        let now = line.floor(clock)?.max(first);
        fill(line, line.at(now)?, reach(now)?.min(begin), most, &mut slots)?;
    }
    let until = reach(current)?;
    let mut place = begin;
    for (from, to) in ranges.into_iter().chain(std::iter::once((Some(until), None))) {
        if let Some(from) = from {
            fill(line, place, from.min(until), most, &mut slots)?;
        }
        let Some(to) = to else { break };
        place = place.max(to);
    }
    Ok(slots)
}

/// The periods between two points, and the rests of those that are cut.
fn fill<L: Line>(line: &L, from: L::Point, to: L::Point, most: usize, slots: &mut Vec<Slot>) -> Result<()> {
    if from >= to {
        return Ok(());
    }
    let mut n = line.floor(from)?;
    loop {
        let (lower, upper) = (line.at(n)?.max(from), line.at(n + 1)?.min(to));
        if lower >= to || slots.len() >= most {
            return Ok(());
        }
        if lower < upper {
            slots.push(line.slot(lower, upper)?);
        }
        n += 1;
    }
}

fn later<L: Line>(line: &L, state: &State<'_>) -> Result<Vec<usize>> {
    let clock = line.clock(state.now);
    let begins = ranges(line, state)?.into_iter().map(|(from, _)| from);
    let mut found: Vec<_> = begins.enumerate().filter(|(_, from)| clock.is_none() || *from > clock).collect();
    found.sort_by_key(|(_, from)| std::cmp::Reverse(*from));
    Ok(found.into_iter().map(|(at, _)| at).collect())
}

fn ahead<L: Line>(line: &L, state: &State<'_>) -> Result<Option<u128>> {
    let mut ranges = ranges(line, state)?;
    ranges.sort();
    let current = match (current(line, state)?, ranges.first()) {
        (Some(current), _) => current,
        // Without rows and a clock, at the beginning.
        (None, Some((Some(from), _))) => line.floor(*from)?,
        (None, _) => line.first(state.now)?,
    };
    let mut place = line.at(current)?;
    for (from, to) in ranges {
        if from.is_some_and(|from| from > place) {
            break;
        }
        let Some(to) = to else { return Ok(None) };
        place = place.max(to);
    }
    if line.end().is_some_and(|end| place >= end) {
        return Ok(None);
    }
    let reached = line.floor(place)?;
    Ok(Some(reached.saturating_sub(current + 1).try_into().unwrap_or(0)))
}

fn expired<L: Line>(line: &L, state: &State<'_>, retention: &Retention) -> Result<Vec<bool>> {
    let newest = state.newest.map(|bound| line.point(bound)).transpose()?;
    let horizon = line.horizon(retention, state.now, newest)?;
    let is_before = |(_, to): Range<L::Point>| matches!((to, horizon), (Some(to), Some(horizon)) if to <= horizon);
    Ok(ranges(line, state)?.into_iter().map(is_before).collect())
}
