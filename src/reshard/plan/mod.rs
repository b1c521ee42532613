//! What an operation will replace, decided when it is called for: which partitions go, and which come instead.

mod arrival;
mod before;
mod group;
mod modulus;
mod moves;
mod obstacles;
mod own;
mod preview;
mod split_merge;

pub use group::{Group, Shares, drain, rebalance};
pub use modulus::{next_part, set_modulus};
pub use moves::move_leaf;
pub use obstacles::since;
pub use split_merge::{merge, move_values, split};

use crate::catalog::operation::{self, NewOperation, Plan, Source, SourceTable};
use crate::catalog::way_back;
use crate::error::{Report, Result};
use crate::hierarchy::managed_parent::ManagedParent;
use crate::hierarchy::tree_tables::{self, TreeTable};
use crate::name::literal;
use crate::node::channel::Channel;
use crate::partitions::grants;
use crate::pg::sql;
use crate::table::publications::{self, Accept};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::operation::{Kind, Mode};
use shardkeeper_core::plan::{Bound, LOCAL, Method, Partition};

/// A decided operation, not yet recorded.
pub struct Decided {
    pub managed: ManagedParent,
    pub kind: Kind,
    pub subject: String,
    pub plan: Plan,
}

impl Decided {
    /// Errors: 55000 rows would leave publications; 0A000 a trigger of the parent cannot work with partitions on nodes.
    pub fn accepting(self, accept: Accept) -> Result<Self> {
        may_leave(&self.managed, &self.plan, accept)?;
        Ok(self)
    }

    /// Records the operation; a worker takes it up once the caller's transaction has committed.
    pub fn start(&self, mode: Mode, keep: &str) -> Result<i64> {
        self.record(mode, keep, None)
    }

    /// Records the operation as one of a group's: the group and the number of the move in it.
    ///
    /// Errors: 0A000 an online operation in a database that is not UTF8; 55006 another operation runs on the parent; those of
    /// `obstacles::check` and `arrival::told`.
    pub fn record(&self, mode: Mode, keep: &str, part_of: Option<(i64, i32)>) -> Result<i64> {
        if mode == Mode::Online {
            check_encoding()?;
        }
        if part_of.is_none() {
            let nodes = self.plan.remote_target_nodes();
            grants::warn_of_owner_without_way(self.managed.root, &nodes)?;
            // A node that cannot take the mirror is told of here, not by an operation that ends.
            arrival::told(&self.managed, &self.plan)?;
        }
        let own = obstacles::check(&self.managed, &self.plan)?;
        let plan = Plan { own, before: before::before(&self.managed, &self.plan)?, ..self.plan.clone() };
        crate::background::ensure_running()?;
        let id = operation::insert(&NewOperation {
            kind: self.kind,
            mode,
            parent: self.managed.root,
            name: &self.managed.name().to_string(),
            subject: self.subject.clone(),
            role: owner(self.managed.root)?,
            keep,
            plan: &plan,
            part_of,
        })?;
        let cut_off = way_back::would_be_cut_off(&self.plan, self.managed.root)?;
        if let Some(what) = way_back::cut_off_words(&cut_off).filter(|_| part_of.is_none()) {
            pgrx::notice!("{what}");
        }
        Ok(id)
    }
}

/// Nodes that rows of the coordinator would go to.
fn leaving_for(plan: &Plan) -> Vec<String> {
    match plan.source_nodes().iter().any(|node| node == LOCAL) {
        true => plan.remote_target_nodes(),
        false => Vec::new(),
    }
}

/// What a plan does to triggers and publications is possible and accepted.
fn may_leave(managed: &ManagedParent, plan: &Plan, accept: Accept) -> Result<()> {
    publications::check(managed.root, managed.name(), &leaving_for(plan), accept)
}

/// A leaf and the table above it.
///
/// Errors: 42809 it is partitioned itself, or it is the parent.
fn leaf_of(managed: &ManagedParent, leaf: Oid) -> Result<(&TreeTable, &TreeTable)> {
    let parent = managed.member(leaf)?;
    if parent.parent().is_none() {
        let all = literal(&parent.name.to_string());
        return Report::new(
            Code::ERRCODE_WRONG_OBJECT_TYPE,
            format!("{} is a parent, not a partition", parent.name),
        )
        .hint(format!(
            "Name one of its partitions, see the view shard_partitions; all go at once with SELECT shard_rebalance({all}, nodes => …);"
        ))
        .into();
    }
    let (member, above) = managed.partition(leaf)?;
    if member.is_leaf() {
        return Ok((member, above));
    }
    Report::new(Code::ERRCODE_WRONG_OBJECT_TYPE, format!("{} is partitioned itself", member.name))
        .hint("Name one of the leaves below it.")
        .into()
}

fn source(managed: &ManagedParent, child: &TreeTable, label: String, bound: Bound) -> Source {
    let tables = managed.tables_below(child.oid()).into_iter().map(|table| SourceTable {
        name: table.name.clone(),
        node: table.is_leaf().then(|| table.node().to_string()),
        nodes_below: match table.is_leaf() {
            true => Vec::new(),
            false => tree_tables::nodes(managed.tables_below(table.oid())),
        },
    });
    Source { name: child.name.clone(), label, bound, tables: tables.collect(), shape: None }
}

fn key_of(managed: &ManagedParent, labels: &[String], above: &TreeTable) -> Result<(Method, Vec<String>)> {
    match managed.level.at(labels) {
        Some(site) => Ok((site.level.method(), site.level.key.clone())),
        None => {
            Report::new(Code::ERRCODE_INTERNAL_ERROR, format!("no level of the spec describes {}", above.name)).into()
        }
    }
}

/// The bounds of the partitions that stay beside these: what a default partition among the targets has to know.
fn beside(managed: &ManagedParent, above: Oid, sources: &[Oid]) -> Result<Vec<Bound>> {
    let stay =
        managed.bounds(above)?.into_iter().filter(|(oid, bound)| *bound != Bound::Default && !sources.contains(oid));
    Ok(stay.map(|(_, bound)| bound).collect())
}

fn known_node(node: &str) -> Result<()> {
    if node != LOCAL {
        Channel::open(node)?;
    }
    Ok(())
}

pub fn owner(table: Oid) -> Result<Oid> {
    let owner = sql::one::<Oid>("SELECT relowner FROM pg_catalog.pg_class WHERE oid = $1", &[table.into()])?;
    match owner {
        Some(owner) => Ok(owner),
        None => crate::catalog::parent::not_managed(table),
    }
}

/// The targets' tables with their labels, at every level.
pub fn label_rows(targets: &[Partition]) -> Vec<(String, String)> {
    let below = targets.iter().flat_map(|target| target.sub.iter().flat_map(|sub| sub.walk()));
    targets.iter().chain(below).map(|table| (table.name.clone(), table.label.clone())).collect()
}

/// Where a leaf of a managed parent is; `None` if it is none.
pub fn node_of(leaf: Oid) -> Result<Option<String>> {
    let Some((root, _)) = crate::catalog::parent::of_relation(leaf)? else { return Ok(None) };
    let member = tree_tables::load(root)?.into_iter().find(|member| member.oid() == leaf && member.is_leaf());
    Ok(member.map(|member| member.node().to_string()))
}

/// How the argument is written in SQL, checked.
///
/// Errors: 22023 it is negative.
pub fn keep(argument: &str, text: &str) -> Result<()> {
    let fits = sql::one::<bool>(&format!("SELECT {}::interval >= '0'::interval", literal(text)), &[])?;
    if fits == Some(true) {
        return Ok(());
    }
    Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, format!("{argument} is negative"))
        .detail(format!("It is {text}."))
        .into()
}

/// Changes travel as UTF-8 text, and not every character of every encoding is in both.
pub fn check_encoding() -> Result<()> {
    let encoding = sql::one::<String>(
        "SELECT pg_catalog.pg_encoding_to_char(encoding)::text FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()",
        &[],
    )?
    .unwrap_or_default();
    if encoding == "UTF8" {
        return Ok(());
    }
    Report::new(
        Code::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("data moves online in databases with encoding UTF8 only, not {encoding}"),
    )
    .detail("Changes travel as UTF-8 text.")
    .hint("Load a dump of the database into one that was created with ENCODING UTF8 TEMPLATE template0.")
    .into()
}
