//! Owner and rights.

use super::policy::role;
use crate::name::{QualifiedName, ident};
use crate::table::definition::{Grant, Sequence, TableDefinition};

/// The rights exactly as they were: what default privileges gave to the new table goes first.
pub(super) fn grants(table: &TableDefinition) -> Vec<String> {
    let name = &table.name;
    let mut commands = Vec::new();
    if table.grants.is_some() || !table.default_grantees.is_empty() {
        let mut before: Vec<String> = table.default_grantees.iter().map(role).collect();
        before.extend(["PUBLIC".to_string(), ident(&table.owner), "CURRENT_USER".to_string()]);
        before.sort();
        before.dedup();
        commands.push(format!("REVOKE ALL ON TABLE {name} FROM {}", before.join(", ")));
        match &table.grants {
            Some(grants) => commands.extend(grants.iter().map(|grant| grant_command(grant, "", name))),
            None => commands.push(format!("GRANT ALL ON TABLE {name} TO {}", ident(&table.owner))),
        }
    }
    for column in &table.columns {
        let of = format!(" ({})", ident(&column.name));
        commands.extend(column.grants.iter().map(|grant| grant_command(grant, &of, name)));
        commands.extend(column.sequence.iter().flat_map(|sequence| sequence_grants(table, sequence)));
    }
    commands
}

pub(super) fn sequence_grants(table: &TableDefinition, sequence: &Sequence) -> Vec<String> {
    let name = &sequence.name;
    let mut commands = Vec::new();
    if sequence.grants.is_some() || !table.default_sequence_grantees.is_empty() {
        let mut before: Vec<String> = table.default_sequence_grantees.iter().map(role).collect();
        before.push(ident(&table.owner));
        before.sort();
        before.dedup();
        commands.push(format!("REVOKE ALL ON SEQUENCE {name} FROM {}", before.join(", ")));
        match &sequence.grants {
            Some(grants) => commands.extend(grants.iter().map(|grant| {
                let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
                format!("GRANT {} ON SEQUENCE {name} TO {}{option}", grant.privileges.join(", "), role(&grant.role))
            })),
            None => commands.push(format!("GRANT ALL ON SEQUENCE {name} TO {}", ident(&table.owner))),
        }
    }
    commands
}

/// Partitions are reached through their parent: what default privileges gave to them goes.
pub fn leaf_rights(table: &TableDefinition, made: &[QualifiedName]) -> Vec<String> {
    let others: Vec<String> =
        table.default_grantees.iter().filter(|who| who.as_ref() != Some(&table.owner)).map(role).collect();
    if others.is_empty() {
        return Vec::new();
    }
    made.iter().map(|made| format!("REVOKE ALL ON TABLE {made} FROM {}", others.join(", "))).collect()
}

pub(super) fn grant_command(grant: &Grant, columns: &str, table: &QualifiedName) -> String {
    let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
    let privileges: Vec<String> = grant.privileges.iter().map(|privilege| format!("{privilege}{columns}")).collect();
    format!("GRANT {} ON TABLE {table} TO {}{option}", privileges.join(", "), role(&grant.role))
}

/// New tables belong to their maker; these give them to the owner of the table they are part of.
pub fn owner_changes(table: &TableDefinition, made: &[QualifiedName], caller: &str) -> Vec<String> {
    if table.owner == caller {
        return Vec::new();
    }
    let owner = ident(&table.owner);
    made.iter().map(|made| format!("ALTER TABLE {made} OWNER TO {owner}")).collect()
}
