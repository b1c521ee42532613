//! The switch back of a plain table that became a parent: the tree leaves, and the table takes its place again.

use crate::catalog::operation::{self, Operation};
use crate::catalog::{moved, parent};
use crate::error::{Error, Report, Result};
use crate::hierarchy::managed_parent::ManagedParent;
use crate::name::{QualifiedName, ident, literal};
use crate::partitions::script::Script;
use crate::pg::{parent_cache as cache, role, sql};
use crate::reshard::apply::Applier;
use crate::reshard::outcome::{Step, fail};
use crate::reshard::switch::laps::Laps;
use crate::reshard::switch::{as_planned, drain, hold};
use crate::table::ddl;
use crate::table::definition::{TableDefinition, outside_dependents};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::operation::State;

/// What was made since on the parent would be left with a table that goes. Told when the revert is called for; what comes later
/// ends the revert, and not the way back.
///
/// Errors: 2BP01 there is something.
pub fn no_dependents(operation: &Operation, managed: &ManagedParent) -> Result<()> {
    let partitions: Vec<Oid> = managed.tables_below(managed.root).iter().map(|member| member.oid()).collect();
    let others = role::acting_as(operation.role(), || outside_dependents(managed.root, &partitions))?;
    if others.is_empty() {
        return Ok(());
    }
    let text = format!("other objects depend on {} since it became a parent", managed.name());
    Report::new(Code::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST, text)
        .detail(format!("They are: {}.", others.join("; ")))
        .hint(format!("Drop them, and run SELECT shard_revert({});", operation.id))
        .into()
}

/// One attempt, in the caller's transaction.
pub fn switch(operation: &Operation) -> Step {
    let mut applier = Applier::open(operation)?;
    let (managed, _) = hold(operation, &mut applier)?;
    let planned = operation.plan.sources.iter().map(|source| source.tables.len()).sum::<usize>();
    let partitions: Vec<Oid> = managed.tables_below(managed.root).iter().map(|member| member.oid()).collect();
    let below = partitions.iter().filter(|oid| **oid != managed.root).count();
    if below != planned {
        let text = format!("{} has other partitions than it got when it became a parent", managed.name());
        return fail(Report::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, text));
    }
    as_planned(operation, &managed, &managed.name().to_string())?;
    no_dependents(operation, &managed)?;
    drain(operation, &mut applier, &mut Laps::begin())?;
    let change = Return::of(operation, &managed)?;
    change.leave_publications()?;
    role::acting_as(operation.role(), || change.script()?.run())?;
    change.join_publications()?;
    parent::delete(managed.root)?;
    moved::add(std::iter::once(managed.name().clone()))?;
    operation::set_parent(operation.id, change.old)?;
    operation::enter(operation.id, State::Reverted, None)?;
    cache::forget_everywhere(managed.root);
    cache::forget_everywhere(change.old);
    Ok(())
}

struct Return<'a> {
    operation: &'a Operation,
    managed: &'a ManagedParent,
    old: Oid,
    /// The plain table, still in the retired schema.
    table: TableDefinition,
}

impl<'a> Return<'a> {
    fn of(operation: &'a Operation, managed: &'a ManagedParent) -> Result<Self> {
        let name = operation.staged(&managed.name().name);
        let old = sql::one::<Oid>("SELECT pg_catalog.to_regclass($1)::oid", &[name.to_string().into()])?;
        let table = role::acting_as(operation.role(), || old.map_or(Ok(None), TableDefinition::load))?;
        match (old, table) {
            (Some(old), Some(table)) => Ok(Self { operation, managed, old, table }),
            _ => Err(Error::from(Report::new(Code::ERRCODE_UNDEFINED_TABLE, format!("{name} is gone")))),
        }
    }

    fn name(&self) -> &QualifiedName {
        self.managed.name()
    }

    fn script(&self) -> Result<Script> {
        let mut script = Script::default();
        for node in self.operation.plan.remote_nodes() {
            let away = self.operation.retired();
            let (mut commands, mut inverse) = (Vec::new(), Vec::new());
            for table in self.managed.tables_on(&node)? {
                commands.push(table.relocation(&away));
                inverse.push(QualifiedName::new(away.clone(), table.name.clone()).relocation(&table.schema));
            }
            inverse.reverse();
            script.on_node(&node, commands, inverse.join(";\n"));
        }
        script.local(self.here());
        Ok(script)
    }

    fn here(&self) -> Vec<String> {
        let (name, away) = (self.name(), self.operation.retired());
        let columns = &self.managed.table.columns;
        let owned = || columns.iter().flat_map(|column| column.owned.iter().map(move |sequence| (column, sequence)));
        let mut commands = Vec::new();
        commands.extend(owned().map(|(_, sequence)| format!("ALTER SEQUENCE {sequence} OWNED BY NONE")));
        commands.extend(self.managed.table.statistics.iter().map(|s| format!("DROP STATISTICS {}", s.name)));
        commands.push(name.relocation(&away));
        let below = self.managed.tables_below(self.managed.root);
        commands.extend(below.iter().filter(|m| m.oid() != self.managed.root).map(|m| m.name.relocation(&away)));
        commands.extend(self.statistics_back());
        commands.push(self.table.name.relocation(&name.schema));
        for (column, sequence) in owned() {
            commands.push(format!("ALTER SEQUENCE {sequence} OWNED BY {name}.{}", ident(&column.name)));
        }
        for column in columns.iter().filter(|column| !column.owned.is_empty()) {
            let default = column.default.iter();
            commands.extend(default.map(|default| {
                format!("ALTER TABLE {name} ALTER COLUMN {} SET DEFAULT {default}", ident(&column.name))
            }));
        }
        // An identity column goes on counting where the parent's was.
        for column in self.table.columns.iter().filter(|column| !column.identity.is_empty()) {
            let parents = self.managed.table.column(&column.name).and_then(|found| found.sequence.as_ref());
            if let (Some(_), Some(new)) = (&column.sequence, parents) {
                commands.push(format!(
                    "SELECT pg_catalog.setval(pg_catalog.pg_get_serial_sequence({}, {}), last_value, is_called) FROM {}",
                    literal(&name.to_string()),
                    literal(&column.name),
                    QualifiedName::new(self.operation.retired(), new.name.name.clone())
                ));
            }
        }
        commands
    }

    /// The table's own statistics objects get the names back that the parent's had: first those of other schemas than the
    /// table's, which go back there; the others go with the table.
    fn statistics_back(&self) -> Vec<String> {
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            self.managed.table.statistics.iter().partition(|s| s.name.schema == self.name().schema);
        let mut old: Vec<_> = self.table.statistics.iter().collect();
        let mut commands = Vec::new();
        for statistics in elsewhere.into_iter().chain(here) {
            // Of several that are alike, the one that could keep its name.
            let alike = |same_name: bool| {
                old.iter().position(|o| {
                    o.definition == statistics.definition && (!same_name || o.name.name == statistics.name.name)
                })
            };
            let Some(found) = alike(true).or_else(|| alike(false)).map(|at| old.remove(at)) else { continue };
            let (mut place, wanted) = (found.name.clone(), &statistics.name);
            if wanted.schema != self.name().schema {
                commands.push(format!("ALTER STATISTICS {place} SET SCHEMA {}", ident(&wanted.schema)));
                place.schema.clone_from(&wanted.schema);
            }
            if place.name != wanted.name {
                commands.push(format!("ALTER STATISTICS {place} RENAME TO {}", ident(&wanted.name)));
            }
        }
        commands
    }

    /// As the worker itself: a publication can be of another owner.
    fn leave_publications(&self) -> Result<()> {
        let tables: Vec<Oid> = self.managed.members.iter().map(|m| m.oid()).chain([self.managed.root]).collect();
        let commands: Vec<String> = sql::column(
            "SELECT pg_catalog.format('ALTER PUBLICATION %I DROP TABLE %s', p.pubname, r.prrelid::regclass)
             FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
             WHERE r.prrelid = ANY ($1) AND p.pubname <> $2",
            &[tables.into(), self.operation.staging.as_str().into()],
        )?;
        commands.iter().try_for_each(|command| sql::run_quietly(command))
    }

    fn join_publications(&self) -> Result<()> {
        let commands = ddl::publish(&self.managed.table, Some(self.name()), &[], false);
        commands.iter().try_for_each(|command| sql::run_quietly(command))
    }
}
