//! What a decided operation will do, told before it does it.

use super::arrival::{self, Arrival};
use super::{Decided, leaving_for, obstacles};
use crate::catalog::operation::Plan;
use crate::catalog::way_back;
use crate::error::Result;
use crate::hierarchy::bound::for_values;
use crate::hierarchy::managed_parent::ManagedParent;
use crate::hierarchy::sizes;
use crate::name::{QualifiedName, ident};
use crate::reshard::prepare::prerequisites;
use crate::reshard::revert::shared_slot;
use crate::table::publications;
use shardkeeper_core::operation::Mode;
use shardkeeper_core::plan::LOCAL;

/// A step, the server that it happens on, and what it does there.
pub type Row = (i32, String, String);

impl Decided {
    /// Nothing is changed, on no server.
    pub fn preview(&self, mode: Mode) -> Result<Vec<Row>> {
        preview(&self.managed, &self.plan, mode, &mut Vec::new())
    }
}

/// `arrived` is what the parts before have made on nodes, and then this one too.
pub fn preview(managed: &ManagedParent, plan: &Plan, mode: Mode, arrived: &mut Vec<Arrival>) -> Result<Vec<Row>> {
    let own = obstacles::check(managed, plan)?;
    let before = arrived.len();
    arrival::add(arrived, arrival::told(managed, plan)?);
    let mut rows = arrived[before..].to_vec();
    let tree = plan.target_tree();
    for leaf in tree.leaves() {
        let node = leaf.node.clone().unwrap_or_else(|| LOCAL.to_string());
        let what = format!("create partition {} beside the hierarchy: {}", ident(&leaf.name), for_values(&leaf.bound));
        let with = if own.is_some() { ", with what the old one has of its own" } else { "" };
        rows.push((node, what + with));
    }
    let mut told = Vec::new();
    told.push(rows);
    if mode == Mode::Online {
        told.insert(0, waits(plan)?);
        let mut gone = Vec::new();
        for node in plan.source_nodes() {
            let given: Vec<String> = shared_slot::would_give_way(&node)?.iter().map(ToString::to_string).collect();
            if !given.is_empty() {
                let what = "take the replication slot of what is kept there, as all of max_replication_slots are used: these operations cannot be reverted any more:";
                gone.push((node, format!("{what} {}", given.join(", "))));
            }
        }
        told.extend(Some(gone).filter(|gone| !gone.is_empty()));
    }
    let members: Vec<_> = plan
        .source_leaves()
        .filter_map(|(name, _)| managed.members.iter().find(|member| member.name == *name))
        .cloned()
        .collect();
    let known = sizes::sizes(&members)?;
    let copies = members.iter().map(|member| {
        let size = known.iter().find(|size| size.oid() == member.oid());
        let amount = amount(size.and_then(|size| size.rows), size.and_then(|size| size.bytes));
        let others = match mode {
            Mode::Online => "readers and writers go on, changes follow",
            Mode::BlockWrites => "readers go on, all writers of the parent wait until the switch",
        };
        let what = format!("copy partition {}, {amount}; {others}", member.name);
        (member.node().to_string(), what)
    });
    told.push(copies.collect());
    let compare = match mode {
        Mode::Online => "build the other indexes, and compare the new partitions with the old ones; nothing is locked",
        Mode::BlockWrites => "build the other indexes, and compare the new partitions with the old ones; writers wait",
    };
    told.push(plan.target_nodes().into_iter().map(|node| (node, compare.to_string())).collect());
    let old: Vec<QualifiedName> = plan.sources.iter().map(|source| source.name.clone()).collect();
    let new: Vec<QualifiedName> = plan.targets.iter().map(|target| plan.above.sibling(&target.name)).collect();
    let swap = format!(
        "switch: lock {} against readers and writers, waiting for the lock no longer than shardkeeper.switch_lock_timeout at a time, and put the new {} in the place of the old {}",
        managed.name(),
        joined(&new),
        joined(&old)
    );
    told.push(vec![(LOCAL.to_string(), swap)]);
    let cut_off = way_back::cut_off_words(&way_back::would_be_cut_off(plan, managed.root)?);
    told.push(cut_off.map(|what| (LOCAL.to_string(), what)).into_iter().collect());
    let away =
        |node: String| (node, "drop the old partitions, when keep is over or shard_finish is called".to_string());
    told.push(plan.source_nodes().into_iter().map(away).collect());
    let nodes = leaving_for(plan);
    let publications = if nodes.is_empty() { Vec::new() } else { publications::of(managed.root)? };
    if !publications.is_empty() {
        told.push(vec![(LOCAL.to_string(), publications::warning(&publications, &nodes))]);
    }
    let numbered = told.into_iter().filter(|rows| !rows.is_empty()).zip(1..);
    Ok(numbered.flat_map(|(rows, step)| rows.into_iter().map(move |(node, what)| (step, node, what))).collect())
}

/// What somebody has to do before changes of the sources can be followed.
fn waits(plan: &Plan) -> Result<Vec<(String, String)>> {
    let mut rows = Vec::new();
    for node in plan.source_nodes() {
        let tables: Vec<QualifiedName> =
            plan.source_leaves().filter(|(_, at)| *at == node).map(|(name, _)| name.clone()).collect();
        let departs = plan.target_nodes().iter().any(|target| *target != node);
        if let Some(report) = prerequisites::foreseen(&node, &tables, departs)? {
            rows.push((node, format!("wait until this is mended: {}", report.one_line())));
        }
    }
    Ok(rows)
}

fn joined(names: &[QualifiedName]) -> String {
    names.iter().map(QualifiedName::to_string).collect::<Vec<_>>().join(", ")
}

/// About how much there is to be copied.
pub fn amount(rows: Option<i64>, bytes: Option<i64>) -> String {
    let bytes = bytes.map_or("size unknown".to_string(), |bytes| match bytes {
        0..10_240 => format!("{bytes} bytes"),
        10_240..10_485_760 => format!("{} kB", bytes / 1024),
        _ => format!("{} MB", bytes / 1_048_576),
    });
    match rows {
        Some(rows) => format!("about {rows} rows, {bytes}"),
        None => bytes,
    }
}
