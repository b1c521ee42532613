//! The table that an operation works on: a managed parent, or a plain table that becomes one.

use crate::catalog::operation::Operation;
use crate::error::{Report, Result};
use crate::hierarchy::managed_parent::ManagedParent;
use crate::hierarchy::partition_keys::PartitionKeys;
use crate::hierarchy::validate;
use crate::pg::role;
use crate::reshard::outcome::{Step, fail, halt};
use crate::table::definition::TableDefinition;
use pgrx::PgSqlErrorCode as Code;
use shardkeeper_core::spec;

pub struct OperationTable {
    /// With all keys and settings that leaves carry.
    pub table: TableDefinition,
    pub keys: PartitionKeys,
}

impl OperationTable {
    /// As it is now, without a lock. Within a transaction.
    pub fn read(operation: &Operation) -> Result<Self> {
        role::acting_as(operation.role(), || {
            if !operation.converts() {
                return Self::of(&ManagedParent::read(operation.parent())?);
            }
            let Some(mut table) = TableDefinition::load(operation.parent())? else { return changed(operation).into() };
            // That is our own.
            table.publications.retain(|publication| publication.name != operation.staging);
            let keys = PartitionKeys::resolve(&spec::parse(&operation.plan.spec)?, &table)?;
            Ok(Self { table, keys })
        })
    }

    pub fn of(managed: &ManagedParent) -> Result<Self> {
        Ok(Self { table: managed.table.clone(), keys: managed.keys()? })
    }
}

/// A plain table is still the one that the operation was called for, and nothing is in the way of its becoming a parent.
/// Within a transaction.
pub fn unchanged(operation: &Operation) -> Step {
    let Some(source) = operation.plan.sources.first().filter(|_| operation.converts()) else { return Ok(()) };
    let parent = operation.parent();
    let (table, shape) =
        role::acting_as(operation.role(), || Ok((TableDefinition::load(parent)?, TableDefinition::shape(parent)?)))?;
    match table {
        Some(table) if table.name == source.name && shape == source.shape => {
            role::acting_as(operation.role(), || validate::no_dependents(parent, &table)).or_else(|error| {
                let report = Report::from(error);
                halt(report.hint(format!("Drop them, and go on with SELECT shard_resume({});", operation.id)))
            })
        }
        _ => fail(changed(operation)),
    }
}

fn changed(operation: &Operation) -> Report {
    Report::new(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("table {} was changed while its rows moved", operation.name),
    )
    .detail("Its name, columns, checks and keys have to stay as they are until it is a parent.")
    .hint("Call for the operation again.")
}
