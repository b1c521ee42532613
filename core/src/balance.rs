//! Which leaves to move where, so that each node stores its share: the plan of a rebalance or a drain.
//!
//! How bad a placement is, is an [`Imbalance`]: four numbers, compared in order.
//! 1. Leaves that may not stay where they are: on a node that is draining or has capacity 0, or outside their regions.
//! 2. Bytes above the limits of nodes.
//! 3. The peak: the largest load per capacity of a node.
//! 4. The sum over all nodes of load² / capacity, which is least when each has its share.
//!
//! A plan is a walk of steps that each make this less: first what has to move, then single moves from the node with
//! the most per capacity, then exchanges of two leaves. A step that only balances lowers the fourth number and leaves
//! the third no higher. The walk depends on the placement alone. So when its end, from which little is gained, is cut
//! off, planning again from there finds the same end, and cuts it off again.

mod local_search;
mod order;
mod placement;
mod state;

use std::collections::HashSet;

pub use placement::{Reason, Unplaceable};
pub use state::{Imbalance, Load};

/// A server that stores leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Unique among the nodes of a plan.
    pub name: String,
    /// Where the server is. With `None`, only leaves that may be in any region come here.
    pub region: Option<String>,
    /// Its weight beside the others', 1 if not given. One with 0 gives away what it has, as far as that has a place.
    pub capacity: Option<f64>,
    /// The most bytes of leaves that it may hold.
    pub limit: Option<u64>,
    /// Has to end empty.
    pub draining: bool,
}

/// A table that stores rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// Unique among the leaves of a plan: the OID of the table. Moves name the leaf by it.
    pub id: u32,
    /// What it shares with its siblings. They are spread over the nodes where the sizes leave the choice.
    pub parent: u32,
    /// For errors alone.
    pub name: String,
    /// Where it is.
    pub node: String,
    /// On disk. Limits of nodes count it, whatever is shared out.
    pub bytes: u64,
    /// An estimate; looked at only where rows are shared out.
    pub rows: u64,
    /// Whether the caller may move it. What is not moves nowhere, and counts among the load of its node.
    pub movable: bool,
    /// Where it may be; `None` for everywhere. On a node outside of them it does not stay.
    pub regions: Option<Vec<String>>,
    /// Where it may be moved to, by its spec; `None` for everywhere. Where somebody put it by hand, it may stay.
    pub nodes: Option<Vec<String>>,
}

/// What is shared out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    /// [`Leaf::bytes`].
    #[default]
    Bytes,
    /// [`Leaf::rows`].
    Rows,
    /// The number of leaves: each counts as 1.
    Count,
}

/// What a plan shall reach, and at what price.
#[derive(Clone, Debug, PartialEq)]
pub struct Goal {
    /// What the load of a node counts.
    pub by: Measure,
    /// The least that is worth moving for, as a part of the ideal load. The gain is how much less the fullest node has
    /// afterwards than the fullest had before, or the second one than the second, and so on; whichever is most.
    /// What has to move does so for no gain.
    pub minimum_gain: f64,
    /// Cuts the plan; a later one goes on. The gain is that of the whole plan. A drain that is cut is not done.
    pub max_moves: Option<usize>,
}

impl Default for Goal {
    fn default() -> Self {
        Self { by: Measure::Bytes, minimum_gain: 0.05, max_moves: None }
    }
}

/// What [`plan()`] decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// In an order in which no node exceeds its limit, also while source and target both hold the leaf. A leaf moves
    /// twice only where limits leave no other way.
    pub moves: Vec<Move>,
    /// Of each node before the first move, in the order in which the nodes were given.
    pub before: Vec<Load>,
    /// Of each node after the last move, in the same order.
    pub after: Vec<Load>,
    /// How bad the placement is after the last move.
    pub imbalance_after: Imbalance,
}

/// One leaf goes to another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// [`Leaf::id`].
    pub leaf: u32,
    /// The node that has the leaf before this move.
    pub from: String,
    /// The node that has it afterwards.
    pub to: String,
    /// In the measure of the goal.
    pub size: u64,
    /// From 0. Moves of one step share no node and may run side by side; a step waits for the end of the one before.
    pub step: u32,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BalanceError {
    /// Two nodes have this name.
    #[error("node \"{0}\" is given twice")]
    DuplicateNode(String),
    /// The leaf of this name has the id of one before it.
    #[error("partition \"{0}\" is given twice")]
    DuplicateLeaf(String),
    /// A leaf is where no node was given.
    #[error("partition \"{leaf}\" is on node \"{node}\", which is not known")]
    UnknownNode {
        /// The name of the leaf.
        leaf: String,
        /// [`Leaf::node`].
        node: String,
    },
    /// The node of this name has a weight that cannot be computed with.
    #[error("the capacity of node \"{0}\" must be a number from 0 to 1e9, and 0 or at least 1e-9")]
    Capacity(String),
    /// [`Goal::minimum_gain`] is out of its range.
    #[error("minimum_gain must be a number from 0 to 1")]
    MinimumGain,
    /// Leaves of draining nodes that have nowhere to go.
    #[error("{}", placement::summary(.0))]
    Unplaceable(Vec<Unplaceable>),
}

/// The moves that bring the leaves near their nodes' shares.
///
/// Errors: [`BalanceError`]. A leaf outside its regions that has no place within them is no error: it stays.
pub fn plan(nodes: &[Node], leaves: &[Leaf], goal: &Goal) -> Result<Plan, BalanceError> {
    check(nodes, leaves, goal)?;
    let start = state::State::new(nodes, leaves, goal)?;
    let mut walk = local_search::Walk::from(&start, placement::Choice::Balanced);
    let stuck = placement::stuck(walk.end());
    if !stuck.is_empty() {
        walk = local_search::Walk::from(&start, placement::Choice::Tight);
        if !placement::stuck(walk.end()).is_empty() {
            return Err(BalanceError::Unplaceable(stuck));
        }
    }
    let ordered = order::moves(&start, walk.worth(goal), goal.max_moves);
    let end = ordered.replay(&start);
    Ok(Plan {
        moves: ordered.into_moves(nodes, leaves, &start),
        before: start.loads(),
        after: end.loads(),
        imbalance_after: end.imbalance(),
    })
}

fn check(nodes: &[Node], leaves: &[Leaf], goal: &Goal) -> Result<(), BalanceError> {
    let mut names = HashSet::new();
    for node in nodes {
        if !names.insert(&node.name) {
            return Err(BalanceError::DuplicateNode(node.name.clone()));
        }
        if !node.capacity.is_none_or(|capacity| capacity == 0.0 || (1e-9..=1e9).contains(&capacity)) {
            return Err(BalanceError::Capacity(node.name.clone()));
        }
    }
    let mut ids = HashSet::new();
    for leaf in leaves {
        if !ids.insert(leaf.id) {
            return Err(BalanceError::DuplicateLeaf(leaf.name.clone()));
        }
    }
    if !(0.0..=1.0).contains(&goal.minimum_gain) {
        return Err(BalanceError::MinimumGain);
    }
    Ok(())
}
