//! Ranges that are empty or overlap, as far as the order of the key is known here.

use std::cmp::Ordering;

use super::{Limit, parts};
use crate::error::{Result, SpecError};
use crate::path::Path;
use crate::value::Order;
use crate::{KeyKind, Scalar, Zone};

/// What is said of a range whose lower bound is not below its upper bound.
pub const EMPTY_RANGE: &str = "the range is empty";

/// One end of a range: per key column the limit and its place in the order.
#[derive(Clone, Debug)]
pub(super) struct Edge(pub Vec<(Limit, Order)>);

#[derive(Clone, Debug)]
pub(super) struct Range {
    pub from: Edge,
    pub to: Edge,
    pub path: Path,
}

impl Edge {
    pub(super) fn read(values: &[Scalar], kinds: &[Option<KeyKind>], zone: &Zone, path: &Path) -> Result<Self> {
        let mut edge = Vec::with_capacity(values.len());
        for (at, value) in values.iter().enumerate() {
            let here = if values.len() == 1 { path.clone() } else { path.index(at) };
            edge.push(match value {
                Scalar::Text(text) if text == "MINVALUE" => (Limit::MinValue, Order::Unknown),
                Scalar::Text(text) if text == "MAXVALUE" => (Limit::MaxValue, Order::Unknown),
                _ => {
                    let parsed = parts::parse(value, kinds.get(at).copied().flatten(), zone, &here)?;
                    (Limit::Value(parsed.literal), parsed.order)
                }
            });
            if let [.., (before @ (Limit::MinValue | Limit::MaxValue), _), (this, _)] = &edge[..]
                && before != this
            {
                let word = if *before == Limit::MinValue { "MINVALUE" } else { "MAXVALUE" };
                return Err(SpecError::new(here, format!("every bound following {word} must also be {word}")));
            }
        }
        Ok(Self(edge))
    }

    pub(super) fn limits(&self) -> Vec<Limit> {
        self.0.iter().map(|(limit, _)| limit.clone()).collect()
    }

    /// Column by column, as Postgres does; `None` when only Postgres knows.
    pub(super) fn compare(&self, other: &Self) -> Option<Ordering> {
        for ((a, order_a), (b, order_b)) in self.0.iter().zip(&other.0) {
            let rank = |limit: &Limit| match limit {
                Limit::MinValue => 0,
                Limit::Value(_) => 1,
                Limit::MaxValue => 2,
            };
            let order = match (a, b) {
                // What follows an infinite column does not count.
                (Limit::MinValue, Limit::MinValue) | (Limit::MaxValue, Limit::MaxValue) => {
                    return Some(Ordering::Equal);
                }
                (Limit::Value(x), Limit::Value(y)) if x == y => Ordering::Equal,
                (Limit::Value(_), Limit::Value(_)) => order_a.compare(order_b)?,
                _ => rank(a).cmp(&rank(b)),
            };
            if order != Ordering::Equal {
                return Some(order);
            }
        }
        Some(Ordering::Equal)
    }

    /// Whether it compares with every other edge like it.
    fn is_ordered(&self) -> bool {
        self.0.iter().all(|(limit, order)| !matches!((limit, order), (Limit::Value(_), Order::Unknown)))
    }
}

impl std::fmt::Display for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |limit: &Limit| match limit {
            Limit::MinValue => "MINVALUE".to_owned(),
            Limit::Value(value) => format!("'{value}'"),
            Limit::MaxValue => "MAXVALUE".to_owned(),
        };
        let columns: Vec<_> = self.0.iter().map(|(limit, _)| text(limit)).collect();
        write!(f, "({})", columns.join(", "))
    }
}

impl Range {
    pub(super) fn read(
        (from, to): (&[Scalar], &[Scalar]),
        kinds: &[Option<KeyKind>],
        zone: &Zone,
        path: &Path,
    ) -> Result<Self> {
        let range = Self {
            from: Edge::read(from, kinds, zone, &path.field("from"))?,
            to: Edge::read(to, kinds, zone, &path.field("to"))?,
            path: path.clone(),
        };
        range.not_empty()?;
        Ok(range)
    }

    fn not_empty(&self) -> Result<()> {
        match self.from.compare(&self.to) {
            Some(Ordering::Less) | None => Ok(()),
            Some(_) => Err(SpecError::new(&self.path, EMPTY_RANGE)
                .detail(format!("It is from {} to {}; the upper bound is exclusive.", self.from, self.to))),
        }
    }
}

/// Each point of a list of points lies beyond the one before.
pub(super) fn increasing(points: &[Edge], path: &Path) -> Result<()> {
    for (at, pair) in points.windows(2).enumerate() {
        if !matches!(pair[0].compare(&pair[1]), Some(Ordering::Less) | None) {
            return Err(SpecError::new(path.index(at + 1), "the bounds do not increase").detail(format!(
                "{} at {} is followed by {}.",
                pair[0],
                path.index(at),
                pair[1]
            )));
        }
    }
    Ok(())
}

/// No two ranges hold one key. Neither of them is empty.
pub(super) fn none(ranges: Vec<Range>) -> Result<()> {
    let (mut ordered, rest): (Vec<_>, Vec<_>) =
        ranges.into_iter().partition(|range| range.from.is_ordered() && range.to.is_ordered());
    ordered.sort_by(|a, b| a.from.compare(&b.from).unwrap_or(Ordering::Equal));
    // In the order of lower bounds, if any two overlap then two neighbours do.
    for pair in ordered.windows(2) {
        if pair[0].to.compare(&pair[1].from) == Some(Ordering::Greater) {
            return Err(overlapping(&pair[0], &pair[1]));
        }
    }
    // Of the others it is known only that equal texts are equal values.
    let mut rest: Vec<_> = rest.iter().collect();
    rest.sort_by_key(|range| range.from.to_string());
    for pair in rest.windows(2) {
        if pair[0].from.compare(&pair[1].from) == Some(Ordering::Equal) {
            return Err(overlapping(pair[0], pair[1]));
        }
    }
    Ok(())
}

fn overlapping(a: &Range, b: &Range) -> SpecError {
    SpecError::new(&b.path, format!("the range overlaps with {}", a.path))
        .detail(format!("{} is from {} to {}, {} is from {} to {}.", a.path, a.from, a.to, b.path, b.from, b.to))
}
