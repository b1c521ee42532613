//! What would make the switch of an operation impossible for ever, told when it is called for: what refers to the tables that
//! it replaces, constraints that rows need not fulfil, and names that are taken where its targets go.

use super::own::own;
use crate::catalog::operation::{Own, Plan};
use crate::error::{Report, Result};
use crate::hierarchy::managed_parent::ManagedParent;
use crate::hierarchy::validate;
use crate::name::{QualifiedName, ident, literal};
use crate::node::channel::Channel;
use crate::pg::sql;
use crate::reshard::switch::swap::below;
use crate::table::definition::{dependents_question, outside_dependents};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::plan::LOCAL;
use std::collections::BTreeMap;

/// Nothing is in the way of the operation. What a leaf that moves takes along.
///
/// Errors: 2BP01 something refers to a table that is replaced; 0A000 what foreign partitions do not allow; 55000 a constraint
/// is not validated; 42P07 a name is taken.
pub fn check(managed: &ManagedParent, plan: &Plan) -> Result<Option<Own>> {
    if plan.sources.is_empty() {
        return Ok(None);
    }
    no_foreign_keys(managed)?;
    let departs = !plan.remote_target_nodes().is_empty();
    if departs {
        validate::fit_for_nodes(&managed.table)?;
        if !managed.has_keys_on_leaves() {
            keys_can_leave(managed)?;
        }
    }
    no_dependents(managed, plan)?;
    validate::all_valid(&managed.table)?;
    let own = own(managed, plan)?;
    names_are_free(plan)?;
    Ok(own)
}

/// A partition that foreign keys point into cannot be taken out, and one that has them would go on to hold on to other
/// tables' rows while it is kept.
fn no_foreign_keys(managed: &ManagedParent) -> Result<()> {
    let tables: Vec<Oid> = managed.members.iter().map(|member| member.oid()).collect();
    let found: Vec<String> = sql::column(
        "SELECT DISTINCT pg_catalog.pg_describe_object('pg_catalog.pg_constraint'::regclass, oid, 0)
         FROM pg_catalog.pg_constraint
         WHERE contype = 'f' AND conparentid = 0 AND (conrelid = ANY ($1) OR confrelid = ANY ($1)) ORDER BY 1",
        &[tables.into()],
    )?;
    refuse(
        &managed.name().to_string(),
        found,
        "Drop the foreign key first; with partitions on nodes there can be none.",
    )
}

/// With the first foreign leaf, the unique keys leave the parent.
fn keys_can_leave(managed: &ManagedParent) -> Result<()> {
    let found: Vec<String> = sql::column(
        "SELECT DISTINCT pg_catalog.pg_describe_object(
             CASE WHEN r.rulename = '_RETURN' THEN 'pg_catalog.pg_class'::regclass ELSE d.classid END,
             CASE WHEN r.rulename = '_RETURN' THEN r.ev_class ELSE d.objid END, 0)
         FROM pg_catalog.pg_index x
         LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = x.indexrelid AND k.conrelid = x.indrelid
         JOIN pg_catalog.pg_depend d ON d.deptype = 'n' AND (
             d.refclassid = 'pg_catalog.pg_constraint'::regclass AND d.refobjid = k.oid
             OR d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = x.indexrelid)
         LEFT JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = d.objid
         WHERE x.indrelid = $1 AND x.indisunique ORDER BY 1",
        &[managed.root.into()],
    )?;
    refuse(
        &format!("the unique keys of {}, which cannot stay on it with partitions on nodes", managed.name()),
        found,
        "Drop them first, and make them again in a form that needs no key.",
    )
}

/// Views and the like of a partition would go with it into oblivion.
fn no_dependents(managed: &ManagedParent, plan: &Plan) -> Result<()> {
    for table in plan.sources.iter().flat_map(|source| &source.tables) {
        let Some(member) = managed.members.iter().find(|member| member.name == table.name) else { continue };
        let own: Vec<Oid> = managed.children(member.oid()).map(|child| child.oid()).collect();
        let mut found = outside_dependents(member.oid(), &own)?;
        if let Some(node) = table.node.as_deref().filter(|node| *node != LOCAL) {
            let there: Option<Vec<String>> = Channel::open(node)?.document(&dependents_question(&table.name))?;
            found.extend(there.into_iter().flatten().map(|what| format!("{what} on node {}", ident(node))));
        }
        refuse(
            &table.name.to_string(),
            found,
            "Another table comes in the place of the partition. Drop them first, or make them on the parent.",
        )?;
    }
    Ok(())
}

fn refuse(name: &str, found: Vec<String>, hint: &str) -> Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    Report::new(
        Code::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
        format!("partitions cannot be replaced while other objects depend on {name}"),
    )
    .detail(format!("They are: {}.", found.join("; ")))
    .hint(hint)
    .into()
}

/// What came to refer to the tables since. Under the lock of the switch, so one question only.
pub fn since(plan: &Plan) -> Result<Option<Report>> {
    let names: Vec<String> =
        plan.sources.iter().flat_map(|source| &source.tables).map(|table| table.name.to_string()).collect();
    let found: Vec<String> = sql::column(
        "SELECT DISTINCT pg_catalog.pg_describe_object(
             CASE WHEN r.rulename = '_RETURN' THEN 'pg_catalog.pg_class'::regclass ELSE d.classid END,
             CASE WHEN r.rulename = '_RETURN' THEN r.ev_class ELSE d.objid END, 0)
         FROM pg_catalog.unnest($1::text[]) AS source (name)
         JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass
             AND d.refobjid = pg_catalog.to_regclass(source.name)::oid AND d.deptype = 'n'
         LEFT JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = d.objid
         LEFT JOIN pg_catalog.pg_constraint k ON d.classid = 'pg_catalog.pg_constraint'::regclass AND k.oid = d.objid
         WHERE d.classid IN ('pg_catalog.pg_rewrite'::regclass, 'pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_policy'::regclass,
                             'pg_catalog.pg_constraint'::regclass)
           AND r.ev_class IS DISTINCT FROM d.refobjid AND coalesce(k.contype = 'f', true)
         ORDER BY 1",
        &[names.into()],
    )?;
    let name = plan.above.to_string();
    Ok(refuse(&format!("those of {name}"), found, "").err().map(Report::from))
}

/// Nothing else has the name of a target on the server where it comes to.
fn names_are_free(plan: &Plan) -> Result<()> {
    let mut by_node: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for table in plan.targets.iter().flat_map(below) {
        by_node.entry(LOCAL.to_string()).or_default().push(&table.name);
        let nodes = match &table.sub {
            None => table.node.iter().cloned().collect(),
            Some(sub) => crate::partitions::partition_ddl::remote_nodes(sub.leaves()),
        };
        for node in nodes.into_iter().filter(|node| node != LOCAL) {
            by_node.entry(node).or_default().push(&table.name);
        }
    }
    let schema = &plan.above.schema;
    for (node, names) in by_node {
        // What is replaced there leaves its name.
        let tables = plan.sources.iter().flat_map(|source| &source.tables);
        let gone = tables.filter(|table| node == LOCAL || table.node.as_ref().is_none_or(|at| *at == node));
        let array = |names: Vec<&str>| names.into_iter().map(literal).collect::<Vec<_>>().join(", ");
        let question = format!(
            "SELECT coalesce(json_agg(taken.name), '[]')::text FROM (
                 SELECT c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {schema}
                 UNION SELECT t.typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
                 WHERE n.nspname = {schema} AND t.typrelid = 0 AND t.typcategory <> 'A') AS taken
             WHERE taken.name = ANY (ARRAY[{}]::name[]) AND taken.name <> ALL (ARRAY[{}]::name[])",
            array(names),
            array(gone.map(|table| table.name.name.as_str()).collect()),
            schema = literal(schema),
        );
        let taken: Option<Vec<String>> =
            if node == LOCAL { sql::document(&question, &[])? } else { Channel::open(&node)?.document(&question)? };
        if let Some(name) = taken.into_iter().flatten().next() {
            let place = if node == LOCAL { String::new() } else { format!(" on node {}", ident(&node)) };
            return Report::new(
                Code::ERRCODE_DUPLICATE_TABLE,
                format!("relation {} already exists{place}", QualifiedName::new(schema.clone(), name)),
            )
            .detail("A new partition would get this name.")
            .hint("Rename or drop what has it there. If it comes from a call that failed seconds ago, it goes away by itself.")
            .into();
        }
    }
    Ok(())
}
