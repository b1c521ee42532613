//! `shardkeeper.parents` with what belongs to a parent: its partitions' labels and its mirrors.

use super::carried::{Extras, Key};
use super::node::unknown_node;
use crate::error::{Report, Result};
use crate::pg::{role, sql};
use pgrx::pg_sys::Oid;
use pgrx::{JsonB, PgSqlErrorCode as Code};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

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
        sql::document::<Parent>(
            "SELECT pg_catalog.json_build_object('spec', spec, 'keys', keys, 'dealt', dealt)::text
             FROM shardkeeper.parents WHERE parent = $1",
            &[parent.into()],
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

pub fn not_managed<T>(relation: Oid) -> Result<T> {
    let name = sql::one::<String>("SELECT $1::pg_catalog.regclass::text", &[relation.into()])?.unwrap_or_default();
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

/// Notes the labels of partitions, given by name in one schema.
pub fn add_partitions(parent: Oid, schema: &str, named: &[(String, String)]) -> Result<()> {
    let names: Vec<String> = named.iter().map(|(name, _)| name.clone()).collect();
    let labels: Vec<String> = named.iter().map(|(_, label)| label.clone()).collect();
    role::as_extension_owner(|| {
        sql::run(
            "INSERT INTO shardkeeper.partitions (partition, parent, label)
             SELECT c.oid, $1, given.label
             FROM unnest($3::text[], $4::text[]) AS given (name, label)
             JOIN pg_catalog.pg_class c ON c.relname = given.name::name AND c.relnamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident($2))
             ON CONFLICT (partition) DO UPDATE SET parent = excluded.parent, label = excluded.label",
            &[parent.into(), schema.into(), names.into(), labels.into()],
        )
    })?;
    Ok(())
}

/// The labels of all partitions of a parent.
pub fn labels(parent: Oid) -> Result<BTreeMap<u32, String>> {
    let labels = role::as_extension_owner(|| {
        sql::document(
            "SELECT pg_catalog.json_object_agg(partition::oid::bigint, label)::text
             FROM shardkeeper.partitions WHERE parent = $1 HAVING count(*) > 0",
            &[parent.into()],
        )
    })?;
    Ok(labels.unwrap_or_default())
}

pub fn forget_partitions(partitions: &[Oid]) -> Result<()> {
    role::as_extension_owner(|| {
        sql::run("DELETE FROM shardkeeper.partitions WHERE partition = ANY ($1::oid[])", &[partitions.to_vec().into()])
    })?;
    Ok(())
}

/// Notes where a partition is that is about to be detached by hand.
pub fn note_place(partition: Oid) -> Result<()> {
    role::as_extension_owner(|| {
        sql::run(
            "UPDATE shardkeeper.partitions k SET above = i.inhparent, bounds = pg_catalog.pg_get_expr(c.relpartbound, c.oid)
             FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
             WHERE k.partition = $1 AND i.inhrelid = $1",
            &[partition.into()],
        )
    })?;
    Ok(())
}

/// Notes a partition that was attached or made by hand below a managed parent. One that was here before keeps its label; another
/// one gets what its name says, as partitions are named.
pub fn note_attached(partition: Oid) -> Result<()> {
    role::as_extension_owner(|| {
        sql::run(
            "INSERT INTO shardkeeper.partitions (partition, parent, label)
             SELECT c.oid, p.parent, coalesce(
                 CASE b.bound WHEN 'DEFAULT' THEN 'default' END,
                 (pg_catalog.regexp_match(b.bound, '^FOR VALUES WITH .*remainder (\\d+)'))[1],
                 (SELECT s.label FROM (SELECT pg_catalog.substr(c.relname::text, pg_catalog.length(a.relname::text) + 2) AS label) AS s
                  WHERE pg_catalog.starts_with(c.relname::text, a.relname::text || '_') AND s.label NOT IN ('', 'default')
                    AND NOT EXISTS (SELECT FROM shardkeeper.partitions k JOIN pg_catalog.pg_inherits o ON o.inhrelid = k.partition
                                    WHERE o.inhparent = a.oid AND k.partition <> c.oid AND k.label = s.label)),
                 c.relname::text)
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid
             JOIN pg_catalog.pg_class a ON a.oid = i.inhparent
             CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bound) AS b
             JOIN shardkeeper.parents p ON p.parent IN (SELECT pg_catalog.pg_partition_ancestors(c.oid)) AND p.parent <> c.oid
             WHERE c.oid = $1
             ON CONFLICT (partition) DO UPDATE SET above = NULL, bounds = NULL",
            &[partition.into()],
        )
    })?;
    Ok(())
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

pub fn mirrors(parent: Oid) -> Result<Vec<String>> {
    role::as_extension_owner(|| {
        sql::documents(
            "SELECT to_json(node)::text FROM shardkeeper.mirrors WHERE parent = $1 ORDER BY node",
            &[parent.into()],
        )
    })
}

/// Notes that `node` has a mirror, with these rights of mapped roles. Until the end of the transaction nobody drops the node.
///
/// Errors: 42704 it was dropped just now.
pub fn add_mirror(parent: Oid, node: &str, rights: &Value) -> Result<()> {
    let known = role::as_extension_owner(|| {
        sql::one::<bool>("SELECT true FROM shardkeeper.nodes WHERE name = $1 FOR KEY SHARE", &[node.into()])
    })?;
    if known.is_none() {
        return unknown_node(node).into();
    }
    role::as_extension_owner(|| {
        sql::run(
            "INSERT INTO shardkeeper.mirrors (parent, node, coordinator, rights) VALUES ($1, $2, shardkeeper.coordinator(), $3)
             ON CONFLICT (parent, node) DO UPDATE SET coordinator = excluded.coordinator, rights = excluded.rights",
            &[parent.into(), node.into(), JsonB(rights.clone()).into()],
        )
    })?;
    Ok(())
}

/// The node has no table of the parent any more.
pub fn forget_mirror(parent: Oid, node: &str) -> Result<()> {
    role::as_extension_owner(|| {
        sql::run("DELETE FROM shardkeeper.mirrors WHERE parent = $1 AND node = $2", &[parent.into(), node.into()])
    })?;
    Ok(())
}

/// What mapped roles were given on the mirror.
pub fn mirror_rights(parent: Oid, node: &str) -> Result<Value> {
    let found = role::as_extension_owner(|| {
        sql::document::<Value>(
            "SELECT rights::text FROM shardkeeper.mirrors WHERE parent = $1 AND node = $2",
            &[parent.into(), node.into()],
        )
    })?;
    Ok(found.unwrap_or(Value::Array(Vec::new())))
}

/// The same, and they stay so until the end of the transaction: waits for a GRANT that is under way.
pub fn hold_mirror_rights(parent: Oid, node: &str) -> Result<Value> {
    let found = role::as_extension_owner(|| {
        sql::document::<Value>(
            "SELECT rights::text FROM shardkeeper.mirrors WHERE parent = $1 AND node = $2 FOR SHARE",
            &[parent.into(), node.into()],
        )
    })?;
    Ok(found.unwrap_or(Value::Array(Vec::new())))
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
