//! How leaves are cut and put together: a range at points, a list by labels, a default partition by new bounds, ranges in
//! their order.

use super::change::{Change, Piece, Values};
use super::{inside, invalid, limits, placed, within};
use crate::error::Result;
use crate::hierarchy::overlap;
use crate::name::literal;
use serde_json::{Value, json};
use shardkeeper_core::plan::{self, Bound, Limit, NewPartition, PlanInput};
use shardkeeper_core::spec::Site;

impl Change {
    /// The pieces of a range, cut at these points.
    pub(super) fn at_points(
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
            match plan::parse_bound(site, &doc, input) {
                Ok(piece) => pieces.push(piece),
                Err(error) if error.message == plan::EMPTY_RANGE => return self.wrong_point(at, points.len()),
                Err(error) => return Err(placed(error, &place)),
            }
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
            return self.wrong_point(at - 1, points.len());
        }
        Ok(pieces)
    }

    /// The piece at this place, the first being that below the first point, would be empty.
    fn wrong_point<T>(&self, piece: usize, points: usize) -> Result<T> {
        let what = match piece == 0 || piece >= points {
            true => "is not within the partition's range",
            false => "does not lie beyond what is before it",
        };
        invalid(format!("bounds[{}]: the point {what}", piece.min(points - 1)))
            .detail(format!("The partition is {}; its lower bound is no point to split it at.", self.shown(0)?))
            .hint("Give points within the partition, in their order.")
            .into()
    }

    /// The parts of a list, by their labels.
    pub(super) fn by_labels(
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

    /// New partitions as `shard_add_partition` takes them, for rows that are in the default partition now, and what is left
    /// of it.
    pub(super) fn out_of_default(
        &self,
        site: &Site<'_>,
        input: &PlanInput<'_>,
        bounds: &Value,
    ) -> Result<Vec<NewPartition>> {
        let rest = &self.sources[0];
        let docs: Vec<(String, &Value)> = match bounds {
            Value::Object(_) => vec![("bounds".to_string(), bounds)],
            Value::Array(docs) if docs.iter().all(Value::is_object) => {
                docs.iter().enumerate().map(|(at, doc)| (format!("bounds[{at}]"), doc)).collect()
            }
            _ => Vec::new(),
        };
        if docs.is_empty() {
            return invalid("bounds of a default partition must be those of new partitions for some of its rows")
                .hint("Give them as to shard_add_partition, one or a list, for example '[{\"from\": \"2024-01-01\", \"to\": \"2025-01-01\"}]'.")
                .into();
        }
        let (keys, above) = (self.managed.keys()?, self.above()?);
        let types = keys.types(&site.level.key);
        let mut pieces: Vec<NewPartition> = Vec::new();
        for (place, doc) in docs {
            let piece = plan::parse_bound(site, doc, input).map_err(|error| within(error, &place))?;
            if piece.bound == Bound::Default {
                return invalid(format!("{place}: the rest stays in the default partition {}", rest.name)).into();
            }
            let inner = piece.place.strip_prefix('$').unwrap_or_default();
            overlap::none(&self.managed, above, &types, &piece.bound, &format!("{place}{inner}"))?;
            if let Some(other) = overlap::meets(&types, &piece.bound, pieces.iter().map(|piece| &piece.bound))? {
                return invalid(format!("{place}: the bounds overlap with those of bounds[{other}]")).into();
            }
            pieces.push(piece);
        }
        pieces.push(NewPartition {
            bound: Bound::Default,
            label: rest.label.clone(),
            name: Some(rest.name.name.clone()),
            place: String::new(),
        });
        Ok(pieces)
    }

    /// Puts ranges in their order. Postgres wrote their bounds, so equal ones have equal texts.
    pub(super) fn in_order(&mut self) -> Result<()> {
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
}
