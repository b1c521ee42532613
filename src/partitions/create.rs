//! `shard_create_parent` on an empty table: planned whole, checked on all servers, then run in the caller's transaction.

use super::create_from_partitioned;
use super::grants;
use super::mirror;
use super::partition_ddl::{Blueprint, lives_on, remote_nodes};
use super::preflight::{self, Load, Preflight};
use super::script::Script;
use crate::catalog::carried::Extras;
use crate::catalog::{parent, partition};
use crate::error::{Report, Result};
use crate::hierarchy::managed_parent;
use crate::hierarchy::partition_keys::PartitionKeys;
use crate::hierarchy::validate;
use crate::name::QualifiedName;
use crate::node::channel::Channel;
use crate::node::trash::KeepTime;
use crate::pg::{relation, role, sql};
use crate::table::ddl::{self, SequenceState};
use crate::table::definition::TableDefinition;
use crate::table::publications::{self, Accept};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::plan::{self, LOCAL, Plan, PlanInput, Tree};
use shardkeeper_core::spec::Level;

/// What the call will do, ready to run.
pub struct Prepared {
    pub script: Script,
    table: TableDefinition,
    plan: Plan,
    nodes: Vec<String>,
}

/// Makes `table` the root of the hierarchy in `level`.
pub fn create(table: Oid, level: &Level, accept: Accept) -> Result<()> {
    if let Some(found) = TableDefinition::load(table)?.filter(|found| found.kind == 'p' && found.has_children) {
        fit(table, &found)?;
        return create_from_partitioned::extend(table, &found, level, accept);
    }
    let prepared = prepare(table, level, Intent::Run)?;
    publications::check(table, &prepared.table.name, &prepared.nodes, accept)?;
    prepared.script.run()?;
    prepared.record(level)?;
    crate::background::ensure_running()
}

impl Prepared {
    /// What subscribers would miss.
    pub fn publication_warning(&self, table: Oid) -> Result<Option<String>> {
        let publications = publications::of(table)?;
        let is_left = !publications.is_empty() && !self.nodes.is_empty();
        Ok(is_left.then(|| publications::warning(&publications, &self.nodes)))
    }
}

/// Whether the commands will be run, so that the table must stay as it is found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Intent {
    Plan,
    Run,
}

/// Checks everything and composes the commands. Nothing is changed.
pub fn prepare(oid: Oid, level: &Level, intent: Intent) -> Result<Prepared> {
    let Some(table) = TableDefinition::load(oid)? else { return gone() };
    fit(oid, &table)?;
    if intent == Intent::Run {
        relation::lock_exclusive(oid);
    }
    // Read again under the lock: only now it cannot change any more.
    let Some(table) = TableDefinition::load(oid)? else { return gone() };
    validate::suitable(&table)?;
    empty(&table)?;
    let checked = check(oid, table, level, intent)?;
    let surveys = checked.survey()?;
    let script = compose(oid, &checked, &surveys)?;
    let Checked { table, plan, nodes, .. } = checked;
    Ok(Prepared { script, table, plan, nodes })
}

/// A table is made anew when it becomes a parent: who waited for it meanwhile finds it gone.
fn gone<T>() -> Result<T> {
    Report::new(Code::ERRCODE_UNDEFINED_TABLE, "the table was dropped or replaced while the call waited for it")
        .hint("See the view shard_parents: another session may have made it a parent.")
        .into()
}

/// What a table will be, and that it can be that.
pub struct Checked {
    pub table: TableDefinition,
    pub keys: PartitionKeys,
    pub plan: Plan,
    /// The nodes that get leaves.
    pub nodes: Vec<String>,
}

/// Everything that can be told without asking a node. An unknown node is told before any node is asked.
pub fn check(oid: Oid, table: TableDefinition, level: &Level, intent: Intent) -> Result<Checked> {
    validate::no_dependents(oid, &table)?;
    let keys = PartitionKeys::resolve(level, &table)?;
    validate::unique_keys(&table, &keys)?;
    let plan = plan_tree(level, &table, &keys)?;
    if table.kind == 'p' {
        create_from_partitioned::same_key(&table, &keys, &plan.tree)?;
    }
    let nodes = remote_nodes(plan.tree.leaves());
    if !nodes.is_empty() {
        validate::fit_for_nodes(&table)?;
        if intent == Intent::Run {
            validate::warn_of_unchecked_policies(&table);
        }
    }
    for node in &nodes {
        Channel::open(node)?;
    }
    Ok(Checked { table, keys, plan, nodes })
}

impl Checked {
    /// Names are free and there is room, here and on each of its nodes.
    pub fn survey(&self) -> Result<Vec<Preflight>> {
        survey_all(&self.table, &self.plan.tree, &self.nodes)
    }
}

/// The same for a tree that was planned before.
pub fn survey_all(table: &TableDefinition, tree: &Tree, nodes: &[String]) -> Result<Vec<Preflight>> {
    let new_tables: Vec<String> = tree.walk().map(|p| p.name.clone()).collect();
    let partitioned = tree.walk().filter(|p| p.sub.is_some()).count() + 1;
    let local = tree.leaves().filter(|leaf| leaf.node.as_deref() == Some(LOCAL)).count();
    let load = Load { leaves: local, foreign: tree.leaves().count() - local, partitioned };
    preflight::check_local(table, &new_tables, load, !nodes.is_empty())?;
    nodes.iter().map(|node| survey_on(table, tree, node)).collect()
}

/// For the mirror on one node.
pub fn survey_on(table: &TableDefinition, tree: &Tree, node: &str) -> Result<Preflight> {
    let below = tree.walk().filter(|p| lives_on(p, node)).map(|p| p.name.clone());
    let mut made: Vec<String> = below.chain([table.name.name.clone()]).collect();
    let leaves = tree.leaves().filter(|leaf| leaf.node.as_deref() == Some(node)).count();
    let load = Load { leaves, foreign: 0, partitioned: made.len() - leaves };
    made.extend(table.keys.iter().map(|key| key.name.clone()));
    preflight::check_node(node, table, &made, load)
}

/// What must hold before any lock is taken: the caller owns the table, and it can and need become a parent.
pub fn fit(oid: Oid, table: &TableDefinition) -> Result<()> {
    validate::owned(oid, table)?;
    validate::suitable(table)?;
    if parent::load(oid)?.is_some() {
        return Report::new(Code::ERRCODE_DUPLICATE_OBJECT, format!("{} is a managed parent already", table.name))
            .hint("Add partitions with shard_add_partition, or stop managing it with shard_release_parent first.")
            .into();
    }
    Ok(())
}

impl Prepared {
    fn record(&self, level: &Level) -> Result<()> {
        let name = &self.table.name;
        let Some(oid) = sql::one::<Oid>("SELECT pg_catalog.to_regclass($1)::oid", &[name.to_string().into()])? else {
            return Report::new(Code::ERRCODE_INTERNAL_ERROR, format!("{name} vanished while it was rebuilt")).into();
        };
        parent::insert(oid, level.to_json(), &extras(&self.table), &self.plan.dealt)?;
        let labels: Vec<(String, String)> = self.plan.tree.walk().map(|p| (p.name.clone(), p.label.clone())).collect();
        partition::add(oid, &name.schema, &labels)?;
        for node in &self.nodes {
            mirror::add(oid, node, &grants::wanted(oid, node)?)?;
        }
        grants::warn_of_owner_without_way(oid, &self.nodes)
    }
}

/// All tables of the hierarchy, by name, bound and node.
pub fn plan_tree(level: &Level, table: &TableDefinition, keys: &PartitionKeys) -> Result<Plan> {
    let input = PlanInput {
        root: &table.name.name,
        now: managed_parent::now()?,
        kind: &|key| keys.kind(key),
        dealt: Default::default(),
        max_leaves: plan::DEFAULT_MAX_LEAVES,
    };
    Ok(plan::expand(level, &input)?)
}

/// What later leaves and mirrors will carry.
pub fn extras(table: &TableDefinition) -> Extras {
    Extras {
        keys: table.keys.clone(),
        options: table.options.clone(),
        access_method: table.access_method.clone(),
        replica_identity: (table.replica_identity != 'd').then_some(table.replica_identity),
        publications: table.publications.clone(),
    }
}

fn empty(table: &TableDefinition) -> Result<()> {
    if table.kind == 'p' {
        if table.has_children {
            return Report::new(Code::ERRCODE_FEATURE_NOT_SUPPORTED, format!("{} has partitions already", table.name))
                .detail("Its partitions will stay, and missing ones will be added.")
                .hint("There is no plan for that: call shard_create_parent in a transaction, look with shard_tree, and roll back.")
                .into();
        }
        return Ok(());
    }
    if !has_rows(table)? {
        return Ok(());
    }
    Report::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, format!("table {} is not empty", table.name))
        .detail("The rows of a populated table move online, in an operation of their own; only for an empty one is there a list of commands.")
        .hint(format!("To see the commands, plan it for an empty copy: CREATE TABLE … (LIKE {} INCLUDING ALL); to begin, call shard_create_parent, which returns the number of the operation.", table.name))
        .into()
}

/// Whether it is an ordinary table that could become a parent, and has rows. They may come or go right afterwards.
///
/// Errors: those of a table that cannot become a parent.
pub fn is_populated(oid: Oid) -> Result<bool> {
    let Some(table) = TableDefinition::load(oid)?.filter(|found| found.kind == 'r') else { return Ok(false) };
    fit(oid, &table)?;
    has_rows(&table)
}

/// Row security hides rows even from the owner of a table.
fn has_rows(table: &TableDefinition) -> Result<bool> {
    let query = format!("SELECT 'true' FROM ONLY {} LIMIT 1", table.name);
    Ok(role::as_extension_owner(|| sql::document::<bool>(&query, &[]))?.is_some())
}

fn compose(oid: Oid, checked: &Checked, surveys: &[Preflight]) -> Result<Script> {
    let Checked { table, keys, plan: Plan { tree, .. }, nodes } = checked;
    let name = &table.name;
    let blueprint = Blueprint { table, keys, mixed: !nodes.is_empty() };
    let tables: Vec<QualifiedName> = tree.walk().map(|p| name.sibling(p.name.clone())).collect();
    let local_leaves = local_leaves(name, tree);
    let mut script = Script::default();
    for (node, survey) in nodes.iter().zip(surveys) {
        script.on_node(node, mirror(oid, &blueprint, tree, node, survey)?, survey.needs.undo(discard(name)));
    }
    let caller = sql::one::<String>("SELECT current_user::text", &[])?.unwrap_or_default();
    let mut commands =
        ddl::before_partitions(table, &blueprint.partition_by(tree), blueprint.mixed, &sequences(table)?, &caller);
    commands.extend(blueprint.local_tree(name, tree));
    commands.extend(ddl::after_partitions(table, &tables, &local_leaves, &caller, blueprint.mixed));
    script.local(commands);
    Ok(script)
}

pub fn local_leaves(root: &QualifiedName, tree: &Tree) -> Vec<QualifiedName> {
    let local = tree.leaves().filter(|leaf| leaf.node.as_deref() == Some(LOCAL));
    local.map(|leaf| root.sibling(leaf.name.clone())).collect()
}

/// A whole new mirror on one node.
pub fn mirror(
    parent: Oid,
    blueprint: &Blueprint<'_>,
    tree: &Tree,
    node: &str,
    survey: &Preflight,
) -> Result<Vec<String>> {
    let name = &blueprint.table.name;
    let mut commands = survey.needs.commands.clone();
    let table = fitted(blueprint.table, survey);
    let blueprint = Blueprint { table: &table, keys: blueprint.keys, mixed: blueprint.mixed };
    commands.extend(blueprint.mirror_root(tree));
    commands.extend(blueprint.mirror_tree(node, name, tree));
    let made: Vec<QualifiedName> = std::iter::once(name.clone())
        .chain(tree.walk().filter(|p| lives_on(p, node)).map(|p| name.sibling(p.name.clone())))
        .collect();
    let leaves: Vec<QualifiedName> = tree
        .leaves()
        .filter(|leaf| leaf.node.as_deref() == Some(node))
        .map(|leaf| name.sibling(leaf.name.clone()))
        .collect();
    commands.extend(ddl::index_marks(&table, &leaves));
    commands.extend(grants::on_node(&grants::wanted(parent, node)?, survey, &made)?);
    Ok(commands)
}

/// The table without what the node cannot have: a tablespace of another server's disks is left to the node's default.
pub fn fitted(table: &TableDefinition, survey: &Preflight) -> TableDefinition {
    let has = |name: &Option<String>| name.as_ref().filter(|name| survey.tablespaces.contains(name)).cloned();
    let mut table = table.clone();
    table.tablespace = has(&table.tablespace);
    for key in &mut table.keys {
        key.tablespace = has(&key.tablespace);
    }
    table
}

/// Undoes the making of a table on a node: into the trash, not destroyed, should anyone have written to it meanwhile.
pub fn discard(name: &QualifiedName) -> String {
    KeepTime::of(None).discard(name)
}

fn sequences(table: &TableDefinition) -> Result<Vec<SequenceState>> {
    let mut states = Vec::new();
    for sequence in table.columns.iter().filter_map(|c| c.sequence.as_ref()) {
        #[derive(serde::Deserialize)]
        struct State {
            last_value: i64,
            is_called: bool,
        }
        let query = format!(
            "SELECT json_build_object('last_value', last_value, 'is_called', is_called)::text FROM {}",
            sequence.name
        );
        if let Some(State { last_value, is_called }) = sql::document(&query, &[])? {
            states.push(SequenceState { name: sequence.name.clone(), last_value, is_called });
        }
    }
    Ok(states)
}
