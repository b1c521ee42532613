//! An operation outlives what happens to its servers: whatever dies in whatever state, it goes on by itself, and nothing
//! is lost, doubled or left behind.
use std::time::Duration;

use anyhow::Result;
use pg_test::faults::{Case, Fault, Shape, Spot, Victim, survive_all};
use pg_test::{Tolerate, Workload, matrix};

/// What happens to whom, besides a frost.
const SUDDEN: [(Victim, Fault); 9] = [
    (Victim::Worker, Fault::Terminated),
    (Victim::Worker, Fault::Cancelled),
    (Victim::Worker, Fault::Killed),
    (Victim::Coordinator, Fault::Killed),
    (Victim::Source, Fault::Killed),
    (Victim::Target, Fault::Killed),
    (Victim::Coordinator, Fault::Cut),
    (Victim::Source, Fault::Cut),
    (Victim::Target, Fault::Cut),
];

const FROZEN: [(Victim, Fault); 4] = [
    (Victim::Worker, Fault::Frozen),
    (Victim::Coordinator, Fault::Frozen),
    (Victim::Source, Fault::Frozen),
    (Victim::Target, Fault::Frozen),
];

/// The coordinator is a victim of its own; a node that has no part in an operation is none.
fn is_in(shape: Shape, victim: Victim) -> bool {
    match victim {
        Victim::Worker | Victim::Coordinator => true,
        Victim::Source => shape != Shape::ToNode && shape != Shape::Conversion,
        Victim::Target => shape != Shape::FromNode,
    }
}

fn with(shape: Shape, faults: &[(Victim, Fault)], each: impl Fn(usize, Case) -> Vec<Case>) -> Vec<Case> {
    let spots: Vec<Spot> = shape.spots();
    let faults = faults.iter().filter(|(victim, _)| is_in(shape, *victim));
    let pairs = faults.flat_map(|(victim, fault)| spots.iter().map(move |spot| (*spot, *victim, *fault)));
    pairs
        .enumerate()
        .flat_map(|(at, (spot, victim, fault))| {
            each(at, Case { shape, spot, victim, fault, ran: false, cancel: false })
        })
        .collect()
}

fn before_and_after(case: Case) -> Vec<Case> {
    vec![case, Case { ran: true, ..case }]
}

/// Neighbours of different kinds, so that those which a day takes are.
fn mixed(cases: Vec<Case>) -> Vec<Case> {
    let count = cases.len();
    let coprime =
        |step: &usize| (2..=*step).all(|divisor| !step.is_multiple_of(divisor) || !count.is_multiple_of(divisor));
    let step = (count * 3 / 8..).find(coprime).unwrap_or(1);
    (0..count).map(|at| cases[at * step % count]).collect()
}

fn workload() -> Workload {
    // Some rest leaves the machine to the operations.
    let think = Duration::from_millis(2);
    Workload {
        clients: 2,
        think,
        tolerate: Tolerate::Restarts,
        patience: Duration::from_secs(100),
        ..Workload::default()
    }
}

#[test]
fn an_operation_survives_a_fault_in_each_state() -> Result<()> {
    let cases = mixed(with(Shape::Move, &SUDDEN, |_, case| before_and_after(case)));
    survive_all(&matrix::take(4, &cases), 2, &workload())
}

#[test]
fn an_operation_with_a_fault_is_cancelled_all_the_same() -> Result<()> {
    let cases = with(Shape::Move, &SUDDEN[2..], |at, case| {
        let is_before_switch = !["switching", "switched"].contains(&case.spot.state);
        is_before_switch.then_some(Case { ran: at % 2 == 1, cancel: true, ..case }).into_iter().collect()
    });
    survive_all(&matrix::take(2, &mixed(cases)), 2, &workload())
}

#[test]
fn operations_of_all_shapes_survive_faults() -> Result<()> {
    let alternate = |at: usize, case| vec![Case { ran: at % 2 == 1, ..case }];
    let cases = Shape::OTHERS.iter().flat_map(|shape| with(*shape, &SUDDEN[2..], alternate));
    let cases = mixed(cases.collect());
    let mut taken = matrix::take(4, &cases);
    // Those of one shape share a cluster.
    taken.sort_by_key(|case| Shape::OTHERS.iter().position(|shape| *shape == case.shape));
    survive_all(&taken, 2, &workload())
}

#[test]
fn an_operation_survives_half_a_minute_of_frost() -> Result<()> {
    let mut cases = with(Shape::Move, &FROZEN, |_, case| before_and_after(case));
    for shape in Shape::OTHERS {
        cases.extend(with(shape, &FROZEN, |at, case| vec![Case { ran: at % 2 == 1, ..case }]));
    }
    let cases = mixed(cases);
    let mut taken = matrix::take(2, &cases);
    taken.sort_by_key(|case| Shape::OTHERS.iter().position(|shape| *shape == case.shape));
    // Nobody works while they are frozen.
    survive_all(&taken, 6, &workload())
}
