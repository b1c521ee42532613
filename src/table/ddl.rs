//! The commands that make a table and all that is on it, on any server: the parent made anew as a partitioned table, its mirrors on
//! nodes, single leaves. Each kind of object has its commands in a file of its own.

mod comment;
mod grant;
mod index;
mod policy;
mod publication;

pub use comment::key_comments;
pub use grant::{leaf_rights, owner_changes};
pub use index::{create_index, index_marks, make_way};
pub use publication::publish;

use super::columns::{self, Place};
use super::definition::TableDefinition;
use crate::name::{QualifiedName, ident, literal};
use comment::comments;
use grant::grants;
use policy::create_policy;

/// What comes before the partitions: the old table goes, the new one takes its name, keys and settings.
///
/// `partition_by` is the clause of the top level. With `mixed`, some leaves are foreign: then keys that are unique can
/// only be on leaves and mirrors, not here.
pub fn before_partitions(
    table: &TableDefinition,
    partition_by: &str,
    mixed: bool,
    sequences: &[SequenceState],
    caller: &str,
) -> Vec<String> {
    let name = &table.name;
    let mut commands = Vec::new();
    for sequence in owned_sequences(table) {
        commands.push(format!("ALTER SEQUENCE {sequence} OWNED BY NONE"));
    }
    commands.push(format!("DROP TABLE {name}"));
    commands.push(create_table(table, name, Place::Root, partition_by));
    // Early: a sequence belongs to the owner of its table.
    commands.extend(owner_changes(table, std::slice::from_ref(name), caller));
    for column in &table.columns {
        let owner = format!("{name}.{}", ident(&column.name));
        commands.extend(column.owned.iter().map(|sequence| format!("ALTER SEQUENCE {sequence} OWNED BY {owner}")));
    }
    commands.extend(sequences.iter().map(SequenceState::command));
    alter(&mut commands, name, columns::settings(table));
    for key in table.keys.iter().filter(|key| !(mixed && key.unique)) {
        commands.extend(create_index(key, name, true));
    }
    commands.extend(table.triggers.iter().map(|trigger| trigger.definition.clone()));
    commands
}

/// What comes after the partitions: rights, comments, row security, and what refers to the finished tree.
pub fn after_partitions(
    table: &TableDefinition,
    tables: &[QualifiedName],
    local_leaves: &[QualifiedName],
    caller: &str,
    mixed: bool,
) -> Vec<String> {
    let name = &table.name;
    let mut commands = Vec::new();
    for trigger in &table.triggers {
        let state = match trigger.enabled {
            'D' => "DISABLE TRIGGER",
            'R' => "ENABLE REPLICA TRIGGER",
            'A' => "ENABLE ALWAYS TRIGGER",
            _ => continue,
        };
        commands.push(format!("ALTER TABLE {name} {state} {}", ident(&trigger.name)));
    }
    for statistics in &table.statistics {
        commands.push(statistics.create(&statistics.name, name));
        if let Some(target) = statistics.target {
            commands.push(format!("ALTER STATISTICS {} SET STATISTICS {target}", statistics.name));
        }
        if table.owner != caller {
            commands.push(format!("ALTER STATISTICS {} OWNER TO {}", statistics.name, ident(&table.owner)));
        }
    }
    commands.extend(index_marks(table, local_leaves));
    commands.extend(publish(table, Some(name), local_leaves, mixed));
    commands.extend(table.policies.iter().map(|policy| create_policy(policy, name)));
    commands.extend(comments(table, mixed));
    if table.row_security {
        commands.push(format!("ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"));
    }
    if table.force_row_security {
        commands.push(format!("ALTER TABLE {name} FORCE ROW LEVEL SECURITY"));
    }
    commands.extend(owner_changes(table, tables, caller));
    commands.extend(grants(table));
    commands.extend(leaf_rights(table, tables));
    commands
}

/// `CREATE TABLE name (…) [PARTITION BY …] [WITH …] [TABLESPACE …]`. A partitioned table has no storage of its own.
pub fn create_table(table: &TableDefinition, name: &QualifiedName, place: Place, partition_by: &str) -> String {
    let tail = if partition_by.is_empty() { storage(table) } else { format!(" {partition_by}{}", tablespace(table)) };
    format!("CREATE TABLE {name} {}{tail}", columns::list(table, place))
}

/// Access method, storage parameters and tablespace of a leaf.
pub fn storage(table: &TableDefinition) -> String {
    let mut text = String::new();
    if let Some(method) = &table.access_method {
        text += &format!(" USING {}", ident(method));
    }
    if !table.options.is_empty() {
        text += &format!(" WITH ({})", columns::options(&table.options));
    }
    text + &tablespace(table)
}

fn tablespace(table: &TableDefinition) -> String {
    table.tablespace.as_ref().map(|name| format!(" TABLESPACE {}", ident(name))).unwrap_or_default()
}

pub fn alter(commands: &mut Vec<String>, name: &QualifiedName, actions: Vec<String>) {
    if !actions.is_empty() {
        commands.push(format!("ALTER TABLE {name} {}", actions.join(", ")));
    }
}

fn owned_sequences(table: &TableDefinition) -> impl Iterator<Item = &QualifiedName> {
    table.columns.iter().flat_map(|c| &c.owned)
}

/// How far an identity sequence had counted.
#[derive(Debug, Clone)]
pub struct SequenceState {
    pub name: QualifiedName,
    pub last_value: i64,
    pub is_called: bool,
}

impl SequenceState {
    fn command(&self) -> String {
        let name = literal(&self.name.to_string());
        format!("SELECT pg_catalog.setval({name}, {}, {})", self.last_value, self.is_called)
    }
}
