//! Keys and indexes as SQL, on whatever server: those of a parent, of a mirror on a node, of single leaves.

use crate::catalog::carried::Key;
use crate::name::{QualifiedName, ident, literal};
use crate::table::definition::TableDefinition;

/// The commands that put a key or index on `table`; with `named`, under its own name, else under one Postgres picks.
pub fn create_index(key: &Key, table: &QualifiedName, named: bool) -> Vec<String> {
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
