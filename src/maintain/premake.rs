//! Partitions ahead of time: at each range level that goes on by itself, from the clock and from the rows that are there.

use crate::catalog::parent;
use crate::error::Result;
use crate::hierarchy::bound::for_values;
use crate::hierarchy::managed_parent::ManagedParent;
use crate::hierarchy::tree_tables::TreeTable;
use crate::name::{QualifiedName, literal};
use crate::partitions::add;
use crate::partitions::partition_ddl::remote_nodes;
use crate::pg::sql;
use crate::table::publications::Accept;
use jiff::Timestamp;
use pgrx::pg_sys::Oid;
use shardkeeper_core::plan::{self, Bound, LOCAL, Limit, NewPartition, Partition, PlanInput, Ranges};
use std::collections::BTreeMap;

/// Partitions that one turn makes below one table; the next turn goes on.
const MOST: usize = 1000;

/// A partition that is to be made.
pub struct Due {
    /// The table above it, and the labels that lead there.
    above: Oid,
    labels: Vec<String>,
    new: NewPartition,
    pub name: QualifiedName,
    /// Where its leaves go.
    pub nodes: Vec<String>,
    partition: Partition,
    dealt: BTreeMap<String, u64>,
}

impl Due {
    /// `FOR VALUES …`.
    pub fn values(&self) -> String {
        for_values(&self.new.bound)
    }

    /// The call that makes it by hand.
    pub fn call(&self, managed: &ManagedParent) -> Result<String> {
        let bounds = match &self.new.bound {
            Bound::Range { from, to } => serde_json::json!({"from": value(from), "to": value(to)}),
            _ => serde_json::Value::Null,
        };
        let above = &managed.member(self.above)?.name;
        Ok(format!("SELECT shard_add_partition({}, {});", literal(&above.to_string()), literal(&bounds.to_string())))
    }
}

fn value(limits: &[Limit]) -> serde_json::Value {
    match limits {
        [Limit::Value(text)] => text.as_str().into(),
        _ => serde_json::Value::Null,
    }
}

/// What is to be made at that time, each after those that are dealt out before it.
pub fn due(managed: &ManagedParent, at: Timestamp) -> Result<Vec<Due>> {
    let mut all = Vec::new();
    let mut dealt = managed.catalog.dealt.clone();
    for table in managed.members.iter().filter(|member| !member.is_leaf()) {
        let found = due_below(managed, table, at, &dealt)?;
        if let Some(last) = found.last() {
            dealt.clone_from(&last.dealt);
        }
        all.extend(found);
    }
    Ok(all)
}

fn due_below(
    managed: &ManagedParent,
    table: &TreeTable,
    at: Timestamp,
    dealt: &BTreeMap<String, u64>,
) -> Result<Vec<Due>> {
    let labels = match table.oid() == managed.root {
        true => Vec::new(),
        false => parent::of_relation(table.oid())?.map(|(_, labels)| labels).unwrap_or_default(),
    };
    let Some(site) = managed.level.at(&labels) else { return Ok(Vec::new()) };
    let keys = managed.keys()?;
    let mut input = PlanInput {
        root: &table.name.name,
        now: at,
        kind: &|key| keys.kind(key),
        dealt: dealt.clone(),
        max_leaves: plan::DEFAULT_MAX_LEAVES,
    };
    let (children, limits): (Vec<Oid>, Vec<(Limit, Limit)>) = managed
        .bounds(table.oid())?
        .into_iter()
        .filter_map(|(oid, bound)| match bound {
            Bound::Range { mut from, mut to } if from.len() == 1 => Some((oid, (from.remove(0), to.remove(0)))),
            _ => None,
        })
        .unzip();
    let newest = newest(managed, &site, &children, &limits, &input)?;
    let ranges = Ranges { limits: &limits, newest: newest.as_deref() };
    let Some(missing) = plan::missing(&site, ranges, None, MOST, &input)? else { return Ok(Vec::new()) };
    let mut all = Vec::with_capacity(missing.len());
    for new in missing {
        let (partition, dealt) = plan::expand_one(&site, &new, None, &input)?;
        input.dealt.clone_from(&dealt);
        let name = managed.name().sibling(&partition.name);
        let mut nodes = match &partition.sub {
            Some(sub) => remote_nodes(sub.leaves()),
            None => remote_nodes(std::iter::once(&partition)),
        };
        if nodes.is_empty() {
            nodes.push(LOCAL.into());
        }
        all.push(Due { above: table.oid(), labels: labels.clone(), new, name, nodes, partition, dealt });
    }
    Ok(all)
}

/// The lower limit of the last partition that has rows, as far as it lies ahead of the clock.
fn newest(
    managed: &ManagedParent,
    site: &shardkeeper_core::spec::Site<'_>,
    children: &[Oid],
    limits: &[(Limit, Limit)],
    input: &PlanInput<'_>,
) -> Result<Option<String>> {
    for place in plan::later(site, Ranges { limits, newest: None }, input)? {
        let table = &managed.member(children[place])?.name;
        if sql::one::<bool>(&format!("SELECT EXISTS (SELECT FROM {table})"), &[])? == Some(true)
            && let (Limit::Value(from), _) = &limits[place]
        {
            return Ok(Some(from.clone()));
        }
    }
    Ok(None)
}

/// Makes what is due, and returns the names. `managed` is open to be changed.
pub fn run(mut managed: ManagedParent, at: Timestamp) -> Result<Vec<String>> {
    let root = managed.root;
    let mut made = Vec::new();
    for due in due(&managed, at)? {
        let Due { above, labels, new, partition, dealt, .. } = &due;
        add::add_planned(&managed, *above, labels, partition, &new.place, dealt, Accept::BEFORE)?;
        made.push(due.name.to_string());
        managed = ManagedParent::read(root)?;
    }
    Ok(made)
}
