//! Whether the bound of a new partition meets those of its siblings: told before anything changes on any server.
//!
//! Postgres compares the values, by the operators and the collation of the key: only it knows the order of all types.

use super::managed_parent::ManagedParent;
use super::partition_keys::KeyType;
use super::tree_tables::TreeTable;
use crate::error::{Report, Result};
use crate::pg::{sql, types};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::plan::{Bound, Limit};

/// Refuses a new partition of `above` with this bound, which was written at `place`, if a sibling takes rows of it.
pub fn none(managed: &ManagedParent, above: &TreeTable, key: &[&KeyType], bound: &Bound, place: &str) -> Result<()> {
    let mut siblings = Vec::new();
    for member in managed.children(above.oid()) {
        siblings.extend(member.bound()?.map(|bound| (member, bound)));
    }
    match bound {
        Bound::Default => default(above, &siblings, place),
        Bound::Hash { modulus, remainder } => hash(above, &siblings, (*modulus, *remainder), place),
        Bound::List { values } => list(above, &siblings, key, values, place),
        Bound::Range { from, to } => range(above, &siblings, key, (from, to), place),
    }
}

type Siblings<'a> = [(&'a TreeTable, Bound)];

fn report(above: &TreeTable, sibling: &TreeTable, message: String) -> Report {
    let report = Report::new(Code::ERRCODE_INVALID_OBJECT_DEFINITION, message);
    let values = sibling.values.as_deref().unwrap_or_default();
    report
        .detail(format!("The bounds of {} are {values}.", sibling.name))
        .hint(format!("Choose bounds that leave out those of the other partitions of {}.", above.name))
}

/// A place in front of a message; the whole call has none.
fn at(place: &str, message: &str) -> String {
    if place.is_empty() { message.to_string() } else { format!("{place}: {message}") }
}

fn default(above: &TreeTable, siblings: &Siblings<'_>, place: &str) -> Result<()> {
    let Some((default, _)) = siblings.iter().find(|(_, bound)| *bound == Bound::Default) else { return Ok(()) };
    let message = at(place, &format!("{} has a default partition already", above.name));
    Report::new(Code::ERRCODE_INVALID_OBJECT_DEFINITION, message)
        .detail(format!("It is {}.", default.name))
        .hint("A table has one for all keys that no other partition accepts. To have another, detach or drop that one first.")
        .into()
}

fn hash(above: &TreeTable, siblings: &Siblings<'_>, (modulus, remainder): (u32, u32), place: &str) -> Result<()> {
    for (sibling, bound) in siblings {
        let Bound::Hash { modulus: other, remainder: theirs } = *bound else { continue };
        if modulus % other != 0 && other % modulus != 0 {
            let message = format!("the modulus {modulus} does not fit that of partition {}", sibling.name);
            return Report::new(Code::ERRCODE_INVALID_OBJECT_DEFINITION, at(place, &message))
                .detail(format!("Of two moduli one must be a multiple of the other, and that is {other}."))
                .hint("Use the modulus of the other partitions, a multiple of it or a factor.")
                .into();
        }
        if remainder % modulus.min(other) == theirs % modulus.min(other) {
            let message = format!("the remainder overlaps with partition {}", sibling.name);
            return report(above, sibling, at(place, &message)).into();
        }
    }
    Ok(())
}

fn list(
    above: &TreeTable,
    siblings: &Siblings<'_>,
    key: &[&KeyType],
    values: &[Option<String>],
    place: &str,
) -> Result<()> {
    let [key] = key else { return Ok(()) };
    let Some(order) = Operators::of(key)? else { return Ok(()) };
    let mut pairs = Vec::new();
    for (value, number) in values.iter().zip(0usize..) {
        for (sibling, bound) in siblings {
            let Bound::List { values: theirs } = bound else { continue };
            let meets = match value {
                None if theirs.contains(&None) => "true".to_string(),
                None => continue,
                Some(value) => any(theirs.iter().flatten().map(|other| order.equal(key, value, other))),
            };
            pairs.push((meets, (number, *sibling)));
        }
    }
    let Some((number, sibling)) = first(pairs)? else { return Ok(()) };
    let message = format!("{place}[{number}]: the value belongs to partition {} already", sibling.name);
    report(above, sibling, message).into()
}

fn range(
    above: &TreeTable,
    siblings: &Siblings<'_>,
    key: &[&KeyType],
    (from, to): (&[Limit], &[Limit]),
    place: &str,
) -> Result<()> {
    let mut columns = Vec::new();
    for key in key {
        let Some(order) = Operators::of(key)? else { return Ok(()) };
        columns.push((*key, order));
    }
    let mut cases = vec![(format!("NOT {}", below(&columns, from, to)), None)];
    for (sibling, bound) in siblings {
        let Bound::Range { from: start, to: end } = bound else { continue };
        let meets = format!("{} AND {}", below(&columns, from, end), below(&columns, start, to));
        cases.push((meets, Some(*sibling)));
    }
    match first(cases)? {
        None => Ok(()),
        Some(None) => Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, at(place, "the range is empty"))
            .detail("The lower bound is not below the upper bound, which is exclusive.")
            .into(),
        Some(Some(sibling)) => {
            report(above, sibling, at(place, &format!("the range overlaps with partition {}", sibling.name))).into()
        }
    }
}

/// Which of `others`, none of them a partition yet, would take rows of `bound` too.
pub fn meets<'a>(key: &[&KeyType], bound: &Bound, others: impl Iterator<Item = &'a Bound>) -> Result<Option<usize>> {
    let mut columns = Vec::new();
    for key in key {
        let Some(order) = Operators::of(key)? else { return Ok(None) };
        columns.push((*key, order));
    }
    let mut cases = Vec::new();
    for (at, other) in others.enumerate() {
        match (bound, other) {
            (Bound::Range { from, to }, Bound::Range { from: start, to: end }) => {
                cases.push((format!("{} AND {}", below(&columns, from, end), below(&columns, start, to)), at));
            }
            (Bound::List { values }, Bound::List { values: theirs }) => {
                let Some((key, order)) = columns.first() else { continue };
                let both_null = values.contains(&None) && theirs.contains(&None);
                let equal = values
                    .iter()
                    .flatten()
                    .flat_map(|value| theirs.iter().flatten().map(move |other| order.equal(key, value, other)));
                cases.push((any(equal.chain(both_null.then(|| "true".to_string()))), at));
            }
            _ => {}
        }
    }
    first(cases)
}

/// The first of these ends of ranges that does not lie beyond the one before it.
pub fn not_beyond(key: &[&KeyType], points: &[&[Limit]]) -> Result<Option<usize>> {
    let mut columns = Vec::new();
    for key in key {
        let Some(order) = Operators::of(key)? else { return Ok(None) };
        columns.push((*key, order));
    }
    let pairs = points.windows(2).zip(1usize..);
    first(pairs.map(|(pair, at)| (format!("NOT {}", below(&columns, pair[0], pair[1])), at)).collect())
}

/// For each value its place among others, as the key compares them. `None` is NULL.
pub fn places(key: &KeyType, values: &[Option<String>], among: &[Option<String>]) -> Result<Vec<Option<usize>>> {
    let Some(order) = Operators::of(key)? else { return Ok(vec![None; values.len()]) };
    let place = |value: &Option<String>| {
        let Some(value) = value else { return Ok(among.iter().position(Option::is_none)) };
        let others = among.iter().enumerate().filter_map(|(at, other)| Some((at, other.as_ref()?)));
        first(others.map(|(at, other)| (order.equal(key, value, other), at)).collect())
    };
    values.iter().map(place).collect()
}

/// One end of a range lies below another, column by column from the left, as Postgres compares them.
fn below(columns: &[(&KeyType, Operators)], a: &[Limit], b: &[Limit]) -> String {
    let (Some(((key, order), columns)), Some((x, a)), Some((y, b))) =
        (columns.split_first(), a.split_first(), b.split_first())
    else {
        return "false".into();
    };
    match (x, y) {
        (Limit::Value(x), Limit::Value(y)) => {
            format!("({} OR ({} AND {}))", order.less(key, x, y), order.equal(key, x, y), below(columns, a, b))
        }
        (Limit::MinValue, Limit::MinValue) | (Limit::MaxValue, _) | (_, Limit::MinValue) => "false".into(),
        (Limit::MinValue, _) | (_, Limit::MaxValue) => "true".into(),
    }
}

/// The operators of a key's type as SQL, from whatever schema.
struct Operators {
    less: String,
    equal: String,
}

impl Operators {
    /// `None` if there are none: such a key is refused elsewhere.
    fn of(key: &KeyType) -> Result<Option<Self>> {
        let Some(order) = types::order(key.oid()) else { return Ok(None) };
        Ok(Some(Self { less: operator(order.less)?, equal: operator(order.equal)? }))
    }

    fn less(&self, key: &KeyType, a: &str, b: &str) -> String {
        format!("{} {} {}", key.literal(a), self.less, key.literal(b))
    }

    fn equal(&self, key: &KeyType, a: &str, b: &str) -> String {
        format!("{} {} {}", key.literal(a), self.equal, key.literal(b))
    }
}

fn operator(oid: Oid) -> Result<String> {
    let query = "SELECT pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname)
                 FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace WHERE o.oid = $1";
    Ok(sql::one(query, &[oid.into()])?.unwrap_or_default())
}

fn any(conditions: impl Iterator<Item = String>) -> String {
    let conditions: Vec<String> = conditions.collect();
    if conditions.is_empty() { "false".into() } else { conditions.join(" OR ") }
}

/// What stands beside the first of these conditions that holds.
fn first<T>(cases: Vec<(String, T)>) -> Result<Option<T>> {
    if cases.is_empty() {
        return Ok(None);
    }
    let whens: String = cases.iter().zip(0..).map(|((when, _), at)| format!(" WHEN {when} THEN {at}")).collect();
    let found = sql::one::<i32>(&format!("SELECT CASE{whens} END"), &[])?;
    let mut cases = cases.into_iter();
    Ok(found.and_then(|at| cases.nth(usize::try_from(at).ok()?)).map(|(_, beside)| beside))
}
