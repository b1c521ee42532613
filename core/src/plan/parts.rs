//! The partitions of each level: their bounds and labels, checked, before names and nodes are given.

use std::collections::HashMap;
use std::rc::Rc;

use super::{Bound, Limit, PlanInput, label, overlap};
use crate::error::{Result, SpecError};
use crate::name::Template;
use crate::path::Path;
use crate::series::Series;
use crate::spec::{BoundsRule, DEFAULT_LABEL, Level, ListPart, Own, RangePart, Ranges, Rule, duplicate};
use crate::value::{self, Parsed};
use crate::{KeyKind, Scalar, Zone};

/// A partition without a name and a node.
#[derive(Clone, Debug)]
pub(super) struct Draft<'a> {
    pub label: String,
    pub bound: Bound,
    pub name: Name<'a>,
    pub own: Option<&'a Own>,
    pub path: Path,
}

#[derive(Clone, Debug)]
pub(super) enum Name<'a> {
    Template(&'a Template),
    Literal(&'a str),
}

/// A level with all partitions below it; branches that share a level share this.
pub(super) struct Resolved<'a> {
    pub level: &'a Level,
    pub path: Path,
    pub parts: Vec<(Draft<'a>, Option<Rc<Resolved<'a>>>)>,
}

pub(super) struct Resolver<'a, 'i> {
    input: &'i PlanInput<'i>,
    shared: HashMap<Path, Rc<Resolved<'a>>>,
}

impl<'a, 'i> Resolver<'a, 'i> {
    pub(super) fn new(input: &'i PlanInput<'i>) -> Self {
        Self { input, shared: HashMap::new() }
    }

    pub(super) fn resolve(&mut self, level: &'a Level, path: &Path) -> Result<Rc<Resolved<'a>>> {
        if let Some(known) = self.shared.get(path) {
            return Ok(Rc::clone(known));
        }
        let mut parts = Vec::new();
        for draft in drafts(level, path, self.input)? {
            let sub = self.below(level, &draft, path)?;
            parts.push((draft, sub));
        }
        let resolved = Rc::new(Resolved { level, path: path.clone(), parts });
        self.shared.insert(path.clone(), Rc::clone(&resolved));
        Ok(resolved)
    }

    /// The level below one partition of `level`.
    pub(super) fn below(
        &mut self,
        level: &'a Level,
        part: &Draft<'a>,
        path: &Path,
    ) -> Result<Option<Rc<Resolved<'a>>>> {
        match level.sub(part.own, &part.path, path) {
            Some((sub, path)) => self.resolve(sub, &path).map(Some),
            None => Ok(None),
        }
    }
}

fn drafts<'a>(level: &'a Level, path: &Path, input: &PlanInput<'_>) -> Result<Vec<Draft<'a>>> {
    let name = Name::Template(&level.name);
    let mut drafts = match &level.rule {
        Rule::Interval(_) | Rule::Step(_) => series(level, path, input)?,
        Rule::Bounds(rule) => bounds(rule, level, path, input)?,
        Rule::List(parts) => list(parts, level, path, input)?,
        Rule::Hash { modulus } => {
            let path = path.field("modulus");
            let bound = |remainder| Bound::Hash { modulus: *modulus, remainder };
            (0..*modulus)
                .map(|n| Draft {
                    label: n.to_string(),
                    bound: bound(n),
                    name: name.clone(),
                    own: None,
                    path: path.clone(),
                })
                .collect()
        }
    };
    if let Some(default) = &level.default {
        drafts.push(Draft {
            label: DEFAULT_LABEL.into(),
            bound: Bound::Default,
            name: default.name.as_ref().map_or(name, Name::Template),
            own: Some(&default.own),
            path: path.field("default"),
        });
    }
    Ok(drafts)
}

fn series<'a>(level: &'a Level, path: &Path, input: &PlanInput<'_>) -> Result<Vec<Draft<'a>>> {
    let kind = level.key.first().and_then(|key| (input.kind)(key));
    let Some(series) = Series::of(level, path, kind)? else { return Ok(Vec::new()) };
    let path = path.field(if matches!(level.rule, Rule::Step(_)) { "step" } else { "interval" });
    let draft = |slot: crate::series::Slot| Draft {
        label: slot.label,
        bound: Bound::Range { from: vec![Limit::Value(slot.from)], to: vec![Limit::Value(slot.to)] },
        name: Name::Template(&level.name),
        own: None,
        path: path.clone(),
    };
    Ok(series.initial(input.now)?.into_iter().map(draft).collect())
}

fn list<'a>(parts: &'a [ListPart], level: &'a Level, path: &Path, input: &PlanInput<'_>) -> Result<Vec<Draft<'a>>> {
    let kind = level.key.first().and_then(|key| (input.kind)(key));
    let mut seen: HashMap<Option<String>, Path> = HashMap::new();
    let mut drafts = Vec::new();
    for part in parts {
        let path = path.field("values").field(&part.label);
        let values = list_values(&part.values, kind, &path, &mut seen)?;
        drafts.push(Draft {
            label: part.label.clone(),
            bound: Bound::List { values },
            name: Name::Template(&level.name),
            own: Some(&part.own),
            path,
        });
    }
    Ok(drafts)
}

/// The values of one partition, none of which is among those `seen`.
pub(super) fn list_values(
    values: &[Scalar],
    kind: Option<KeyKind>,
    path: &Path,
    seen: &mut HashMap<Option<String>, Path>,
) -> Result<Vec<Option<String>>> {
    let mut texts = Vec::with_capacity(values.len());
    for (at, value) in values.iter().enumerate() {
        let here = path.index(at);
        let parsed = list_value(value, kind, &here)?;
        let same = parsed.as_ref().map(value::canonical);
        if let Some(first) = seen.insert(same, here.clone()) {
            return Err(duplicate(value, &first, &here));
        }
        texts.push(parsed.map(|parsed| parsed.literal));
    }
    Ok(texts)
}

/// `None` for NULL.
fn list_value(value: &Scalar, kind: Option<KeyKind>, path: &Path) -> Result<Option<Parsed>> {
    match value {
        Scalar::Null => Ok(None),
        // Times of a list have no level time zone; without an offset they are in UTC.
        _ => parse(value, kind, &Zone::utc(), path).map(Some),
    }
}

pub(super) fn parse(value: &Scalar, kind: Option<KeyKind>, zone: &Zone, path: &Path) -> Result<Parsed> {
    let kind = kind.unwrap_or(KeyKind::Other);
    value::parse(kind, value, zone)
        .ok_or_else(|| SpecError::new(path, format!("{value} is not a valid {}", kind.describe())))
}

fn bounds<'a>(rule: &'a BoundsRule, level: &'a Level, path: &Path, input: &PlanInput<'_>) -> Result<Vec<Draft<'a>>> {
    let kinds: Vec<_> = level.key.iter().map(|key| (input.kind)(key)).collect();
    let place = path.field("bounds");
    let drafts = match &rule.ranges {
        Ranges::Points(points) => {
            let edge = |(at, point): (usize, &Vec<Scalar>)| {
                overlap::Edge::read(point, &kinds, &rule.timezone, &place.index(at))
            };
            let edges = points.iter().enumerate().map(edge);
            let edges = edges.collect::<Result<Vec<_>>>()?;
            overlap::increasing(&edges, &place)?;
            let pair = |(at, pair): (usize, &[overlap::Edge])| Draft {
                label: label::of_edge(&pair[0], &kinds, at),
                bound: Bound::Range { from: pair[0].limits(), to: pair[1].limits() },
                name: Name::Template(&level.name),
                own: None,
                path: place.index(at),
            };
            edges.windows(2).enumerate().map(pair).collect()
        }
        Ranges::Labelled(parts) => {
            let mut ranges = Vec::new();
            let mut drafts = Vec::new();
            for RangePart { label, from, to, own } in parts {
                let path = place.field(label);
                let range = overlap::Range::read((from, to), &kinds, &rule.timezone, &path)?;
                drafts.push(Draft {
                    label: label.clone(),
                    bound: Bound::Range { from: range.from.limits(), to: range.to.limits() },
                    name: Name::Template(&level.name),
                    own: Some(own),
                    path,
                });
                ranges.push(range);
            }
            overlap::none(ranges)?;
            drafts
        }
    };
    Ok(drafts)
}
