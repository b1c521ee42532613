//! What has to happen to the partitions of a table as time goes on: those to be made, those too old to be kept.

use super::{Bound, Limit, NewPartition, PlanInput};
use crate::error::{Result, SpecError};
use crate::path::{Form, Path};
use crate::series::{Retention, Series, State};
use crate::spec::{Rule, Site};
use crate::{Decimal, Interval};

/// The range partitions of one table, the default one aside, and what is known of their rows.
#[derive(Clone, Copy, Debug)]
pub struct Ranges<'a> {
    /// Lower limit, included, and upper limit, not included, of each.
    pub limits: &'a [(Limit, Limit)],
    /// The lower limit of the last one that has rows.
    pub newest: Option<&'a str>,
}

/// What is missing so that there is no gap from the first partition on, and `premake` periods (those of the spec where it is `None`)
/// follow the current one and the last one with rows. The earliest first, at most `most`; `None` where the partitions of the level at
/// `site` do not go on by themselves.
///
/// # Errors
/// A limit is not a value of the key; the partitions leave what the key can hold.
pub fn missing(
    site: &Site<'_>,
    ranges: Ranges<'_>,
    premake: Option<u32>,
    most: usize,
    input: &PlanInput<'_>,
) -> Result<Option<Vec<NewPartition>>> {
    let Some(series) = series(site, input)? else { return Ok(None) };
    let of_spec = match &site.level.rule {
        Rule::Interval(rule) => rule.premake,
        Rule::Step(rule) => rule.premake,
        Rule::Bounds(_) | Rule::List(_) | Rule::Hash { .. } => 0,
    };
    let slots = series.missing(&state(ranges, input), premake.unwrap_or(of_spec), most)?;
    let partition = |slot: crate::series::Slot| NewPartition {
        bound: Bound::Range { from: vec![Limit::Value(slot.from)], to: vec![Limit::Value(slot.to)] },
        label: slot.label,
        name: None,
        place: site.path.to_string(),
    };
    Ok(Some(slots.into_iter().map(partition).collect()))
}

/// Which of the partitions may have rows that lie ahead of what is known: places in `ranges`, the last one first. The first of them
/// that has rows is the `newest`.
///
/// # Errors
/// A limit is not a value of the key.
pub fn later(site: &Site<'_>, ranges: Ranges<'_>, input: &PlanInput<'_>) -> Result<Vec<usize>> {
    series(site, input)?.map_or(Ok(Vec::new()), |series| series.later(&state(ranges, input)))
}

/// How many whole periods follow the current one without a gap. `None` where there is no end to them.
///
/// # Errors
/// Those of [`missing`].
pub fn ahead(site: &Site<'_>, ranges: Ranges<'_>, input: &PlanInput<'_>) -> Result<Option<u128>> {
    series(site, input)?.map_or(Ok(None), |series| series.ahead(&state(ranges, input)))
}

/// For each of the partitions, whether all keys that it can hold are too old: `retention` is an interval counted back from now, or at
/// a level by steps a number counted back from the last rows.
///
/// # Errors
/// Those of [`missing`]; `retention` is neither, or not that of such a level.
pub fn expired(site: &Site<'_>, ranges: Ranges<'_>, retention: &str, input: &PlanInput<'_>) -> Result<Vec<bool>> {
    let Some(series) = series(site, input)? else { return Ok(vec![false; ranges.limits.len()]) };
    let place = || Path::root(Form::Document).field("retention");
    let retention = match &site.level.rule {
        Rule::Step(_) => {
            let number = retention.trim().parse::<Decimal>().ok().filter(|number| number.is_positive());
            Retention::Number(number.ok_or_else(|| {
                SpecError::new(place(), format!("\"{retention}\" is not a positive number"))
                    .hint("At a level by steps, retention is a distance from the last rows, such as '1000000'.")
            })?)
        }
        _ => Retention::Time(Interval::parse(retention).map_err(|message| SpecError::new(place(), message))?),
    };
    series.expired(&state(ranges, input), &retention)
}

fn series(site: &Site<'_>, input: &PlanInput<'_>) -> Result<Option<Series>> {
    let kind = site.level.key.first().and_then(|key| (input.kind)(key));
    Series::of(site.level, &site.path, kind)
}

fn state<'a>(ranges: Ranges<'a>, input: &PlanInput<'_>) -> State<'a> {
    State { ranges: ranges.limits, newest: ranges.newest, now: input.now }
}
