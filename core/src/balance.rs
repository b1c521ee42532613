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

mod order;
mod place;
mod state;
mod walk;

use std::collections::HashSet;

pub use place::{Reason, Unplaceable};
pub use state::{Imbalance, Load};

/// A server that stores leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub name: String,
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
    pub id: u32,
    /// What it shares with its siblings. They are spread over the nodes where the sizes leave the choice.
    pub parent: u32,
    pub name: String,
    /// Where it is.
    pub node: String,
    pub bytes: u64,
    pub rows: u64,
    pub movable: bool,
    /// Where it may be. On a node outside of them it does not stay.
    pub regions: Option<Vec<String>>,
    /// Where it may be moved to, by its spec. Where somebody put it by hand, it may stay.
    pub nodes: Option<Vec<String>>,
}

/// What is shared out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    #[default]
    Bytes,
    Rows,
    Count,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Goal {
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

#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// In an order in which no node exceeds its limit, also while source and target both hold the leaf. A leaf moves
    /// twice only where limits leave no other way.
    pub moves: Vec<Move>,
    /// Of each node, as they were given.
    pub before: Vec<Load>,
    pub after: Vec<Load>,
    pub imbalance_before: Imbalance,
    pub imbalance_after: Imbalance,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub leaf: u32,
    pub from: String,
    pub to: String,
    /// In the measure of the goal.
    pub size: u64,
    /// From 0. Moves of one step share no node and may run side by side; a step waits for the end of the one before.
    pub step: u32,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BalanceError {
    #[error("node \"{0}\" is given twice")]
    DuplicateNode(String),
    #[error("partition \"{0}\" is given twice")]
    DuplicateLeaf(String),
    #[error("partition \"{leaf}\" is on node \"{node}\", which is not known")]
    UnknownNode { leaf: String, node: String },
    #[error("the capacity of node \"{0}\" must be a number from 0 to 1e9, and 0 or at least 1e-9")]
    Capacity(String),
    #[error("minimum_gain must be a number from 0 to 1")]
    MinimumGain,
    /// Leaves of draining nodes that have nowhere to go.
    #[error("{}", place::summary(.0))]
    Unplaceable(Vec<Unplaceable>),
}

/// The moves that bring the leaves near their nodes' shares.
pub fn plan(nodes: &[Node], leaves: &[Leaf], goal: &Goal) -> Result<Plan, BalanceError> {
    check(nodes, leaves, goal)?;
    let start = state::State::new(nodes, leaves, goal)?;
    let mut walk = walk::Walk::from(&start, place::Choice::Balanced);
    let stuck = place::stuck(walk.end());
    if !stuck.is_empty() {
        walk = walk::Walk::from(&start, place::Choice::Tight);
        if !place::stuck(walk.end()).is_empty() {
            return Err(BalanceError::Unplaceable(stuck));
        }
    }
    let ordered = order::moves(&start, walk.worth(goal), goal.max_moves);
    let end = ordered.replay(&start);
    Ok(Plan {
        moves: ordered.into_moves(nodes, leaves, &start),
        before: start.loads(),
        after: end.loads(),
        imbalance_before: start.imbalance(),
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
