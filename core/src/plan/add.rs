//! A single partition that is added later, with everything below it.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::Value;

use super::parts::{self, Draft, Name, Resolver};
use super::{Bound, Method, Partition, PlanInput, build, count, label, overlap};
use crate::error::{Result, SpecError};
use crate::path::{Form, Path};
use crate::series::Series;
use crate::spec::{self, DEFAULT_LABEL, Limits, MAX_MODULUS, Object, Rule, Site, ends, explain, present, some_values};
use crate::{Scalar, Zone, name};

/// The bounds that `shard_add_partition` takes, read for one level.
#[derive(Clone, Debug, PartialEq)]
pub struct NewPartition {
    /// Which rows it takes.
    pub bound: Bound,
    /// The one in the document, or else one made from the bound. That of a default partition is always "default".
    pub label: String,
    /// The whole name, instead of the level's template.
    pub name: Option<String>,
    /// JSON path of the bound; of a list, that of its values.
    pub place: String,
}

/// `{"from": …, "to": …}`, `{"in": […]}`, `{"modulus": …, "remainder": …}` or `{"default": true}`, with an optional
/// `name` or `label`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "an object with the bounds of a partition")]
struct Document {
    #[serde(deserialize_with = "present")]
    from: Limits,
    #[serde(deserialize_with = "present")]
    to: Limits,
    #[serde(rename = "in", deserialize_with = "present")]
    values: Option<Vec<Scalar>>,
    #[serde(deserialize_with = "present")]
    modulus: Option<Scalar>,
    #[serde(deserialize_with = "present")]
    remainder: Option<Scalar>,
    default: Option<bool>,
    name: Option<String>,
    label: Option<String>,
}

/// What kind of bound the document has.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Bound(Method),
    Default,
}

/// Reads the bounds of a partition to be added to the level at `site`.
pub fn parse_bound(site: &Site<'_>, doc: &Value, input: &PlanInput<'_>) -> Result<NewPartition> {
    let root = Path::root(Form::Document);
    let Object(document): Object<Document> =
        serde_path_to_error::deserialize(doc).map_err(|error| explain(doc, &error, &root))?;
    let method = site.level.method();
    let (bound, label) = match kind(&document, method, &root)? {
        Kind::Default => (Bound::Default, DEFAULT_LABEL.to_owned()),
        Kind::Bound(Method::Range) => range(site, document.from, document.to, input, &root)?,
        Kind::Bound(Method::List) => list(site, &document.values.unwrap_or_default(), input, &root.field("in"))?,
        Kind::Bound(Method::Hash) => hash(document.modulus, document.remainder, &root)?,
    };
    for (field, text) in [("name", &document.name), ("label", &document.label)] {
        if text.as_ref().is_some_and(|text| text.trim().is_empty() || text.contains('\0')) {
            return Err(SpecError::new(root.field(field), format!("the {field} is empty or has a NUL character")));
        }
    }
    if let Some(name) = document.name.as_ref().filter(|name| name.len() > name::MAX_BYTES) {
        return Err(SpecError::new(root.field("name"), "the name is too long").detail(format!(
            "It has {} bytes, Postgres keeps {}.",
            name.len(),
            name::MAX_BYTES
        )));
    }
    let label = if bound == Bound::Default { label } else { document.label.unwrap_or(label) };
    let place = match &bound {
        Bound::List { .. } => root.field("in"),
        Bound::Default => root.field("default"),
        Bound::Range { .. } | Bound::Hash { .. } => root,
    };
    Ok(NewPartition { bound, label, name: document.name, place: place.to_string() })
}

/// The new partition of the table `input.root`, which the level at `site` partitions, and the counters after it. With
/// `node`, all its leaves go there.
pub fn expand_one(
    site: &Site<'_>,
    new: &NewPartition,
    node: Option<&str>,
    input: &PlanInput<'_>,
) -> Result<(Partition, BTreeMap<String, u64>)> {
    let part = site.level.part(&new.label, &site.path);
    let template = match (&new.bound, &site.level.default) {
        (Bound::Default, Some(default)) => default.name.as_ref().unwrap_or(&site.level.name),
        _ => &site.level.name,
    };
    let draft = Draft {
        label: new.label.clone(),
        bound: new.bound.clone(),
        name: new.name.as_deref().map_or(Name::Template(template), Name::Literal),
        own: part.own,
        path: part.path,
    };
    if let Some((level, path)) = site.level.sub(draft.own, &draft.path, &site.path) {
        count::within_limit(level, &path, input)?;
    }
    let sub = Resolver::new(input).below(site.level, &draft, &site.path)?;
    let mut builder = build::Builder::new(input, node);
    let partition = builder.partition(&draft, sub.as_deref(), input.root, site.nodes.as_ref())?;
    Ok((partition, builder.dealt))
}

fn kind(document: &Document, method: Method, root: &Path) -> Result<Kind> {
    let given = [
        (Kind::Bound(Method::Range), document.from.is_some() || document.to.is_some()),
        (Kind::Bound(Method::List), document.values.is_some()),
        (Kind::Bound(Method::Hash), document.modulus.is_some() || document.remainder.is_some()),
        (Kind::Default, document.default == Some(true)),
    ];
    let mut given = given.iter().filter(|(_, is)| *is).map(|(kind, _)| *kind);
    let needs = match method {
        Method::Range => "\"from\" and \"to\", or \"default\": true",
        Method::List => "\"in\", or \"default\": true",
        Method::Hash => "\"modulus\" and \"remainder\"",
    };
    match (given.next(), given.next()) {
        (Some(Kind::Default), None) if method == Method::Hash => {
            Err(SpecError::new(root.field("default"), "a hash level has no default partition"))
        }
        (Some(kind), None) if kind == Kind::Bound(method) || kind == Kind::Default => Ok(kind),
        _ => Err(SpecError::new(root, format!("the bounds are not those of a {method} partition"))
            .detail(format!("A {method} partition needs {needs}."))),
    }
}

fn range(site: &Site<'_>, from: Limits, to: Limits, input: &PlanInput<'_>, root: &Path) -> Result<(Bound, String)> {
    let kinds: Vec<_> = site.level.key.iter().map(|key| (input.kind)(key)).collect();
    let utc = Zone::utc();
    let zone = match &site.level.rule {
        Rule::Interval(rule) => &rule.timezone,
        Rule::Bounds(rule) => &rule.timezone,
        Rule::Step(_) | Rule::List(_) | Rule::Hash { .. } => &utc,
    };
    let (mut from, mut to) = ends(from, to, kinds.len(), root)?;
    let series = Series::of(site.level, &site.path, kinds.first().copied().flatten())?;
    if let Some(series) = &series {
        for (end, name) in [(&mut from, "from"), (&mut to, "to")] {
            for value in end.iter_mut() {
                if let Some(key) = series.key_of_time(value, &root.field(name))? {
                    *value = Scalar::from(key.as_str());
                }
            }
        }
    }
    let range = overlap::Range::read((&from, &to), &kinds, zone, root)?;
    let limits = range.from.limits();
    let label = match (series, &limits[..]) {
        (Some(series), [super::Limit::Value(from)]) => series.label(from)?,
        _ => label::of_edge(&range.from, &kinds, 0),
    };
    Ok((Bound::Range { from: limits, to: range.to.limits() }, label))
}

fn list(site: &Site<'_>, values: &[Scalar], input: &PlanInput<'_>, path: &Path) -> Result<(Bound, String)> {
    some_values(values, path)?;
    let kind = site.level.key.first().and_then(|key| (input.kind)(key));
    let texts = parts::list_values(values, kind, path, &mut HashMap::new())?;
    Ok((Bound::List { values: texts }, label::of_values(values)))
}

fn hash(modulus: Option<Scalar>, remainder: Option<Scalar>, root: &Path) -> Result<(Bound, String)> {
    let (Some(modulus), Some(remainder)) = (modulus, remainder) else {
        return Err(SpecError::new(root, "a hash partition needs \"modulus\" and \"remainder\""));
    };
    let modulus = spec::modulus(&modulus, root)?;
    let path = root.field("remainder");
    let remainder = spec::whole_number(&remainder, 0, MAX_MODULUS, &path, "remainder")?;
    if remainder >= modulus {
        return Err(SpecError::new(path, "the remainder is not less than the modulus")
            .detail(format!("The remainder is {remainder}, the modulus {modulus}.")));
    }
    Ok((Bound::Hash { modulus, remainder }, remainder.to_string()))
}
