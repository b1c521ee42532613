//! `shardkeeper.partitions`: those of managed parents at every level, with their labels.

use crate::error::Result;
use crate::name::QualifiedName;
use crate::pg::{role, sql};
use pgrx::pg_sys::Oid;
use std::collections::BTreeMap;

/// For a `WITH` clause. `above` and `bounds` say where one was that is detached by hand.
pub const LABELLED: &str =
    "labelled AS NOT MATERIALIZED (SELECT partition, parent, label, above, bounds FROM shardkeeper.partitions)";

/// Notes the labels of partitions, given by name in one schema.
pub fn add(parent: Oid, schema: &str, named: &[(String, String)]) -> Result<()> {
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
        )?;
        sql::run(
            "DELETE FROM shardkeeper.detached d USING shardkeeper.partitions k WHERE k.parent = $1 AND k.partition = d.partition",
            &[parent.into()],
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

pub fn forget(partitions: &[Oid]) -> Result<()> {
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
    super::detached::forget(&[partition])
}

/// The names of the partitions' tables. What was detached by hand is among them, as long as its table is there.
pub fn tables(parent: Oid) -> Result<Vec<QualifiedName>> {
    role::as_extension_owner(|| {
        sql::documents(
            "SELECT pg_catalog.json_build_object('schema', n.nspname, 'name', c.relname)::text
             FROM shardkeeper.partitions k JOIN pg_catalog.pg_class c ON c.oid = k.partition
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE k.parent = $1",
            &[parent.into()],
        )
    })
}
