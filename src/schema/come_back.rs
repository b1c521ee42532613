//! The commands that bring back partitions which somebody dropped here, and which a node still has with their rows: a foreign
//! table for each leaf is all that is missing, and what is above it.

use crate::error::Result;
use crate::name::{QualifiedName, ident, literal};
use crate::pg::role;
use crate::table::columns::{self, Place};
use crate::table::ddl::{leaf_rights, owner_changes};
use crate::table::definition::TableDefinition;

/// A partition that the node has.
pub struct Lost<'a> {
    pub name: &'a QualifiedName,
    pub above: &'a QualifiedName,
    /// `FOR VALUES …` or `DEFAULT`.
    pub bound: &'a str,
    /// Of a partitioned table.
    pub key: Option<&'a str>,
}

/// For a person to run. `path` leads to one leaf on `node`, what is above it first; siblings may have brought that back already.
pub fn commands(root: &TableDefinition, path: &[Lost<'_>], node: &str) -> Result<String> {
    let mut commands = vec!["SET shardkeeper.allow_manual_ddl = on".to_string()];
    for Lost { name, above, bound, key } in path {
        let server = format!(
            "SERVER {} OPTIONS (schema_name {}, table_name {})",
            ident(node),
            literal(&name.schema),
            literal(&name.name)
        );
        match key {
            Some(key) => commands
                .push(format!("CREATE TABLE IF NOT EXISTS {name} PARTITION OF {above} {bound} PARTITION BY {key}")),
            // As leaves are made: inside, it would inherit a compression that no foreign table can be given in a dump.
            None if root.columns.iter().any(|column| column.compression.is_some()) => {
                commands.push(format!("CREATE FOREIGN TABLE {name} {} {server}", columns::list(root, Place::Foreign)));
                commands.push(format!("ALTER TABLE {above} ATTACH PARTITION {name} {bound}"));
            }
            None => commands.push(format!("CREATE FOREIGN TABLE {name} PARTITION OF {above} {bound} {server}")),
        }
    }
    let made: Vec<QualifiedName> = path.iter().map(|lost| lost.name.clone()).collect();
    commands.extend(owner_changes(root, &made, &role::name(role::current())?));
    commands.extend(leaf_rights(root, &made));
    Ok(format!("{};", commands.join("; ")))
}
