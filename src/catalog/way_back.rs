//! The way back of an operation that has switched: what the servers keep for it, and the operation turned round.

use super::operation::{Operation, Plan, Source};
use crate::error::Result;
use crate::pg::{role, sql};
use pgrx::JsonB;
use pgrx::pg_sys::Oid;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shardkeeper_core::operation::State;
use shardkeeper_core::plural::numbered;
use std::collections::BTreeMap;

/// The column `way_back` of `shardkeeper.operations`. Empty once the servers of the targets have slots for it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WayBack {
    /// Per server of the targets, the end of its log at the switch: what committed later is brought to the sources.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub since: BTreeMap<String, String>,
    /// The coordinator's transaction that switched. Its own changes of local targets came from the sources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switched_in: Option<u32>,
    /// The parent's columns, checks and keys at the switch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<Value>,
    /// Why there is no way back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// Why the last revert was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// The stream on a server that a way back is followed by, and what of it is the operation's.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Shared {
    /// Of slot and publication.
    pub name: String,
    /// The operation's tables by their numbers there.
    pub tables: Vec<u32>,
    /// There may be a slot of its own.
    pub own_slot: bool,
    /// It is followed by that slot alone.
    pub apart: bool,
}

impl WayBack {
    pub fn is_open(&self) -> bool {
        self.lost.is_none() && !self.since.is_empty()
    }
}

pub fn set(id: i64, way_back: &WayBack) -> Result<()> {
    let document = JsonB(serde_json::to_value(way_back)?);
    sql::run("UPDATE shardkeeper.operations SET way_back = $2 WHERE id = $1", &[id.into(), document.into()])?;
    Ok(())
}

/// Before the switch: the servers of the targets keep their changes. Unless it was lost meanwhile.
pub fn begin(id: i64) -> Result<()> {
    sql::run(
        "UPDATE shardkeeper.operations SET way_back = '{}' WHERE id = $1 AND way_back ->> 'lost' IS NULL",
        &[id.into()],
    )?;
    Ok(())
}

/// Whether they keep them still.
pub fn is_begun(id: i64) -> Result<bool> {
    let found = sql::document::<bool>(
        "SELECT (way_back IS NOT NULL AND way_back ->> 'lost' IS NULL)::text FROM shardkeeper.operations WHERE id = $1",
        &[id.into()],
    )?;
    Ok(found == Some(true))
}

/// There is no way back any more. What the servers keep for it is taken away by the operation's worker.
pub fn lose(id: i64, why: &str) -> Result<()> {
    sql::run(
        "UPDATE shardkeeper.operations
         SET way_back = pg_catalog.jsonb_build_object('lost', $2::text), targets_cleaned = false, error = NULL, failures = 0, hopeless = 0, retry_at = NULL
         WHERE id = $1",
        &[id.into(), why.into()],
    )?;
    Ok(())
}

/// A revert was given up; the way is still there.
pub fn refuse(id: i64, why: &str) -> Result<()> {
    sql::run(
        "UPDATE shardkeeper.operations SET way_back = way_back || pg_catalog.jsonb_build_object('refused', $2::text), error = NULL WHERE id = $1",
        &[id.into(), why.into()],
    )?;
    Ok(())
}

/// The same for all whose way back goes by that stream, but one.
pub fn lose_all(node: &str, stream: &str, but: Option<i64>, why: &str) -> Result<()> {
    for id in users(node, stream)?.into_iter().filter(|id| Some(*id) != but) {
        lose(id, why)?;
    }
    Ok(())
}

/// The operations whose way back goes by the stream, and by no slot of its own, and is not lost; the oldest first.
pub fn users(node: &str, stream: &str) -> Result<Vec<i64>> {
    sql::column(
        "SELECT w.operation FROM shardkeeper.ways_back w JOIN shardkeeper.operations o ON o.id = w.operation
         WHERE w.node = $1 AND w.stream = $2 AND NOT w.apart AND o.ended_at IS NULL
           AND o.way_back ->> 'lost' IS NULL AND shardkeeper.is_own(o.staging)
         ORDER BY w.operation",
        &[node.into(), stream.into()],
    )
}

/// All streams that something is kept by: the server, the name, and the oldest operation.
pub fn streams() -> Result<Vec<(String, String, i64)>> {
    sql::documents(
        "SELECT pg_catalog.json_build_array(w.node, w.stream, min(w.operation))::text
         FROM shardkeeper.ways_back w JOIN shardkeeper.operations o ON o.id = w.operation
         WHERE o.ended_at IS NULL AND shardkeeper.is_own(o.staging)
         GROUP BY w.node, w.stream ORDER BY min(w.operation), w.node",
        &[],
    )
}

/// Whether an operation has switched and can go back.
pub fn any_is_open() -> Result<bool> {
    let found = sql::one::<bool>(
        "SELECT EXISTS (SELECT FROM shardkeeper.operations WHERE state = 'switched' AND way_back ? 'since' AND shardkeeper.is_own(staging))",
        &[],
    )?;
    Ok(found == Some(true))
}

/// Before anything is made on the server.
pub fn register(id: i64, node: &str, stream: &str, tables: &[u32]) -> Result<()> {
    let tables: Vec<Oid> = tables.iter().copied().map(Oid::from).collect();
    sql::run(
        "INSERT INTO shardkeeper.ways_back (operation, node, stream, tables) VALUES ($1, $2, $3, $4)
         ON CONFLICT (operation, node) DO UPDATE SET tables = excluded.tables",
        &[id.into(), node.into(), stream.into(), tables.into()],
    )?;
    Ok(())
}

/// A revert is asked for again, of an operation or of a group.
pub fn forget_refusal(id: i64) -> Result<()> {
    role::as_extension_owner(|| {
        sql::run(
            "UPDATE shardkeeper.operations SET way_back = way_back - 'refused' WHERE (id = $1 OR part_of = $1) AND way_back ? 'refused'",
            &[id.into()],
        )
    })?;
    Ok(())
}

/// `true` if no other operation has the stream registered.
pub fn is_last(id: i64, node: &str, stream: &str) -> Result<bool> {
    let others = sql::one::<bool>(
        "SELECT EXISTS (SELECT FROM shardkeeper.ways_back w JOIN shardkeeper.operations o ON o.id = w.operation
                        WHERE w.node = $1 AND w.stream = $2 AND w.operation <> $3 AND o.ended_at IS NULL)",
        &[node.into(), stream.into(), id.into()],
    )?;
    Ok(others != Some(true))
}

/// When all is gone there.
pub fn unregister(id: i64, node: &str) -> Result<()> {
    sql::run("DELETE FROM shardkeeper.ways_back WHERE operation = $1 AND node = $2", &[id.into(), node.into()])?;
    Ok(())
}

/// Notes whether there may be a slot of its own, and whether that one is what it is followed by.
pub fn set_apart(id: i64, node: &str, own_slot: bool, apart: bool) -> Result<()> {
    sql::run(
        "UPDATE shardkeeper.ways_back SET own_slot = $3, apart = $4 WHERE operation = $1 AND node = $2",
        &[id.into(), node.into(), own_slot.into(), apart.into()],
    )?;
    Ok(())
}

/// The operation replaces what earlier ones brought, which therefore cannot be reverted any more. Part of its switch.
pub fn cut_off(operation: &Operation, parent: Oid) -> Result<()> {
    for id in would_be_cut_off(&operation.plan, parent)?.into_iter().filter(|id| *id != operation.id) {
        lose(id, &format!("Operation {} has replaced its partitions since.", operation.id))?;
    }
    Ok(())
}

/// Kept operations on the parent that brought what the plan replaces.
pub fn would_be_cut_off(plan: &Plan, parent: Oid) -> Result<Vec<i64>> {
    let gone: Vec<&String> = plan.source_leaves().map(|(name, _)| &name.name).collect();
    let earlier: Vec<(i64, Plan)> = role::as_extension_owner(|| {
        sql::documents(
            "SELECT pg_catalog.json_build_array(id, plan)::text FROM shardkeeper.operations
             WHERE parent = $1 AND state = $2 AND way_back ? 'since' AND shardkeeper.is_own(staging) ORDER BY id",
            &[parent.into(), State::Switched.as_str().into()],
        )
    })?;
    let is_cut = |(_, plan): &(i64, Plan)| plan.target_tree().leaves().any(|leaf| gone.contains(&&leaf.name));
    Ok(earlier.into_iter().filter(is_cut).map(|(id, _)| id).collect())
}

/// What becomes of them, for whoever calls.
pub fn cut_off_words(ids: &[i64]) -> Option<String> {
    let those = numbered(ids, "operation", "operations");
    (!ids.is_empty()).then(|| format!("after the switch, {those} cannot be reverted any more"))
}

impl Operation {
    /// The operation that brings back what this one replaced: the same engine with sources and targets, staging and retired schema
    /// changed over. `None` where that is not known.
    pub fn turned_round(&self) -> Option<Self> {
        let plan = &self.plan;
        let before = plan.before.as_ref()?;
        let turned = Plan {
            sources: plan.targets.iter().map(|target| Source::of(&plan.above, target)).collect(),
            targets: before.partitions.clone(),
            spec: before.spec.clone(),
            ..plan.clone()
        };
        let mut back = self.clone();
        (back.staging, back.is_return, back.plan) = (self.retired(), true, turned);
        Some(back)
    }

    /// Where the changes begin that a return has to bring, per server.
    pub fn starts(&self) -> &BTreeMap<String, String> {
        static NOWHERE: BTreeMap<String, String> = BTreeMap::new();
        match &self.way_back {
            Some(way_back) if self.is_return => &way_back.since,
            _ => &NOWHERE,
        }
    }

    /// The coordinator's transaction whose changes a return leaves out.
    pub fn switched_in(&self) -> Option<u32> {
        self.way_back.as_ref().filter(|_| self.is_return)?.switched_in
    }
}
