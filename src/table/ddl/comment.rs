//! Comments on the table and its objects.

use crate::catalog::carried::Key;
use crate::name::{QualifiedName, ident, literal};
use crate::table::definition::TableDefinition;

pub(super) fn comments(table: &TableDefinition, mixed: bool) -> Vec<String> {
    let name = &table.name;
    let on =
        |what: &str, text: &Option<String>| text.as_ref().map(|text| format!("COMMENT ON {what} IS {}", literal(text)));
    let mut commands = Vec::new();
    commands.extend(on(&format!("TABLE {name}"), &table.comment));
    for column in &table.columns {
        commands.extend(on(&format!("COLUMN {name}.{}", ident(&column.name)), &column.comment));
        if let Some(constraint) = &column.not_null_constraint {
            commands.extend(on(&format!("CONSTRAINT {} ON {name}", ident(&constraint.name)), &constraint.comment));
        }
        if let Some(sequence) = &column.sequence {
            commands.extend(on(&format!("SEQUENCE {}", sequence.name), &sequence.comment));
        }
    }
    for check in &table.checks {
        commands.extend(on(&format!("CONSTRAINT {} ON {name}", ident(&check.name)), &check.comment));
    }
    for key in table.keys.iter().filter(|key| !(mixed && key.unique)) {
        commands.extend(key_comments(key, name));
    }
    for trigger in &table.triggers {
        commands.extend(on(&format!("TRIGGER {} ON {name}", ident(&trigger.name)), &trigger.comment));
    }
    for policy in &table.policies {
        commands.extend(on(&format!("POLICY {} ON {name}", ident(&policy.name)), &policy.comment));
    }
    for statistics in &table.statistics {
        commands.extend(on(&format!("STATISTICS {}", statistics.name), &statistics.comment));
    }
    commands
}

pub fn key_comments(key: &Key, table: &QualifiedName) -> Vec<String> {
    let mut commands = Vec::new();
    if let Some(text) = &key.comment {
        commands.push(format!("COMMENT ON CONSTRAINT {} ON {table} IS {}", ident(&key.name), literal(text)));
    }
    if let Some(text) = &key.index_comment {
        commands.push(format!("COMMENT ON INDEX {} IS {}", table.sibling(key.name.clone()), literal(text)));
    }
    commands
}
