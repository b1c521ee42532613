//! The column list of a table, by the place where the table stands.

use super::definition::{Column, Sequence, TableDefinition};
use crate::name::{ident, literal};

/// Where a table of the hierarchy stands, which decides what its columns carry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    /// The parent itself: everything.
    Root,
    /// An ordinary table on the coordinator that becomes a partition: all but the identity, which is the parent's.
    LocalLeaf,
    /// A foreign table: what `ATTACH` compares, and no default, which the parent computes.
    Foreign,
    /// A table on a node: no sequence is there, and no function is sure to be.
    Mirror,
}

/// `(column type …, CONSTRAINT … CHECK …)`.
pub fn list(table: &TableDefinition, place: Place) -> String {
    let columns = table.columns.iter().map(|column| definition(column, place));
    // What is never enforced is nothing to a node, which may be of a version that has no word for it.
    let checks = table.checks.iter().filter(|check| place != Place::Mirror || check.is_enforced());
    let checks = checks.map(|check| format!("CONSTRAINT {} {}", ident(&check.name), check.definition));
    format!("({})", columns.chain(checks).collect::<Vec<_>>().join(", "))
}

fn definition(column: &Column, place: Place) -> String {
    let mut text = format!("{} {}", ident(&column.name), column.data_type);
    if let (Some(method), true) = (&column.compression, place != Place::Foreign) {
        text += &format!(" COMPRESSION {method}");
    }
    if let Some(collation) = &column.collation {
        text += &format!(" COLLATE {collation}");
    }
    match (&column.default, column.generated.as_str()) {
        (Some(expression), "s") => text += &format!(" GENERATED ALWAYS AS ({expression}) STORED"),
        (Some(expression), "v") => text += &format!(" GENERATED ALWAYS AS ({expression}) VIRTUAL"),
        (Some(expression), _) if keeps_default(column, place) => text += &format!(" DEFAULT {expression}"),
        _ => {}
    }
    if column.not_null {
        if let Some(constraint) = &column.not_null_constraint {
            text += &format!(" CONSTRAINT {}", ident(&constraint.name));
        }
        text += " NOT NULL";
    }
    if let (Place::Root, Some(identity)) = (place, identity(column)) {
        text += &format!(" {identity}");
    }
    text
}

/// `GENERATED … AS IDENTITY (…)`, with its sequence as it was made.
pub fn identity(column: &Column) -> Option<String> {
    let when = match column.identity.as_str() {
        "a" => "ALWAYS",
        "d" => "BY DEFAULT",
        _ => return None,
    };
    let sequence = column.sequence.as_ref()?;
    Some(format!("GENERATED {when} AS IDENTITY ({})", sequence_options(sequence)))
}

fn keeps_default(column: &Column, place: Place) -> bool {
    match place {
        Place::Root | Place::LocalLeaf => true,
        Place::Mirror => !column.default_is_local,
        Place::Foreign => false,
    }
}

fn sequence_options(sequence: &Sequence) -> String {
    format!(
        "SEQUENCE NAME {} START WITH {} INCREMENT BY {} MINVALUE {} MAXVALUE {} CACHE {}{}",
        sequence.name,
        sequence.start,
        sequence.increment,
        sequence.min,
        sequence.max,
        sequence.cache,
        if sequence.cycle { " CYCLE" } else { "" }
    )
}

/// What `CREATE TABLE` has no clause for, column by column, as actions of one `ALTER TABLE`.
pub fn settings(table: &TableDefinition) -> Vec<String> {
    let mut actions = Vec::new();
    for column in &table.columns {
        let name = ident(&column.name);
        if let Some(storage) = &column.storage {
            actions.push(format!("ALTER COLUMN {name} SET STORAGE {storage}"));
        }
        actions.extend(leaf_settings_of(column));
    }
    actions
}

/// The part of [`settings`] that partitions do not inherit.
pub fn leaf_settings(table: &TableDefinition) -> Vec<String> {
    table.columns.iter().flat_map(leaf_settings_of).collect()
}

fn leaf_settings_of(column: &Column) -> Vec<String> {
    let name = ident(&column.name);
    let mut actions = Vec::new();
    if let Some(target) = column.statistics {
        actions.push(format!("ALTER COLUMN {name} SET STATISTICS {target}"));
    }
    if !column.options.is_empty() {
        actions.push(format!("ALTER COLUMN {name} SET ({})", options(&column.options)));
    }
    actions
}

/// `name=value` pairs of the catalog as SQL.
pub fn options(pairs: &[String]) -> String {
    pairs
        .iter()
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            format!("{} = {}", name.split('.').map(ident).collect::<Vec<_>>().join("."), literal(value))
        })
        .collect::<Vec<_>>()
        .join(", ")
}
