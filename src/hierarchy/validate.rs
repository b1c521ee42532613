//! What cannot become a parent, and what a parent cannot keep: refused before anything changes.

use super::partition_keys::PartitionKeys;
use crate::error::{Report, Result};
use crate::name::{ident, idents};
use crate::pg::sql;
use crate::table::definition::{TableDefinition, dependents};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;

/// The caller may change the table at all. Comes first, before any lock.
pub fn owned(table: Oid, description: &TableDefinition) -> Result<()> {
    let owns = sql::one::<bool>(
        "SELECT pg_catalog.pg_has_role(relowner, 'USAGE') FROM pg_catalog.pg_class WHERE oid = $1",
        &[table.into()],
    )?;
    if owns == Some(true) {
        return Ok(());
    }
    Report::new(Code::ERRCODE_INSUFFICIENT_PRIVILEGE, format!("must be owner of table {}", description.name))
        .detail(format!("It belongs to {}.", ident(&description.owner)))
        .into()
}

/// The relation is a table that can be partitioned.
pub fn suitable(table: &TableDefinition) -> Result<()> {
    let name = &table.name;
    let wrong = |code, what: &str, hint: &str| -> Result<()> {
        let report = Report::new(code, format!("{name} {what}"));
        if hint.is_empty() { report.into() } else { report.hint(hint).into() }
    };
    let object = Code::ERRCODE_WRONG_OBJECT_TYPE;
    match table.kind {
        'r' | 'p' => {}
        'v' => return wrong(object, "is a view", "Make a parent of the table below it."),
        'm' => return wrong(object, "is a materialized view", "Make a parent of the table below it."),
        'f' => {
            return wrong(
                object,
                "is a foreign table",
                "Make a parent of an ordinary table, and name the node in \"nodes\".",
            );
        }
        _ => return wrong(object, "is not a table", ""),
    }
    if table.is_system {
        return wrong(Code::ERRCODE_INSUFFICIENT_PRIVILEGE, "is a system table", "");
    }
    match table.persistence {
        't' => {
            return wrong(
                object,
                "is a temporary table",
                "Other servers and sessions cannot see it: make an ordinary table.",
            );
        }
        'u' => return wrong(object, "is an unlogged table", &format!("Run ALTER TABLE {name} SET LOGGED; first.")),
        _ => {}
    }
    if table.is_partition {
        return wrong(object, "is a partition of another table", "Name the root of the hierarchy.");
    }
    if table.has_parents || (table.kind == 'r' && table.has_children) {
        let code = Code::ERRCODE_FEATURE_NOT_SUPPORTED;
        return wrong(code, "takes part in table inheritance", "Remove it with ALTER TABLE … NO INHERIT first.");
    }
    if table.is_typed {
        let hint = format!("Run ALTER TABLE {name} NOT OF; first.");
        return wrong(Code::ERRCODE_FEATURE_NOT_SUPPORTED, "is a table of a composite type", &hint);
    }
    if !table.exclusions.is_empty() {
        return Report::new(Code::ERRCODE_FEATURE_NOT_SUPPORTED, format!("{name} has exclusion constraints"))
            .detail(format!("No server could enforce them over all partitions: {}.", idents(&table.exclusions)))
            .into();
    }
    Ok(())
}

/// Nothing else depends on the table: making it anew would take these with it.
pub fn no_dependents(oid: Oid, table: &TableDefinition) -> Result<()> {
    let found = dependents(oid)?;
    if found.is_empty() {
        return Ok(());
    }
    Report::new(
        Code::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
        format!("table {} cannot be partitioned because other objects depend on it", table.name),
    )
    .detail(format!("They are: {}.", found.join("; ")))
    .hint("Drop them, and make them again afterwards where the partitioned table allows it.")
    .into()
}

/// Each unique key contains every partition key column: only then is it unique over all servers.
pub fn unique_keys(table: &TableDefinition, keys: &PartitionKeys) -> Result<()> {
    for key in table.keys.iter().filter(|key| key.unique) {
        let what = key.what();
        let missing: Vec<&str> = keys
            .columns()
            .filter_map(|column| match column {
                Ok(column) => (!key.columns.iter().any(|c| c == column)).then_some(column),
                Err(expression) => Some(expression),
            })
            .collect();
        if !missing.is_empty() {
            let names = missing.join(", ");
            let hint = match keys.columns().any(|column| column.is_err()) {
                true => format!(
                    "An expression as partition key allows no {what}: partition by columns of the {what}, where need be by a new one in it that stores the value; or drop it, and call again."
                ),
                false => format!("Add {names} to the {what}, or drop it, and call again."),
            };
            return Report::new(
                Code::ERRCODE_INVALID_TABLE_DEFINITION,
                format!("{what} {} of {} lacks the partition key {names}", ident(&key.name), table.name),
            )
            .detail("A unique key of a partitioned table must contain all columns of its partition keys, and no partition key may be an expression.")
            .hint(hint)
            .into();
        }
    }
    if let Some(key) = table.keys.iter().find(|key| !key.valid) {
        return Report::new(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("index {} is not valid", ident(&key.name)),
        )
        .hint("Drop it or run REINDEX first.")
        .into();
    }
    Ok(())
}

/// All rows fulfil what the table says of them: where they are copied to, each of them is asked.
///
/// Errors: 55000 a constraint is not validated.
pub fn all_valid(table: &TableDefinition) -> Result<()> {
    let check = table.checks.iter().find(|check| !check.is_valid());
    let not_null = table.columns.iter().filter_map(|column| column.not_null_constraint.as_ref());
    let not_null = not_null.filter(|constraint| !constraint.valid).map(|constraint| &constraint.name).next();
    let Some(name) = check.map(|check| &check.name).or(not_null) else { return valid_domains(table) };
    let (name, table) = (ident(name), &table.name);
    Report::new(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("constraint {name} of {table} is not validated"),
    )
    .detail("Old rows may violate it, and no other table would take them.")
    .hint(format!("Mend such rows and run ALTER TABLE {table} VALIDATE CONSTRAINT {name}; or drop the constraint."))
    .into()
}

fn valid_domains(table: &TableDefinition) -> Result<()> {
    let found = table.columns.iter().find_map(|column| Some((column, column.unchecked.as_ref()?)));
    let Some((column, constraint)) = found else { return Ok(()) };
    Report::new(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("{constraint}, the type of column {} of {}, is not validated", ident(&column.name), table.name),
    )
    .detail("Old values may violate it, and no other table would take them.")
    .hint("Mend such rows and run ALTER DOMAIN … VALIDATE CONSTRAINT …; or drop the constraint.")
    .into()
}

pub const INSTEAD_OF_TRANSITION: &str =
    "Use a trigger FOR EACH ROW, or one without REFERENCING; or keep all partitions on local.";

/// With leaves on other servers, a few things have no meaning any more.
pub fn fit_for_nodes(table: &TableDefinition) -> Result<()> {
    for trigger in &table.triggers {
        let (why, instead) = match (trigger.constraint, trigger.transition) {
            (true, _) => ("is a constraint trigger", "Drop the trigger, or keep all partitions on local."),
            (_, true) => ("uses a transition table", INSTEAD_OF_TRANSITION),
            _ => continue,
        };
        return Report::new(
            Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!(
                "trigger {} of {} {why}, which Postgres refuses with partitions on other servers",
                ident(&trigger.name),
                table.name
            ),
        )
        .hint(instead)
        .into();
    }
    Ok(())
}

/// Postgres evaluates what a policy says of written rows only for tables of its own. The policies are kept, as they still
/// decide which rows are seen and changed; that they do not check what goes to other servers must be known.
pub fn warn_of_unchecked_policies(table: &TableDefinition) {
    if !table.row_security {
        return;
    }
    for policy in table.policies.iter().filter(|policy| policy.checks_rows()) {
        pgrx::ereport!(
            pgrx::PgLogLevel::WARNING,
            Code::ERRCODE_WARNING,
            format!(
                "policy {} of {} does not check rows written to partitions on other servers",
                ident(&policy.name),
                table.name
            ),
            "Postgres applies WITH CHECK to its own tables only. Add a check constraint, or keep all partitions on local."
        );
    }
}
