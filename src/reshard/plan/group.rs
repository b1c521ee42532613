//! Many moves: a node that is emptied, or leaves that are shared out anew.

use super::arrival::{self, Arrival};
use super::preview::{Row, amount};
use super::{known_node, moves, obstacles};
use crate::catalog::operation::{self, Move, NewOperation, Plan};
use crate::catalog::{drain, node, parent, partition};
use crate::error::{Report, Result};
use crate::hierarchy::managed_parent::ManagedParent;
use crate::hierarchy::sizes::{self, LeafSize};
use crate::hierarchy::tree_tables::TreeTable;
use crate::name::{QualifiedName, ident};
use crate::pg::{relation, role, sql};
use crate::reshard::prepare::prerequisites;
use crate::table::publications::{self, Accept};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use serde_json::Value;
use shardkeeper_core::balance::{self, BalanceError, Goal, Leaf, Measure, Node};
use shardkeeper_core::operation::{Kind, Mode};
use shardkeeper_core::plan::LOCAL;
use std::collections::HashMap;

/// Groups stand for no parent of their own: their moves do.
const NO_PARENT: Oid = pgrx::pg_sys::InvalidOid;

/// Moves that were decided, not yet recorded.
pub struct Group {
    kind: Kind,
    name: String,
    subject: String,
    plan: Plan,
    /// The size of what each move moves.
    amounts: Vec<String>,
    /// What nodes get before.
    arrivals: Vec<Arrival>,
}

impl Group {
    /// Errors: 55000 rows would leave publications; 0A000 a trigger of a parent cannot work with partitions on nodes.
    pub fn accepting(self, accept: Accept) -> Result<Self> {
        for (parent, nodes) in self.leaving_for()? {
            let managed = ManagedParent::read(parent)?;
            publications::check(parent, managed.name(), &nodes, accept)?;
        }
        Ok(self)
    }

    /// Parents with rows that would go from the coordinator to nodes, and these.
    fn leaving_for(&self) -> Result<Vec<(Oid, Vec<String>)>> {
        let mut found: Vec<(&QualifiedName, Vec<String>)> = Vec::new();
        for step in self.plan.moves.iter().filter(|step| step.from == LOCAL && step.to != LOCAL) {
            match found.iter_mut().find(|(parent, _)| **parent == step.parent) {
                Some((_, nodes)) if nodes.contains(&step.to) => {}
                Some((_, nodes)) => nodes.push(step.to.clone()),
                None => found.push((&step.parent, vec![step.to.clone()])),
            }
        }
        let mut parents = Vec::new();
        for (name, nodes) in found {
            let query = "SELECT pg_catalog.to_regclass($1)::oid";
            parents.extend(sql::one::<Oid>(query, &[name.to_string().into()])?.map(|oid| (oid, nodes)));
        }
        Ok(parents)
    }

    /// Records the group; a worker takes it up once the caller's transaction has committed.
    ///
    /// Errors: 55006 another group is under way.
    pub fn start(self, mode: Mode) -> Result<i64> {
        if let Some(running) = role::as_extension_owner(|| operation::running(NO_PARENT))? {
            return Report::new(Code::ERRCODE_OBJECT_IN_USE, format!("operation {running} moves partitions already"))
                .detail("One drain or rebalance runs at a time.")
                .hint(format!("Wait with SELECT shard_wait({running}); or end it with SELECT shard_cancel({running});"))
                .into();
        }
        if let Some(node) = &self.plan.leaving {
            leave(node)?;
        }
        if self.plan.moves.is_empty() {
            pgrx::notice!("no partition has to move");
        }
        let id = operation::insert(&NewOperation {
            kind: self.kind,
            mode,
            parent: NO_PARENT,
            name: &self.name,
            subject: self.subject,
            role: role::current(),
            keep: "0",
            plan: &self.plan,
            part_of: None,
        })?;
        crate::background::ensure_running()?;
        Ok(id)
    }

    /// What somebody has to do before changes of the sources can be followed.
    fn waits(&self) -> Result<Vec<Row>> {
        let mut servers: Vec<&String> = self.plan.moves.iter().map(|step| &step.from).collect();
        servers.sort();
        servers.dedup();
        let mut rows = Vec::new();
        for server in servers {
            let leaves = self.plan.moves.iter().filter(|step| step.from == *server);
            let leaves: Vec<QualifiedName> = leaves.map(|step| step.partition.clone()).collect();
            if let Some(report) = prerequisites::foreseen(server, &leaves, true)? {
                rows.push((1, server.clone(), format!("wait until this is mended: {}", report.one_line())));
            }
        }
        Ok(rows)
    }

    /// What would be moved.
    pub fn preview(&self, mode: Mode) -> Result<Vec<Row>> {
        let how = if mode == Mode::BlockWrites { ", writers of its parent wait meanwhile" } else { "" };
        let tell = |(step, amount): (&Move, &String)| {
            let number = i32::try_from(step.step).unwrap_or(i32::MAX).saturating_add(1);
            (
                number,
                step.from.clone(),
                format!("move partition {} to {}, {amount}{how}", step.partition, ident(&step.to)),
            )
        };
        let arrivals = self.arrivals.iter().cloned().map(|(node, what)| (1, node, what));
        let mut rows: Vec<Row> = arrivals.chain(self.plan.moves.iter().zip(&self.amounts).map(tell)).collect();
        if mode == Mode::Online {
            rows.splice(0..0, self.waits()?);
        }
        let last = rows.last().map_or(1, |(step, _, _)| step + 1);
        for (parent, nodes) in self.leaving_for()? {
            let publications = publications::of(parent)?;
            if !publications.is_empty() {
                rows.push((last, LOCAL.to_string(), publications::warning(&publications, &nodes)));
            }
        }
        Ok(rows)
    }
}

/// All leaves of a node to others. From here on the spec of no parent names the node.
///
/// Errors: 42704 no such node; 42501 not the owner of a parent with leaves there; 55000 a leaf has no place to go; 55006
/// another group is under way, or an operation that brings partitions to the node.
pub fn drain(node: &str) -> Result<Group> {
    if node == LOCAL {
        return Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, "the coordinator cannot be drained as a node")
            .hint("To move its partitions to nodes, name the nodes: SELECT shard_rebalance(nodes => …);")
            .into();
    }
    known_node(node)?;
    drain::nothing_comes(node)?;
    let mut stock = Stock { nodes: nodes(Some(node), None)?, ..Stock::default() };
    for root in parent::all_by_name()? {
        let read = ManagedParent::read(root)?;
        let there = read.members.iter().any(|member| member.server.as_deref() == Some(node));
        if there {
            stock.add(&ManagedParent::open(root)?.0, |leaf| leaf.node() == node)?
        } else {
            stock.add(&read, |_| false)?
        }
    }
    // Where the spec says so, but not on the node itself.
    for leaf in &mut stock.leaves {
        let others = leaf.nodes.take().map(|nodes| nodes.into_iter().filter(|name| name != node).collect::<Vec<_>>());
        leaf.nodes = others.filter(|nodes| !nodes.is_empty());
    }
    stock.plan(Kind::Drain, &format!("node {}", ident(node)), &Goal::default(), Some(node))
}

/// How leaves are shared out.
pub struct Shares<'a> {
    /// `bytes`, `rows` or `count`.
    pub by: &'a str,
    /// Over which nodes; without, over those of the spec, or all where the spec names none.
    pub nodes: Option<&'a [String]>,
    /// An object of weights by node, each 1 if not given.
    pub capacities: Option<&'a Value>,
    /// The least that is worth moving for, as a part of the ideal load of a node.
    pub minimum_gain: f64,
}

/// The leaves of one parent, or of all that the caller owns, shared out over their nodes, each within the regions of its spec.
///
/// Errors: 42P01 not managed; 42501 not the owner; 42704 no such node; 22023 an unknown measure, a wrong capacity or gain;
/// 55006 another group is under way.
pub fn rebalance(parent: Option<Oid>, shares: &Shares<'_>) -> Result<Group> {
    let Shares { by, nodes, .. } = *shares;
    let measure = match by {
        "bytes" => Measure::Bytes,
        "rows" => Measure::Rows,
        "count" => Measure::Count,
        _ => {
            return Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, format!("by cannot be \"{by}\""))
                .hint("It is bytes, rows or count.")
                .into();
        }
    };
    if nodes.is_some_and(<[String]>::is_empty) {
        return Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, "nodes is empty").into();
    }
    for node in nodes.unwrap_or_default() {
        known_node(node)?;
    }
    let mut stock = Stock { nodes: self::nodes(None, shares.capacities)?, ..Stock::default() };
    let mut name = "all parents".to_string();
    match parent {
        Some(parent) => {
            let (managed, _) = ManagedParent::open(parent)?;
            if managed.root != parent {
                let message = format!("{} is a partition, not a parent", managed.member(parent)?.name);
                return Report::new(Code::ERRCODE_WRONG_OBJECT_TYPE, message)
                    .hint(format!("Its parent is {}.", managed.name()))
                    .into();
            }
            name = managed.name().to_string();
            stock.add(&managed, |_| true)?;
        }
        None => {
            for root in parent::all_by_name()? {
                if owns(root)? {
                    stock.add(&ManagedParent::open(root)?.0, |_| true)?;
                } else {
                    stock.add(&ManagedParent::read(root)?, |_| false)?;
                }
            }
        }
    }
    if let Some(nodes) = nodes {
        // What is elsewhere leaves, whether or not somebody gains by it.
        stock.nodes.iter_mut().filter(|node| !nodes.contains(&node.name)).for_each(|node| node.capacity = Some(0.0));
        stock.leaves.iter_mut().for_each(|leaf| leaf.nodes = Some(nodes.to_vec()));
    }
    let goal = Goal { by: measure, minimum_gain: shares.minimum_gain, ..Goal::default() };
    stock.plan(Kind::Rebalance, &name, &goal, None)
}

fn owns(root: Oid) -> Result<bool> {
    let owns = "SELECT pg_catalog.pg_has_role(relowner, 'USAGE') FROM pg_catalog.pg_class WHERE oid = $1";
    Ok(sql::one::<bool>(owns, &[root.into()])? == Some(true))
}

/// Takes the node off the lists of all specs, so that no new leaf goes there.
fn leave(node: &str) -> Result<()> {
    for root in parent::all_by_name()? {
        if !ManagedParent::read(root)?.level.forget_node(node) {
            continue;
        }
        relation::lock_against_changes(root);
        let mut managed = ManagedParent::read(root)?;
        if managed.level.forget_node(node) {
            let managed = &managed;
            parent::insert(root, managed.level.to_json(), &managed.catalog.extras, &managed.catalog.dealt)?;
        }
    }
    Ok(())
}

/// The leaves that there are, and what is known of each.
#[derive(Default)]
struct Stock {
    nodes: Vec<Node>,
    leaves: Vec<Leaf>,
    members: HashMap<u32, (QualifiedName, TreeTable)>,
}

impl Stock {
    fn add(&mut self, managed: &ManagedParent, movable: impl Fn(&TreeTable) -> bool) -> Result<()> {
        let labels = partition::labels(managed.root)?;
        for member in managed.members.iter().filter(|member| member.is_leaf()) {
            let Some(above) = member.parent() else { continue };
            let path = managed.path_to(member.oid())?;
            let path: Vec<&str> =
                path.iter().filter_map(|table| labels.get(&table.oid().to_u32()).map(String::as_str)).collect();
            let nodes = path.split_last().and_then(|(label, above)| {
                let site = managed.level.at(above)?;
                site.nodes_of(label).map(<[String]>::to_vec)
            });
            let regions = self.regions(nodes.as_deref(), member.node());
            let id = member.oid().to_u32();
            self.leaves.push(Leaf {
                id,
                parent: above.to_u32(),
                name: member.name.to_string(),
                node: member.node().to_string(),
                bytes: 0,
                rows: 0,
                movable: movable(member),
                regions,
                nodes,
            });
            self.members.insert(id, (managed.name().clone(), member.clone()));
        }
        Ok(())
    }

    /// The regions of a leaf, by the nodes of its spec; where somebody put it by hand it may stay. `None`: anywhere, as the
    /// spec names no nodes, or one without a region.
    fn regions(&self, named: Option<&[String]>, at: &str) -> Option<Vec<String>> {
        let region = |name: &str| self.nodes.iter().find(|node| node.name == name)?.region.clone();
        let named = named?.iter().map(String::as_str).chain([at]);
        let mut regions = named.map(region).collect::<Option<Vec<String>>>()?;
        regions.sort();
        regions.dedup();
        Some(regions)
    }

    fn plan(mut self, kind: Kind, name: &str, goal: &Goal, leaving: Option<&str>) -> Result<Group> {
        let members: Vec<TreeTable> = self.leaves.iter().map(|leaf| self.members[&leaf.id].1.clone()).collect();
        let known = sizes::sizes(&members)?;
        for (leaf, size) in self.leaves.iter_mut().zip(&known) {
            if leaf.movable && goal.by != Measure::Count && size.bytes.is_none() {
                return Report::new(
                    Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!("the size of {} on node {} is not known", leaf.name, ident(&leaf.node)),
                )
                .detail("The node does not answer; nothing could be moved from it either.")
                .into();
            }
            leaf.bytes = size.bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
            leaf.rows = size.rows.and_then(|rows| u64::try_from(rows).ok()).unwrap_or(0);
        }
        let planned = balance::plan(&self.nodes, &self.leaves, goal).map_err(refused)?;
        let sizes: HashMap<u32, &LeafSize> = known.iter().map(|size| (size.oid().to_u32(), size)).collect();
        let mut moves = Vec::new();
        let (mut amounts, mut arrivals) = (Vec::new(), Vec::new());
        for step in planned.moves {
            let (root, member) = &self.members[&step.leaf];
            let size = sizes.get(&step.leaf);
            amounts.push(amount(size.and_then(|size| size.rows), size.and_then(|size| size.bytes)));
            // What refuses this move would stop the group amid the others.
            let leaf = moves::move_leaf(member.oid(), &step.to)?;
            obstacles::check(&leaf.managed, &leaf.plan)?;
            arrival::add(&mut arrivals, arrival::told(&leaf.managed, &leaf.plan)?);
            let (parent, partition) = (root.clone(), member.name.clone());
            moves.push(Move { parent, partition, from: step.from, to: step.to, step: step.step });
        }
        let count = shardkeeper_core::plural::count(moves.len(), "move", "moves");
        let plan = Plan { moves, leaving: leaving.map(str::to_string), ..Plan::default() };
        Ok(Group { kind, name: name.to_string(), subject: format!("{name}: {count}"), plan, amounts, arrivals })
    }
}

/// All servers that may store leaves. The coordinator has no region.
fn nodes(leaving: Option<&str>, capacities: Option<&Value>) -> Result<Vec<Node>> {
    let mut nodes: Vec<Node> = node::names_with_regions()?
        .into_iter()
        .chain([(LOCAL.to_string(), None)])
        .map(|(name, region)| Node {
            draining: leaving == Some(name.as_str()),
            name,
            region,
            capacity: None,
            limit: None,
        })
        .collect();
    let Some(capacities) = capacities else { return Ok(nodes) };
    let invalid = Code::ERRCODE_INVALID_PARAMETER_VALUE;
    let Some(capacities) = capacities.as_object() else {
        return Report::new(invalid, "capacities: not a JSON object")
            .hint("Write for example capacities => '{\"n1\": 2, \"n2\": 1}'.")
            .into();
    };
    for (name, capacity) in capacities {
        let Some(node) = nodes.iter_mut().find(|node| node.name == *name) else {
            return Err(node::unknown_node(name).into());
        };
        node.capacity = capacity.as_f64();
        if node.capacity.is_none() {
            return Report::new(invalid, format!("capacities.{name}: not a number")).into();
        }
    }
    Ok(nodes)
}

fn refused(error: BalanceError) -> Report {
    let code = match &error {
        BalanceError::Capacity(_) | BalanceError::MinimumGain => Code::ERRCODE_INVALID_PARAMETER_VALUE,
        _ => Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
    };
    let report = Report::new(code, error.to_string());
    match &error {
        BalanceError::Unplaceable(leaves) => {
            let told: Vec<String> = leaves.iter().map(|leaf| format!("{}: {}.", leaf.name, leaf.reason)).collect();
            report.detail(told.join(" ")).hint("Add a node with shard_add_node, or name other nodes.")
        }
        _ => report,
    }
}
