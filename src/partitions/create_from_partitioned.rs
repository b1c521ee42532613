//! `shard_create_parent` on a table that is partitioned by the same key already: its partitions stay as they are, and
//! those of the spec that are missing are added.

use super::add;
use super::create::{extras, plan_tree};
use super::partition_ddl::Blueprint;
use crate::catalog::{parent, partition};
use crate::error::{Report, Result};
use crate::hierarchy::managed_parent::ManagedParent;
use crate::hierarchy::partition_keys::PartitionKeys;
use crate::hierarchy::tree_tables;
use crate::hierarchy::validate;
use crate::pg::relation;
use crate::table::definition::TableDefinition;
use crate::table::publications::Accept;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::plan::Tree;
use shardkeeper_core::spec::Level;

pub fn extend(oid: Oid, table: &TableDefinition, level: &Level, accept: Accept) -> Result<()> {
    relation::lock_against_changes(oid);
    let existing = tree_tables::load(oid)?;
    if let Some(foreign) = existing.iter().find(|member| member.server.is_some()) {
        return Report::new(
            Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("{} has a partition on another server already", table.name),
        )
        .detail(format!("It is {}.", foreign.name))
        .hint(format!(
            "Take the tree under management as it is: SELECT shard_adopt_parent({});",
            crate::name::literal(&table.name.to_string())
        ))
        .into();
    }
    let keys = PartitionKeys::resolve(level, table)?;
    validate::unique_keys(table, &keys)?;
    let plan = plan_tree(level, table, &keys)?;
    same_key(table, &keys, &plan.tree)?;
    let mut bounds = Vec::new();
    for member in existing.iter().filter(|member| member.parent() == Some(oid)) {
        bounds.push((member, member.bound()?));
    }
    let named = |label: Option<&str>, name: &str| (name.to_string(), label.unwrap_or(name).to_string());
    let labels: Vec<(String, String)> = bounds
        .iter()
        .map(|(member, bound)| {
            let planned = plan.tree.partitions.iter().find(|planned| Some(&planned.bound) == bound.as_ref());
            named(planned.map(|planned| planned.label.as_str()), &member.name.name)
        })
        .collect();
    parent::insert(oid, level.to_json(), &extras(table), &plan.dealt)?;
    partition::add(oid, &table.name.schema, &labels)?;
    for planned in &plan.tree.partitions {
        if !bounds.iter().any(|(_, bound)| bound.as_ref() == Some(&planned.bound)) {
            add::add_planned(&ManagedParent::read(oid)?, oid, &[], planned, &planned.path, &plan.dealt, accept)?;
        }
    }
    Ok(())
}

/// Errors: 42P16 the table is partitioned by another key than the spec says.
pub fn same_key(table: &TableDefinition, keys: &PartitionKeys, tree: &Tree) -> Result<()> {
    let blueprint = Blueprint { table, keys, mixed: false };
    let wanted = blueprint.partition_by(tree).replacen("PARTITION BY ", "", 1);
    let is = table.partition_key.clone().unwrap_or_default();
    if is == wanted {
        return Ok(());
    }
    Report::new(Code::ERRCODE_INVALID_TABLE_DEFINITION, format!("{} is partitioned by another key", table.name))
        .detail(format!("It is partitioned by {is}, the spec says {wanted}."))
        .hint("Write the spec for the key that the table has, or start from an ordinary table.")
        .into()
}
