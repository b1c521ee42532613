//! The way back of an operation that has switched: what the servers keep for it, and the operation turned round.

use super::operation::{Operation, Plan, Source};
use crate::error::Result;
use crate::pg::{role, sql};
use pgrx::JsonB;
use pgrx::pg_sys::Oid;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shardkeeper_core::operation::State;
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

/// There is no way back any more. What the servers keep for it is taken away by the operation's worker.
pub fn lose(id: i64, why: &str) -> Result<()> {
    sql::run(
        "UPDATE shardkeeper.operations
         SET way_back = pg_catalog.jsonb_build_object('lost', $2::text), tidy = false, error = NULL, failures = 0, hopeless = 0, retry_at = NULL
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

/// The operation replaces what earlier ones brought, which therefore cannot be reverted any more. Part of its switch.
pub fn cut_off(operation: &Operation, parent: Oid) -> Result<()> {
    let gone: Vec<String> = operation.plan.source_leaves().map(|(name, _)| name.name.clone()).collect();
    let earlier: Vec<(i64, Plan)> = sql::documents(
        "SELECT pg_catalog.json_build_array(id, plan)::text FROM shardkeeper.operations
         WHERE parent = $1 AND id <> $2 AND state = $3 AND way_back ? 'since'",
        &[parent.into(), operation.id.into(), State::Switched.as_str().into()],
    )?;
    for (id, plan) in earlier {
        if plan.target_tree().leaves().any(|leaf| gone.contains(&leaf.name)) {
            lose(id, &format!("Operation {} has replaced its partitions since.", operation.id))?;
        }
    }
    Ok(())
}

impl Operation {
    /// The operation that brings back what this one replaced: the same engine with sources and targets, stage and attic
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
        (back.stage, back.is_return, back.plan) = (self.attic(), true, turned);
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
