//! What keeps a node from being dropped: partitions, and what operations keep there or still need.

use super::alter::leaves;
use crate::catalog::detached;
use crate::catalog::mirror;
use crate::catalog::operation::{self, Holder};
use crate::error::{Report, Result};
use crate::name::literal;
use pgrx::PgSqlErrorCode as Code;
use shardkeeper_core::operation::{Requested, State};
use shardkeeper_core::plural::count;

/// Errors: 2BP01 something of ours lives on the node; says what takes all of it away.
pub fn check(node: &str) -> Result<()> {
    let holders = operation::holders(node)?;
    let kept: usize = holders.iter().map(|holder| holder.tables).sum();
    let stored = leaves(node)?.len().saturating_sub(kept);
    let mirrors = mirror::count_on(node)?;
    let what = match (stored, kept) {
        (0, 0) if mirrors == 0 => return Ok(()),
        (0, 0) => format!("still has the mirrors of {}", count(mirrors, "parent", "parents")),
        (0, _) => format!("still stores {}", count(kept, "replaced partition", "replaced partitions")),
        _ => format!("still stores {}", count(stored, "partition", "partitions")),
    };
    let report = Report::new(Code::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST, format!("node \"{node}\" {what}"));
    let drain = format!("Run SELECT shard_drain_node({}); then drop it again.", literal(node));
    let detached = detached::on_node(node)?;
    if let Some(first) = detached.first().filter(|_| stored <= detached.len()) {
        let what = format!("What shard_detach_partition took out of parents is still there: {}.", detached.join(", "));
        return report
            .detail(what)
            .hint(format!("Run SELECT shard_drop_partition({}); or drop the foreign table alone.", literal(first)))
            .into();
    }
    if stored > 0 || holders.is_empty() {
        return report.hint(drain).into();
    }
    held(report, &holders).into()
}

/// No drain takes away what was moved already, and is kept for the way back.
fn held(report: Report, holders: &[Holder]) -> Report {
    let those = |wanted: &dyn Fn(&Holder) -> bool| {
        let ids: Vec<String> =
            holders.iter().filter(|holder| wanted(holder)).map(|holder| holder.id.to_string()).collect();
        let noun = if ids.len() == 1 { "operation" } else { "operations" };
        (!ids.is_empty()).then(|| (ids.join(", "), format!("{noun} {}", ids.join(", "))))
    };
    let finishes = |holder: &Holder| holder.requested == Requested::Finish;
    if let Some((ids, operations)) = those(&|holder| holder.state == State::Switched && !finishes(holder)) {
        let hint = match ids.contains(',') {
            false => format!("Run SELECT shard_finish({ids}); SELECT shard_wait({ids}); and drop it again."),
            true => format!(
                "Run SELECT shard_finish(id) FROM unnest(ARRAY[{ids}]) AS id; SELECT shard_wait(id) FROM unnest(ARRAY[{ids}]) AS id; and drop it again."
            ),
        };
        return report.detail(format!("What {operations} moved to or from there is kept for shard_revert.")).hint(hint);
    }
    if let Some((ids, operations)) = those(&|holder| !holder.state.is_final()) {
        let first = ids.split(',').next().unwrap_or_default();
        return report
            .detail(format!("Partitions of {operations} come from there or go there."))
            .hint(format!("Run SELECT shard_wait({first}); and drop it again."));
    }
    let over = those(&|_| true).map(|(_, operations)| operations).unwrap_or_default();
    report
        .detail(format!("What {over} left there is being removed."))
        .hint("Drop it again once that is over: see the view shard_operations.")
}
