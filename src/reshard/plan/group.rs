//! Many moves: a node that is emptied, or leaves that are shared out anew.

use super::known_node;
use super::preview::{Row, amount};
use crate::catalog::operation::{self, Move, NewOperation, Plan};
use crate::catalog::parent;
use crate::error::{Report, Result};
use crate::hierarchy::managed::Managed;
use crate::hierarchy::members::Member;
use crate::hierarchy::sizes::{self, LeafSize};
use crate::name::{QualifiedName, ident};
use crate::pg::{role, sql};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
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
}

impl Group {
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
        crate::worker::ensure_running()?;
        Ok(id)
    }

    /// What would be moved.
    pub fn preview(&self, mode: Mode) -> Vec<Row> {
        let how = if mode == Mode::BlockWrites { ", writers of its parent wait meanwhile" } else { "" };
        let tell = |(step, amount): (&Move, &String)| {
            let number = i32::try_from(step.step).unwrap_or(i32::MAX).saturating_add(1);
            (
                number,
                step.from.clone(),
                format!("move partition {} to {}, {amount}{how}", step.partition, ident(&step.to)),
            )
        };
        self.plan.moves.iter().zip(&self.amounts).map(tell).collect()
    }
}

/// All leaves of a node to others. From here on the spec of no parent names the node.
///
/// Errors: 42704 no such node; 42501 not the owner of a parent with leaves there; 55000 a leaf has no place to go; 55006
/// another group is under way.
pub fn drain(node: &str) -> Result<Group> {
    if node == LOCAL {
        return Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, "the coordinator cannot be drained as a node")
            .hint("To move its partitions to nodes, name the nodes: SELECT shard_rebalance(nodes => …);")
            .into();
    }
    known_node(node)?;
    let mut stock = Stock::default();
    for root in roots()? {
        let read = Managed::read(root)?;
        let there = read.members.iter().any(|member| member.server.as_deref() == Some(node));
        if there {
            stock.add(&Managed::open(root)?.0, |leaf| leaf.node() == node)?
        } else {
            stock.add(&read, |_| false)?
        }
    }
    // Where the spec says so, but not on the node itself.
    for leaf in &mut stock.leaves {
        let others = leaf.nodes.take().map(|nodes| nodes.into_iter().filter(|name| name != node).collect::<Vec<_>>());
        leaf.nodes = others.filter(|nodes| !nodes.is_empty());
    }
    stock.plan(Kind::Drain, &format!("node {}", ident(node)), Measure::Bytes, Some(node))
}

/// The leaves of one parent, or of all that the caller owns, shared out over their nodes: over `nodes`, or those of the spec,
/// or all where the spec names none.
///
/// Errors: 42P01 not managed; 42501 not the owner; 42704 no such node; 22023 an unknown measure; 55006 another group is under
/// way.
pub fn rebalance(parent: Option<Oid>, by: &str, nodes: Option<&[String]>) -> Result<Group> {
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
    let mut stock = Stock::default();
    let mut name = "all parents".to_string();
    match parent {
        Some(parent) => {
            let (managed, _) = Managed::open(parent)?;
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
            for root in roots()? {
                if owns(root)? {
                    stock.add(&Managed::open(root)?.0, |_| true)?;
                } else {
                    stock.add(&Managed::read(root)?, |_| false)?;
                }
            }
        }
    }
    if let Some(nodes) = nodes {
        stock.leaves.iter_mut().for_each(|leaf| leaf.nodes = Some(nodes.to_vec()));
    }
    stock.plan(Kind::Rebalance, &name, measure, None)
}

fn roots() -> Result<Vec<Oid>> {
    role::as_extension_owner(|| {
        sql::column(
            "SELECT p.parent::oid FROM shardkeeper.parents p JOIN pg_catalog.pg_class c ON c.oid = p.parent ORDER BY c.relname, 1",
            &[],
        )
    })
}

fn owns(root: Oid) -> Result<bool> {
    let owns = "SELECT pg_catalog.pg_has_role(relowner, 'USAGE') FROM pg_catalog.pg_class WHERE oid = $1";
    Ok(sql::one::<bool>(owns, &[root.into()])? == Some(true))
}

/// Takes the node off the lists of all specs, so that no new leaf goes there.
fn leave(node: &str) -> Result<()> {
    for root in roots()? {
        let mut managed = Managed::read(root)?;
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
    leaves: Vec<Leaf>,
    members: HashMap<u32, (QualifiedName, Member)>,
}

impl Stock {
    fn add(&mut self, managed: &Managed, movable: impl Fn(&Member) -> bool) -> Result<()> {
        let labels = parent::labels(managed.root)?;
        for member in managed.members.iter().filter(|member| member.is_leaf()) {
            let Some(above) = member.parent() else { continue };
            let path = managed.path_to(member.oid())?;
            let path: Vec<&str> =
                path.iter().filter_map(|table| labels.get(&table.oid().to_u32()).map(String::as_str)).collect();
            let nodes = path.split_last().and_then(|(label, above)| {
                let site = managed.level.at(above)?;
                site.nodes_of(label).map(<[String]>::to_vec)
            });
            let id = member.oid().to_u32();
            self.leaves.push(Leaf {
                id,
                parent: above.to_u32(),
                name: member.name.to_string(),
                node: member.node().to_string(),
                bytes: 0,
                rows: 0,
                movable: movable(member),
                regions: None,
                nodes,
            });
            self.members.insert(id, (managed.name().clone(), member.clone()));
        }
        Ok(())
    }

    fn plan(mut self, kind: Kind, name: &str, by: Measure, leaving: Option<&str>) -> Result<Group> {
        let members: Vec<Member> = self.leaves.iter().map(|leaf| self.members[&leaf.id].1.clone()).collect();
        let known = sizes::sizes(&members)?;
        for (leaf, size) in self.leaves.iter_mut().zip(&known) {
            if leaf.movable && by != Measure::Count && size.bytes.is_none() {
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
        let nodes = nodes(leaving)?;
        let planned = balance::plan(&nodes, &self.leaves, &Goal { by, ..Goal::default() }).map_err(refused)?;
        let sizes: HashMap<u32, &LeafSize> = known.iter().map(|size| (size.oid().to_u32(), size)).collect();
        let mut moves = Vec::new();
        let mut amounts = Vec::new();
        for step in planned.moves {
            let (root, member) = &self.members[&step.leaf];
            let size = sizes.get(&step.leaf);
            amounts.push(amount(size.and_then(|size| size.rows), size.and_then(|size| size.bytes)));
            let (parent, partition) = (root.clone(), member.name.clone());
            moves.push(Move { parent, partition, from: step.from, to: step.to, step: step.step });
        }
        let count = shardkeeper_core::words::count(moves.len(), "move", "moves");
        let plan = Plan { moves, leaving: leaving.map(str::to_string), ..Plan::default() };
        Ok(Group { kind, name: name.to_string(), subject: format!("{name}: {count}"), plan, amounts })
    }
}

/// All servers that may store leaves.
fn nodes(leaving: Option<&str>) -> Result<Vec<Node>> {
    let names = role::as_extension_owner(|| {
        sql::column::<String>("SELECT name::text FROM shardkeeper.nodes ORDER BY name", &[])
    })?;
    let node = |name: String| Node {
        draining: leaving == Some(name.as_str()),
        name,
        region: None,
        capacity: None,
        limit: None,
    };
    Ok(names.into_iter().chain([LOCAL.to_string()]).map(node).collect())
}

fn refused(error: BalanceError) -> Report {
    let report = Report::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, error.to_string());
    match &error {
        BalanceError::Unplaceable(leaves) => {
            let told: Vec<String> = leaves.iter().map(|leaf| format!("{}: {}.", leaf.name, leaf.reason)).collect();
            report.detail(told.join(" ")).hint("Add a node with shard_add_node, or name other nodes.")
        }
        _ => report,
    }
}
