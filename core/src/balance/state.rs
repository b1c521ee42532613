//! A placement of leaves on nodes, and how good it is.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use super::{BalanceError, Goal, Leaf, Measure, Node};

/// What one node stores.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Its name.
    pub node: String,
    /// In the measure of the goal.
    pub size: u64,
    /// Of all its leaves: what its limit counts.
    pub bytes: u64,
    /// How many leaves it has, those that cannot move included.
    pub leaves: usize,
    /// What would be its share by capacity, in the measure of the goal.
    pub ideal: f64,
}

/// How bad a placement is; what comes first weighs more than all that follows.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Imbalance {
    /// Movable leaves on a node where they may not stay.
    pub misplaced: usize,
    /// Bytes above the limits of nodes.
    pub overflow: u128,
    /// The largest load per capacity of a node that takes leaves.
    pub peak: f64,
    /// The sum of load² / capacity over the nodes that take leaves.
    pub squares: f64,
}

/// What stays the same however leaves move. Nodes and leaves are their positions in the input.
struct Facts<'a> {
    nodes: &'a [Node],
    leaves: &'a [Leaf],
    sizes: Vec<u64>,
    /// 0 for a node that takes no leaves.
    capacity: Vec<f64>,
    /// For each leaf, the nodes it may be moved to.
    targets: Vec<Vec<usize>>,
    /// For each leaf, whether it may not stay on a node: its regions forbid it.
    banned: Vec<Vec<bool>>,
    /// Each leaf's parent, counted from 0.
    parent: Vec<usize>,
    ideal: f64,
    minimum_gain: f64,
}

#[derive(Clone)]
pub(super) struct State<'a> {
    facts: Rc<Facts<'a>>,
    pub at: Vec<usize>,
    /// The leaves of each node, by position: sorted, so that the outcome depends on the placement alone.
    on: Vec<BTreeSet<usize>>,
    load: Vec<u128>,
    bytes: Vec<u128>,
    /// How many leaves of each parent a node has.
    siblings: Vec<Vec<u32>>,
}

impl<'a> State<'a> {
    pub(super) fn new(nodes: &'a [Node], leaves: &'a [Leaf], goal: &Goal) -> Result<Self, BalanceError> {
        let number: HashMap<&str, usize> =
            nodes.iter().enumerate().map(|(at, node)| (node.name.as_str(), at)).collect();
        let place = |leaf: &Leaf| {
            let unknown = || BalanceError::UnknownNode { leaf: leaf.name.clone(), node: leaf.node.clone() };
            number.get(leaf.node.as_str()).copied().ok_or_else(unknown)
        };
        let at: Vec<usize> = leaves.iter().map(place).collect::<Result<_, _>>()?;
        let size = |leaf: &Leaf| match goal.by {
            Measure::Bytes => leaf.bytes,
            Measure::Rows => leaf.rows,
            Measure::Count => 1,
        };
        let sizes: Vec<u64> = leaves.iter().map(size).collect();
        let weight = |node: &Node| if node.draining { 0.0 } else { node.capacity.unwrap_or(1.0) };
        let capacity: Vec<f64> = nodes.iter().map(weight).collect();
        let targets = leaves.iter().map(|leaf| {
            let takes =
                |node: &usize| capacity[*node] > 0.0 && in_region(leaf, &nodes[*node]) && in_spec(leaf, &nodes[*node]);
            (0..nodes.len()).filter(takes).collect()
        });
        let banned = leaves.iter().map(|leaf| nodes.iter().map(|node| !in_region(leaf, node)).collect());
        let mut parents = HashMap::new();
        let parent: Vec<usize> = leaves
            .iter()
            .map(|leaf| {
                let next = parents.len();
                *parents.entry(leaf.parent).or_insert(next)
            })
            .collect();
        // What cannot leave a node that takes no leaves is nobody's share.
        let shared = (0..leaves.len()).filter(|leaf| capacity[at[*leaf]] > 0.0 || leaves[*leaf].movable);
        let total: u128 = shared.map(|leaf| u128::from(sizes[leaf])).sum();
        let sum: f64 = capacity.iter().sum();
        let facts = Facts {
            nodes,
            leaves,
            targets: targets.collect(),
            banned: banned.collect(),
            ideal: if sum > 0.0 { total as f64 / sum } else { 0.0 },
            minimum_gain: goal.minimum_gain,
            sizes,
            capacity,
            parent,
        };
        let mut state = Self {
            facts: Rc::new(facts),
            at: at.clone(),
            on: vec![BTreeSet::new(); nodes.len()],
            load: vec![0; nodes.len()],
            bytes: vec![0; nodes.len()],
            siblings: vec![vec![0; parents.len()]; nodes.len()],
        };
        for (leaf, node) in at.into_iter().enumerate() {
            state.put(leaf, node);
        }
        Ok(state)
    }

    fn put(&mut self, leaf: usize, node: usize) {
        self.at[leaf] = node;
        self.on[node].insert(leaf);
        self.load[node] += u128::from(self.facts.sizes[leaf]);
        self.bytes[node] += u128::from(self.facts.leaves[leaf].bytes);
        self.siblings[node][self.facts.parent[leaf]] += 1;
    }

    pub(super) fn shift(&mut self, leaf: usize, to: usize) {
        let from = self.at[leaf];
        self.on[from].remove(&leaf);
        self.load[from] -= u128::from(self.facts.sizes[leaf]);
        self.bytes[from] -= u128::from(self.facts.leaves[leaf].bytes);
        self.siblings[from][self.facts.parent[leaf]] -= 1;
        self.put(leaf, to);
    }

    pub(super) fn nodes(&self) -> &'a [Node] {
        self.facts.nodes
    }

    pub(super) fn leaf(&self, leaf: usize) -> &'a Leaf {
        &self.facts.leaves[leaf]
    }

    pub(super) fn on(&self, node: usize) -> impl Iterator<Item = usize> {
        self.on[node].iter().copied()
    }

    pub(super) fn movable_on(&self, node: usize) -> impl Iterator<Item = usize> {
        self.on(node).filter(|leaf| self.leaf(*leaf).movable)
    }

    /// The nodes that the leaf may be moved to from where it is, with room or not.
    pub(super) fn targets(&self, leaf: usize) -> impl Iterator<Item = usize> {
        self.facts.targets[leaf].iter().copied().filter(move |node| *node != self.at[leaf])
    }

    pub(super) fn size_of(&self, leaf: usize) -> u64 {
        self.facts.sizes[leaf]
    }

    pub(super) fn size(&self, leaf: usize) -> f64 {
        self.size_of(leaf) as f64
    }

    pub(super) fn bytes_of(&self, leaf: usize) -> u128 {
        u128::from(self.leaf(leaf).bytes)
    }

    pub(super) fn load(&self, node: usize) -> f64 {
        self.load[node] as f64
    }

    pub(super) fn capacity(&self, node: usize) -> f64 {
        self.facts.capacity[node]
    }

    /// Load per capacity; of nodes that take leaves only.
    pub(super) fn ratio(&self, node: usize) -> f64 {
        self.load(node) / self.capacity(node)
    }

    /// The load per capacity that all would have.
    pub(super) fn ideal(&self) -> f64 {
        self.facts.ideal
    }

    /// How much more than its share the node has; negative if less.
    pub(super) fn excess(&self, node: usize) -> f64 {
        self.load(node) - self.facts.ideal * self.capacity(node)
    }

    /// Differences in load per capacity below this are left to other reasons.
    pub(super) fn grain(&self) -> f64 {
        (self.facts.ideal * self.facts.minimum_gain.max(0.01) / 4.0).max(f64::MIN_POSITIVE)
    }

    pub(super) fn siblings(&self, leaf: usize, node: usize) -> u32 {
        self.siblings[node][self.facts.parent[leaf]]
    }

    pub(super) fn leaves_on(&self, node: usize) -> usize {
        self.on[node].len()
    }

    pub(super) fn used(&self, node: usize) -> u128 {
        self.bytes[node]
    }

    /// How many more bytes the node may hold; nothing if it is without limit.
    pub(super) fn free(&self, node: usize) -> Option<u128> {
        let limit = self.facts.nodes[node].limit?;
        Some(u128::from(limit).saturating_sub(self.bytes[node]))
    }

    pub(super) fn fits(&self, leaf: usize, node: usize) -> bool {
        // A full node takes an empty leaf, one above its limit none.
        self.overflow(node) == 0 && self.free(node).is_none_or(|free| self.bytes_of(leaf) <= free)
    }

    pub(super) fn overflow(&self, node: usize) -> u128 {
        let limit = self.facts.nodes[node].limit.map_or(u128::MAX, u128::from);
        self.bytes[node].saturating_sub(limit)
    }

    /// Whether the leaf can move and may not stay.
    pub(super) fn is_misplaced(&self, leaf: usize) -> bool {
        let node = self.at[leaf];
        self.leaf(leaf).movable && (self.capacity(node) == 0.0 || self.facts.banned[leaf][node])
    }

    pub(super) fn misplaced(&self) -> Vec<usize> {
        (0..self.at.len()).filter(|leaf| self.is_misplaced(*leaf)).collect()
    }

    /// The nodes that take leaves.
    pub(super) fn takers(&self) -> impl Iterator<Item = usize> {
        (0..self.facts.nodes.len()).filter(|node| self.capacity(*node) > 0.0)
    }

    pub(super) fn peak(&self) -> f64 {
        self.takers().map(|node| self.ratio(node)).fold(0.0, f64::max)
    }

    pub(super) fn squares(&self) -> f64 {
        self.takers().map(|node| self.ratio(node) * self.load(node)).sum()
    }

    pub(super) fn imbalance(&self) -> Imbalance {
        Imbalance {
            misplaced: self.misplaced().len(),
            overflow: (0..self.facts.nodes.len()).map(|node| self.overflow(node)).sum(),
            peak: self.peak(),
            squares: self.squares(),
        }
    }

    /// The loads per capacity, the largest first.
    pub(super) fn ranked(&self) -> Vec<f64> {
        let mut ranked: Vec<f64> = self.takers().map(|node| self.ratio(node)).collect();
        ranked.sort_by(|a, b| b.total_cmp(a));
        ranked
    }

    pub(super) fn loads(&self) -> Vec<Load> {
        let load = |(at, node): (usize, &Node)| Load {
            node: node.name.clone(),
            size: self.load[at].try_into().unwrap_or(u64::MAX),
            bytes: self.bytes[at].try_into().unwrap_or(u64::MAX),
            leaves: self.leaves_on(at),
            ideal: self.facts.ideal * self.capacity(at),
        };
        self.facts.nodes.iter().enumerate().map(load).collect()
    }
}

pub(super) fn in_region(leaf: &Leaf, node: &Node) -> bool {
    let Some(regions) = &leaf.regions else { return true };
    node.region.as_ref().is_some_and(|region| regions.contains(region))
}

pub(super) fn in_spec(leaf: &Leaf, node: &Node) -> bool {
    leaf.nodes.as_ref().is_none_or(|nodes| nodes.contains(&node.name))
}
