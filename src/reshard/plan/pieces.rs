//! Range and list partitions in other pieces: one in several, several in one, or values from one to another.

use super::{Decided, known_node, leaf_of, source};
use crate::catalog::operation::Plan;
use crate::error::{Error, Report, Result};
use crate::hierarchy::key::KeyType;
use crate::hierarchy::managed::Managed;
use crate::hierarchy::members::Member;
use crate::hierarchy::overlap;
use crate::name::{QualifiedName, ident, literal};
use crate::pg::sql;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use serde_json::{Value, json};
use shardkeeper_core::SpecError;
use shardkeeper_core::operation::Kind;
use shardkeeper_core::plan::{self, Bound, Limit, NewPartition, Partition, PlanInput};
use shardkeeper_core::spec::Site;

type Values = Vec<Option<String>>;

/// A leaf in pieces: a range at the points of `bounds`, a list as its labels say. The pieces are dealt over `nodes`; without,
/// over those of the spec, or where the spec names none they stay where the leaf is.
///
/// Errors: 42P01 not managed; 42501 not the owner; 42704 no such node; 42809 not a leaf; 0A000 a hash or default partition;
/// 22023 wrong bounds; 42P07 a name is taken.
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
            Bound::Hash { .. } | Bound::Default => not_cut(piece),
        }
    })?;
    let nodes = match nodes {
        Some(nodes) => new.iter().enumerate().map(|(at, _)| Some(nodes[at % nodes.len()].clone())).collect(),
        None => vec![None; new.len()],
    };
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
        Bound::Default => (
            "the default partition",
            "Give its rows a partition of their own: delete them there, add the partition with shard_add_partition, and insert them again.",
        ),
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

fn limits(limits: &[Limit]) -> Value {
    let text = |limit: &Limit| match limit {
        Limit::MinValue => "MINVALUE".to_string(),
        Limit::Value(value) => value.clone(),
        Limit::MaxValue => "MAXVALUE".to_string(),
    };
    limits.iter().map(text).collect()
}

/// A partition that goes.
struct Piece {
    oid: Oid,
    name: QualifiedName,
    label: String,
    bound: Bound,
    node: String,
}

/// Leaves of one table that others replace.
struct Change {
    managed: Managed,
    above: Oid,
    /// To the table above them.
    labels: Vec<String>,
    sources: Vec<Piece>,
}

impl Change {
    fn open(leaves: &[Oid]) -> Result<Self> {
        let mut found: Option<Self> = None;
        for leaf in leaves {
            let (managed, labels) = Managed::open(*leaf)?;
            let (member, above) = leaf_of(&managed, *leaf)?;
            let Some(bound) = member.bound()? else { return crate::catalog::parent::not_managed(*leaf) };
            let (label, labels) = match labels.split_last() {
                Some((last, rest)) => (last.clone(), rest.to_vec()),
                None => (member.name.name.clone(), Vec::new()),
            };
            let piece = Piece { oid: *leaf, name: member.name.clone(), label, bound, node: member.node().to_string() };
            let above = above.oid();
            match &mut found {
                None => found = Some(Self { managed, above, labels, sources: vec![piece] }),
                Some(change) if change.above != above => {
                    let first = change.sources.first().map(|piece| piece.name.to_string()).unwrap_or_default();
                    return invalid(format!("{first} and {} are not partitions of one table", piece.name)).into();
                }
                Some(change) if change.sources.iter().any(|known| known.oid == piece.oid) => {
                    return invalid(format!("{} is named twice", piece.name)).into();
                }
                Some(change) => change.sources.push(piece),
            }
        }
        found.map_or_else(|| invalid("no partition is named").into(), Ok)
    }

    fn above(&self) -> Result<&Member> {
        self.managed.member(self.above)
    }

    fn site(&self) -> Result<Site<'_>> {
        match self.managed.level.at(&self.labels) {
            Some(site) => Ok(site),
            None => Report::new(
                Code::ERRCODE_INTERNAL_ERROR,
                format!("no level of the spec describes {}", self.above()?.name),
            )
            .into(),
        }
    }

    /// Lets `work` read bounds of the level.
    fn read<T>(&self, work: impl FnOnce(&Site<'_>, &PlanInput<'_>) -> Result<T>) -> Result<T> {
        let keys = self.managed.keys()?;
        let input = PlanInput {
            root: &self.above()?.name.name,
            now: self.managed.now()?,
            kind: &|key| keys.kind(key),
            dealt: self.managed.catalog.dealt.clone(),
            max_leaves: plan::DEFAULT_MAX_LEAVES,
        };
        work(&self.site()?, &input)
    }

    /// The type of the key of a list level.
    fn key(&self) -> Result<KeyType> {
        let keys = self.managed.keys()?;
        match keys.types(&self.site()?.level.key)[..] {
            [key] => Ok(key.clone()),
            _ => Report::new(Code::ERRCODE_INTERNAL_ERROR, "a list key has one column").into(),
        }
    }

    fn values(&self) -> Values {
        let lists = self.sources.iter().filter_map(|piece| match &piece.bound {
            Bound::List { values } => Some(values.clone()),
            _ => None,
        });
        lists.flatten().collect()
    }

    fn most_common_node(&self) -> String {
        let count = |node: &str| self.sources.iter().filter(|piece| piece.node == node).count();
        let mut best = &self.sources[0].node;
        for piece in &self.sources {
            if count(&piece.node) > count(best) {
                best = &piece.node;
            }
        }
        best.clone()
    }

    /// The pieces of a range, cut at these points.
    fn at_points(
        &self,
        site: &Site<'_>,
        input: &PlanInput<'_>,
        (from, to): (&[Limit], &[Limit]),
        bounds: &Value,
    ) -> Result<Vec<NewPartition>> {
        let Some(points) = bounds.as_array().filter(|points| !points.is_empty()) else {
            return invalid("bounds of a range partition must be a list of the points at which to split it")
                .detail("A point is a value of the key; of a key with several columns, a list of values.")
                .hint(format!("For example '[\"2024-07-01\"]'. The partition is {}.", self.shown(0)?))
                .into();
        };
        let mut ends = vec![limits(from)];
        ends.extend(points.iter().cloned());
        ends.push(limits(to));
        let mut pieces = Vec::new();
        for (at, pair) in ends.windows(2).enumerate() {
            let doc = json!({"from": pair[0], "to": pair[1]});
            let place = format!("bounds[{}]", at.min(points.len() - 1));
            pieces.push(plan::parse_bound(site, &doc, input).map_err(|error| placed(error, &place))?);
        }
        // The outer ends are those of the partition, to the letter.
        if let Some(Bound::Range { from: first, .. }) = pieces.first_mut().map(|piece| &mut piece.bound) {
            *first = from.to_vec();
        }
        if let Some(Bound::Range { to: last, .. }) = pieces.last_mut().map(|piece| &mut piece.bound) {
            *last = to.to_vec();
        }
        let mut order: Vec<&[Limit]> = vec![from];
        order.extend(pieces.iter().filter_map(|piece| match &piece.bound {
            Bound::Range { to, .. } => Some(to.as_slice()),
            _ => None,
        }));
        let keys = self.managed.keys()?;
        if let Some(at) = overlap::not_beyond(&keys.types(&site.level.key), &order)? {
            let what = if at > points.len() {
                "is not below the upper bound"
            } else {
                "does not lie beyond what is before it"
            };
            return invalid(format!("bounds[{}]: the point {what}", at.min(points.len()) - 1))
                .detail(format!("The partition is {}.", self.shown(0)?))
                .hint("Give points within the partition, in their order.")
                .into();
        }
        Ok(pieces)
    }

    /// The parts of a list, by their labels.
    fn by_labels(
        &self,
        site: &Site<'_>,
        input: &PlanInput<'_>,
        values: &Values,
        bounds: &Value,
    ) -> Result<Vec<NewPartition>> {
        let Some(parts) = bounds.as_object().filter(|parts| parts.len() > 1) else {
            return invalid("bounds of a list partition must be an object of two labels or more with their values")
                .hint(format!(
                    "For example '{{\"de\": [\"DE\"], \"rest\": [\"FR\", \"IT\"]}}'. The partition is {}.",
                    self.shown(0)?
                ))
                .into();
        };
        let key = self.key()?;
        let mut taken: Vec<Option<&str>> = vec![None; values.len()];
        let mut pieces = Vec::new();
        for (label, list) in parts {
            let place = format!("bounds.{label}");
            let doc = json!({"in": list, "label": label});
            let mut piece = plan::parse_bound(site, &doc, input).map_err(|error| inside(error, &place))?;
            let Bound::List { values: own } = &mut piece.bound else { continue };
            for (at, found) in overlap::places(&key, own, values)?.into_iter().enumerate() {
                let Some(found) = found else {
                    return self.foreign_value(&self.sources[0], &format!("{place}[{at}]"));
                };
                if let Some(other) = taken[found].replace(label) {
                    return invalid(format!("{place}[{at}]: the value is in \"{other}\" already")).into();
                }
                own[at].clone_from(&values[found]);
            }
            pieces.push(piece);
        }
        if let Some(at) = taken.iter().position(Option::is_none) {
            let value = values[at].as_deref().map_or("NULL".to_string(), literal);
            return invalid(format!("bounds: no part takes the value {value}"))
                .detail(format!("The partition is {}.", self.shown(0)?))
                .hint("Put each value of the partition into one of the parts.")
                .into();
        }
        Ok(pieces)
    }

    fn foreign_value<T>(&self, piece: &Piece, place: &str) -> Result<T> {
        let values = self.managed.member(piece.oid)?.values.clone().unwrap_or_default();
        invalid(format!("{place}: the value is not in {}", piece.name))
            .detail(format!("The partition is {values}."))
            .into()
    }

    /// `FOR VALUES …` of a source.
    fn shown(&self, at: usize) -> Result<String> {
        Ok(self.managed.member(self.sources[at].oid)?.values.clone().unwrap_or_default())
    }

    /// Puts ranges in their order. Postgres wrote their bounds, so equal ones have equal texts.
    fn in_order(&mut self) -> Result<()> {
        let ends = |piece: &Piece| match &piece.bound {
            Bound::Range { from, to } => Some((from.clone(), to.clone())),
            _ => None,
        };
        if self.sources.iter().any(|piece| ends(piece).is_none()) {
            return Ok(());
        }
        let mut rest: Vec<Piece> = self.sources.drain(..).collect();
        let starts = |rest: &[Piece], piece: &Piece| {
            let from = ends(piece).map(|(from, _)| from);
            !rest.iter().any(|other| ends(other).map(|(_, to)| to) == from)
        };
        let Some(first) = rest.iter().position(|piece| starts(&rest, piece)) else { return Ok(()) };
        self.sources.push(rest.remove(first));
        while !rest.is_empty() {
            let Some(last) = self.sources.last() else { return Ok(()) };
            let end = ends(last).map(|(_, to)| to);
            let Some(next) = rest.iter().position(|piece| ends(piece).map(|(from, _)| from) == end) else {
                let values =
                    |piece: &Piece| self.managed.member(piece.oid).ok().and_then(|member| member.values.clone());
                return invalid(format!("{} and {} are not adjacent", last.name, rest[0].name))
                    .detail(format!(
                        "{} is {}, {} is {}.",
                        last.name,
                        values(last).unwrap_or_default(),
                        rest[0].name,
                        values(&rest[0]).unwrap_or_default()
                    ))
                    .hint("Name ranges that follow one another without a gap.")
                    .into();
            };
            self.sources.push(rest.remove(next));
        }
        Ok(())
    }

    /// The operation that puts these partitions in the place of the sources. Where no node is given for one, the spec says
    /// where it goes; where that names none, it goes to the node of the first source.
    fn decide(self, kind: Kind, new: Vec<NewPartition>, nodes: &[Option<String>]) -> Result<Decided> {
        for node in nodes.iter().flatten() {
            known_node(node)?;
        }
        let site = self.site()?;
        self.labels_are_free(&site, &new)?;
        let (targets, level, dealt) = self.read(|site, input| {
            let gone: Vec<_> = self.sources.iter().map(|piece| (piece.label.as_str(), &piece.bound)).collect();
            let come: Vec<_> = new.iter().map(|piece| (piece.label.as_str(), &piece.bound)).collect();
            let level = plan::replaced(site, &gone, &come, input);
            let new_site = level.as_ref().map_or_else(|| site.clone(), |level| site.with(level));
            let mut input = PlanInput { dealt: input.dealt.clone(), ..*input };
            let mut targets = Vec::new();
            for (piece, node) in new.iter().zip(nodes) {
                let (mut partition, mut dealt) = plan::expand_one(&new_site, piece, node.as_deref(), &input)?;
                if node.is_none() && partition.deal.is_empty() {
                    (partition, dealt) = plan::expand_one(&new_site, piece, Some(&self.sources[0].node), &input)?;
                }
                input.dealt = dealt;
                targets.push(partition);
            }
            Ok((targets, level.clone(), input.dealt.clone()))
        })?;
        self.names_are_free(&targets)?;
        let mut spec = self.managed.level.clone();
        if let Some(level) = level {
            spec.replace_at(&self.labels, level);
        }
        let names = |names: Vec<String>| names.join(", ");
        let subject = format!(
            "{} to {}",
            names(self.sources.iter().map(|piece| piece.name.to_string()).collect()),
            names(targets.iter().map(|target| ident(&target.name)).collect())
        );
        let sources = self.sources.iter().map(|piece| {
            let member = self.managed.member(piece.oid)?;
            Ok(source(&self.managed, member, piece.label.clone(), piece.bound.clone()))
        });
        let plan = Plan {
            above: self.above()?.name.clone(),
            labels: self.labels.clone(),
            method: site.level.method(),
            key: site.level.key.clone(),
            sources: sources.collect::<Result<_>>()?,
            targets,
            spec: spec.to_json(),
            dealt,
            ..Plan::default()
        };
        Ok(Decided { managed: self.managed, kind, subject, plan })
    }

    /// A label finds its part of the spec: that of another partition must not be taken.
    fn labels_are_free(&self, site: &Site<'_>, new: &[NewPartition]) -> Result<()> {
        for (at, piece) in new.iter().enumerate() {
            let goes = self.sources.iter().any(|gone| gone.label == piece.label);
            let twice = new[..at].iter().any(|other| other.label == piece.label);
            if twice || (!goes && site.lists(&piece.label)) {
                return invalid(format!("two partitions would have the label \"{}\"", piece.label))
                    .hint("Give it another label or name.")
                    .into();
            }
        }
        Ok(())
    }

    fn names_are_free(&self, targets: &[Partition]) -> Result<()> {
        let gone: Vec<String> = self.sources.iter().map(|piece| piece.name.name.clone()).collect();
        let names: Vec<String> = targets.iter().map(|target| target.name.clone()).collect();
        let twice =
            names.iter().enumerate().find(|(at, name)| names[..*at].contains(*name)).map(|(_, name)| name.clone());
        let taken = sql::one::<String>(
            "SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = ANY ($2::text[]) AND c.relname <> ALL ($3::text[]) LIMIT 1",
            &[self.managed.name().schema.as_str().into(), names.into(), gone.into()],
        )?;
        match twice.or(taken) {
            None => Ok(()),
            Some(name) => Report::new(
                Code::ERRCODE_DUPLICATE_TABLE,
                format!("relation {} already exists", self.managed.name().sibling(name)),
            )
            .detail("A new partition would get this name.")
            .hint("Rename what has it, or choose other labels or another name.")
            .into(),
        }
    }
}
