//! A level back to its document, for the catalog. What has a default that could change one day is written out.

use super::document::{
    Below, Bounds, Default_, DefaultObject, Document, Labelled, ListObject, Object, OneOrMany, RangeObject, Values,
};
use super::{DefaultPart, Level, Own, Ranges, Rule, Sub};
use crate::{Scalar, Zone};

pub(super) fn level(level: &Level) -> Document {
    let mut doc = Document {
        method: Some(level.method().as_str().into()),
        key: Some(OneOrMany::of(level.key.clone())),
        nodes: level.nodes.clone(),
        name: (!level.name.is_default()).then(|| level.name.as_str().into()),
        default: level.default.as_ref().map(default),
        partitions: level.partitions.as_deref().map(below),
        ..Document::default()
    };
    match &level.rule {
        Rule::Interval(rule) => {
            doc.interval = Some(rule.interval.to_string());
            doc.start = rule.start.clone();
            doc.end = rule.end.clone();
            doc.premake = Some(number(rule.premake));
            doc.timezone = zone(&rule.timezone);
            doc.epoch = rule.epoch.map(|e| e.as_str().into());
        }
        Rule::Step(rule) => {
            doc.step = Some(Scalar::Text(rule.step.to_string()));
            doc.start = rule.start.map(|d| Scalar::Text(d.to_string()));
            doc.end = rule.end.map(|d| Scalar::Text(d.to_string()));
            doc.premake = Some(number(rule.premake));
        }
        Rule::Bounds(rule) => {
            doc.timezone = zone(&rule.timezone);
            doc.bounds = Some(match &rule.ranges {
                Ranges::Points(points) => Bounds::Points(points.iter().cloned().map(OneOrMany::of).collect()),
                Ranges::Labelled(parts) => Bounds::Labelled(Labelled(
                    parts
                        .iter()
                        .map(|part| {
                            let (nodes, partitions) = own(&part.own);
                            let from = Some(OneOrMany::of(part.from.clone()));
                            let to = Some(OneOrMany::of(part.to.clone()));
                            (part.label.clone(), Object(RangeObject { from, to, nodes, partitions }))
                        })
                        .collect(),
                )),
            });
        }
        Rule::List(parts) => {
            let value = |part: &super::ListPart| match own(&part.own) {
                (None, None) => Values::Short(part.values.clone()),
                (nodes, partitions) => {
                    Values::Long(ListObject { values: Some(part.values.clone()), nodes, partitions })
                }
            };
            doc.values = Some(Labelled(parts.iter().map(|part| (part.label.clone(), value(part))).collect()));
        }
        Rule::Hash { modulus } => doc.modulus = Some(number(*modulus)),
    }
    doc
}

fn number(n: u32) -> Scalar {
    Scalar::Number(n.into())
}

fn zone(zone: &Zone) -> Option<String> {
    (!zone.is_utc()).then(|| zone.name().into())
}

fn below(sub: &Level) -> Below {
    Below::Level(Box::new(level(sub)))
}

fn own(own: &Own) -> (Option<Vec<String>>, Option<Below>) {
    let partitions = match &own.partitions {
        Sub::Inherit => None,
        Sub::Leaf => Some(Below::Flag(false)),
        Sub::Own(sub) => Some(below(sub)),
    };
    (own.nodes.clone(), partitions)
}

fn default(part: &DefaultPart) -> Default_ {
    let (nodes, partitions) = own(&part.own);
    let name = part.name.as_ref().map(|name| name.as_str().into());
    if name.is_none() && nodes.is_none() && partitions.is_none() {
        return Default_::Flag(true);
    }
    Default_::Object(DefaultObject { name, nodes, partitions })
}
