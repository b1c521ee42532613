//! What keeps a node from being dropped: partitions, and what operations keep there or still need.

use super::alter::leaves;
use crate::catalog::detached;
use crate::catalog::mirror;
use crate::catalog::operation::{self, Holder};
use crate::error::{Report, Result};
use crate::name::literal;
use pgrx::PgSqlErrorCode as Code;
use shardkeeper_core::operation::{Requested, State};
use shardkeeper_core::plural::{count, numbered};

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
    let those = |wanted: &dyn Fn(&Holder) -> bool| -> Option<Vec<i64>> {
        let ids: Vec<i64> = holders.iter().filter(|holder| wanted(holder)).map(|holder| holder.id).collect();
        (!ids.is_empty()).then_some(ids)
    };
    let words = |ids: &[i64]| numbered(ids, "operation", "operations");
    let finishes = |holder: &Holder| holder.requested == Requested::Finish;
    if let Some(ids) = those(&|holder| holder.state == State::Switched && !finishes(holder)) {
        let list = ids.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
        let hint = match ids.as_slice() {
            [id] => format!("Run SELECT shard_finish({id}); SELECT shard_wait({id}); and drop it again."),
            _ => format!(
                "Run SELECT shard_finish(id) FROM unnest(ARRAY[{list}]) AS id; SELECT shard_wait(id) FROM unnest(ARRAY[{list}]) AS id; and drop it again."
            ),
        };
        return report
            .detail(format!("What {} moved to or from there is kept for shard_revert.", words(&ids)))
            .hint(hint);
    }
    if let Some(ids) = those(&|holder| !holder.state.is_final()) {
        let first = ids.first().copied().unwrap_or_default();
        return report
            .detail(format!("Partitions of {} come from there or go there.", words(&ids)))
            .hint(format!("Run SELECT shard_wait({first}); and drop it again."));
    }
    let all: Vec<i64> = holders.iter().map(|holder| holder.id).collect();
    report
        .detail(format!("What {} left there is being removed.", words(&all)))
        .hint("Drop it again once that is over: see the view shard_operations.")
}
