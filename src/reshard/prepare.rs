//! The first step: everything is checked, the staging schema is built, and, unless writers will wait, changes of the sources begin to
//! be kept.

pub mod default_exclusion;
pub mod prerequisites;
pub mod staging;

use self::prerequisites::{check_source, leaves_on};
use self::staging::Staging;
use super::convert::source_table::OperationTable;
use super::outcome::{Step, fail};
use super::revert::shared_slot;
use super::server::{BRIEF, Server};
use super::{cleanup, lock_holders, run, switch};
use crate::catalog::operation::Operation;
use crate::catalog::parent;
use crate::error::{Error, Report, Result};
use crate::hierarchy::managed_parent::ManagedParent;
use crate::name::{QualifiedName, ident, literal};
use crate::node::session;
use crate::partitions::create::{self, discard, fitted};
use crate::partitions::grants;
use crate::partitions::mirror;
use crate::partitions::mirror_path::Way;
use crate::partitions::partition_ddl::Blueprint;
use crate::partitions::preflight::{self, Load, Preflight};
use crate::partitions::script::Script;
use crate::pg::{role, sql, timeout, transaction};
use pgrx::PgSqlErrorCode as Code;
use shardkeeper_core::operation::Mode;
use shardkeeper_core::plan::LOCAL;
use std::time::Duration;

/// A slot waits for the transactions that run when it is made, and for those that run then. Nothing else is heard meanwhile:
/// at first it is given little time, and from try to try more.
const SLOT_PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

pub fn prepare(operation: &Operation) -> Step {
    let follows = operation.mode == Mode::Online;
    if !follows {
        // The way back of a switch that was half made leads through what is removed here.
        switch::undo_halves(operation)?;
    }
    cleanup::way_back(operation)?;
    cleanup::staging(operation)?;
    if !operation.converts() {
        as_planned(operation)?;
    }
    let staging = Staging::read(operation)?;
    for node in operation.plan.source_nodes().iter().filter(|_| follows) {
        check_source(operation, &staging, node)?;
    }
    build_here(operation, &staging)?;
    for node in &operation.plan.remote_target_nodes() {
        build_on(operation, &staging, node)?;
    }
    for node in operation.plan.source_nodes().iter().filter(|_| follows) {
        let tables: Vec<QualifiedName> = leaves_on(operation, node).cloned().collect();
        shared_slot::give_way(operation, node)?;
        publish(operation, node, &operation.staging, &tables)?;
    }
    Ok(())
}

/// The partitions are still those that the plan was made for.
fn as_planned(operation: &Operation) -> Step {
    let managed = transaction::run(|| role::acting_as(operation.role(), || ManagedParent::read(operation.parent())))?;
    for table in operation.plan.sources.iter().flat_map(|source| &source.tables) {
        let found = managed.members.iter().find(|member| member.name == table.name);
        let same = found.is_some_and(|member| {
            member.is_leaf() == table.node.is_some() && table.node.as_deref().is_none_or(|node| node == member.node())
        });
        if !same {
            return fail(
                Report::new(
                    Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!("partition {} is not what it was when the operation was called for", table.name),
                )
                .hint("Call for the operation again."),
            );
        }
    }
    Ok(())
}

fn build_here(operation: &Operation, staging: &Staging) -> Result<()> {
    let commands = staging.local_commands();
    transaction::run(|| {
        // The owner may have no right to make schemas; what is in it is the owner's.
        let owner = role::name(operation.role())?;
        sql::run(&format!("CREATE SCHEMA {} AUTHORIZATION {}", ident(&operation.staging), ident(&owner)), &[])?;
        role::acting_as(operation.role(), || sql::run_quietly(&commands.join(";\n")))
    })
}

fn build_on(operation: &Operation, staging: &Staging, node: &str) -> Result<()> {
    let survey = if operation.converts() { look(operation, node)? } else { way(operation, node)? };
    // Others get their rights at the switch.
    let commands = staging.node_commands(node, &survey);
    session::wait(async {
        let mut place = Server::open(node, operation.role(), BRIEF).await?;
        place.run(&commands.join(";\n")).await
    })
}

/// Where a whole mirror will be made, nothing is in the way. The types of its columns are made at once.
fn look(operation: &Operation, node: &str) -> Result<Preflight> {
    transaction::run(|| {
        let source = OperationTable::read(operation)?;
        role::acting_as(operation.role(), || {
            let survey = create::survey_on(&source.table, &operation.plan.target_tree(), node)?;
            let mut script = Script::default();
            script.on_node(node, survey.needs.commands.clone(), survey.needs.inverse.join(";\n"));
            script.run()?;
            Ok(survey)
        })
    })
}

/// The mirror on the node down to the table whose partitions change, in one transaction with the coordinator's catalog.
pub fn way(operation: &Operation, node: &str) -> Result<Preflight> {
    transaction::run(|| {
        role::acting_as(operation.role(), || {
            let (managed, _) = ManagedParent::open(operation.parent())?;
            let plan = &operation.plan;
            let Some(above) = managed.members.iter().find(|member| member.name == plan.above) else {
                return parent::not_managed(operation.parent());
            };
            let way = Way { managed: &managed, above, labels: &plan.labels };
            let missing = way.missing_on(node)?;
            let names: Vec<String> = missing.iter().map(|(member, _)| member.name.name.clone()).collect();
            let load = Load { leaves: 0, foreign: 0, partitioned: names.len() };
            let survey = preflight::check_node(node, &managed.table, &names, load)?;
            let Some((first, _)) = missing.first() else { return Ok(survey) };
            let table = fitted(&managed.table, &survey);
            let keys = managed.keys()?;
            let blueprint = Blueprint { table: &table, keys: &keys, mixed: true };
            let mut commands = survey.needs.commands.clone();
            commands.extend(way.make(&blueprint, &missing)?);
            let made: Vec<QualifiedName> = missing.iter().map(|(member, _)| member.name.clone()).collect();
            let rights = grants::wanted(managed.root, node)?;
            commands.extend(grants::on_node(&rights, &survey, &made)?);
            let away = discard(&first.name);
            let inverse = match first.parent() {
                Some(parent) => {
                    let parent = &managed.member(parent)?.name;
                    format!("ALTER TABLE {parent} DETACH PARTITION {};\n{away}", first.name)
                }
                None => away,
            };
            let mut script = Script::default();
            script.on_node(node, commands, survey.needs.undo(inverse));
            script.run()?;
            mirror::add(managed.root, node, &rights)?;
            Ok(survey)
        })
    })
}

/// From here on, all changes of the sources on this server are kept until the operation is over.
///
/// Under `name`, by a publication of these tables and a slot.
pub fn publish(operation: &Operation, node: &str, name: &str, tables: &[QualifiedName]) -> Step {
    let told = session::wait(async {
        let mut place = Server::open(node, operation.role(), BRIEF).await?;
        place.document::<bool>(&tells_computed(tables), &[]).await
    })?;
    let how = if told == Some(true) { " WITH (publish_generated_columns = stored)" } else { "" };
    let tables = tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let publication = format!("CREATE PUBLICATION {} FOR TABLE {tables}{how}", ident(name));
    match node {
        // As the server's own superuser: the owner need not have REPLICATION.
        LOCAL => transaction::run(|| sql::run_quietly(&publication))?,
        _ => session::wait(async { Server::open(node, operation.role(), BRIEF).await?.run(&publication).await })?,
    }
    make_slot(operation, node, name)
}

/// From here on, the server keeps its log for a slot of this name.
pub fn make_slot(operation: &Operation, node: &str, name: &str) -> Step {
    let (mut patience, most) = SLOT_PATIENCE;
    loop {
        lock_holders::wait_until_quiet(operation, node)?;
        match make_slot_within(operation, node, name, patience) {
            // Another transaction has come in between.
            Err(Error::Report(report)) if report.code == Code::ERRCODE_QUERY_CANCELED => {
                lock_holders::says_who_is_older(operation, node)?;
                run::look(operation)?;
                patience = most.min(patience * 2);
            }
            outcome => return Ok(outcome?),
        }
    }
}

fn make_slot_within(operation: &Operation, node: &str, name: &str, patience: Duration) -> Result<()> {
    let slot = format!(
        "SELECT slot_name::text FROM pg_catalog.pg_create_logical_replication_slot({}, 'pgoutput')",
        literal(name)
    );
    if node == LOCAL {
        return transaction::run(|| {
            let _deadline = timeout::deadline(patience);
            // Only a transaction without an id of its own can make a slot. It waits for the ends of transactions, which
            // count as locks.
            sql::one_without_id::<String>("SELECT pg_catalog.set_config('lock_timeout', '0', true)", &[])?;
            sql::one_without_id::<String>(&slot, &[]).map(|_| ())
        });
    }
    session::wait(async {
        let mut place = Server::open(node, operation.role(), BRIEF).await?;
        let patience = patience.as_millis();
        place.run(&format!("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = {patience}; {slot}")).await
    })
}

/// From Postgres 18 on, whole rows can be told only with what is computed in them; without, writers would be refused.
fn tells_computed(tables: &[QualifiedName]) -> String {
    let names = tables.iter().map(|table| literal(&table.to_string())).collect::<Vec<_>>().join(", ");
    format!(
        "SELECT (current_setting('server_version_num')::int >= 180000 AND EXISTS (
             SELECT FROM unnest(ARRAY[{names}]) AS n JOIN pg_class c ON c.oid = n::regclass
             JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relreplident = 'f' AND a.attgenerated = 's'))::text"
    )
}
