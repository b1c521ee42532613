//! `shardkeeper.parents`: what the catalog knows of a managed parent itself.

use super::carried::{Extras, Key};
use super::operation;
use crate::error::{Report, Result};
use crate::pg::{role, sql};
use pgrx::pg_sys::Oid;
use pgrx::{JsonB, PgSqlErrorCode as Code};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// For a `WITH` clause.
pub const MANAGED: &str = "managed AS NOT MATERIALIZED (SELECT parent, keys FROM shardkeeper.parents)";

/// One managed parent.
#[derive(Debug, Deserialize)]
pub struct Parent {
    pub spec: Value,
    /// What leaves and mirrors carry besides columns.
    #[serde(rename = "keys")]
    pub extras: Extras,
    /// Leaves placed so far by each declaration of nodes.
    pub dealt: BTreeMap<String, u64>,
}

pub fn load(parent: Oid) -> Result<Option<Parent>> {
    role::as_extension_owner(|| {
        sql::kept_document::<Parent>(
            "SELECT pg_catalog.json_build_object('spec', spec, 'keys', keys, 'dealt', dealt)::text
             FROM shardkeeper.parents WHERE parent = $1",
            &[parent.into()],
        )
    })
}

/// All that there are, in the order of their numbers.
pub fn all() -> Result<Vec<Oid>> {
    ordered("1")
}

pub fn all_by_name() -> Result<Vec<Oid>> {
    ordered("c.relname, 1")
}

fn ordered(by: &str) -> Result<Vec<Oid>> {
    role::as_extension_owner(|| {
        sql::column(
            &format!(
                "SELECT p.parent::oid FROM shardkeeper.parents p JOIN pg_catalog.pg_class c ON c.oid = p.parent ORDER BY {by}"
            ),
            &[],
        )
    })
}

/// Errors: 42P01 not a managed parent.
pub fn require(parent: Oid) -> Result<Parent> {
    match load(parent)? {
        Some(found) => Ok(found),
        None => not_managed(parent)?,
    }
}

/// The same for what may be asked about before the operation that makes it a parent has switched.
pub fn require_or_coming(parent: Oid) -> Result<()> {
    if role::as_extension_owner(|| operation::running(parent))?.is_some() {
        return Ok(());
    }
    require(parent).map(drop)
}

/// Errors: 42809 it is a partition of one; 42P01 it is none, or none yet.
pub fn not_managed<T>(relation: Oid) -> Result<T> {
    let name = |oid: Oid| -> Result<String> {
        Ok(sql::one::<String>("SELECT $1::pg_catalog.regclass::text", &[oid.into()])?.unwrap_or_default())
    };
    let is_trash = "SELECT n.nspname = 'shardkeeper_trash' FROM pg_catalog.pg_class c
                    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1";
    if sql::one::<bool>(is_trash, &[relation.into()])? == Some(true) {
        return Report::new(Code::ERRCODE_UNDEFINED_TABLE, format!("{} is in the trash", name(relation)?))
            .detail("It was dropped meanwhile, or before.")
            .hint("See the view shard_trash, and bring it back with shard_restore_trash.")
            .into();
    }
    if let Some((root, _)) = of_relation(relation)?.filter(|(root, _)| *root != relation) {
        return Report::new(
            Code::ERRCODE_WRONG_OBJECT_TYPE,
            format!("{} is a partition, not a parent", name(relation)?),
        )
        .hint(format!("Name its parent {}.", name(root)?))
        .into();
    }
    let name = name(relation)?;
    if let Some(id) = role::as_extension_owner(|| operation::running(relation))? {
        return Report::new(Code::ERRCODE_UNDEFINED_TABLE, format!("{name} is not a managed parent yet"))
            .detail(format!("Operation {id} is about to make it one."))
            .hint(format!("Wait with SELECT shard_wait({id});"))
            .into();
    }
    Report::new(Code::ERRCODE_UNDEFINED_TABLE, format!("{name} is not a managed parent"))
        .hint("See the view shard_parents, or make it one with SELECT shard_create_parent(…).")
        .into()
}

pub fn insert(parent: Oid, spec: Value, extras: &Extras, dealt: &BTreeMap<String, u64>) -> Result<()> {
    let extras = serde_json::to_value(extras)?;
    let dealt = serde_json::to_value(dealt)?;
    role::as_extension_owner(|| {
        sql::run(
            "INSERT INTO shardkeeper.parents (parent, spec, keys, dealt) VALUES ($1, $2, $3, $4)
             ON CONFLICT (parent) DO UPDATE SET spec = excluded.spec, keys = excluded.keys, dealt = excluded.dealt",
            &[parent.into(), JsonB(spec).into(), JsonB(extras).into(), JsonB(dealt).into()],
        )
    })?;
    Ok(())
}

pub fn set_dealt(parent: Oid, dealt: &BTreeMap<String, u64>) -> Result<()> {
    let dealt = serde_json::to_value(dealt)?;
    role::as_extension_owner(|| {
        sql::run("UPDATE shardkeeper.parents SET dealt = $2 WHERE parent = $1", &[parent.into(), JsonB(dealt).into()])
    })?;
    Ok(())
}

/// Forgets the parent, its partitions and mirrors; the tables stay.
pub fn delete(parent: Oid) -> Result<()> {
    role::as_extension_owner(|| {
        for table in ["partitions", "mirrors", "parents"] {
            sql::run(&format!("DELETE FROM shardkeeper.{table} WHERE parent = $1"), &[parent.into()])?;
        }
        Ok(())
    })
}

/// What leaves and mirrors to come will carry.
pub fn set_keys(parent: Oid, keys: &[Key]) -> Result<()> {
    let keys = serde_json::to_value(keys)?;
    role::as_extension_owner(|| {
        sql::run(
            "UPDATE shardkeeper.parents SET keys = pg_catalog.jsonb_set(keys, '{keys}', $2) WHERE parent = $1 AND keys -> 'keys' <> $2",
            &[parent.into(), JsonB(keys).into()],
        )
    })?;
    Ok(())
}

/// The managed parent that `relation` is, or is a partition of, and the labels from there to `relation`.
pub fn of_relation(relation: Oid) -> Result<Option<(Oid, Vec<String>)>> {
    #[derive(Deserialize)]
    struct Found {
        root: u32,
        labels: Vec<String>,
    }
    let found = role::as_extension_owner(|| {
        sql::document::<Found>(
            "WITH RECURSIVE up (relid, step) AS (
                 SELECT $1::oid, 0
                 UNION ALL SELECT i.inhparent, step + 1 FROM up JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.relid
             )
             SELECT pg_catalog.json_build_object('root', p.parent::oid::bigint, 'labels', (
                 SELECT coalesce(pg_catalog.json_agg(l.label ORDER BY u.step DESC), '[]')
                 FROM up u JOIN shardkeeper.partitions l ON l.partition = u.relid))::text
             FROM up JOIN shardkeeper.parents p ON p.parent = up.relid",
            &[relation.into()],
        )
    })?;
    Ok(found.map(|found| (Oid::from(found.root), found.labels)))
}
