//! The trash as people see it: what is there on all servers, how it comes back, and how it is emptied.

use crate::catalog::node::SCHEMA;
use crate::error::{Report, Result};
use crate::hierarchy::sizes::remote;
use crate::name::{QualifiedName, ident, literal};
use crate::node::channel::Channel;
use crate::pg::{role, sql, subtransaction};
use pgrx::PgSqlErrorCode as Code;
use serde::Deserialize;
use shardkeeper_core::name::MAX_BYTES;
use shardkeeper_core::plan::LOCAL;

/// The schema of the trash, on every server.
const TRASH: &str = "shardkeeper_trash";

/// A table in the trash of a server.
#[derive(Debug, Clone, Deserialize)]
pub struct Item {
    /// `local` or a node.
    #[serde(default)]
    pub node: String,
    /// Its name in the schema of the trash.
    pub table: String,
    schema: String,
    name: String,
    pub bytes: i64,
    pub dropped_at: String,
    pub destroyed_at: String,
    keep: String,
}

impl Item {
    /// What it was called.
    pub fn origin(&self) -> QualifiedName {
        QualifiedName::new(self.schema.clone(), self.name.clone())
    }

    /// The call that brings it back.
    pub fn way_back(&self) -> String {
        format!("SELECT shard_restore_trash({}, {});", literal(&self.node), literal(&self.table))
    }
}

fn question(condition: &str) -> String {
    format!(
        "SELECT coalesce(json_agg(json_build_object('table', t.relation, 'schema', t.schema, 'name', t.name, 'keep', t.keep::text,
             'dropped_at', t.dropped_at, 'destroyed_at', t.dropped_at + t.keep, 'bytes', coalesce(
                 (SELECT sum(pg_total_relation_size(p.relid)) FROM pg_partition_tree(c.oid) AS p)::bigint, pg_total_relation_size(c.oid)))
             ORDER BY t.dropped_at, t.relation), '[]')::text
         FROM shardkeeper.trash t JOIN pg_class c ON c.relname = t.relation AND c.relnamespace = to_regnamespace('{TRASH}')
         WHERE t.relation = t.root AND {condition}"
    )
}

/// Tables of the caller's own.
fn here(condition: &str) -> Result<Vec<Item>> {
    let caller = role::current();
    let owned = question(&format!("pg_has_role({}::oid, c.relowner, 'USAGE') AND {condition}", caller.to_u32()));
    let found = role::as_extension_owner(|| sql::document::<Vec<Item>>(&owned, &[]))?;
    Ok(at(LOCAL, found.unwrap_or_default()))
}

fn at(node: &str, mut items: Vec<Item>) -> Vec<Item> {
    items.iter_mut().for_each(|item| item.node = node.to_string());
    items
}

/// Nodes on which the caller can have dropped something.
fn nodes() -> Result<Vec<String>> {
    sql::column(
        "SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_foreign_table t ON t.ftrelid = c.oid
         JOIN pg_catalog.pg_foreign_server s ON s.oid = t.ftserver AND s.srvname = c.relname
         WHERE c.relnamespace = pg_catalog.to_regnamespace($1)
           AND pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'INSERT')
           AND EXISTS (SELECT FROM pg_catalog.pg_user_mappings m WHERE m.srvid = s.oid AND m.umuser IN (0, $2)) ORDER BY 1",
        &[SCHEMA.into(), role::current().into()],
    )
}

/// What the caller dropped on all servers. A node that does not answer costs a warning.
pub fn list() -> Result<Vec<Item>> {
    let mut items = here("true")?;
    for node in nodes()? {
        match subtransaction::attempt(|| remote::<Vec<Item>>(&node, &question("true"))) {
            Ok(found) => items.extend(at(&node, found.unwrap_or_default())),
            Err(report) => {
                pgrx::warning!("node {} does not tell what is in its trash: {}", ident(&node), report.message);
            }
        }
    }
    Ok(items)
}

/// Brings a table back on its server, under the name that it had or another one, as a table of its own; returns the name.
///
/// Errors: 22023 the name is empty; 42622 it is too long; 42704 no such node; 42P01 it is not there; 42P07 its name is taken.
pub fn restore(node: &str, table: &str, name: Option<&str>) -> Result<String> {
    if let Some(name) = name {
        is_name(name)?;
    }
    let bare = table.strip_prefix(TRASH).and_then(|rest| rest.strip_prefix('.')).unwrap_or(table);
    let condition = format!("t.relation = {}", literal(bare));
    let found = match node {
        LOCAL => here(&condition)?,
        _ => Channel::open(node)?.document::<Vec<Item>>(&question(&condition))?.unwrap_or_default(),
    };
    let Some(item) = found.into_iter().next() else {
        return Report::new(
            Code::ERRCODE_UNDEFINED_TABLE,
            format!("table {} is not in the trash of node {}", ident(bare), ident(node)),
        )
        .hint("See the view shard_trash.")
        .into();
    };
    let origin = item.origin();
    let back = origin.sibling(name.unwrap_or(&origin.name));
    let taken = format!("SELECT (to_regclass({}) IS NOT NULL)::text", literal(&back.to_string()));
    let taken = match node {
        LOCAL => sql::one::<String>(&taken, &[])?,
        _ => Channel::open(node)?.query(&taken)?,
    };
    if taken.as_deref() == Some("true") {
        return Report::new(
            Code::ERRCODE_DUPLICATE_TABLE,
            format!("relation {back} already exists on node {}", ident(node)),
        )
        .hint("Give the table another name with the argument name.")
        .into();
    }
    let command = format!("SELECT shardkeeper.take_back({}, {})", literal(bare), literal(&back.name));
    if node == LOCAL {
        role::as_extension_owner(|| sql::run(&command, &[]))?;
    } else {
        let keep = literal(&item.keep);
        let inverse = format!("SELECT shardkeeper.discard({}, {keep}::pg_catalog.interval)", back.regclass());
        Channel::open(node)?.run(&command, &inverse)?;
        crate::background::ensure_running()?;
    }
    Ok(back.to_string())
}

fn is_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, "name is empty")
            .hint("Leave it out, and the table gets the name that it had.")
            .into();
    }
    if name.len() > MAX_BYTES {
        return Report::new(Code::ERRCODE_NAME_TOO_LONG, "name is too long")
            .detail(format!("It has {} bytes, Postgres keeps {MAX_BYTES}.", name.len()))
            .into();
    }
    Ok(())
}

/// Gives up what the caller dropped at least so long ago. On the coordinator it goes at once, as part of the transaction; on
/// nodes the worker destroys it once that has committed.
///
/// Errors: 2BP01 something outside depends on it.
pub fn empty(older_than: &str) -> Result<Vec<Item>> {
    let condition = format!("t.dropped_at <= clock_timestamp() - {}::interval", literal(older_than));
    let mut gone = here(&condition)?;
    for item in &gone {
        role::as_extension_owner(|| {
            sql::run("SELECT shardkeeper.destroy($1::pg_catalog.name)", &[item.table.as_str().into()])
        })?;
    }
    for node in nodes()? {
        let channel = Channel::open(&node)?;
        let found = channel.document::<Vec<Item>>(&question(&condition))?.unwrap_or_default();
        if found.is_empty() {
            continue;
        }
        let set = |item: &Item, keep: &str| {
            let (keep, table) = (literal(keep), literal(&item.table));
            format!("UPDATE shardkeeper.trash SET keep = {keep} WHERE root = {table}")
        };
        let commands: Vec<String> = found.iter().map(|item| set(item, "0")).collect();
        let inverse: Vec<String> = found.iter().map(|item| set(item, &item.keep)).collect();
        channel.run(&commands.join(";\n"), &inverse.join(";\n"))?;
        gone.extend(at(&node, found));
    }
    crate::background::ensure_running()?;
    Ok(gone)
}
