//! What the spec says of partitions once others have taken their places.

use super::overlap::Edge;
use super::{Bound, Limit, PlanInput};
use crate::spec::{Level, ListPart, Own, RangePart, Ranges, Rule, Site};
use crate::{KeyKind, Scalar, Zone};

/// A partition by its label and bound.
pub type Labelled<'a> = (&'a str, &'a Bound);

/// The level at `site` once the partitions `gone` are replaced by `come`, which hold the same keys. `None` where the level
/// does not list what goes: a period, or a partition that was added later.
///
/// What a listed partition says for itself goes over to those that take its place; of several, the first one's counts.
pub fn replaced(site: &Site<'_>, gone: &[Labelled<'_>], come: &[Labelled<'_>], input: &PlanInput<'_>) -> Option<Level> {
    let mut level = site.level.clone();
    let kinds: Vec<_> = level.key.iter().map(|key| (input.kind)(key)).collect();
    let goes = |label: &str| gone.iter().any(|(name, _)| *name == label);
    match &mut level.rule {
        Rule::List(parts) => {
            let (at, own) = taken(parts, |part| goes(&part.label), |part| &part.own)?;
            let new = come.iter().filter_map(|(label, bound)| {
                let Bound::List { values } = bound else { return None };
                let values = values.iter().map(|value| value.as_deref().map_or(Scalar::Null, Scalar::from)).collect();
                Some(ListPart { label: (*label).to_owned(), values, own: own.clone() })
            });
            parts.splice(at..at, new);
        }
        Rule::Bounds(rule) => match &mut rule.ranges {
            Ranges::Labelled(parts) => {
                let (at, own) = taken(parts, |part| goes(&part.label), |part| &part.own)?;
                let new = come.iter().filter_map(|(label, bound)| {
                    let Bound::Range { from, to } = bound else { return None };
                    Some(RangePart {
                        label: (*label).to_owned(),
                        from: scalars(from),
                        to: scalars(to),
                        own: own.clone(),
                    })
                });
                parts.splice(at..at, new);
            }
            Ranges::Points(points) => {
                let froms = come.iter().filter_map(|(_, bound)| match bound {
                    Bound::Range { from, .. } => Some(scalars(from)),
                    _ => None,
                });
                let froms: Vec<Vec<Scalar>> = froms.collect();
                let (Some(first), Some((_, Bound::Range { to, .. }))) = (froms.first(), come.last()) else {
                    return None;
                };
                let place = |point: &[Scalar]| find(points, point, &kinds, &rule.timezone);
                let (start, end) = (place(first)?, place(&scalars(to))?);
                points.splice(start + 1..end.max(start + 1), froms.into_iter().skip(1));
            }
        },
        Rule::Interval(_) | Rule::Step(_) | Rule::Hash { .. } => return None,
    }
    Some(level)
}

/// Takes out the parts that go; where the first of them was, and what it said for itself.
fn taken<P>(parts: &mut Vec<P>, goes: impl Fn(&P) -> bool, own: impl Fn(&P) -> &Own) -> Option<(usize, Own)> {
    let at = parts.iter().position(&goes)?;
    let said = own(&parts[at]).clone();
    parts.retain(|part| !goes(part));
    Some((at, said))
}

fn scalars(limits: &[Limit]) -> Vec<Scalar> {
    let text = |limit: &Limit| match limit {
        Limit::MinValue => "MINVALUE".into(),
        Limit::Value(value) => value.as_str().into(),
        Limit::MaxValue => "MAXVALUE".into(),
    };
    limits.iter().map(text).collect()
}

/// Which of the points is this one, however it is written.
fn find(points: &[Vec<Scalar>], wanted: &[Scalar], kinds: &[Option<KeyKind>], zone: &Zone) -> Option<usize> {
    let path = crate::path::Path::root(crate::path::Form::Document);
    let read = |point: &[Scalar]| Edge::read(point, kinds, zone, &path).ok();
    let wanted = read(wanted)?;
    points
        .iter()
        .position(|point| read(point).is_some_and(|point| point.compare(&wanted) == Some(std::cmp::Ordering::Equal)))
}
