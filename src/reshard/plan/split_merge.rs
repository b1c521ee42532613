//! Range and list partitions in other pieces: one in several, several in one, or values from one to another.

mod change;
mod cut;

use self::change::{Change, Piece, Values};
use super::Decided;
use crate::error::{Error, Report, Result};
use crate::hierarchy::overlap;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use serde_json::{Value, json};
use shardkeeper_core::SpecError;
use shardkeeper_core::operation::Kind;
use shardkeeper_core::plan::{self, Bound, Limit, NewPartition};

/// A leaf in pieces: a range at the points of `bounds`, a list as its labels say, a default partition in the new ones that
/// `bounds` describes and the rest. The pieces are dealt over `nodes`; without, over those of the spec, or where the spec
/// names none they stay where the leaf is.
///
/// Errors: 42P01 not managed; 42501 not the owner; 42704 no such node; 42809 not a leaf; 0A000 a hash partition;
/// 22023 wrong bounds; 42P17 they overlap; 42P07 a name is taken.
pub fn split(leaf: Oid, bounds: &Value, nodes: Option<Vec<String>>) -> Result<Decided> {
    if nodes.as_ref().is_some_and(Vec::is_empty) {
        return invalid("nodes is empty").into();
    }
    let change = Change::open(&[leaf])?;
    let new = change.read(|site, input| {
        let piece = &change.sources[0];
        match &piece.bound {
            Bound::Range { from, to } => change.at_points(site, input, (from, to), bounds),
            Bound::List { values } => change.by_labels(site, input, values, bounds),
            Bound::Default => change.out_of_default(site, input, bounds),
            Bound::Hash { .. } => not_cut(piece),
        }
    })?;
    let mut nodes: Vec<Option<String>> = match nodes {
        Some(nodes) => new.iter().enumerate().map(|(at, _)| Some(nodes[at % nodes.len()].clone())).collect(),
        None => vec![None; new.len()],
    };
    // What is left of a default partition stays where it is.
    for (node, piece) in nodes.iter_mut().zip(&new) {
        if piece.bound == Bound::Default {
            *node = Some(change.sources[0].node.clone());
        }
    }
    change.decide(Kind::Split, new, &nodes)
}

/// Adjacent ranges, or lists, of one table as one partition: on `node`, or where most of them are.
///
/// Errors: those of `split`; 22023 fewer than two, not of one table, or ranges with a gap between them.
pub fn merge(leaves: &[Oid], name: Option<&str>, node: Option<&str>) -> Result<Decided> {
    if leaves.len() < 2 {
        return invalid("two partitions or more are needed to merge").into();
    }
    let mut change = Change::open(leaves)?;
    if let Some(odd) = change.sources.iter().find(|p| !matches!(p.bound, Bound::Range { .. } | Bound::List { .. })) {
        return not_cut(odd);
    }
    change.in_order()?;
    let change = change;
    let labels: Vec<&str> = change.sources.iter().map(|piece| piece.label.as_str()).collect();
    let new = change.read(|site, input| {
        let (Some(first), Some(last)) = (change.sources.first(), change.sources.last()) else { return Ok(Vec::new()) };
        let listed = labels.iter().all(|label| site.lists(label));
        let mut doc = match (&first.bound, &last.bound) {
            (Bound::Range { from, .. }, Bound::Range { to, .. }) => {
                let mut doc = json!({"from": limits(from), "to": limits(to)});
                if listed {
                    doc["label"] = format!("{}_{}", first.label, last.label).into();
                }
                doc
            }
            _ => json!({"in": change.values(), "label": labels.join("_")}),
        };
        if let Some(name) = name {
            doc["name"] = name.into();
        }
        let mut new = plan::parse_bound(site, &doc, input).map_err(|error| placed(error, "name"))?;
        new.bound = match (&first.bound, &last.bound) {
            (Bound::Range { from, .. }, Bound::Range { to, .. }) => Bound::Range { from: from.clone(), to: to.clone() },
            _ => Bound::List { values: change.values() },
        };
        Ok(vec![new])
    })?;
    let node = node.map_or_else(|| change.most_common_node(), str::to_string);
    change.decide(Kind::Merge, new, &[Some(node)])
}

/// Values of one list partition to another one of the same table. Both stay on their nodes.
///
/// Errors: those of `split`; 22023 not two list partitions of one table, or a value that is not in `from`.
pub fn move_values(from: Oid, to: Oid, values: &Value) -> Result<Decided> {
    if from == to {
        return invalid("from and to are one partition").into();
    }
    let change = Change::open(&[from, to])?;
    let (giver, taker) = (&change.sources[0], &change.sources[1]);
    let (Bound::List { values: has }, Bound::List { values: gets }) = (&giver.bound, &taker.bound) else {
        let odd = if matches!(giver.bound, Bound::List { .. }) { taker } else { giver };
        return Report::new(Code::ERRCODE_WRONG_OBJECT_TYPE, format!("{} is not a list partition", odd.name))
            .hint("Ranges change their bounds by shard_split and shard_merge.")
            .into();
    };
    let moved = change.read(|site, input| {
        let parsed = plan::parse_bound(site, &json!({"in": values}), input).map_err(|error| inside(error, "values"))?;
        Ok(vec![parsed])
    })?;
    let Some(Bound::List { values: moved }) = moved.first().map(|parsed| &parsed.bound) else {
        return invalid("values is empty").into();
    };
    let mut leaving = Vec::new();
    for (at, place) in overlap::places(&change.key()?, moved, has)?.into_iter().enumerate() {
        match place {
            Some(place) => leaving.push(place),
            None => return change.foreign_value(giver, &format!("values[{at}]")),
        }
    }
    let (go, stay): (Vec<_>, Vec<_>) = has.iter().enumerate().partition(|(at, _)| leaving.contains(at));
    if stay.is_empty() {
        return invalid(format!("no value would be left in {}", giver.name))
            .hint("To give all values away, merge the two partitions with shard_merge.")
            .into();
    }
    let own =
        |pairs: Vec<(usize, &Option<String>)>| pairs.into_iter().map(|(_, value)| value.clone()).collect::<Values>();
    let changed = |piece: &Piece, values| NewPartition {
        bound: Bound::List { values },
        label: piece.label.clone(),
        name: Some(piece.name.name.clone()),
        place: String::new(),
    };
    let new = vec![changed(giver, own(stay)), changed(taker, [gets.clone(), own(go)].concat())];
    let nodes = [Some(giver.node.clone()), Some(taker.node.clone())];
    change.decide(Kind::Values, new, &nodes)
}

fn invalid(message: impl Into<String>) -> Report {
    Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, message)
}

fn not_cut<T>(piece: &Piece) -> Result<T> {
    let (what, hint) = match piece.bound {
        Bound::Default => ("the default partition", "Give some of its rows partitions of their own with shard_split."),
        _ => ("a hash partition", "Change the number of hash partitions of a table with shard_set_modulus."),
    };
    Report::new(
        Code::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("{} is {what}: it has no bounds to be changed", piece.name),
    )
    .hint(hint)
    .into()
}

/// The error of a bound that was put together here, at the place of the argument that it comes from.
fn placed(error: SpecError, place: &str) -> Error {
    Error::from(SpecError { path: place.to_string(), ..error })
}

/// As `placed`, of a list of values: the number of the value stays.
fn inside(error: SpecError, place: &str) -> Error {
    let number = error.path.strip_prefix("$.in").unwrap_or_default().to_string();
    placed(error, &format!("{place}{number}"))
}

/// As `placed`, of a document inside the argument: the place within it stays.
fn within(error: SpecError, place: &str) -> Error {
    let rest = error.path.strip_prefix('$').unwrap_or_default().to_string();
    placed(error, &format!("{place}{rest}"))
}

fn limits(limits: &[Limit]) -> Value {
    let text = |limit: &Limit| match limit {
        Limit::MinValue => "MINVALUE".to_string(),
        Limit::Value(value) => value.clone(),
        Limit::MaxValue => "MAXVALUE".to_string(),
    };
    limits.iter().map(text).collect()
}
