//! Plans of rebalances and drains, by example.

use std::time::{Duration, Instant};

use shardkeeper_core::balance::{BalanceError, Goal, Leaf, Measure, Node, Plan, plan};

fn node(name: &str) -> Node {
    Node { name: name.into(), region: None, capacity: None, limit: None, draining: false }
}

fn leaf(id: u32, node: &str, bytes: u64) -> Leaf {
    Leaf {
        id,
        parent: 1,
        name: format!("t_{id}"),
        node: node.into(),
        bytes,
        rows: bytes,
        movable: true,
        regions: None,
        nodes: None,
    }
}

/// Leaves with these sizes, node by node.
fn leaves(sizes: &[(&str, &[u64])]) -> Vec<Leaf> {
    let all = sizes.iter().flat_map(|(node, sizes)| sizes.iter().map(|size| (*node, *size)));
    (1..).zip(all).map(|(id, (node, size))| leaf(id, node, size)).collect()
}

fn moves(plan: &Plan) -> Vec<String> {
    plan.moves.iter().map(|m| format!("{}: {} {}->{}", m.step, m.leaf, m.from, m.to)).collect()
}

fn sizes(plan: &Plan) -> Vec<u64> {
    plan.after.iter().map(|load| load.size).collect()
}

fn unplaceable(nodes: &[Node], leaves: &[Leaf]) -> Vec<String> {
    match plan(nodes, leaves, &Goal::default()) {
        Err(BalanceError::Unplaceable(list)) => {
            list.iter().map(|leaf| format!("{}: {}", leaf.name, leaf.reason)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_node_gets_its_share_and_no_one_gives_more_than_is_too_much() {
    let nodes = ["a", "b", "c", "d", "new"].map(node);
    let leaves = leaves(&[("a", &[20; 5]), ("b", &[20; 5]), ("c", &[20; 5]), ("d", &[20; 5])]);
    let plan = plan(&nodes, &leaves, &Goal::default()).unwrap();
    assert_eq!(sizes(&plan), [80; 5]);
    assert_eq!(plan.moves.len(), 4);
    // All go to one node, so one after another.
    assert_eq!(plan.moves.iter().map(|m| m.step).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!((plan.before[4].leaves, plan.after[4].leaves, plan.after[4].ideal), (0, 4, 80.0));
}

#[test]
fn capacity_is_a_weight() {
    let nodes = [node("a"), Node { capacity: Some(3.0), ..node("b") }];
    let plan = plan(&nodes, &leaves(&[("a", &[10; 8])]), &Goal::default()).unwrap();
    assert_eq!(sizes(&plan), [20, 60]);
}

#[test]
fn a_node_with_capacity_0_gives_what_it_can() {
    let nodes = [Node { capacity: Some(0.0), ..node("local") }, node("a"), node("b")];
    let mut leaves = leaves(&[("local", &[10, 10, 10])]);
    leaves[2].movable = false;
    let plan = plan(&nodes, &leaves, &Goal::default()).unwrap();
    assert_eq!(sizes(&plan), [10, 10, 10]);
}

#[test]
fn what_is_shared_out_is_chosen() {
    let nodes = ["a", "b"].map(node);
    let mut leaves = leaves(&[("a", &[100, 1, 1]), ("b", &[100])]);
    leaves[0].rows = 2;
    leaves[3].rows = 8;
    let by = |by| moves(&plan(&nodes, &leaves, &Goal { by, ..Goal::default() }).unwrap());
    assert!(by(Measure::Bytes).is_empty());
    assert_eq!(by(Measure::Count), ["0: 1 a->b"]);
    assert!(by(Measure::Rows).is_empty());
}

#[test]
fn moves_between_other_nodes_run_side_by_side() {
    let nodes = ["a", "b", "c", "d"].map(node);
    let plan = plan(&nodes, &leaves(&[("a", &[10, 10]), ("b", &[10, 10])]), &Goal::default()).unwrap();
    assert_eq!(moves(&plan), ["0: 1 a->c", "0: 3 b->d"]);
}

#[test]
fn two_leaves_are_exchanged_where_no_single_move_helps() {
    let nodes = ["a", "b"].map(node);
    let plan = plan(&nodes, &leaves(&[("a", &[6, 6]), ("b", &[4, 4])]), &Goal::default()).unwrap();
    assert_eq!(sizes(&plan), [10, 10]);
    assert_eq!(plan.moves.len(), 2);
}

#[test]
fn a_small_gain_is_not_worth_a_move() {
    let nodes = ["a", "b"].map(node);
    let leaves = leaves(&[("a", &[100, 3, 3]), ("b", &[100])]);
    assert!(plan(&nodes, &leaves, &Goal::default()).unwrap().moves.is_empty());
    let goal = Goal { minimum_gain: 0.01, ..Goal::default() };
    assert_eq!(moves(&plan(&nodes, &leaves, &goal).unwrap()), ["0: 2 a->b"]);
}

#[test]
fn a_node_that_cannot_give_does_not_keep_others_from_it() {
    let nodes = ["a", "b", "c"].map(node);
    let mut leaves = leaves(&[("a", &[1000]), ("b", &[10, 10])]);
    leaves[0].movable = false;
    let goal = Goal { minimum_gain: 0.01, ..Goal::default() };
    assert_eq!(moves(&plan(&nodes, &leaves, &goal).unwrap()), ["0: 2 b->c"]);
}

#[test]
fn siblings_spread_where_sizes_leave_the_choice() {
    let nodes = [Node { draining: true, ..node("old") }, node("a"), node("b")];
    let mut leaves = leaves(&[("old", &[10, 10]), ("a", &[10, 10]), ("b", &[10, 10])]);
    for (leaf, parent) in leaves.iter_mut().zip([1, 2, 1, 1, 2, 2]) {
        leaf.parent = parent;
    }
    let plan = plan(&nodes, &leaves, &Goal::default()).unwrap();
    assert_eq!(moves(&plan), ["0: 1 old->b", "1: 2 old->a"]);
}

#[test]
fn a_drain_goes_where_regions_and_spec_allow() {
    let region = |name: &str, region: &str| Node { region: Some(region.into()), ..node(name) };
    let nodes =
        [Node { draining: true, ..region("eu_1", "eu") }, region("eu_2", "eu"), region("us_1", "us"), node("x")];
    let mut leaves = leaves(&[("eu_1", &[10, 10]), ("eu_2", &[90])]);
    leaves[0].regions = Some(vec!["eu".into()]);
    leaves[1].nodes = Some(vec!["eu_1".into(), "x".into()]);
    leaves[2].movable = false;
    assert_eq!(moves(&plan(&nodes, &leaves, &Goal::default()).unwrap()), ["0: 1 eu_1->eu_2", "1: 2 eu_1->x"]);
}

#[test]
fn a_leaf_outside_its_regions_comes_home() {
    let region = |name: &str, region: &str| Node { region: Some(region.into()), ..node(name) };
    let nodes = [region("eu_1", "eu"), region("us_1", "us")];
    let mut leaves = leaves(&[("us_1", &[10, 0])]);
    leaves[1].regions = Some(vec!["eu".into()]);
    assert_eq!(moves(&plan(&nodes, &leaves, &Goal::default()).unwrap()), ["0: 2 us_1->eu_1"]);
}

#[test]
fn a_drain_says_what_has_nowhere_to_go_and_why() {
    let region = |name: &str, region: &str| Node { region: Some(region.into()), ..node(name) };
    let old = Node { draining: true, ..node("old") };
    let nodes =
        [old.clone(), Node { limit: Some(15), ..region("a", "eu") }, Node { limit: Some(12), ..region("b", "us") }];
    let mut leaves = leaves(&[("old", &[10, 20, 1, 1, 1, 1])]);
    leaves[2].movable = false;
    leaves[3].regions = Some(vec!["asia".into()]);
    leaves[4].nodes = Some(vec!["old".into()]);
    leaves[5].regions = Some(vec!["eu".into()]);
    leaves[5].nodes = Some(vec!["b".into()]);
    assert_eq!(
        unplaceable(&nodes, &leaves),
        [
            "t_2: it has 20 bytes, and \"b\", which has the most room, may take 12 more",
            "t_3: it cannot be moved",
            "t_4: no node that takes partitions is in its regions (asia)",
            "t_5: none of its nodes (old) takes partitions",
            "t_6: none of its nodes (b) that takes partitions is in its regions (eu)",
        ]
    );
    assert_eq!(unplaceable(&[old], &leaves[..1]), ["t_1: no node takes partitions"]);
    let error = plan(&nodes, &leaves, &Goal::default()).unwrap_err();
    assert_eq!(error.to_string(), "5 partitions of \"old\" have nowhere to go");
}

#[test]
fn others_make_room_for_what_has_to_move() {
    // 8 fits only on a, once the 5 there has gone to b.
    let old = Node { draining: true, ..node("old") };
    let nodes = [old, Node { limit: Some(10), ..node("a") }, Node { limit: Some(6), ..node("b") }];
    let plan = plan(&nodes, &leaves(&[("old", &[8]), ("a", &[5])]), &Goal::default()).unwrap();
    assert_eq!(moves(&plan), ["0: 2 a->b", "1: 1 old->a"]);
}

#[test]
fn little_room_is_packed_tightly() {
    // 10 on a would leave no room for both 6.
    let limited = |name, limit| Node { limit: Some(limit), ..node(name) };
    let nodes = [Node { draining: true, ..node("old") }, limited("a", 12), limited("b", 10)];
    let plan = plan(&nodes, &leaves(&[("old", &[10, 6, 6])]), &Goal::default()).unwrap();
    assert_eq!(sizes(&plan), [0, 12, 10]);
}

#[test]
fn a_node_above_its_limit_is_relieved() {
    let nodes = [Node { limit: Some(100), ..node("a") }, node("b")];
    let plan = plan(&nodes, &leaves(&[("a", &[90, 20, 5]), ("b", &[110])]), &Goal::default()).unwrap();
    assert_eq!(moves(&plan), ["0: 2 a->b"]);
}

#[test]
fn the_number_of_moves_can_be_limited() {
    let nodes = ["a", "b"].map(node);
    let leaves = leaves(&[("a", &[10; 8])]);
    let goal = Goal { max_moves: Some(2), ..Goal::default() };
    assert_eq!(sizes(&plan(&nodes, &leaves, &goal).unwrap()), [60, 20]);
    let goal = Goal { max_moves: Some(0), ..Goal::default() };
    assert!(plan(&nodes, &leaves, &goal).unwrap().moves.is_empty());
}

#[test]
fn nothing_needs_no_plan() {
    assert!(plan(&[], &[], &Goal::default()).unwrap().moves.is_empty());
    let nodes = ["a", "b"].map(node);
    assert!(plan(&nodes, &[], &Goal::default()).unwrap().moves.is_empty());
    assert!(plan(&nodes, &leaves(&[("a", &[0, 0])]), &Goal::default()).unwrap().moves.is_empty());
}

#[test]
fn input_that_makes_no_sense_is_refused() {
    let error = |nodes: &[Node], leaves: &[Leaf], goal: &Goal| plan(nodes, leaves, goal).unwrap_err().to_string();
    let goal = Goal::default();
    assert_eq!(error(&[node("a"), node("a")], &[], &goal), "node \"a\" is given twice");
    assert_eq!(error(&[node("a")], &[leaf(1, "a", 1), leaf(1, "a", 1)], &goal), "partition \"t_1\" is given twice");
    assert_eq!(
        error(&[node("a")], &[leaf(1, "b", 1)], &goal),
        "partition \"t_1\" is on node \"b\", which is not known"
    );
    for capacity in [-1.0, f64::NAN, f64::INFINITY, 1e-300] {
        let nodes = [Node { capacity: Some(capacity), ..node("a") }];
        assert!(matches!(plan(&nodes, &[], &goal), Err(BalanceError::Capacity(_))), "{capacity}");
    }
    for minimum_gain in [-0.1, 1.1, f64::NAN] {
        assert_eq!(plan(&[], &[], &Goal { minimum_gain, ..goal.clone() }), Err(BalanceError::MinimumGain));
    }
}

#[test]
fn a_large_cluster_is_planned_at_once() {
    // Not optimized, it takes fifteen times as long.
    let most = Duration::from_secs(if cfg!(debug_assertions) { 15 } else { 1 });
    let names: Vec<String> = (0..20).map(|at| format!("n{at}")).collect();
    let mut nodes: Vec<Node> = names.iter().map(|name| node(name)).collect();
    let size = |id: u64| (id * 2_654_435_761) % 100_000_007;
    // All on a few nodes, then spread: two extremes, and a drain with tight limits.
    for (spread, drain, limit) in [(3, false, None), (20, false, None), (20, true, Some(3_000_000_000))] {
        let leaves: Vec<Leaf> =
            (0..1000).map(|id| leaf(id, &names[id as usize % spread], size(u64::from(id)))).collect();
        nodes.iter_mut().for_each(|node| node.limit = limit);
        nodes[0].draining = drain;
        for minimum_gain in [0.0, 0.05] {
            let begun = Instant::now();
            plan(&nodes, &leaves, &Goal { minimum_gain, ..Goal::default() }).unwrap();
            let took = begun.elapsed();
            assert!(took < most, "{took:?}");
        }
    }
}
