//! From the document to the level: what the members mean together.

use std::collections::BTreeMap;

use super::document::{Below, Default_, Document, Labelled, OneOrMany, Values};
use super::range::range;
use super::unknown::{enumerate, members, nearest, unknown};
use super::{
    BoundsRule, DEFAULT_LABEL, DefaultPart, Level, ListPart, MAX_DEPTH, MAX_MODULUS, Method, Own, Ranges, Rule, Sub,
};
use crate::Scalar;
use crate::error::{Result, SpecError};
use crate::name::Template;
use crate::path::Path;

pub(super) fn level(mut doc: Document, path: &Path, depth: usize) -> Result<Level> {
    if depth > MAX_DEPTH {
        return Err(
            SpecError::new(path, "the levels are nested too deeply").detail(format!("The limit is {MAX_DEPTH}."))
        );
    }
    let method = method(&doc, path)?;
    only_members_of(method, &doc, path)?;
    let key = key(doc.key.take(), method, path)?;
    let rule = match method {
        Method::Range => range(&mut doc, &key, path, depth)?,
        Method::List => list(doc.values.take(), path, depth)?,
        Method::Hash => hash(doc.modulus.take(), path)?,
    };
    let default = default(doc.default.take(), method, path, depth)?;
    if default.is_some() {
        no_label_default(&rule, path)?;
    }
    Ok(Level {
        key,
        rule,
        nodes: nodes(doc.nodes, path)?,
        name: match doc.name {
            Some(name) => Template::parse(&name, &path.field("name"), false)?,
            None => Template::default(),
        },
        default,
        partitions: match below(doc.partitions, path, depth)? {
            Sub::Own(level) => Some(level),
            Sub::Inherit | Sub::Leaf => None,
        },
        form: path.form(),
    })
}

fn method(doc: &Document, path: &Path) -> Result<Method> {
    let name = doc.method.as_deref().ok_or_else(|| missing(path, "method"))?;
    match name.to_ascii_lowercase().as_str() {
        "range" => Ok(Method::Range),
        "list" => Ok(Method::List),
        "hash" => Ok(Method::Hash),
        _ => {
            let methods = ["range", "list", "hash"];
            let error = SpecError::new(path.field("method"), format!("unknown method \"{name}\""))
                .detail(format!("The methods are {}.", enumerate(&methods)));
            Err(match nearest(name, &methods) {
                Some(near) => error.hint(format!("Perhaps you mean \"{near}\".")),
                None => error,
            })
        }
    }
}

pub(super) fn missing(path: &Path, name: &str) -> SpecError {
    SpecError::new(path, format!("\"{}\" is missing", path.member(name).unwrap_or(name)))
}

/// A member that exists, but for another method.
fn only_members_of(method: Method, doc: &Document, path: &Path) -> Result<()> {
    if method == Method::Hash && matches!(doc.default, Some(Default_::Flag(true) | Default_::Object(_))) {
        return Err(SpecError::new(path.field("default"), "a hash level has no default partition")
            .detail("The remainders of a hash level accept every row."));
    }
    let present = [
        ("interval", doc.interval.is_some()),
        ("step", doc.step.is_some()),
        ("bounds", doc.bounds.is_some()),
        ("start", doc.start.is_some()),
        ("end", doc.end.is_some()),
        ("premake", doc.premake.is_some()),
        ("timezone", doc.timezone.is_some()),
        ("epoch", doc.epoch.is_some()),
        ("values", doc.values.is_some()),
        ("modulus", doc.modulus.is_some()),
    ];
    let valid = members(Some(method.as_str()));
    match present.iter().find(|(name, is)| *is && !valid.contains(name)) {
        Some((name, _)) => Err(unknown(path, name, &format!("a {method} level"), &valid)),
        None => Ok(()),
    }
}

fn key(key: Option<OneOrMany<String>>, method: Method, path: &Path) -> Result<Vec<String>> {
    let key = key.ok_or_else(|| missing(path, "key"))?.into_vec();
    let path = path.field("key");
    if key.is_empty() || key.iter().any(|part| part.trim().is_empty()) {
        return Err(SpecError::new(path, "the key is empty"));
    }
    if method == Method::List && key.len() > 1 {
        return Err(SpecError::new(path, "a list level has exactly one key column")
            .detail(format!("The key has {} columns.", key.len())));
    }
    Ok(key)
}

fn nodes(nodes: Option<Vec<String>>, path: &Path) -> Result<Option<Vec<String>>> {
    let path = path.field("nodes");
    match &nodes {
        Some(list) if list.is_empty() => Err(SpecError::new(path, "the list of nodes is empty")
            .hint("Leave \"nodes\" out to keep the partitions on the node \"local\".")),
        Some(list) => match list.iter().position(|node| node.trim().is_empty()) {
            Some(at) => Err(SpecError::new(path.index(at), "the name of a node is empty")),
            None => Ok(nodes),
        },
        None => Ok(nodes),
    }
}

fn list(values: Option<Labelled<Values>>, path: &Path, depth: usize) -> Result<Rule> {
    let Labelled(values) = values.ok_or_else(|| missing(path, "values"))?;
    let place = path.field("values");
    let mut seen: BTreeMap<Option<String>, Path> = BTreeMap::new();
    let mut parts = Vec::new();
    for (name, values) in some(values, &place)? {
        let path = place.field(&name);
        let (values, own, within) = match values {
            Values::Short(values) => (Some(values), Own::default(), path.clone()),
            Values::Long(part) => (part.values, own(part.nodes, part.partitions, &path, depth)?, path.field("in")),
        };
        let values = values.ok_or_else(|| missing(&path, "in"))?;
        some_values(&values, &within)?;
        for (at, value) in values.iter().enumerate() {
            let here = within.index(at);
            if let Some(first) = seen.insert(value.text(), here.clone()) {
                return Err(duplicate(value, &first, &here));
            }
        }
        parts.push(ListPart { label: label(name, &path)?, values, own });
    }
    Ok(Rule::List(parts))
}

pub(crate) fn some_values(values: &[Scalar], path: &Path) -> Result<()> {
    match values {
        [] => Err(SpecError::new(path, "a list partition needs at least one value")),
        _ => Ok(()),
    }
}

/// Two places of a list level hold one value.
pub(crate) fn duplicate(value: &Scalar, first: &Path, second: &Path) -> SpecError {
    SpecError::new(second, format!("the value {value} is listed twice"))
        .detail(format!("It is at {first} and at {second}."))
}

pub(crate) fn whole_number(value: &Scalar, least: u32, most: u32, path: &Path, what: &str) -> Result<u32> {
    let number = match value {
        Scalar::Number(n) => n.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| (least..=most).contains(n)),
        _ => None,
    };
    number.ok_or_else(|| {
        SpecError::new(path, format!("{what} must be a whole number from {least} to {most}"))
            .detail(format!("It is {value}."))
    })
}

fn hash(modulus: Option<Scalar>, path: &Path) -> Result<Rule> {
    let modulus = modulus.ok_or_else(|| missing(path, "modulus"))?;
    Ok(Rule::Hash { modulus: self::modulus(&modulus, path)? })
}

/// The modulus of the object at `path`.
pub(crate) fn modulus(modulus: &Scalar, path: &Path) -> Result<u32> {
    whole_number(modulus, 1, MAX_MODULUS, &path.field("modulus"), "modulus")
}

fn default(default: Option<Default_>, method: Method, path: &Path, depth: usize) -> Result<Option<DefaultPart>> {
    let path = path.field("default");
    Ok(match default {
        Some(Default_::Flag(true)) if method != Method::Hash => Some(DefaultPart::default()),
        Some(Default_::Object(part)) => Some(DefaultPart {
            name: match part.name {
                Some(name) => Some(Template::parse(&name, &path.field("name"), true)?),
                None => None,
            },
            own: own(part.nodes, part.partitions, &path, depth)?,
        }),
        Some(Default_::Flag(_)) | None => None,
    })
}

/// With a default partition, "default" is its label.
fn no_label_default(rule: &Rule, path: &Path) -> Result<()> {
    let (field, taken) = match rule {
        Rule::List(parts) => ("values", parts.iter().any(|part| part.label == DEFAULT_LABEL)),
        Rule::Bounds(BoundsRule { ranges: Ranges::Labelled(parts), .. }) => {
            ("bounds", parts.iter().any(|part| part.label == DEFAULT_LABEL))
        }
        _ => return Ok(()),
    };
    if taken {
        let path = path.field(field).field(DEFAULT_LABEL);
        return Err(SpecError::new(path, "the label \"default\" belongs to the default partition"));
    }
    Ok(())
}

pub(super) fn own(list: Option<Vec<String>>, partitions: Option<Below>, path: &Path, depth: usize) -> Result<Own> {
    Ok(Own { nodes: nodes(list, path)?, partitions: below(partitions, path, depth)? })
}

fn below(sub: Option<Below>, path: &Path, depth: usize) -> Result<Sub> {
    let path = path.field("partitions");
    match sub {
        None => Ok(Sub::Inherit),
        Some(Below::Flag(false)) => Ok(Sub::Leaf),
        Some(Below::Flag(true)) => {
            Err(SpecError::new(path, "partitions must be an object that describes a level, or false"))
        }
        Some(Below::Level(doc)) => Ok(Sub::Own(Box::new(level(*doc, &path, depth + 1)?))),
    }
}

pub(super) fn some<T>(parts: Vec<T>, path: &Path) -> Result<Vec<T>> {
    if parts.is_empty() { Err(SpecError::new(path, "the level has no partitions")) } else { Ok(parts) }
}

/// A label ends in the name of a table.
pub(super) fn label(label: String, path: &Path) -> Result<String> {
    if label.trim().is_empty() || label.contains('\0') {
        return Err(SpecError::new(path, "the label of a partition is empty or has a NUL character"));
    }
    Ok(label)
}
