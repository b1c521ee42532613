//! What an operation will replace, decided when it is called for: which partitions go, and which come instead.

use crate::catalog::operation::{self, NewOperation, Plan, Source, SourceTable};
use crate::error::{Report, Result};
use crate::hierarchy::managed::Managed;
use crate::hierarchy::members::{self, Member};
use crate::name::{ident, literal};
use crate::node::channel::Channel;
use crate::pg::sql;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::operation::{Kind, Mode};
use shardkeeper_core::plan::{self, Bound, LOCAL, Method, NewPartition, Partition, PlanInput};
use shardkeeper_core::spec::{Level, Rule};

/// A decided operation, not yet recorded.
pub struct Decided {
    pub managed: Managed,
    pub kind: Kind,
    pub subject: String,
    pub plan: Plan,
}

impl Decided {
    /// Records the operation; a worker takes it up once the caller's transaction has committed.
    pub fn start(&self, mode: Mode, keep: &str) -> Result<i64> {
        let id = operation::insert(&NewOperation {
            kind: self.kind,
            mode,
            parent: self.managed.root,
            name: &self.managed.name().to_string(),
            subject: self.subject.clone(),
            role: owner(self.managed.root)?,
            keep,
            plan: &self.plan,
        })?;
        crate::worker::ensure_running()?;
        Ok(id)
    }
}

/// A leaf to another node.
///
/// Errors: 42P01 not managed; 42501 not the owner; 42704 no such node; 42809 not a leaf; 55000 it is there already.
pub fn move_leaf(leaf: Oid, node: &str) -> Result<Decided> {
    let (managed, labels) = Managed::open(leaf)?;
    let (member, above) = managed.partition(leaf)?;
    if !member.is_leaf() {
        return Report::new(Code::ERRCODE_WRONG_OBJECT_TYPE, format!("{} is partitioned itself", member.name))
            .hint("Name one of the leaves below it.")
            .into();
    }
    known_node(node)?;
    if member.node() == node {
        return Report::new(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("{} is on node {} already", member.name, ident(node)),
        )
        .into();
    }
    let Some(bound) = member.bound()? else { return crate::catalog::parent::not_managed(leaf) };
    let (label, labels) = match labels.split_last() {
        Some((last, rest)) => (last.clone(), rest.to_vec()),
        None => (member.name.name.clone(), Vec::new()),
    };
    let target = Partition {
        name: member.name.name.clone(),
        label: label.clone(),
        bound: bound.clone(),
        node: Some(node.to_string()),
        deal: String::new(),
        sub: None,
        path: String::new(),
    };
    let subject = format!("{} from {} to {}", member.name, ident(member.node()), ident(node));
    let (method, key) = key_of(&managed, &labels, above)?;
    let plan = Plan {
        above: above.name.clone(),
        labels,
        method,
        key,
        sources: vec![source(&managed, member, label, bound)],
        targets: vec![target],
        spec: managed.catalog.spec.clone(),
        dealt: managed.catalog.dealt.clone(),
    };
    Ok(Decided { managed, kind: Kind::Move, subject, plan })
}

/// As many hash partitions as `modulus` says in the place of those that `table` has.
///
/// Errors: 42P01 not managed; 42501 not the owner; 42809 not partitioned by hash; 22023 modulus below 1; 42704 no such
/// node; 55000 nothing would change.
pub fn set_modulus(table: Oid, modulus: i32, nodes: Option<Vec<String>>) -> Result<Decided> {
    let Some(modulus) = u32::try_from(modulus).ok().filter(|modulus| *modulus > 0) else {
        return Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, "modulus must be a whole number of 1 or more")
            .into();
    };
    let (managed, labels) = Managed::open(table)?;
    let above = managed.member(table)?;
    let Some(site) = managed.level.at(&labels).filter(|site| !above.is_leaf() && site.level.method() == Method::Hash)
    else {
        return Report::new(Code::ERRCODE_WRONG_OBJECT_TYPE, format!("{} is not partitioned by hash", above.name))
            .hint("Name the table whose partitions are hash partitions: the parent, or a partitioned table below it.")
            .into();
    };
    if nodes.as_ref().is_some_and(Vec::is_empty) {
        return Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, "nodes is empty").into();
    }
    for node in nodes.iter().flatten() {
        known_node(node)?;
    }
    let old = managed.children(table).count();
    if nodes.is_none() && old == modulus as usize {
        return Report::new(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("{} has modulus {modulus} already", above.name),
        )
        .hint("To place its partitions anew, name the nodes.")
        .into();
    }
    let mut level: Level = site.level.clone();
    level.rule = Rule::Hash { modulus };
    if let Some(nodes) = nodes {
        level.nodes = Some(nodes);
    }
    let subject = format!("{}: modulus {old} to {modulus}", above.name);
    let new_site = site.with(&level);
    let keys = managed.keys()?;
    let mut input = PlanInput {
        root: &above.name.name,
        now: managed.now()?,
        kind: &|key| keys.kind(key),
        dealt: managed.catalog.dealt.clone(),
        max_leaves: plan::DEFAULT_MAX_LEAVES,
    };
    // The level is dealt out anew from its first node on.
    let below = site.path().to_string();
    input.dealt.retain(|path, _| !path.starts_with(&below));
    let mut targets = Vec::new();
    for remainder in 0..modulus {
        let new = NewPartition {
            bound: Bound::Hash { modulus, remainder },
            label: remainder.to_string(),
            name: None,
            place: String::new(),
        };
        let (partition, dealt) = plan::expand_one(&new_site, &new, None, &input)?;
        input.dealt = dealt;
        targets.push(partition);
    }
    let mut spec = managed.level.clone();
    spec.replace_at(&labels, level.clone());
    let sources = managed
        .children(table)
        .map(|child| {
            let bound = child.bound()?.unwrap_or(Bound::Default);
            let label = match bound {
                Bound::Hash { remainder, .. } => remainder.to_string(),
                _ => child.name.name.clone(),
            };
            Ok(source(&managed, child, label, bound))
        })
        .collect::<Result<_>>()?;
    let plan = Plan {
        above: above.name.clone(),
        labels,
        method: Method::Hash,
        key: level.key.clone(),
        sources,
        targets,
        spec: spec.to_json(),
        dealt: input.dealt,
    };
    Ok(Decided { managed, kind: Kind::Modulus, subject, plan })
}

fn source(managed: &Managed, child: &Member, label: String, bound: Bound) -> Source {
    let tables = managed.tables_below(child.oid()).into_iter().map(|table| SourceTable {
        name: table.name.clone(),
        node: table.is_leaf().then(|| table.node().to_string()),
        nodes_below: match table.is_leaf() {
            true => Vec::new(),
            false => members::nodes(managed.tables_below(table.oid())),
        },
    });
    Source { name: child.name.clone(), label, bound, tables: tables.collect(), shape: None }
}

fn key_of(managed: &Managed, labels: &[String], above: &Member) -> Result<(Method, Vec<String>)> {
    match managed.level.at(labels) {
        Some(site) => Ok((site.level.method(), site.level.key.clone())),
        None => {
            Report::new(Code::ERRCODE_INTERNAL_ERROR, format!("no level of the spec describes {}", above.name)).into()
        }
    }
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

/// How `keep` is written in SQL, checked.
///
/// Errors: 22023 it is negative.
pub fn keep(text: &str) -> Result<()> {
    let fits = sql::one::<bool>(&format!("SELECT {}::interval >= '0'::interval", literal(text)), &[])?;
    if fits == Some(true) {
        return Ok(());
    }
    Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, "keep is negative").detail(format!("It is {text}.")).into()
}
