//! From tables that are there back to a spec that would make them: bounds written out, and each leaf on its node.
//!
//! A spec can say something about single ranges and lists, but not about single hash partitions: these must be of one modulus,
//! and alike below.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{Bound, LOCAL, Limit, Method, Partition, Tree};
use crate::SpecError;
use crate::error::Result;
use crate::path::{Form, Path};
use crate::spec::{self, DEFAULT_LABEL, Level};

/// What [`derive()`] made of a tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Derived {
    /// The spec that would make the tree, names of partitions aside.
    pub level: Level,
    /// The label of each partition, by its name.
    pub labels: BTreeMap<String, String>,
}

/// The spec of `tree`, whose root has the name `root`. Labels of its partitions are not looked at; names are.
///
/// Errors: a table without partitions; hash partitions that are not all of one modulus, or not alike below.
pub fn derive(tree: &Tree, root: &str) -> Result<Derived> {
    let tree = labelled(tree, root, None);
    let doc = level(&tree, root, &Path::root(Form::Document))?;
    let labels = tree.walk().map(|partition| (partition.name.clone(), partition.label.clone())).collect();
    Ok(Derived { level: spec::parse(&doc)?, labels })
}

/// The tree with labels: those of `like` where it has the same bound, else names without that of the table above.
fn labelled(tree: &Tree, above: &str, like: Option<&Tree>) -> Tree {
    let short =
        |name: &str| name.strip_prefix(above).and_then(|rest| rest.strip_prefix('_')).unwrap_or(name).to_owned();
    let mut seen = BTreeSet::new();
    // Names are unique, what is left of them may not be; and one label is taken for what it says.
    let all_short = tree.partitions.iter().all(|partition| {
        let label = short(&partition.name);
        label != DEFAULT_LABEL && !label.is_empty() && seen.insert(label) || partition.bound == Bound::Default
    });
    let mut labelled = Tree { method: tree.method, key: tree.key.clone(), partitions: Vec::new() };
    let mut first: Option<Tree> = None;
    for partition in &tree.partitions {
        let known = like.and_then(|like| like.partitions.iter().find(|other| other.bound == partition.bound));
        let label = match (&partition.bound, known) {
            (Bound::Default, _) => DEFAULT_LABEL.to_owned(),
            (Bound::Hash { remainder, .. }, _) => remainder.to_string(),
            (_, Some(known)) => known.label.clone(),
            _ if all_short => short(&partition.name),
            _ => partition.name.clone(),
        };
        let like = known.and_then(|known| known.sub.as_ref()).or(first.as_ref());
        let sub = partition.sub.as_ref().map(|sub| self::labelled(sub, &partition.name, like));
        if tree.method == Method::Hash && first.is_none() {
            first.clone_from(&sub);
        }
        labelled.partitions.push(Partition { label, sub, ..partition.clone() });
    }
    labelled
}

fn level(tree: &Tree, table: &str, path: &Path) -> Result<Value> {
    let mut doc = Map::new();
    doc.insert("method".into(), tree.method.as_str().into());
    doc.insert("key".into(), tree.key.clone().into());
    if tree.method == Method::Hash {
        hash(tree, table, path, &mut doc)?;
        return Ok(doc.into());
    }
    let place = if tree.method == Method::List { "values" } else { "bounds" };
    let mut parts = Map::new();
    for partition in &tree.partitions {
        let at = match partition.bound {
            Bound::Default => path.field("default"),
            _ => path.field(place).field(&partition.label),
        };
        let mut part = Map::new();
        match &partition.bound {
            Bound::Range { from, to } => {
                part.insert("from".into(), limits(from));
                part.insert("to".into(), limits(to));
            }
            Bound::List { values } => drop(part.insert("in".into(), json!(values))),
            Bound::Hash { .. } | Bound::Default => {}
        }
        match &partition.sub {
            Some(sub) => drop(part.insert("partitions".into(), level(sub, &partition.name, &at.field("partitions"))?)),
            None => drop(part.insert("nodes".into(), json!([node(partition)]))),
        }
        if partition.bound == Bound::Default {
            doc.insert("default".into(), part.into());
        } else {
            parts.insert(partition.label.clone(), part.into());
        }
    }
    if parts.is_empty() {
        let error = bare(table, path, place);
        return Err(match tree.partitions.is_empty() {
            true => error,
            false => SpecError { message: format!("table {table} has a default partition only"), ..error },
        });
    }
    doc.insert(place.into(), parts.into());
    Ok(doc.into())
}

fn bare(table: &str, path: &Path, place: &str) -> SpecError {
    SpecError::new(path.field(place), format!("table {table} has no partitions"))
        .detail("A spec names at least one partition of each level, besides the default one.")
        .hint("Attach one to the table, or drop the table, and call again.")
}

fn node(partition: &Partition) -> &str {
    partition.node.as_deref().unwrap_or(LOCAL)
}

fn limits(limits: &[Limit]) -> Value {
    let limit = |limit: &Limit| match limit {
        Limit::MinValue => "MINVALUE".to_owned(),
        Limit::MaxValue => "MAXVALUE".to_owned(),
        Limit::Value(text) => text.clone(),
    };
    limits.iter().map(limit).collect::<Vec<_>>().into()
}

fn hash(tree: &Tree, table: &str, path: &Path, doc: &mut Map<String, Value>) -> Result<()> {
    let mut parts: Vec<(u32, u32, &Partition)> = Vec::new();
    for partition in &tree.partitions {
        if let Bound::Hash { modulus, remainder } = partition.bound {
            parts.push((remainder, modulus, partition));
        }
    }
    parts.sort_by_key(|(remainder, modulus, _)| (*remainder, *modulus));
    let Some((_, modulus, _)) = parts.first().copied() else { return Err(bare(table, path, "modulus")) };
    let whole = parts.len() == modulus as usize
        && (0..).zip(&parts).all(|(at, (remainder, own, _))| at == *remainder && *own == modulus);
    if !whole {
        let told = parts.iter().map(|(remainder, modulus, partition)| {
            format!("{} has modulus {modulus}, remainder {remainder}", partition.name)
        });
        return Err(SpecError::new(
            path.field("modulus"),
            format!("the hash partitions of {table} are not all of one modulus"),
        )
        .detail(format!("{}.", told.collect::<Vec<_>>().join("; ")))
        .hint("Bring the table to one modulus with a partition for each remainder, and call again."));
    }
    doc.insert("modulus".into(), modulus.into());
    let leaves = parts.iter().filter(|(_, _, partition)| partition.sub.is_none()).count();
    if leaves == parts.len() {
        let mut nodes: Vec<&str> = parts.iter().map(|(_, _, partition)| node(partition)).collect();
        if nodes.iter().all(|name| *name == nodes[0]) {
            nodes.truncate(1);
        }
        doc.insert("nodes".into(), json!(nodes));
        return Ok(());
    }
    let below = path.field("partitions");
    let mut shared: Option<(Value, &Partition)> = None;
    for (_, _, partition) in &parts {
        let own = match &partition.sub {
            Some(sub) => level(sub, &partition.name, &below)?,
            None => Value::Bool(false),
        };
        match &mut shared {
            None => shared = Some((own, partition)),
            Some((first, like)) if without_nodes(first) != without_nodes(&own) => {
                return Err(SpecError::new(below, format!("the hash partitions of {table} are not alike below"))
                    .detail(format!("{} and {} differ in keys, bounds or levels.", like.name, partition.name))
                    .hint("Hash partitions share one level below them: make their partitions alike, and call again."));
            }
            Some((first, _)) => add_nodes(first, &own),
        }
    }
    doc.extend(shared.map(|(own, _)| ("partitions".to_owned(), own)));
    Ok(())
}

/// A list of nodes, and not a partition labelled so.
fn is_nodes(name: &str, value: &Value) -> bool {
    name == "nodes" && value.is_array()
}

fn without_nodes(doc: &Value) -> Value {
    match doc {
        Value::Object(members) => members
            .iter()
            .filter(|(name, value)| !is_nodes(name, value))
            .map(|(name, value)| (name.clone(), without_nodes(value)))
            .collect::<BTreeMap<_, _>>()
            .into_iter()
            .collect::<Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

/// Nodes of `more` after those that are there.
fn add_nodes(doc: &mut Value, more: &Value) {
    let (Value::Object(doc), Value::Object(more)) = (doc, more) else { return };
    for (name, value) in more {
        match (doc.get_mut(name), value) {
            (Some(Value::Array(nodes)), Value::Array(others)) if name == "nodes" => {
                let new: Vec<Value> = others.iter().filter(|node| !nodes.contains(node)).cloned().collect();
                nodes.extend(new);
            }
            (Some(own), _) => add_nodes(own, value),
            (None, _) => {}
        }
    }
}
