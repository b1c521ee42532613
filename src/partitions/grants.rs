//! Rights on nodes: a role with its own user mapping reaches a leaf as another role there, which needs the same rights.
//!
//! The mirror's row in the catalog remembers what was given, so that a later GRANT or REVOKE on the parent is followed.

use super::preflight::Preflight;
use crate::catalog::mirror;
use crate::error::{Report, Result};
use crate::hierarchy::managed_parent::ManagedParent;
use crate::name::{QualifiedName, ident, idents, literal};
use crate::node::channel::Channel;
use crate::pg::{role, sql, subtransaction};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use serde::Deserialize;
use serde_json::Value;

/// What the role that a user mapping leads to may do with the tables of one parent.
#[derive(Debug, Deserialize)]
struct Rights {
    remote: String,
    table: Vec<String>,
    /// Privilege and columns, for rights on single columns.
    columns: Vec<(String, Vec<String>)>,
}

/// The rights that mapped roles on `node` should have on the tables of `parent`, as the catalog keeps them.
pub fn wanted(parent: Oid, node: &str) -> Result<Value> {
    let found = role::as_extension_owner(|| {
        sql::document::<Value>("SELECT shardkeeper.rights($1, $2)::text", &[parent.into(), node.into()])
    })?;
    Ok(found.unwrap_or(Value::Array(Vec::new())))
}

/// The commands that give mapped roles these rights on `tables`. `owner` is the role there that owns the tables.
pub fn commands(rights: &Value, owner: &str, owns_schema: bool, tables: &[QualifiedName]) -> Result<Vec<String>> {
    let Some(first) = tables.first() else { return Ok(Vec::new()) };
    let list = list(tables);
    let mut commands = Vec::new();
    for right in others(rights, owner)?.iter().filter(|r| !(r.table.is_empty() && r.columns.is_empty())) {
        let to = ident(&right.remote);
        if owns_schema {
            commands.push(format!("GRANT USAGE ON SCHEMA {} TO {to}", ident(&first.schema)));
        }
        if !right.table.is_empty() {
            commands.push(format!("GRANT {} ON TABLE {list} TO {to}", right.table.join(", ")));
        }
        for (privilege, columns) in &right.columns {
            commands.push(format!("GRANT {privilege} ({}) ON TABLE {list} TO {to}", idents(columns)));
        }
    }
    commands.sort();
    commands.dedup();
    Ok(commands)
}

/// The same for tables that a call makes on a node, with the schemas that it makes for their types.
pub fn on_node(rights: &Value, survey: &Preflight, tables: &[QualifiedName]) -> Result<Vec<String>> {
    let mut all = commands(rights, &survey.role, survey.owns_schema, tables)?;
    for schema in &survey.needs.schemas {
        let mut roles: Vec<String> = others(rights, &survey.role)?.iter().map(|right| ident(&right.remote)).collect();
        roles.dedup();
        all.extend(roles.iter().map(|role| format!("GRANT USAGE ON SCHEMA {} TO {role}", ident(schema))));
    }
    all.sort();
    all.dedup();
    Ok(all)
}

/// Brings the rights on the mirrors of `parent` in step with those here: on one node, or on all. What a node refuses or
/// a node that is down costs a warning: GRANT and REVOKE on the coordinator hold all the same.
pub fn follow(parent: Oid, only: Option<&str>) -> Result<()> {
    for node in mirror::nodes(parent)? {
        if only.is_some_and(|only| only != node) {
            continue;
        }
        if let Err(report) = subtransaction::attempt(|| follow_on(parent, &node)) {
            pgrx::warning!("rights on node {} are not in step with those here: {}", ident(&node), report.message);
        }
    }
    Ok(())
}

/// The same for every parent with a mirror on the node, after a role got its user mapping.
pub fn follow_all(node: &str) -> Result<()> {
    let parents = role::as_extension_owner(|| mirror::parents_on(node))?;
    parents.into_iter().try_for_each(|parent| follow(parent, Some(node)))
}

/// A table whose owner has no way to a node serves everybody else: the caller hears of it now, not the owner at the first query.
pub fn warn_of_owner_without_way(table: Oid, nodes: &[String]) -> Result<()> {
    let lacking = sql::documents::<(String, String)>(
        "SELECT pg_catalog.json_build_array(r.rolname, node)::text
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
         CROSS JOIN pg_catalog.unnest($2::text[]) AS node
         WHERE c.oid = $1 AND NOT EXISTS (
             SELECT FROM pg_catalog.pg_user_mappings m WHERE m.srvname = node AND m.umuser IN (c.relowner, 0))
         ORDER BY node",
        &[table.into(), nodes.to_vec().into()],
    )?;
    for (owner, node) in lacking {
        let text = format!("role {}, who owns the table, has no user mapping for node {}", ident(&owner), ident(&node));
        Report::new(Code::ERRCODE_WARNING, text)
            .detail("Nothing that this role does with partitions there will work, and no data can be moved.")
            .hint(format!(
                "Run SELECT shard_grant_node({}, {}, username => …, password => …);",
                literal(&node),
                literal(&owner)
            ))
            .warn();
    }
    Ok(())
}

fn follow_on(parent: Oid, node: &str) -> Result<()> {
    let rights = wanted(parent, node)?;
    let before = mirror::rights(parent, node)?;
    if rights == before {
        return Ok(());
    }
    let managed = ManagedParent::read(parent)?;
    let tables = managed.tables_on(node)?;
    #[derive(Deserialize)]
    struct There {
        owner: String,
        is_owner: bool,
        owns_schema: bool,
    }
    let question = format!(
        "SELECT json_build_object('owner', pg_get_userbyid(c.relowner), 'is_owner', pg_has_role(c.relowner, 'USAGE'),
             'owns_schema', pg_has_role(n.nspowner, 'USAGE'))::text
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {}",
        managed.name().regclass()
    );
    let channel = Channel::open(node)?;
    let Some(there) = channel.document::<There>(&question)? else { return Ok(()) };
    // Postgres lets others give the command and only warns that nothing was done.
    if !there.is_owner {
        return Report::new(
            Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!(
                "the caller's role there does not own {}, which belongs to {}",
                managed.name(),
                ident(&there.owner)
            ),
        )
        .into();
    }
    let change = |from: &Value, to: &Value| -> Result<String> {
        let mut text = revocations(from, &there.owner, &tables)?;
        text.extend(commands(to, &there.owner, there.owns_schema, &tables)?);
        Ok(text.join(";\n"))
    };
    channel.run(&change(&before, &rights)?, &change(&rights, &before)?)?;
    mirror::add(parent, node, &rights)
}

/// The commands that take these rights away again.
pub fn revocations(rights: &Value, owner: &str, tables: &[QualifiedName]) -> Result<Vec<String>> {
    let list = list(tables);
    let mut roles: Vec<String> = others(rights, owner)?.iter().map(|right| ident(&right.remote)).collect();
    roles.sort();
    roles.dedup();
    Ok(roles.iter().map(|role| format!("REVOKE ALL ON TABLE {list} FROM {role}")).collect())
}

fn others(rights: &Value, owner: &str) -> Result<Vec<Rights>> {
    let rights: Vec<Rights> = serde_json::from_value(rights.clone())?;
    Ok(rights.into_iter().filter(|right| right.remote != owner).collect())
}

fn list(tables: &[QualifiedName]) -> String {
    tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
