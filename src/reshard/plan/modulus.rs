//! Other hash partitions in the place of those that a table has.
//!
//! Where the old and the new modulus divide, a partition is split into some new ones, or some are merged into one, without
//! the others: these are replaced one after the other. Otherwise rows of each old partition go to each new one, and all
//! are replaced at once.

use super::preview::{Row, preview};
use super::{Decided, known_node, may_leave, obstacles, owner, source};
use crate::catalog::operation::{self, NewModulus, NewOperation, Plan, Source};
use crate::error::{Report, Result};
use crate::hierarchy::managed_parent::ManagedParent;
use crate::hierarchy::tree_tables::TreeTable;
use crate::name::QualifiedName;
use crate::table::publications::Accept;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::modulus as dividing;
use shardkeeper_core::operation::{Kind, Mode};
use shardkeeper_core::plan::{self, Bound, Method, NewPartition, Partition, PlanInput};
use shardkeeper_core::plural::count;
use shardkeeper_core::spec::{Level, Rule, Site};
use std::collections::{BTreeMap, BTreeSet};

/// Hash partitions to be replaced, not yet recorded.
pub struct Modulus {
    managed: ManagedParent,
    table: QualifiedName,
    subject: String,
    modulus: u32,
    nodes: Option<Vec<String>>,
    /// The counters that the new leaves are dealt by.
    dealt: BTreeMap<String, u64>,
    /// Each replaces some partitions without the others, in this order.
    parts: Vec<Plan>,
}

/// As many hash partitions as `modulus` says in the place of those that `table` has.
///
/// Errors: 42P01 not managed; 42501 not the owner; 42809 not partitioned by hash; 22023 modulus below 1; 42704 no such
/// node; 55000 nothing would change.
pub fn set_modulus(table: Oid, modulus: i32, nodes: Option<Vec<String>>) -> Result<Modulus> {
    let Some(modulus) = u32::try_from(modulus).ok().filter(|modulus| *modulus > 0) else {
        return Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, "modulus must be a whole number of 1 or more")
            .into();
    };
    if nodes.as_ref().is_some_and(Vec::is_empty) {
        return Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, "nodes is empty").into();
    }
    for node in nodes.iter().flatten() {
        known_node(node)?;
    }
    let named = nodes.is_some();
    let change = decide(table, modulus, nodes, None)?;
    if change.parts.is_empty() {
        let name = &change.table;
        let state = Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
        return if named {
            Report::new(
                state,
                format!("{name} has modulus {modulus}, and its partitions are where nodes says, already"),
            )
        } else {
            Report::new(state, format!("{name} has modulus {modulus} already"))
                .hint("To place its partitions anew, name the nodes.")
        }
        .into();
    }
    Ok(change)
}

/// The next part of what a group is to do; `None` when it is done. Within a transaction, as the owner.
pub fn next_part(table: Oid, wanted: &NewModulus) -> Result<Option<Decided>> {
    let Modulus { managed, parts, .. } = decide(table, wanted.modulus, wanted.nodes.clone(), Some(&wanted.dealt))?;
    let Some(plan) = parts.into_iter().next() else { return Ok(None) };
    let joined = |names: Vec<&str>| names.join(", ");
    let subject = format!(
        "{}: {} to {}, modulus {}",
        plan.above,
        joined(plan.sources.iter().map(|source| source.name.name.as_str()).collect()),
        joined(plan.targets.iter().map(|target| target.name.as_str()).collect()),
        wanted.modulus
    );
    Ok(Some(Decided { managed, kind: Kind::Modulus, subject, plan }))
}

impl Modulus {
    /// Errors: 55000 rows would leave publications; 0A000 a trigger of the parent cannot work with partitions on nodes.
    pub fn accepting(self, accept: Accept) -> Result<Self> {
        self.parts.iter().try_for_each(|part| may_leave(&self.managed, part, accept))?;
        Ok(self)
    }

    /// Records the operation; a worker takes it up once the caller's transaction has committed.
    pub fn start(mut self, mode: Mode, keep: &str) -> Result<i64> {
        if self.parts.len() == 1 {
            let plan = self.parts.remove(0);
            return Decided { managed: self.managed, kind: Kind::Modulus, subject: self.subject, plan }
                .start(mode, keep);
        }
        if mode == Mode::Online {
            super::check_encoding()?;
        }
        for part in &self.parts {
            obstacles::check(&self.managed, part)?;
        }
        let modulus = NewModulus {
            table: self.table,
            modulus: self.modulus,
            nodes: self.nodes,
            dealt: self.dealt,
            keep: keep.to_string(),
        };
        let id = operation::insert(&NewOperation {
            kind: Kind::Modulus,
            mode,
            parent: self.managed.root,
            name: &self.managed.name().to_string(),
            subject: format!("{}, in {}", self.subject, count(self.parts.len(), "part", "parts")),
            role: owner(self.managed.root)?,
            keep,
            plan: &Plan { modulus: Some(modulus), ..Plan::default() },
            part_of: None,
        })?;
        crate::background::ensure_running()?;
        Ok(id)
    }

    /// What would be done, part after part.
    pub fn preview(&self, mode: Mode) -> Result<Vec<Row>> {
        let (mut rows, mut arrived) = (Vec::<Row>::new(), Vec::new());
        for part in &self.parts {
            let before = rows.last().map_or(0, |row| row.0);
            rows.extend(
                preview(&self.managed, part, mode, &mut arrived)?
                    .into_iter()
                    .map(|(step, n, what)| (before + step, n, what)),
            );
        }
        Ok(rows)
    }
}

/// By the same counters, the leaves come to the same places whenever it is decided.
fn decide(
    table: Oid,
    modulus: u32,
    nodes: Option<Vec<String>>,
    dealt: Option<&BTreeMap<String, u64>>,
) -> Result<Modulus> {
    let (managed, labels) = ManagedParent::open(table)?;
    let above = managed.member(table)?.clone();
    let Some(site) = managed.level.at(&labels).filter(|site| !above.is_leaf() && site.level.method() == Method::Hash)
    else {
        return Report::new(Code::ERRCODE_WRONG_OBJECT_TYPE, format!("{} is not partitioned by hash", above.name))
            .hint("Name the table whose partitions are hash partitions: the parent, or a partitioned table below it.")
            .into();
    };
    let mut level: Level = site.level.clone();
    level.rule = Rule::Hash { modulus };
    if let Some(nodes) = &nodes {
        level.nodes = Some(nodes.clone());
    }
    let dealt = dealt.unwrap_or(&managed.catalog.dealt).clone();
    let new_site = site.with(&level);
    let keys = managed.keys()?;
    let mut input = PlanInput {
        root: &above.name.name,
        now: managed.now()?,
        kind: &|key| keys.kind(key),
        dealt: dealt.clone(),
        max_leaves: plan::DEFAULT_MAX_LEAVES,
    };
    // The level is dealt out anew from its first node on.
    let below = site.path().to_string();
    input.dealt.retain(|path, _| !path.starts_with(&below));
    let targets = new_partitions(modulus, &new_site, &mut input)?;
    let children: Vec<&TreeTable> = managed.children(table).collect();
    let sources = children.iter().map(|child| old(&managed, child)).collect::<Result<Vec<_>>>()?;
    let subject = match sources.iter().map(|source| residue(&source.bound).0).max() {
        Some(old) if old == modulus => format!("{}: modulus {modulus}, placed anew", above.name),
        Some(old) => format!("{}: modulus {old} to {modulus}", above.name),
        None => format!("{}: modulus {modulus}", above.name),
    };
    let mut new_spec = managed.level.clone();
    new_spec.replace_at(&labels, level.clone());
    let mut parts: Vec<Plan> = pairs(&sources, &targets, modulus)
        .into_iter()
        .filter(|(sources, targets)| !is_there(&above, sources, targets, nodes.is_some()))
        .map(|(sources, targets)| Plan {
            above: above.name.clone(),
            labels: labels.clone(),
            method: Method::Hash,
            key: level.key.clone(),
            sources,
            targets,
            // The modulus is the new one when all partitions have it.
            spec: managed.catalog.spec.clone(),
            dealt: input.dealt.clone(),
            ..Plan::default()
        })
        .collect();
    if let Some(last) = parts.last_mut() {
        last.spec = new_spec.to_json();
    }
    Ok(Modulus { managed, table: above.name, subject, modulus, nodes, dealt, parts })
}

/// All partitions of the new modulus, dealt out over the nodes of the level.
fn new_partitions(modulus: u32, site: &Site<'_>, input: &mut PlanInput<'_>) -> Result<Vec<Partition>> {
    let mut partitions = Vec::new();
    for remainder in 0..modulus {
        let new = NewPartition {
            bound: Bound::Hash { modulus, remainder },
            label: remainder.to_string(),
            name: None,
            place: String::new(),
        };
        let (partition, dealt) = plan::expand_one(site, &new, None, input)?;
        input.dealt = dealt;
        partitions.push(partition);
    }
    Ok(partitions)
}

/// What is replaced together: some of the old partitions, and the new ones that take exactly their rows.
fn pairs(old: &[Source], new: &[Partition], modulus: u32) -> Vec<(Vec<Source>, Vec<Partition>)> {
    let bounds: Vec<(u32, u32)> = old.iter().map(|source| residue(&source.bound)).collect();
    let pair = |part: dividing::Part| {
        let comes = |target: &&Partition| part.new.contains(&residue(&target.bound).1);
        let sources = part.old.iter().map(|place| old[*place].clone()).collect();
        (sources, new.iter().filter(comes).cloned().collect())
    };
    dividing::parts(&bounds, modulus).into_iter().map(pair).collect()
}

fn old(managed: &ManagedParent, child: &TreeTable) -> Result<Source> {
    let bound = child.bound()?.unwrap_or(Bound::Default);
    let label = match bound {
        Bound::Hash { remainder, .. } => remainder.to_string(),
        _ => child.name.name.clone(),
    };
    Ok(source(managed, child, label, bound))
}

/// Modulus and remainder.
fn residue(bound: &Bound) -> (u32, u32) {
    match bound {
        Bound::Hash { modulus, remainder } => (*modulus, *remainder),
        _ => (1, 0),
    }
}

/// Whether a part need not be replaced: it has the bound that it shall have, and, where nodes were named, its place.
fn is_there(above: &TreeTable, sources: &[Source], targets: &[Partition], placed: bool) -> bool {
    let ([source], [target]) = (sources, targets) else { return false };
    let places = |source: &Source| -> BTreeSet<(String, Option<String>)> {
        source.tables.iter().map(|table| (table.name.to_string(), table.node.clone())).collect()
    };
    let is_placed = |target: &Source| match (source.tables.as_slice(), target.tables.as_slice()) {
        ([old], [new]) => old.node == new.node,
        _ => places(source) == places(target),
    };
    source.bound == target.bound && (!placed || is_placed(&Source::of(&above.name, target)))
}
