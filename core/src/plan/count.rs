//! How many leaves a level makes, known before any is made.

use super::PlanInput;
use crate::error::{Result, SpecError};
use crate::path::Path;
use crate::series::Series;
use crate::spec::{Level, Ranges, Rule};

/// Refuses a level of more leaves than the input allows.
pub(super) fn within_limit(level: &Level, path: &Path, input: &PlanInput<'_>) -> Result<()> {
    let leaves = leaves(level, path, input)?;
    if leaves <= input.max_leaves as u128 {
        return Ok(());
    }
    Err(SpecError::new(path, "the spec makes too many partitions")
        .detail(format!("It makes {leaves}, the limit is {}.", input.max_leaves)))
}

fn leaves(level: &Level, path: &Path, input: &PlanInput<'_>) -> Result<u128> {
    let named = level.parts(path);
    let mut alike = 0u128;
    match &level.rule {
        Rule::Interval(_) | Rule::Step(_) => {
            let kind = level.key.first().and_then(|key| (input.kind)(key));
            if let Some(series) = Series::of(level, path, kind)? {
                alike = series.count(input.now)?;
            }
        }
        Rule::Bounds(rule) => {
            if let Ranges::Points(points) = &rule.ranges {
                alike = points.len().saturating_sub(1) as u128;
            }
        }
        Rule::List(_) => {}
        Rule::Hash { modulus } => alike = u128::from(*modulus),
    }
    let mut total = 0u128;
    for (own, part) in &named {
        // Those that share the level below are counted together, so that each level is counted once.
        match level.sub(Some(own), part, path) {
            Some((sub, _)) if level.partitions.as_deref().is_some_and(|shared| std::ptr::eq(shared, sub)) => alike += 1,
            Some((sub, path)) => total = total.saturating_add(leaves(sub, &path, input)?),
            None => total = total.saturating_add(1),
        }
    }
    let each = match level.sub(None, path, path) {
        Some((shared, path)) if alike > 0 => leaves(shared, &path, input)?,
        _ => 1,
    };
    Ok(total.saturating_add(alike.saturating_mul(each)))
}
