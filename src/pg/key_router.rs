//! Which leaf stores a key: Postgres's own partition descriptors and comparison functions, level by level.
//!
//! The descriptors come from the relation cache, which Postgres keeps in step with every change, so nothing is cached
//! here; each level costs one binary search.

use super::attribute;
use super::context::Context;
use super::expression::Expressions;
use super::partition::{Key, Opened, Partitioned};
use crate::error::{Report, Result};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::{self, AsPgCStr};

/// Values by column name, as text; `None` is NULL.
pub trait Row {
    fn value(&self, column: &str) -> Option<Option<&str>>;
}

/// The leaf below `root` that stores `row`.
///
/// Errors: 22023 a key column has no value given; 23514 no partition accepts it; those of the types' input functions.
pub fn leaf(root: pg_sys::Oid, row: &impl Row) -> Result<pg_sys::Oid> {
    // Millions of rows may be placed in one transaction.
    Context::new(c"shardkeeper route").within(|| find(root, row))
}

fn find(root: pg_sys::Oid, row: &impl Row) -> Result<pg_sys::Oid> {
    let mut table = root;
    loop {
        let partitions = Partitioned::open(table)?;
        let opened = partitions.table();
        let mut expressions = Expressions::prepare(opened, partitions.expressions());
        if let Some(expressions) = &mut expressions {
            expressions.evaluate(|number| match row.value(&attribute::name(opened.column(number))) {
                Some(_) => column(opened, number, row),
                None => Ok((pg_sys::Datum::null(), true)),
            })?;
        }
        let mut evaluated = expressions.iter().flat_map(Expressions::results);
        let mut key = Key::new();
        for (at, number) in partitions.columns().enumerate() {
            match number {
                Some(number) => key.set(at, column(opened, number, row)?),
                None => key.set(at, evaluated.next().unwrap_or((pg_sys::Datum::null(), true))),
            }
        }
        let at = partitions.of(&mut key)?;
        table = partitions.oid(at);
        if partitions.is_leaf(at) {
            return Ok(table);
        }
    }
}

/// The partitions of a partitioned table in the order of their bounds, the default one last.
pub fn in_order(table: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    match Partitioned::open(table) {
        Ok(partitions) => (0..partitions.len()).map(|at| partitions.oid(at)).collect(),
        Err(_) => Vec::new(),
    }
}

/// Whether the relation has a column of that name.
pub fn has_column(relation: pg_sys::Oid, column: &str) -> bool {
    let Ok(name) = std::ffi::CString::new(column) else { return false };
    // SAFETY: looks the name up in the system cache; the string is NUL-terminated and outlives the call.
    unsafe { pg_sys::get_attnum(relation, name.as_ptr()) > 0 }
}

/// The value of a column, through its type's input function.
fn column(table: &Opened, number: pg_sys::AttrNumber, row: &impl Row) -> Result<(pg_sys::Datum, bool)> {
    let attribute = table.column(number);
    let name = attribute::name(attribute);
    match row.value(&name) {
        None => lacks(table, &name).into(),
        Some(None) => Ok((pg_sys::Datum::null(), true)),
        // SAFETY: the input function of the column's own type gets a NUL-terminated copy in the current context.
        Some(Some(text)) => unsafe {
            let (mut input, mut parameter) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
            pg_sys::getTypeInputInfo(attribute.atttypid, &mut input, &mut parameter);
            let text = text.replace('\0', "").as_pg_cstr();
            Ok((pg_sys::OidInputFunctionCall(input, text, parameter, attribute.atttypmod), false))
        },
    }
}

/// A column of the partition key has no value.
pub(super) fn lacks(table: &Opened, column: &str) -> Report {
    Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, format!("the key lacks column {}", crate::name::ident(column)))
        .detail(format!("It is part of the partition key of {}.", table.name()))
}
