//! The worker of a group: it calls for operations of its own, and waits for them.
//!
//! A group of moves is `planned`, `copying` while they run, and then `finished`; see [`super::modulus_group`] for a modulus. What was
//! called for and how far it is is in rows alone, so that another worker can go on at any moment.

use super::cleanup::empty_mirrors;
use super::outcome::{Interruption, Step, fail, halt};
use super::{modulus_group, plan, switch};
use crate::catalog::mirror;
use crate::catalog::operation::{self, Child, Move, Operation};
use crate::error::{Report, Result};
use crate::pg::{role, sql, transaction, worker};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::operation::{Requested, State};
use std::time::Duration;

/// How often the moves are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What comes next for the group; `None` when there is nothing to do now.
pub fn step(operation: &Operation, requested: Requested) -> Step<Option<State>> {
    let children = transaction::run(|| operation::children(operation.id))?;
    if let Some(wanted) = &operation.plan.modulus {
        return modulus_group::step(operation, wanted, requested, children);
    }
    match (operation.state, requested) {
        (_, Requested::Pause) => Ok(None),
        (_, Requested::Cancel) => cancel(&children),
        (State::Planned, _) => Ok(Some(State::Copying)),
        (State::Copying, _) => bring_forward(operation, children),
        _ => Ok(None),
    }
}

pub fn wait<T>() -> Step<T> {
    worker::sleep(LOOK);
    Err(Interruption::Asked)
}

/// What becomes of an operation of the group, which is told at once.
pub fn ask(child: i64, requested: Requested) -> Result<()> {
    transaction::run(|| {
        operation::set_requested(child, requested)?;
        crate::background::ensure_running()
    })
}

fn cancel(children: &[Child]) -> Step<Option<State>> {
    for child in children.iter().filter(|child| child.state.is_before_switch() && child.requested != Requested::Cancel)
    {
        ask(child.id, Requested::Cancel)?;
    }
    if children.iter().all(|child| child.ended) { Ok(Some(State::Cancelled)) } else { wait() }
}

/// What a group did that was given up, and what can be done about it. `None` where it has done nothing that stays.
pub fn what_stays(operation: &Operation) -> Result<Option<(String, String)>> {
    let mut children = operation::children(operation.id)?;
    children.retain(|child| matches!(child.state, State::Switched | State::Finished));
    if children.is_empty() {
        return Ok(None);
    }
    if operation.plan.modulus.is_some() {
        return Ok(Some(modulus_group::what_stays(operation.mode, &children)));
    }
    let moves: Vec<String> = children.iter().map(|child| child.id.to_string()).collect();
    let detail = format!("What was moved stays, by the operations {}.", moves.join(", "));
    Ok(Some((detail, "To go on, call for it again.".to_string())))
}

fn bring_forward(operation: &Operation, children: Vec<Child>) -> Step<Option<State>> {
    let (done, under_way) = sort(children, |child| child.state == State::Finished && child.ended)?;
    let mut current = None;
    for (number, step) in (0i32..).zip(&operation.plan.moves) {
        if done.contains(&number) {
            continue;
        }
        if current.is_some_and(|current| step.step > current) {
            break;
        }
        if under_way.contains(&number) || begin(operation, number, step)? {
            current = Some(step.step);
        }
    }
    if current.is_some() {
        return wait();
    }
    if let Some(node) = &operation.plan.leaving {
        for parent in transaction::run(|| mirror::parents_on(node))? {
            transaction::run(|| {
                role::acting_as(operation.role(), || empty_mirrors::drop_on(parent, node, operation.id))
            })?;
        }
        // So that the node can be dropped as soon as this is over.
        switch::settle(operation, std::slice::from_ref(node))?;
    }
    Ok(Some(State::Finished))
}

/// The numbers of those that are done, and of those under way. Trouble, once none is under way, if one was given up, and if
/// one waits for a person.
pub fn sort(children: Vec<Child>, is_done: impl Fn(&Child) -> bool) -> Step<(Vec<i32>, Vec<i32>)> {
    let mut stopped = None;
    let mut done = Vec::new();
    let mut under_way = Vec::new();
    for child in children {
        let id = child.id;
        match child.state {
            State::Failed | State::Cancelled | State::Reverted => {
                let state = format!("operation {id}, a part of this one, was {}", child.state);
                let report = Report::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, state);
                let error = child.error.filter(|_| child.state == State::Failed).map(|error| error.report());
                stopped = stopped.or(Some(error.unwrap_or(report).hint("Call for it again: what was moved stays.")));
            }
            _ if is_done(&child) => done.push(child.part),
            _ if child.halted => return halt(waits_for_a_person(child)),
            _ => under_way.push(child.part),
        }
    }
    match stopped {
        // None is left alone: those under way end first.
        Some(_) if !under_way.is_empty() => wait(),
        Some(report) => fail(report),
        None => Ok((done, under_way)),
    }
}

pub fn waits_for_a_person(child: Child) -> Report {
    let text = format!("operation {} waits for a person", child.id);
    child
        .error
        .map_or_else(|| Report::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, text), operation::Failure::report)
}

/// Calls for a move, unless its parent is busy. `false`: somebody else has done it, or dropped the partition.
fn begin(operation: &Operation, number: i32, step: &Move) -> Result<bool> {
    let find = |name: String| {
        transaction::run(|| sql::one::<Oid>("SELECT pg_catalog.to_regclass($1)::oid", &[name.as_str().into()]))
    };
    let (Some(parent), Some(leaf)) = (find(step.parent.to_string())?, find(step.partition.to_string())?) else {
        return Ok(false);
    };
    if transaction::run(|| operation::running(parent))?.is_some() {
        return Ok(true);
    }
    transaction::run(|| {
        role::acting_as(operation.role(), || {
            if plan::node_of(leaf)?.is_none_or(|node| node == step.to) {
                return Ok(false);
            }
            let decided = plan::move_leaf(leaf, &step.to)?;
            decided.record(operation.mode, "0", Some((operation.id, number)))?;
            Ok(true)
        })
    })
}
