//! What holds for every plan of a rebalance, whatever the cluster.

use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::prelude::*;
use shardkeeper_core::balance::{BalanceError, Goal, Leaf, Measure, Node, Plan, Reason, plan};

const REGIONS: [&str; 3] = ["eu", "us", "asia"];

fn name(at: usize) -> String {
    format!("n{at}")
}

fn regions() -> impl Strategy<Value = Option<Vec<String>>> {
    let some = proptest::sample::subsequence(REGIONS.to_vec(), 1..=2);
    proptest::option::weighted(0.2, some.prop_map(|some| some.into_iter().map(str::to_owned).collect()))
}

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let node = (
        proptest::option::weighted(0.8, proptest::sample::select(REGIONS.to_vec())),
        prop_oneof![4 => Just(None), 3 => (0.25f64..4.0).prop_map(Some), 1 => Just(Some(0.0))],
        proptest::option::weighted(0.4, 0u64..600),
        proptest::bool::weighted(0.15),
    );
    proptest::collection::vec(node, 1..7).prop_map(|nodes| {
        let make = |(at, (region, capacity, limit, draining)): (usize, (Option<&str>, _, _, _))| Node {
            name: name(at),
            region: region.map(str::to_owned),
            capacity,
            limit,
            draining,
        };
        nodes.into_iter().enumerate().map(make).collect()
    })
}

fn leaves(nodes: usize) -> impl Strategy<Value = Vec<Leaf>> {
    let size = prop_oneof![1 => Just(0u64), 3 => 1u64..20, 3 => 20u64..200];
    let allowed =
        proptest::option::weighted(0.15, proptest::sample::subsequence((0..nodes).collect::<Vec<_>>(), 1..=nodes));
    let leaf = (0u32..4, 0..nodes, size, 0u64..100, proptest::bool::weighted(0.9), regions(), allowed);
    proptest::collection::vec(leaf, 0..40).prop_map(|leaves| {
        let leaves = (0..).zip(leaves);
        let leaves = leaves.map(|(id, (parent, node, bytes, rows, movable, regions, allowed))| Leaf {
            id,
            parent,
            name: format!("t_{id}"),
            node: name(node),
            bytes,
            rows,
            movable,
            regions,
            nodes: allowed.map(|nodes: Vec<usize>| nodes.into_iter().map(name).collect()),
        });
        leaves.collect()
    })
}

fn goal() -> impl Strategy<Value = Goal> {
    let by = proptest::sample::select(vec![Measure::Bytes, Measure::Rows, Measure::Count]);
    (by, prop_oneof![Just(0.05), Just(0.0), 0.0f64..0.5], proptest::option::weighted(0.2, 0usize..10))
        .prop_map(|(by, minimum_gain, max_moves)| Goal { by, minimum_gain, max_moves })
}

fn cluster() -> impl Strategy<Value = (Vec<Node>, Vec<Leaf>, Goal)> {
    nodes().prop_flat_map(|nodes| {
        let leaves = leaves(nodes.len());
        (Just(nodes), leaves, goal())
    })
}

fn applied(leaves: &[Leaf], plan: &Plan) -> Vec<Leaf> {
    let mut leaves = leaves.to_vec();
    for made in &plan.moves {
        let leaf = leaves.iter_mut().find(|leaf| leaf.id == made.leaf).expect("a leaf that was given");
        assert_eq!(leaf.node, made.from);
        leaf.node.clone_from(&made.to);
    }
    leaves
}

fn size(leaf: &Leaf, by: Measure) -> u64 {
    match by {
        Measure::Bytes => leaf.bytes,
        Measure::Rows => leaf.rows,
        Measure::Count => 1,
    }
}

fn takes(node: &Node) -> bool {
    !node.draining && node.capacity != Some(0.0)
}

fn in_region(leaf: &Leaf, node: &Node) -> bool {
    leaf.regions.as_ref().is_none_or(|regions| node.region.as_ref().is_some_and(|region| regions.contains(region)))
}

fn used(leaves: &[Leaf]) -> HashMap<String, u64> {
    let mut used = HashMap::new();
    for leaf in leaves {
        *used.entry(leaf.node.clone()).or_default() += leaf.bytes;
    }
    used
}

/// The documented measure, reckoned anew: misplaced leaves, bytes above limits, the peak, the sum of squares.
fn imbalance(nodes: &[Node], leaves: &[Leaf], by: Measure) -> (usize, u64, f64, f64) {
    let node = |leaf: &Leaf| nodes.iter().find(|node| node.name == leaf.node).expect("a node that was given");
    let misplaced = leaves.iter().filter(|leaf| leaf.movable && !(takes(node(leaf)) && in_region(leaf, node(leaf))));
    let used = used(leaves);
    let over = |node: &Node| used.get(&node.name).unwrap_or(&0).saturating_sub(node.limit.unwrap_or(u64::MAX));
    let load =
        |node: &Node| leaves.iter().filter(|leaf| leaf.node == node.name).map(|leaf| size(leaf, by)).sum::<u64>();
    let ratio = |node: &Node| load(node) as f64 / node.capacity.unwrap_or(1.0);
    let takers = || nodes.iter().filter(|node| takes(node));
    let peak = takers().map(ratio).fold(0.0, f64::max);
    let squares = takers().map(|node| ratio(node) * load(node) as f64).sum();
    (misplaced.count(), nodes.iter().map(over).sum(), peak, squares)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_plan_keeps_all_rules((nodes, leaves, goal) in cluster()) {
        let plan = match plan(&nodes, &leaves, &goal) {
            Ok(plan) => plan,
            Err(BalanceError::Unplaceable(list)) => {
                // Only leaves of draining nodes, and for a reason that holds.
                prop_assert!(!list.is_empty());
                for stuck in list {
                    let leaf = &leaves[stuck.leaf as usize];
                    prop_assert!(nodes.iter().any(|node| node.name == leaf.node && node.draining));
                    let allowed = |node: &&Node| {
                        takes(node) && in_region(leaf, node) && leaf.nodes.as_ref().is_none_or(|nodes| nodes.contains(&node.name))
                    };
                    match stuck.reason {
                        Reason::Immovable => prop_assert!(!leaf.movable),
                        Reason::NoRoom { bytes, free, .. } => {
                            prop_assert!(bytes > free || bytes == 0);
                            prop_assert!(nodes.iter().filter(allowed).all(|node| node.limit.is_some()));
                        }
                        _ => prop_assert_eq!(nodes.iter().filter(allowed).count(), 0),
                    }
                }
                return Ok(());
            }
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        };
        let after = applied(&leaves, &plan);

        // Never worse, and better if anything moves at all.
        let (old, new) = (imbalance(&nodes, &leaves, goal.by), imbalance(&nodes, &after, goal.by));
        prop_assert!(if plan.moves.is_empty() { new == old } else { new < old }, "{:?} {:?}", old, new);
        let told = plan.imbalance_after;
        prop_assert_eq!((told.misplaced, told.overflow), (new.0, u128::from(new.1)));
        prop_assert_eq!(told.peak, new.2);

        // Drained, unless cut short.
        if goal.max_moves.is_none() {
            for node in nodes.iter().filter(|node| node.draining) {
                prop_assert!(after.iter().all(|leaf| leaf.node != node.name), "{} is not empty", node.name);
            }
        }
        prop_assert!(plan.moves.len() <= goal.max_moves.unwrap_or(usize::MAX));

        // Only what may move, where it may be.
        for made in &plan.moves {
            let leaf = &leaves[made.leaf as usize];
            let to = nodes.iter().find(|node| node.name == made.to).unwrap();
            prop_assert!(leaf.movable && takes(to) && in_region(leaf, to) && made.from != made.to);
            prop_assert!(leaf.nodes.as_ref().is_none_or(|nodes| nodes.contains(&made.to)));
            prop_assert_eq!(made.size, size(leaf, goal.by));
        }

        // Step by step: no node twice in a step, and room for both copies while it runs.
        let mut steps: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for made in &plan.moves {
            steps.entry(made.step).or_default().push(made);
        }
        prop_assert!(plan.moves.is_sorted_by_key(|made| made.step));
        prop_assert!(steps.keys().copied().eq(0..steps.len() as u32));
        let mut now = used(&leaves);
        for moves in steps.values() {
            let mut busy = HashSet::new();
            for made in moves {
                prop_assert!(busy.insert(&made.from) && busy.insert(&made.to));
                let held = now.entry(made.to.clone()).or_default();
                *held += leaves[made.leaf as usize].bytes;
                let limit = nodes.iter().find(|node| node.name == made.to).unwrap().limit;
                prop_assert!(*held <= limit.unwrap_or(u64::MAX), "{} holds {} of {:?}", made.to, held, limit);
            }
            for made in moves {
                *now.get_mut(&made.from).unwrap() -= leaves[made.leaf as usize].bytes;
            }
        }

        // The loads that are told are those that come out.
        for (load, node) in plan.after.iter().zip(&nodes) {
            let on: Vec<_> = after.iter().filter(|leaf| leaf.node == node.name).collect();
            prop_assert_eq!(&load.node, &node.name);
            prop_assert_eq!((load.leaves, load.size), (on.len(), on.iter().map(|leaf| size(leaf, goal.by)).sum()));
        }
    }

    #[test]
    fn a_plan_that_was_carried_out_leaves_nothing_to_do((nodes, leaves, goal) in cluster()) {
        let goal = Goal { max_moves: None, ..goal };
        if let Ok(first) = plan(&nodes, &leaves, &goal) {
            let again = plan(&nodes, &applied(&leaves, &first), &goal).unwrap();
            prop_assert_eq!(again.moves, []);
            prop_assert_eq!(plan(&nodes, &leaves, &goal).unwrap(), first);
        }
    }

    #[test]
    fn plans_of_few_moves_lead_to_the_end((nodes, leaves, goal) in cluster(), most in 2usize..6) {
        let goal = Goal { max_moves: Some(most), ..goal };
        let mut leaves = leaves;
        let mut rounds = 0;
        while let Ok(part) = plan(&nodes, &leaves, &goal) {
            if part.moves.is_empty() {
                break;
            }
            leaves = applied(&leaves, &part);
            rounds += 1;
            prop_assert!(rounds < 1000);
        }
    }

    #[test]
    fn free_leaves_of_one_size_are_shared_evenly(nodes in 1usize..9, placed in proptest::collection::vec(0usize..9, 0..60)) {
        let nodes: Vec<Node> = (0..nodes)
            .map(|at| Node { name: name(at), region: None, capacity: None, limit: None, draining: false })
            .collect();
        let leaf = |(id, at): (u32, usize)| Leaf {
            id, parent: 0, name: format!("t_{id}"), node: name(at % nodes.len()), bytes: 7, rows: 7, movable: true,
            regions: None, nodes: None,
        };
        let leaves: Vec<Leaf> = (0..).zip(placed).map(leaf).collect();
        let plan = plan(&nodes, &leaves, &Goal { minimum_gain: 0.0, ..Goal::default() }).unwrap();
        let counts = || plan.after.iter().map(|load| load.leaves);
        prop_assert!(counts().max().unwrap() - counts().min().unwrap() <= 1);
        // No more moves than are too many where they were.
        let share = |load: &shardkeeper_core::balance::Load| load.leaves.saturating_sub(leaves.len() / nodes.len());
        prop_assert!(plan.moves.len() <= plan.before.iter().map(share).sum());
    }
}
