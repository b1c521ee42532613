//! Room beside a default partition. To attach a partition, Postgres reads the local rows of the default one, in case some
//! belong to the new one: under the lock of the switch that would be a long pause. A check on it says beforehand that there
//! are none, and is made true while writers go on. On nodes, what default partitions carry there tells Postgres enough.

use crate::catalog::operation::Operation;
use crate::catalog::parent;
use crate::error::{Error, Report, Result};
use crate::hierarchy::managed_parent::ManagedParent;
use crate::hierarchy::tree_tables::TreeTable;
use crate::name::{QualifiedName, ident, literal};
use crate::node::session;
use crate::pg::{role, sql, transaction};
use crate::reshard::server::Server;
use crate::reshard::switch::gently;
use shardkeeper_core::operation::Kind;

/// What is smaller is read in less time than the locks of a check take.
const SMALL_BYTES: i64 = 4 << 20;

/// Lets the default partition say that it holds no row of the targets. Before the switch; safe to repeat.
pub fn make(operation: &Operation) -> Result<()> {
    let Some(table) = beside(operation)? else { return Ok(()) };
    let needed = format!(
        "SELECT (coalesce(sum(pg_relation_size(t.relid)), 0) > {SMALL_BYTES} AND NOT EXISTS (
             SELECT FROM pg_constraint WHERE conrelid = {table} AND conname = {name} AND convalidated))::text
         FROM pg_partition_tree({table}) AS t WHERE t.isleaf",
        table = table.regclass(),
        name = literal(&operation.staging)
    );
    let mut here = Server::Local { role: operation.role() };
    if session::wait(here.document::<bool>(&needed, &[]))? != Some(true) {
        return Ok(());
    }
    let validate = format!("ALTER TABLE {table} VALIDATE CONSTRAINT {}", ident(&operation.staging));
    gently(&mut here, &statement(operation, &table))
        .and_then(|()| session::wait(here.run(&validate)))
        .map_err(|error| locked(error, &table))
}

/// Takes that away again, also from a table that is not managed any more. Safe to repeat, and when nothing is there.
pub fn clear(operation: &Operation) -> Result<()> {
    let table: Option<QualifiedName> = transaction::run(|| {
        sql::document(
            "SELECT pg_catalog.json_build_object('schema', n.nspname, 'name', c.relname)::text
             FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE k.conname = $1 AND k.coninhcount = 0",
            &[operation.staging.as_str().into()],
        )
    })?;
    let Some(table) = table else { return Ok(()) };
    let remove = format!("ALTER TABLE IF EXISTS {table} DROP CONSTRAINT IF EXISTS {}", ident(&operation.staging));
    gently(&mut Server::Local { role: operation.role() }, &remove).map_err(|error| locked(error, &table))
}

/// The default partition beside the targets, if it has rows here.
fn beside(operation: &Operation) -> Result<Option<QualifiedName>> {
    if operation.kind == Kind::Convert {
        return Ok(None);
    }
    transaction::run(|| {
        if parent::load(operation.parent())?.is_none() {
            return Ok(None);
        }
        let managed = role::acting_as(operation.role(), || ManagedParent::read(operation.parent()))?;
        let above = managed.members.iter().find(|member| member.name == operation.plan.above);
        let default = above.and_then(|above| managed.default_of(above.oid()));
        // One that is replaced itself gives the targets their rows.
        let default =
            default.filter(|default| !operation.plan.sources.iter().any(|source| source.name == default.name));
        let is_here = |default: &&TreeTable| {
            managed.tables_below(default.oid()).into_iter().any(|member| member.is_leaf() && member.server.is_none())
        };
        Ok(default.filter(is_here).map(|default| default.name.clone()))
    })
}

/// Adds the check: the bounds of the targets, as Postgres itself writes them.
fn statement(operation: &Operation, table: &QualifiedName) -> String {
    let body = format!(
        "DECLARE
    conditions text;
BEGIN
    SELECT pg_catalog.string_agg('NOT (' || pg_catalog.pg_get_partition_constraintdef(c.oid) || ')', ' AND ') INTO conditions
    FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = {staged} AND pg_catalog.pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT';
    IF conditions IS NOT NULL THEN
        EXECUTE pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I, ADD CONSTRAINT %I CHECK (%s) NOT VALID',
            {table}, {name}, {name}, conditions);
    END IF;
END",
        staged = operation.staged(&operation.plan.above.name).regclass(),
        table = literal(&table.to_string()),
        name = literal(&operation.staging),
    );
    format!("DO {}", literal(&body))
}

fn locked(error: Error, table: &QualifiedName) -> Error {
    match error {
        Error::Report(refused) if refused.is_lock() => {
            Report::new(refused.code, format!("sessions keep the lock of the default partition {table}"))
                .detail(refused.one_line())
                .hint("It is tried again and again. See pg_locks for a session that keeps a lock on it.")
                .into()
        }
        other => other,
    }
}
