//! From the document to a range level: periods, steps, or ranges that are written out.

use super::check::{label, missing, own, some, whole_number};
use super::document::{Bounds, Document, Labelled, Object, OneOrMany, RangeObject};
use super::unknown::enumerate;
use super::{BoundsRule, DEFAULT_PREMAKE, Epoch, IntervalRule, RangePart, Ranges, Rule, StepRule};
use crate::error::{Result, SpecError};
use crate::path::Path;
use crate::plural::count;
use crate::{Decimal, Interval, Scalar, Zone};

pub(super) fn range(doc: &mut Document, key: &[String], path: &Path, depth: usize) -> Result<Rule> {
    let given = [("interval", doc.interval.is_some()), ("step", doc.step.is_some()), ("bounds", doc.bounds.is_some())];
    let given: Vec<&str> = given.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
    let [way] = given[..] else {
        let error = SpecError::new(path, "a range level needs exactly one of \"interval\", \"step\" and \"bounds\"");
        return Err(match given[..] {
            [] => error.detail("None of them is given."),
            _ => error.detail(format!("Given are {}.", enumerate(&given))),
        });
    };
    let foreign: &[(&str, bool)] = match way {
        "interval" => &[],
        "step" => &[("timezone", doc.timezone.is_some()), ("epoch", doc.epoch.is_some())],
        _ => &[
            ("start", doc.start.is_some()),
            ("end", doc.end.is_some()),
            ("premake", doc.premake.is_some()),
            ("epoch", doc.epoch.is_some()),
        ],
    };
    if let Some((name, _)) = foreign.iter().find(|(_, is)| *is) {
        let called = path.member(name).unwrap_or(name);
        return Err(SpecError::new(path.field(name), format!("\"{called}\" has no meaning with \"{way}\"")));
    }
    if way == "bounds" {
        return bounds(doc.bounds.take(), doc.timezone.take(), key.len(), path, depth);
    }
    if key.len() > 1 {
        return Err(SpecError::new(path.field(way), format!("\"{way}\" needs exactly one key column"))
            .detail(format!("The key has {} columns.", key.len()))
            .hint("Write the ranges out with \"bounds\"."));
    }
    let premake = premake(doc.premake.take(), path)?;
    let (start, end) = (doc.start.take(), doc.end.take());
    Ok(if let Some(text) = doc.interval.take() {
        let place = path.field("interval");
        let interval = Interval::parse(&text).map_err(|why| {
            SpecError::new(place, why)
                .hint("Write it as Postgres does, such as \"1 month\", \"7 days\" or \"06:00:00\".")
        })?;
        Rule::Interval(IntervalRule {
            interval,
            start: moment(start, &path.field("start"))?,
            end: moment(end, &path.field("end"))?,
            premake,
            timezone: zone(doc.timezone.take(), path)?,
            epoch: epoch(doc.epoch.take(), path)?,
        })
    } else {
        let place = path.field("step");
        let step = decimal(doc.step.take(), &place)?.filter(|step| step.is_positive());
        Rule::Step(StepRule {
            step: step.ok_or_else(|| SpecError::new(place, "the step is not positive"))?,
            start: decimal(start, &path.field("start"))?,
            end: decimal(end, &path.field("end"))?,
            premake,
        })
    })
}

fn premake(premake: Option<Scalar>, path: &Path) -> Result<u32> {
    match premake {
        Some(n) => whole_number(&n, 0, u32::MAX, &path.field("premake"), "premake"),
        None => Ok(DEFAULT_PREMAKE),
    }
}

/// A bound of an interval level; the type of the key says later what it may be.
fn moment(value: Option<Scalar>, path: &Path) -> Result<Option<Scalar>> {
    match value {
        Some(Scalar::Bool(_) | Scalar::Null) => Err(SpecError::new(path, "a time is a string or an epoch number")),
        other => Ok(other),
    }
}

fn decimal(value: Option<Scalar>, path: &Path) -> Result<Option<Decimal>> {
    let Some(value) = value else { return Ok(None) };
    let text = match value {
        Scalar::Number(_) | Scalar::Text(_) => value.text(),
        Scalar::Null | Scalar::Bool(_) => None,
    };
    let number = text.and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| SpecError::new(path, format!("{value} is not a number of at most 38 digits")))
}

fn zone(name: Option<String>, path: &Path) -> Result<Zone> {
    let Some(name) = name else { return Ok(Zone::utc()) };
    Zone::get(&name).ok_or_else(|| {
        SpecError::new(path.field("timezone"), format!("time zone \"{name}\" is not known"))
            .hint("Use an IANA name such as \"Europe/Berlin\".")
    })
}

fn epoch(unit: Option<String>, path: &Path) -> Result<Option<Epoch>> {
    let units = [Epoch::Seconds, Epoch::Millis, Epoch::Micros, Epoch::Nanos];
    let Some(unit) = unit else { return Ok(None) };
    let found = units.into_iter().find(|known| known.as_str() == unit);
    found.map(Some).ok_or_else(|| {
        SpecError::new(path.field("epoch"), format!("unknown unit \"{unit}\""))
            .detail("The units are s, ms, us and ns.")
    })
}

fn bounds(bounds: Option<Bounds>, tz: Option<String>, columns: usize, path: &Path, depth: usize) -> Result<Rule> {
    let place = path.field("bounds");
    let ranges = match bounds {
        None => return Err(missing(path, "bounds")),
        Some(Bounds::Points(points)) if points.len() < 2 => {
            return Err(SpecError::new(place, "bounds need at least two points")
                .detail(format!("Given: {}.", count(points.len(), "point", "points")))
                .hint("n points make n - 1 partitions."));
        }
        Some(Bounds::Points(points)) => {
            let point = |(at, p): (usize, OneOrMany<Scalar>)| limits(p, columns, &place.index(at));
            Ranges::Points(points.into_iter().enumerate().map(point).collect::<Result<_>>()?)
        }
        Some(Bounds::Labelled(Labelled(parts))) => {
            let part =
                |(name, Object(part)): (String, Object<RangeObject>)| range_part(name, part, columns, &place, depth);
            Ranges::Labelled(some(parts, &place)?.into_iter().map(part).collect::<Result<_>>()?)
        }
    };
    Ok(Rule::Bounds(BoundsRule { timezone: zone(tz, path)?, ranges }))
}

fn range_part(name: String, part: RangeObject, columns: usize, place: &Path, depth: usize) -> Result<RangePart> {
    let path = place.field(&name);
    let (from, to) = ends(part.from, part.to, columns, &path)?;
    Ok(RangePart { from, to, own: own(part.nodes, part.partitions, &path, depth)?, label: label(name, &path)? })
}

/// An end of a range as it is written; `None` if it is not.
pub(crate) type Limits = Option<OneOrMany<Scalar>>;

/// Both ends of the range that is the object at `path`.
pub(crate) fn ends(from: Limits, to: Limits, columns: usize, path: &Path) -> Result<(Vec<Scalar>, Vec<Scalar>)> {
    let end = |value: Limits, which| limits(value.ok_or_else(|| missing(path, which))?, columns, &path.field(which));
    Ok((end(from, "from")?, end(to, "to")?))
}

/// One limit of a range: a value per key column.
fn limits(values: OneOrMany<Scalar>, columns: usize, path: &Path) -> Result<Vec<Scalar>> {
    let values = values.into_vec();
    if values.contains(&Scalar::Null) {
        return Err(SpecError::new(path, "NULL cannot be a range bound")
            .hint("Rows with NULL in a range key go to the default partition."));
    }
    if values.len() != columns {
        return Err(SpecError::new(path, "a range bound needs one value per key column")
            .detail(format!("The key has {columns}, the bound has {}.", values.len())));
    }
    Ok(values)
}
