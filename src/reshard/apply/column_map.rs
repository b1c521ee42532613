//! The rows that a stream tells of, in the order of the targets' columns.

use super::target::{Column, Table};
use crate::error::{Error, Report, Result};
use crate::name::QualifiedName;
use crate::reshard::outcome::{Step, halt};
use pgrx::PgSqlErrorCode as Code;
use shardkeeper_core::pgoutput::{Identity, Old, Relation, Tuple, Value};
use std::collections::HashMap;

/// How the columns of a source stand to those of the targets.
pub struct ColumnMap {
    pub name: QualifiedName,
    /// The name of the source as the catalog of copies has it.
    pub source: String,
    /// For each column of the targets, its place in the source's rows.
    places: Vec<usize>,
    /// The columns of the targets that identify a row.
    pub key: Vec<usize>,
    /// Old rows are told whole.
    pub whole: bool,
    /// And nothing shorter identifies them.
    pub full: bool,
}

impl ColumnMap {
    pub fn of(relation: &Relation, table: &Table) -> Step<Self> {
        let columns = &table.columns;
        let name = QualifiedName::new(relation.schema.clone(), relation.name.clone());
        let place = |column: &Column| relation.columns.iter().position(|found| found.name == column.name);
        let places: Option<Vec<usize>> = columns.iter().map(place).collect();
        // What is computed is told too where whole rows are.
        let told = relation.columns.iter().filter(|column| !table.generated.contains(&column.name));
        let same = told.count() == columns.len();
        let Some(places) = places.filter(|_| same) else {
            return halt(
                Report::new(
                    Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!("the columns of {name} changed while it moves"),
                )
                .hint("Cancel the operation and start it again."),
            );
        };
        let whole = relation.identity == Identity::Full;
        let full = whole && table.primary.is_empty();
        let key = match whole && !full {
            true => table.primary.clone(),
            false => (0..columns.len()).filter(|at| relation.columns[places[*at]].is_key).collect(),
        };
        Ok(Self { source: name.to_string(), name, places, key, whole, full })
    }

    pub fn row(&self, tuple: Tuple) -> Vec<Value> {
        self.places.iter().map(|at| tuple.0.get(*at).cloned().unwrap_or(Value::Null)).collect()
    }

    /// The old row as far as it is told, and the values that identify it.
    pub fn old(&self, old: Old) -> (Vec<Value>, Vec<Value>) {
        let (Old::Key(tuple) | Old::Full(tuple)) = old;
        let row = self.row(tuple);
        let identity = if self.full { row.clone() } else { self.key.iter().map(|at| row[*at].clone()).collect() };
        (row, identity)
    }
}

pub fn known(relations: &HashMap<u32, ColumnMap>, id: u32) -> Result<&ColumnMap> {
    relations.get(&id).ok_or_else(|| {
        Error::from(Report::new(
            Code::ERRCODE_PROTOCOL_VIOLATION,
            "the stream changes a table that it has not described",
        ))
    })
}
