//! A populated table becomes a parent: what is decided when that is called for, and the switch.
//!
//! The staged tree is the whole new hierarchy. At the switch its root goes to the schema of the old table, takes its name and
//! gets everything else that the user put on it; the old table goes to the retired schema. On nodes the staged mirror moves likewise.

pub mod convert_back;
pub mod source_table;

use self::source_table::OperationTable;
use super::apply::Applier;
use super::outcome::Step;
use super::prepare::prerequisites;
use super::switch::laps::Laps;
use super::switch::swap::below;
use super::switch::write_fence;
use super::switch::{approach, drain, lock_parent};
use super::{plan as plans, revert};
use crate::catalog::carried::Statistics;
use crate::catalog::operation::{self, Before, NewOperation, Operation, Plan, Source, SourceTable};
use crate::catalog::{drain, moved, parent, partition};
use crate::error::{Report, Result};
use crate::hierarchy::bound::default_check;
use crate::hierarchy::validate;
use crate::name::{QualifiedName, ident, literal};
use crate::partitions::create::{self, Checked, Intent, extras, local_leaves};
use crate::partitions::partition_ddl::{lives_on, remote_nodes};
use crate::partitions::preflight::Preflight;
use crate::partitions::script::Script;
use crate::partitions::{grants, mirror};
use crate::pg::{parent_cache as cache, relation, role, sql};
use crate::table::ddl;
use crate::table::definition::TableDefinition;
use crate::table::publications::{self, Accept};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use serde_json::Value;
use shardkeeper_core::operation::{Kind, Mode, State};
use shardkeeper_core::plan::{Bound, LOCAL, Partition, Tree};
use shardkeeper_core::spec::Level;
use std::collections::BTreeMap;

/// How long the old table is kept.
const KEEP: &str = "1 day";
/// In bytes.
const READ_IN_A_MOMENT: i64 = 256 << 20;

/// Checks everything that the operation will need, and records it. Writers go on, with `mode` online also while the rows move.
///
/// Errors: those of `shard_create_parent` on an empty table; 42501 the owner may not create tables in its schema; 55000 no
/// replica identity, or `wal_level` is not logical; 55006 another operation runs on the table.
pub fn start(oid: Oid, level: &Level, mode: Mode, accept: Accept) -> Result<i64> {
    relation::lock_against_changes(oid);
    let Some(table) = TableDefinition::load(oid)? else { return parent::not_managed(oid) };
    create::fit(oid, &table)?;
    let owner = plans::owner(oid)?;
    // Its worker will act as the owner.
    let (Checked { table, plan, nodes, .. }, shape) = role::acting_as(owner, || {
        let checked = create::check(oid, table, level, Intent::Run)?;
        checked.survey()?;
        validate::all_valid(&checked.table)?;
        may_create(&checked.table)?;
        all_rows_fit(oid, &checked)?;
        Ok((checked, TableDefinition::shape(oid)?))
    })?;
    publications::check(oid, &table.name, &nodes, accept)?;
    if mode == Mode::Online {
        plans::check_encoding()?;
        let departs = !remote_nodes(plan.tree.leaves()).is_empty();
        prerequisites::check_here(std::slice::from_ref(&table.name), departs)?;
    }
    let leaf = SourceTable { name: table.name.clone(), node: Some(LOCAL.to_string()), nodes_below: Vec::new() };
    let old = Partition {
        name: table.name.name.clone(),
        label: table.name.name.clone(),
        bound: Bound::Default,
        node: Some(LOCAL.to_string()),
        deal: String::new(),
        sub: None,
        path: String::new(),
    };
    let before = Before { partitions: vec![old], spec: Value::Null, dealt: BTreeMap::new() };
    let source = Source {
        name: table.name.clone(),
        label: table.name.name.clone(),
        bound: Bound::Default,
        tables: vec![leaf],
        shape,
    };
    let name = table.name.to_string();
    let leaves = plan.tree.leaves().count();
    let plan = Plan {
        above: table.name,
        labels: Vec::new(),
        method: plan.tree.method,
        key: plan.tree.key,
        sources: vec![source],
        targets: plan.tree.partitions,
        spec: level.to_json(),
        dealt: plan.dealt,
        before: Some(before),
        ..Plan::default()
    };
    let id = operation::insert(&NewOperation {
        kind: Kind::Convert,
        mode,
        parent: oid,
        name: &name,
        subject: format!("{name}: a plain table to {leaves} leaves"),
        role: owner,
        keep: KEEP,
        plan: &plan,
        part_of: None,
    })?;
    crate::background::ensure_running()?;
    Ok(id)
}

/// A row that no partition accepts ends the operation when it is copied. Of a table that is read in a moment, the caller
/// hears of it at once.
///
/// Errors: 23514 there is such a row.
fn all_rows_fit(oid: Oid, checked: &Checked) -> Result<()> {
    let Checked { table, keys, plan, .. } = checked;
    let bounds = || plan.tree.partitions.iter().map(|partition| &partition.bound);
    let key = keys.sql(&plan.tree.key);
    let size = sql::one::<i64>("SELECT pg_catalog.pg_relation_size($1)", &[oid.into()])?;
    let Some(outside) = default_check(&key, bounds()) else { return Ok(()) };
    if bounds().any(|bound| *bound == Bound::Default) || size.is_none_or(|size| size > READ_IN_A_MOMENT) {
        return Ok(());
    }
    let shown = key.iter().map(|key| format!("coalesce(({key})::text, 'null')")).collect::<Vec<_>>().join(", ");
    let query =
        format!("SELECT pg_catalog.json_build_array({shown})::text FROM ONLY {} WHERE {outside} LIMIT 1", table.name);
    let Some(found) = sql::document::<Vec<String>>(&query, &[])? else { return Ok(()) };
    Report::new(
        Code::ERRCODE_CHECK_VIOLATION,
        format!("no partition of {} would accept a row that is in it", table.name),
    )
    .detail(format!("Partition key of the row contains ({}) = ({}).", plan.tree.key.join(", "), found.join(", ")))
    .hint("Give bounds that begin and end farther out, or values that are missing, or a default partition.")
    .into()
}

fn may_create(table: &TableDefinition) -> Result<()> {
    let schema = &table.name.schema;
    let may =
        sql::one::<bool>("SELECT pg_catalog.has_schema_privilege($1::text, 'CREATE')", &[schema.as_str().into()])?;
    if may == Some(true) {
        return Ok(());
    }
    let (owner, schema) = (ident(&table.owner), ident(schema));
    Report::new(Code::ERRCODE_INSUFFICIENT_PRIVILEGE, format!("role {owner} may not create tables in schema {schema}"))
        .detail(format!("It owns {}, whose partitions will be made with its rights.", table.name))
        .hint(format!("GRANT CREATE ON SCHEMA {schema} TO {owner};"))
        .into()
}

/// One attempt, in the caller's transaction.
pub fn switch(operation: &Operation) -> Step {
    let mut applier = Applier::open(operation)?;
    // Asked before anybody waits.
    let surveys = surveys(operation)?;
    approach(operation, &mut applier)?;
    lock_parent(operation)?;
    let mut laps = Laps::begin();
    drain(operation, &mut applier, &mut laps)?;
    let root = swap(operation, &surveys)?;
    laps.lap("swap");
    revert::open(operation, root, &mut applier)?;
    laps.lap("way back");
    Ok(operation::note_last(operation.id, &laps.to_string())?)
}

/// What the nodes are like that get leaves.
pub fn surveys(operation: &Operation) -> Result<BTreeMap<String, Preflight>> {
    let tree = operation.plan.target_tree();
    let nodes = remote_nodes(tree.leaves());
    let before = OperationTable::read(operation)?;
    let surveys = role::acting_as(operation.role(), || create::survey_all(&before.table, &tree, &nodes))?;
    Ok(nodes.into_iter().zip(surveys).collect())
}

/// Puts the hierarchy in the place of the table, on all servers, and says so; the new root. Under the lock of `lock_parent`.
pub fn swap(operation: &Operation, surveys: &BTreeMap<String, Preflight>) -> Step<Oid> {
    source_table::unchanged(operation)?;
    let source = OperationTable::read(operation)?;
    let root = operation.staged(&source.table.name.name);
    let tree = operation.plan.target_tree();
    let change = Change { operation, table: source.table, root, tree, surveys };
    change.leave_publications()?;
    change.own_statistics()?;
    role::acting_as(operation.role(), || {
        if !change.surveys.is_empty() {
            validate::fit_for_nodes(&change.table)?;
        }
        change.script()?.run()
    })?;
    change.join_publications()?;
    let root = change.record()?;
    operation::set_parent(operation.id, root)?;
    operation::enter(operation.id, State::Switched, None)?;
    cache::forget_everywhere(operation.parent());
    cache::forget_everywhere(root);
    Ok(root)
}

/// What the switch changes, on all servers.
struct Change<'a> {
    operation: &'a Operation,
    /// The plain table, as it is under the lock.
    table: TableDefinition,
    /// The staged one.
    root: QualifiedName,
    tree: Tree,
    surveys: &'a BTreeMap<String, Preflight>,
}

impl Change<'_> {
    fn name(&self) -> &QualifiedName {
        &self.table.name
    }

    /// Some leaves are foreign.
    fn is_mixed(&self) -> bool {
        !self.surveys.is_empty()
    }

    fn script(&self) -> Result<Script> {
        let mut script = Script::default();
        for (node, survey) in self.surveys {
            let (commands, inverse) = self.on_node(node, survey)?;
            script.on_node(node, commands, inverse);
        }
        script.local(self.here());
        Ok(script)
    }

    /// The staged mirror takes its place.
    fn on_node(&self, node: &str, survey: &Preflight) -> Result<(Vec<String>, String)> {
        let name = self.name();
        let (mut commands, mut inverse) = (survey.needs.commands.clone(), Vec::new());
        let below =
            self.tree.walk().filter(|table| lives_on(table, node)).map(|table| name.sibling(table.name.clone()));
        let tables: Vec<QualifiedName> = std::iter::once(name.clone()).chain(below).collect();
        for table in &tables {
            commands.push(self.root.sibling(table.name.clone()).relocation(&name.schema));
            inverse.push(table.relocation(&self.operation.staging));
        }
        commands.push(format!("COMMENT ON TABLE {name} IS NULL"));
        let leaves = self.tree.leaves().filter(|leaf| leaf.node.as_deref() == Some(node));
        let leaves: Vec<QualifiedName> = leaves.map(|leaf| name.sibling(leaf.name.clone())).collect();
        let (shut, open) = write_fence::shut(self.operation, &leaves);
        commands.extend(shut);
        inverse.splice(0..0, open);
        let rights = grants::wanted(self.operation.parent(), node)?;
        commands.extend(grants::on_node(&rights, survey, &tables)?);
        Ok((commands, survey.needs.undo(inverse.join(";\n"))))
    }

    fn here(&self) -> Vec<String> {
        let (table, name) = (&self.table, self.name());
        let mut commands = self.old_table_away();
        commands.extend(self.tree_in_place());
        commands.extend(self.way_for_names());
        for column in &table.columns {
            let field = ident(&column.name);
            commands.extend(
                column.owned.iter().map(|sequence| format!("ALTER SEQUENCE {sequence} OWNED BY {name}.{field}")),
            );
            let (Some(identity), Some(sequence)) = (crate::table::columns::identity(column), &column.sequence) else {
                continue;
            };
            commands.push(format!("ALTER TABLE {name} ALTER COLUMN {field} ADD {identity}"));
            // The old one is in the retired schema, where nobody counts on: its lock is ours.
            commands.push(format!(
                "SELECT pg_catalog.setval({}, last_value, is_called) FROM {}",
                literal(&sequence.name.to_string()),
                self.in_retired(&sequence.name)
            ));
        }
        // With foreign leaves, unique keys are on the leaves only. Without, those of the leaves become parts of these.
        for key in table.keys.iter().filter(|key| key.unique && !self.is_mixed()) {
            commands.extend(ddl::create_index(key, name, true));
        }
        commands.extend(table.triggers.iter().map(|trigger| trigger.definition.clone()));
        commands.push(format!("COMMENT ON TABLE {name} IS NULL"));
        let tables: Vec<QualifiedName> = self.tree.walk().map(|p| name.sibling(p.name.clone())).collect();
        let mut table = table.clone();
        table.publications.clear();
        let local = local_leaves(name, &self.tree);
        commands.extend(ddl::after_partitions(&table, &tables, &local, &table.owner, self.is_mixed()));
        commands
    }

    /// What was named on the old table is to be named so on the new one, whatever Postgres called the indexes of leaves.
    fn way_for_names(&self) -> Option<String> {
        let unique = self.table.keys.iter().filter(|key| key.unique && !self.is_mixed()).map(|key| &key.name);
        let sequences = self.table.columns.iter().filter_map(|column| Some(&column.sequence.as_ref()?.name.name));
        let names: Vec<&String> = unique.chain(sequences).collect();
        (!names.is_empty()).then(|| ddl::make_way(&self.name().schema, names))
    }

    fn in_retired(&self, name: &QualifiedName) -> QualifiedName {
        QualifiedName::new(self.operation.retired(), name.name.clone())
    }

    /// With its indexes and the sequences of identity columns. Other sequences and statistics objects have names that the
    /// new table's shall have, or are used by others.
    fn old_table_away(&self) -> Vec<String> {
        let retired = self.operation.retired();
        let owned = || self.table.columns.iter().filter(|column| !column.owned.is_empty());
        let mut commands = Vec::new();
        for sequence in owned().flat_map(|column| &column.owned) {
            commands.push(format!("ALTER SEQUENCE {sequence} OWNED BY NONE"));
        }
        commands.push(self.name().relocation(&retired));
        // Two of different schemas can have one name.
        let elsewhere = self.table.statistics.iter().filter(|s| s.name.schema != self.name().schema);
        for (number, statistics) in elsewhere.enumerate() {
            let passing = statistics.name.sibling(format!("{retired}_{number}"));
            commands.push(format!("ALTER STATISTICS {} RENAME TO {}", statistics.name, ident(&passing.name)));
            commands.push(format!("ALTER STATISTICS {passing} SET SCHEMA {}", ident(&retired)));
        }
        // Or the sequences could not be dropped with the new table as long as the old one is kept.
        let old = self.in_retired(self.name());
        for column in owned().filter(|column| column.default.is_some()) {
            commands.push(format!("ALTER TABLE {old} ALTER COLUMN {} DROP DEFAULT", ident(&column.name)));
        }
        commands
    }

    fn tree_in_place(&self) -> Vec<String> {
        let (name, root) = (self.name(), &self.root);
        let mut commands = vec![root.relocation(&name.schema)];
        for table in self.tree.partitions.iter().flat_map(below) {
            commands.push(root.sibling(table.name.clone()).relocation(&name.schema));
            if table.sub.is_some() || table.node.as_deref().is_none_or(|node| node == LOCAL) {
                continue;
            }
            commands.push(format!(
                "ALTER FOREIGN TABLE {} OPTIONS (SET schema_name {})",
                name.sibling(table.name.clone()),
                literal(&name.schema)
            ));
        }
        commands
    }

    /// As the worker itself: a table may be in publications of others than its owner, and stays in them.
    fn leave_publications(&self) -> Result<()> {
        let leave = |publication: &crate::catalog::carried::Publication| {
            format!("ALTER PUBLICATION {} DROP TABLE {}", ident(&publication.name), self.name())
        };
        self.table.publications.iter().map(leave).try_for_each(|command| sql::run_quietly(&command))
    }

    /// As the worker itself: a statistics object may be of another role than its table. The new table's are its owner's.
    fn own_statistics(&self) -> Result<()> {
        let owner = ident(&self.table.owner);
        let own = |statistics: &Statistics| format!("ALTER STATISTICS {} OWNER TO {owner}", statistics.name);
        self.table.statistics.iter().map(own).try_for_each(|command| sql::run_quietly(&command))
    }

    fn join_publications(&self) -> Result<()> {
        let local = local_leaves(self.name(), &self.tree);
        let commands = ddl::publish(&self.table, Some(self.name()), &local, self.is_mixed());
        commands.iter().try_for_each(|command| sql::run_quietly(command))
    }

    fn record(&self) -> Result<Oid> {
        let (name, plan) = (self.name(), &self.operation.plan);
        let Some(root) = sql::one::<Oid>("SELECT pg_catalog.to_regclass($1)::oid", &[name.to_string().into()])? else {
            return Report::new(Code::ERRCODE_INTERNAL_ERROR, format!("{name} vanished while it was switched")).into();
        };
        let spec = drain::spec_after(self.operation.id, &plan.spec)?;
        parent::insert(root, spec, &extras(&self.table), &plan.dealt)?;
        partition::add(root, &name.schema, &plans::label_rows(&plan.targets))?;
        moved::add(self.tree.leaves().map(|leaf| name.sibling(leaf.name.clone())))?;
        for node in self.surveys.keys() {
            role::acting_as(self.operation.role(), || mirror::add(root, node, &grants::wanted(root, node)?))?;
        }
        Ok(root)
    }
}
