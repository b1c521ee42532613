//! The worker of a group: it calls for moves, each an operation of its own, and waits for them.
//!
//! A group is `planned`, `copying` while its moves run, and then `finished`. Which moves were called for and how far they
//! are is in their rows alone, so that another worker can go on at any moment.

use super::trouble::{Step, Trouble, fail, halt};
use super::{mirrors, plan, switch};
use crate::catalog::operation::{self, Child, Move, Operation};
use crate::error::{Report, Result};
use crate::pg::{role, sql, transaction, worker};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::operation::{State, Wish};
use std::time::Duration;

/// How often the moves are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What comes next for the group; `None` when there is nothing to do now.
pub fn step(operation: &Operation, wish: Wish) -> Step<Option<State>> {
    let children = transaction::run(|| operation::children(operation.id))?;
    match (operation.state, wish) {
        (_, Wish::Pause) => Ok(None),
        (_, Wish::Cancel) => cancel(&children),
        (State::Planned, _) => Ok(Some(State::Copying)),
        (State::Copying, _) => bring_forward(operation, children),
        _ => Ok(None),
    }
}

fn wait<T>() -> Step<T> {
    worker::sleep(LOOK);
    Err(Trouble::Asked)
}

fn cancel(children: &[Child]) -> Step<Option<State>> {
    for child in children.iter().filter(|child| child.state.is_before_switch() && child.wish != Wish::Cancel) {
        transaction::run(|| operation::set_wish(child.id, Wish::Cancel))?;
    }
    if children.iter().all(|child| child.ended) { Ok(Some(State::Cancelled)) } else { wait() }
}

fn bring_forward(operation: &Operation, children: Vec<Child>) -> Step<Option<State>> {
    let mut stopped = None;
    let mut done = Vec::new();
    let mut under_way = Vec::new();
    for child in children {
        let id = child.id;
        match child.state {
            State::Failed | State::Cancelled | State::Reverted => {
                let state = format!("operation {id}, a move of this one, was {}", child.state);
                let report = Report::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, state);
                let error = child.error.filter(|_| child.state == State::Failed).map(|error| error.report());
                stopped = stopped.or(Some(error.unwrap_or(report).hint("Call for it again: what was moved stays.")));
            }
            State::Finished if child.ended => done.push(child.part),
            _ if child.halted => {
                let error = child.error.map(operation::Failure::report).unwrap_or_else(|| {
                    Report::new(
                        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                        format!("operation {id} waits for a person"),
                    )
                });
                return halt(error);
            }
            _ => under_way.push(child.part),
        }
    }
    if let Some(report) = stopped {
        // No move is left alone: those under way end first.
        return if under_way.is_empty() { fail(report) } else { wait() };
    }
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
        for parent in transaction::run(|| mirrors::parents_on(node))? {
            transaction::run(|| role::acting_as(operation.role(), || mirrors::drop_on(parent, node, operation.id)))?;
        }
        // So that the node can be dropped as soon as this is over.
        switch::settle(operation, std::slice::from_ref(node))?;
    }
    Ok(Some(State::Finished))
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
