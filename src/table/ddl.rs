//! The parent itself: an empty ordinary table made anew as a partitioned one, with everything its user put on it.

use super::columns::{self, Place};
use super::definition::{Grant, Policy, Sequence, TableDefinition};
use crate::catalog::carried::{Key, Publication};
use crate::name::{QualifiedName, ident, idents, literal};

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
        commands.extend(create_key(key, name, true));
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

/// The commands that put a key or index on `table`; with `named`, under its own name, else under one Postgres picks.
pub fn create_key(key: &Key, table: &QualifiedName, named: bool) -> Vec<String> {
    let mut commands = Vec::new();
    let space = key.tablespace.as_ref();
    if let Some(tablespace) = space {
        commands.push(format!("SET LOCAL default_tablespace = {}", literal(tablespace)));
    }
    match &key.constraint {
        Some(definition) if named => {
            commands.push(format!("ALTER TABLE {table} ADD CONSTRAINT {} {definition}", ident(&key.name)));
        }
        Some(definition) => commands.push(format!("ALTER TABLE {table} ADD {definition}")),
        None => {
            let unique = if key.unique { "UNIQUE " } else { "" };
            let name = if named { format!("{} ", ident(&key.name)) } else { String::new() };
            commands.push(format!("CREATE {unique}INDEX {name}ON {table} USING {}", key.definition));
        }
    }
    if space.is_some() {
        commands.push("SET LOCAL default_tablespace = ''".to_string());
    }
    if named {
        let index = table.sibling(key.name.clone());
        for (column, target) in &key.statistics {
            commands.push(format!("ALTER INDEX {index} ALTER COLUMN {column} SET STATISTICS {target}"));
        }
    }
    commands
}

/// Lets these names be used in the schema: an index of a leaf that Postgres has named so gives way.
pub fn make_way<'a>(schema: &str, names: impl IntoIterator<Item = &'a String>) -> String {
    let names = names.into_iter().map(|name| literal(name)).collect::<Vec<_>>().join(", ");
    format!("SELECT shardkeeper.make_way({}, {names})", literal(schema))
}

/// What is said of single indexes, which partitions do not inherit: replica identity, the order of CLUSTER, statistics
/// targets of expressions. Each leaf's index is the one of the same definition, whatever its name.
pub fn index_marks(table: &TableDefinition, leaves: &[QualifiedName]) -> Vec<String> {
    let names = leaves.iter().map(|leaf| literal(&leaf.to_string())).collect::<Vec<_>>().join(", ");
    let mut commands = Vec::new();
    for key in &table.keys {
        let mut marks = Vec::new();
        if key.replica_identity && table.replica_identity == 'i' {
            marks.push("ALTER TABLE %1$s REPLICA IDENTITY USING INDEX %3$I".to_string());
        }
        if key.clustered {
            marks.push("ALTER TABLE %1$s CLUSTER ON %3$I".to_string());
        }
        for (column, target) in &key.statistics {
            marks.push(format!("ALTER INDEX %2$I.%3$I ALTER COLUMN {column} SET STATISTICS {target}"));
        }
        if marks.is_empty() || leaves.is_empty() {
            continue;
        }
        let body = format!(
            "DECLARE leaf record;
BEGIN
    FOR leaf IN
        SELECT x.indrelid::pg_catalog.regclass AS name, n.nspname, c.relname AS index
        FROM pg_catalog.unnest(ARRAY[{names}]) AS wanted
        JOIN pg_catalog.pg_index x ON x.indrelid = wanted::pg_catalog.regclass AND x.indisunique = {unique}
        JOIN pg_catalog.pg_class c ON c.oid = x.indexrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE pg_catalog.right(pg_catalog.pg_get_indexdef(x.indexrelid), {length}) = {ending}
    LOOP
        EXECUTE pg_catalog.format({marks}, leaf.name, leaf.nspname, leaf.index);
    END LOOP;
END",
            unique = key.unique,
            length = key.definition.chars().count() + " USING ".len(),
            ending = literal(&format!(" USING {}", key.definition)),
            marks = literal(&marks.join("; ")),
        );
        commands.push(format!("DO {}", literal(&body)));
    }
    commands
}

fn create_policy(policy: &Policy, table: &QualifiedName) -> String {
    let roles = policy.roles.iter().map(role).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "CREATE POLICY {} ON {table} AS {} FOR {} TO {roles}",
        ident(&policy.name),
        if policy.permissive { "PERMISSIVE" } else { "RESTRICTIVE" },
        policy.command
    );
    if let Some(using) = &policy.using {
        text += &format!(" USING ({using})");
    }
    if let Some(check) = &policy.check {
        text += &format!(" WITH CHECK ({check})");
    }
    text
}

fn role(role: &Option<String>) -> String {
    role.as_deref().map_or_else(|| "PUBLIC".to_string(), ident)
}

/// The rights exactly as they were: what default privileges gave to the new table goes first.
fn grants(table: &TableDefinition) -> Vec<String> {
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

fn sequence_grants(table: &TableDefinition, sequence: &Sequence) -> Vec<String> {
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

fn grant_command(grant: &Grant, columns: &str, table: &QualifiedName) -> String {
    let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
    let privileges: Vec<String> = grant.privileges.iter().map(|privilege| format!("{privilege}{columns}")).collect();
    format!("GRANT {} ON TABLE {table} TO {}{option}", privileges.join(", "), role(&grant.role))
}

fn comments(table: &TableDefinition, mixed: bool) -> Vec<String> {
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

/// Membership of the table's publications. Rows of foreign leaves are never published from here, so with some of them only
/// the local leaves become members: a parent would promise more than it keeps. So they do where the publication filters
/// rows or columns without publishing through the root, which Postgres refuses for a partitioned table. `root` is `None`
/// when it is a member already.
pub fn publish(
    table: &TableDefinition,
    root: Option<&QualifiedName>,
    leaves: &[QualifiedName],
    mixed: bool,
) -> Vec<String> {
    let mut commands = Vec::new();
    for publication in &table.publications {
        let Publication { name, via_root, filter, columns } = publication;
        let by_leaf = mixed || !via_root && (filter.is_some() || columns.is_some());
        let columns = columns.as_ref().map(|names| format!(" ({})", idents(names))).unwrap_or_default();
        let filter = filter.as_ref().map(|text| format!(" WHERE ({text})")).unwrap_or_default();
        let members = if by_leaf { leaves } else { root.map(std::slice::from_ref).unwrap_or_default() };
        let add = |member| format!("ALTER PUBLICATION {} ADD TABLE {member}{columns}{filter}", ident(name));
        commands.extend(members.iter().map(add));
    }
    commands
}

/// New tables belong to their maker; these give them to the owner of the table they are part of.
pub fn owner_changes(table: &TableDefinition, made: &[QualifiedName], caller: &str) -> Vec<String> {
    if table.owner == caller {
        return Vec::new();
    }
    let owner = ident(&table.owner);
    made.iter().map(|made| format!("ALTER TABLE {made} OWNER TO {owner}")).collect()
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
