//! The order of the moves: within the limits at every moment, and side by side where no node is shared.

use std::collections::BTreeMap;

use super::local_search::Hop;
use super::state::State;
use super::{Leaf, Move, Node};

/// Hops in an order that keeps the limits, each with its step.
pub(super) struct Ordered {
    hops: Vec<(Hop, u32)>,
    /// The positions of the nodes that the hops leave.
    from: Vec<usize>,
}

/// As many of the walk's steps as `most` moves allow.
pub(super) fn moves(start: &State<'_>, steps: &[Vec<Hop>], most: Option<usize>) -> Ordered {
    let most = most.unwrap_or(usize::MAX);
    let mut length = steps.len();
    loop {
        // What moves in several hops moves once, if the limits allow that order.
        let hops = || steps[..length].iter().flatten().copied();
        let ends: BTreeMap<usize, usize> = hops().map(|hop| (hop.leaf, hop.to)).collect();
        let moved = ends.iter().filter(|(leaf, to)| start.at[**leaf] != **to).count();
        if moved <= most {
            let ordered = direct(start, hops(), &ends).unwrap_or_else(|| as_walked(start, hops()));
            if ordered.hops.len() <= most {
                return ordered;
            }
        }
        length -= 1;
    }
}

fn direct(start: &State<'_>, hops: impl Iterator<Item = Hop>, ends: &BTreeMap<usize, usize>) -> Option<Ordered> {
    let is_last = |hop: &Hop| ends.get(&hop.leaf) == Some(&hop.to) && start.at[hop.leaf] != hop.to;
    let mut pending: Vec<Hop> = Vec::new();
    for hop in hops.filter(is_last) {
        if !pending.contains(&hop) {
            pending.push(hop);
        }
    }
    let mut plan = Planner::new(start);
    while !pending.is_empty() {
        // Of those that have room now, one that may start earliest: it delays the others least.
        let ready = (0..pending.len()).filter(|at| plan.has_room(pending[*at]));
        let next = ready.min_by_key(|at| (plan.step(pending[*at]), *at))?;
        plan.take(pending.remove(next));
    }
    Some(plan.ordered)
}

fn as_walked(start: &State<'_>, hops: impl Iterator<Item = Hop>) -> Ordered {
    let mut plan = Planner::new(start);
    hops.for_each(|hop| plan.take(hop));
    plan.ordered
}

/// Puts hops into steps. The hops of one node keep their order, so each node holds at each moment what it would hold if
/// they ran one by one.
struct Planner<'a> {
    state: State<'a>,
    /// The first step in which each node is idle.
    idle: Vec<u32>,
    ordered: Ordered,
}

impl<'a> Planner<'a> {
    fn new(start: &State<'a>) -> Self {
        let ordered = Ordered { hops: Vec::new(), from: Vec::new() };
        Self { idle: vec![0; start.nodes().len()], state: start.clone(), ordered }
    }

    fn has_room(&self, hop: Hop) -> bool {
        self.state.fits(hop.leaf, hop.to)
    }

    fn step(&self, hop: Hop) -> u32 {
        self.idle[self.state.at[hop.leaf]].max(self.idle[hop.to])
    }

    fn take(&mut self, hop: Hop) {
        let (from, step) = (self.state.at[hop.leaf], self.step(hop));
        self.idle[from] = step + 1;
        self.idle[hop.to] = step + 1;
        self.state.shift(hop.leaf, hop.to);
        self.ordered.hops.push((hop, step));
        self.ordered.from.push(from);
    }
}

impl Ordered {
    /// The placement after all moves.
    pub(super) fn replay<'a>(&self, start: &State<'a>) -> State<'a> {
        let mut state = start.clone();
        for (hop, _) in &self.hops {
            state.shift(hop.leaf, hop.to);
        }
        state
    }

    pub(super) fn into_moves(self, nodes: &[Node], leaves: &[Leaf], start: &State<'_>) -> Vec<Move> {
        let make = |((hop, step), from): ((Hop, u32), usize)| Move {
            leaf: leaves[hop.leaf].id,
            from: nodes[from].name.clone(),
            to: nodes[hop.to].name.clone(),
            size: start.size_of(hop.leaf),
            step,
        };
        let mut moves: Vec<Move> = self.hops.into_iter().zip(self.from).map(make).collect();
        // Stable: within a step they share no node, so their order is free.
        moves.sort_by_key(|made| made.step);
        moves
    }
}
