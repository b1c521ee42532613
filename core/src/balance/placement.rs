//! Where a leaf goes that may not stay where it is, and why there is sometimes no such place.

use super::local_search::Hop;
use super::state::{State, in_region, in_spec};

/// A leaf of a draining node that has nowhere to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplaceable {
    /// Its [`id`](super::Leaf::id).
    pub leaf: u32,
    /// Its name, as it was given.
    pub name: String,
    /// The draining node, where it stays.
    pub node: String,
    /// What keeps it there.
    pub reason: Reason,
}

/// Why a leaf has nowhere to go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It is not [`movable`](super::Leaf::movable).
    #[error("it cannot be moved")]
    Immovable,
    /// All nodes are draining or have capacity 0.
    #[error("no node takes partitions")]
    NoNode,
    /// Nodes take partitions, but all of them are elsewhere.
    #[error("no node that takes partitions is in its regions ({})", .regions.join(", "))]
    Regions {
        /// Where the leaf may be.
        regions: Vec<String>,
    },
    /// Nodes take partitions, but the spec of the leaf names none of them.
    #[error("none of its nodes ({}) takes partitions", .nodes.join(", "))]
    Nodes {
        /// The nodes of its spec.
        nodes: Vec<String>,
    },
    /// Some nodes fit its regions and some its spec, but none both.
    #[error("none of its nodes ({}) that takes partitions is in its regions ({})", .nodes.join(", "), .regions.join(", "))]
    RegionsAndNodes {
        /// Where the leaf may be.
        regions: Vec<String>,
        /// The nodes of its spec.
        nodes: Vec<String>,
    },
    /// The nodes that it may go to are too full.
    #[error("it has {bytes} bytes, and \"{node}\", which has the most room, may take {free} more")]
    NoRoom {
        /// What the leaf takes.
        bytes: u64,
        /// The node with the most room of those.
        node: String,
        /// How many more bytes that node may hold once the other leaves have gone where they can.
        free: u64,
    },
}

pub(super) fn summary(leaves: &[Unplaceable]) -> String {
    let mut nodes: Vec<&str> = leaves.iter().map(|leaf| leaf.node.as_str()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let quoted: Vec<String> = nodes.iter().map(|node| format!("\"{node}\"")).collect();
    let what = if leaves.len() == 1 { "partition of" } else { "partitions of" };
    let have = if leaves.len() == 1 { "has" } else { "have" };
    format!("{} {what} {} {have} nowhere to go", leaves.len(), quoted.join(", "))
}

/// The leaves that are still on draining nodes.
pub(super) fn stuck(end: &State<'_>) -> Vec<Unplaceable> {
    let nodes = end.nodes();
    let draining = (0..nodes.len()).filter(|node| nodes[*node].draining);
    let leaves = draining.flat_map(|node| end.on(node));
    let tell = |leaf: usize| Unplaceable {
        leaf: end.leaf(leaf).id,
        name: end.leaf(leaf).name.clone(),
        node: nodes[end.at[leaf]].name.clone(),
        reason: reason(end, leaf),
    };
    leaves.map(tell).collect()
}

fn reason(state: &State<'_>, number: usize) -> Reason {
    let leaf = state.leaf(number);
    let takers = || state.takers().map(|node| &state.nodes()[node]);
    let free = |node: usize| if state.overflow(node) > 0 { Some(0) } else { state.free(node) };
    // One without limit would have taken it.
    let roomiest = state.targets(number).max_by_key(|node| free(*node).unwrap_or(u128::MAX));
    match (roomiest, leaf.regions.clone(), leaf.nodes.clone()) {
        _ if !leaf.movable => Reason::Immovable,
        (Some(node), ..) => Reason::NoRoom {
            bytes: leaf.bytes,
            node: state.nodes()[node].name.clone(),
            free: free(node).and_then(|free| free.try_into().ok()).unwrap_or(u64::MAX),
        },
        _ if takers().next().is_none() => Reason::NoNode,
        (None, Some(regions), _) if !takers().any(|node| in_region(leaf, node)) => Reason::Regions { regions },
        (None, _, Some(nodes)) if !takers().any(|node| in_spec(leaf, node)) => Reason::Nodes { nodes },
        (None, regions, nodes) => {
            Reason::RegionsAndNodes { regions: regions.unwrap_or_default(), nodes: nodes.unwrap_or_default() }
        }
    }
}

/// Which of the nodes with room takes a leaf that has to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The one where balance suffers least.
    Balanced,
    /// The one with the least room, so that much room stays together. For when the other choice led nowhere.
    Tight,
}

/// The node that takes the leaf. With [`Choice::Balanced`] the one with the least load per capacity afterwards, and of
/// about equal ones the one with the fewest siblings.
fn target(state: &State<'_>, leaf: usize, choice: Choice) -> Option<usize> {
    let key = |node: usize| {
        let ratio = (state.load(node) + state.size(leaf)) / state.capacity(node);
        let room = match choice {
            Choice::Balanced => 0,
            Choice::Tight => state.free(node).unwrap_or(u128::MAX),
        };
        // Rounded, so that the siblings have a say. Conversion saturates.
        (room, (ratio / state.grain()) as u64, state.siblings(leaf, node), ratio, state.leaves_on(node))
    };
    let fitting = state.targets(leaf).filter(|node| state.fits(leaf, *node));
    let keyed = fitting.map(|node| (key(node), node));
    keyed.min_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal)).map(|(_, node)| node)
}

/// Moves the leaf to where it may be, and if need be others out of its way; nothing if that fails.
pub(super) fn settle(state: &mut State<'_>, leaf: usize, choice: Choice) -> Option<Vec<Hop>> {
    if let Some(to) = target(state, leaf, choice) {
        state.shift(leaf, to);
        return Some(vec![Hop { leaf, to }]);
    }
    let targets: Vec<usize> = state.targets(leaf).filter(|node| state.overflow(*node) == 0).collect();
    targets.into_iter().find_map(|to| make_room(state, leaf, to, choice))
}

fn make_room(state: &mut State<'_>, leaf: usize, to: usize, choice: Choice) -> Option<Vec<Hop>> {
    // The smallest that is enough alone; else the largest ones.
    let need = state.bytes_of(leaf).saturating_sub(state.free(to)?);
    let mut others: Vec<usize> = state.movable_on(to).filter(|other| state.leaf(*other).bytes > 0).collect();
    others.sort_by_key(|other| state.leaf(*other).bytes);
    let enough = others.partition_point(|other| state.bytes_of(*other) < need);
    others[..enough].reverse();
    let (several, alone) = (&others[..enough], &others[enough..]);
    for other in alone {
        if let Some(away) = target(state, *other, choice) {
            state.shift(*other, away);
            state.shift(leaf, to);
            return Some(vec![Hop { leaf: *other, to: away }, Hop { leaf, to }]);
        }
    }
    let mut hops = Vec::new();
    for other in several {
        if let Some(away) = target(state, *other, choice) {
            state.shift(*other, away);
            hops.push(Hop { leaf: *other, to: away });
        }
        if state.fits(leaf, to) {
            state.shift(leaf, to);
            hops.push(Hop { leaf, to });
            return Some(hops);
        }
    }
    for hop in hops.iter().rev() {
        state.shift(hop.leaf, to);
    }
    None
}

/// Takes one leaf from a node that is above its limit: the smallest that is enough, else the largest.
pub(super) fn relieve(state: &mut State<'_>, node: usize, choice: Choice) -> Option<Vec<Hop>> {
    let over = state.overflow(node);
    let mut leaves: Vec<usize> = state.movable_on(node).filter(|leaf| state.leaf(*leaf).bytes > 0).collect();
    leaves.sort_by_key(|leaf| state.leaf(*leaf).bytes);
    let enough = leaves.partition_point(|leaf| state.bytes_of(*leaf) < over);
    leaves[..enough].reverse();
    leaves.rotate_left(enough);
    let (leaf, to) = leaves.into_iter().find_map(|leaf| Some((leaf, target(state, leaf, choice)?)))?;
    state.shift(leaf, to);
    Some(vec![Hop { leaf, to }])
}
