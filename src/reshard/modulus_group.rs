//! A modulus that is changed part by part: each part is an operation of its own, called for when the one before has switched.
//!
//! The group is `copying` until all have switched, and then `switched` as long as they are. A cancel, and a revert, take back
//! the parts that have switched, the newest first: the partitions are then what they were before the group. A part without a
//! way back stays, and a cancelled group says so.

use super::operation_group::{ask, sort, wait, waits_for_a_person};
use super::outcome::{Interruption, Step, halt};
use super::{plan, revert};
use crate::catalog::operation::{self, Child, NewModulus, Operation};
use crate::catalog::{tries, way_back};
use crate::error::{Report, Result};
use crate::pg::{role, sql, transaction};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::operation::{Mode, Requested, State};
use shardkeeper_core::plural::count;

/// What is between two moduli is as good as what is at one.
const CALL_AGAIN: &str = "To go on or back, call shard_set_modulus again.";

/// What comes next for the group; `None` when there is nothing to do now.
pub fn step(
    operation: &Operation,
    wanted: &NewModulus,
    requested: Requested,
    parts: Vec<Child>,
) -> Step<Option<State>> {
    let id = operation.id;
    match (operation.state, requested) {
        (State::Switched, Requested::Revert) => Ok(Some(State::Reverting)),
        (State::Switched, Requested::Finish) => finish(parts),
        (State::Switched, _) => {
            if !operation.targets_cleaned {
                transaction::run(|| operation::set_targets_cleaned(id))?;
            }
            let is_over = requested == Requested::Run && operation.keep_left <= 0.0;
            if is_over { finish(parts) } else { Ok(None) }
        }
        (_, Requested::Pause) => Ok(None),
        (State::Reverting, Requested::Cancel) => {
            if give_up(&parts)? {
                return wait();
            }
            transaction::run(|| {
                if let Some(part) = parts.iter().find(|part| part.state == State::Reverted) {
                    way_back::lose(id, &format!("Operation {}, a part of it, was reverted.", part.id))?;
                }
                operation::stay_switched(id, "the revert was given up")
            })?;
            Err(Interruption::Asked)
        }
        // Of several, the one that was made first.
        (State::Reverting, _) => match take_back(operation.mode, parts)?.pop() {
            None => Ok(Some(State::Reverted)),
            Some(why) => {
                transaction::run(|| {
                    way_back::lose(id, &why)?;
                    operation::stay_switched(id, "it cannot be reverted")
                })?;
                Err(Interruption::Asked)
            }
        },
        (_, Requested::Cancel) => {
            let mut stay = take_back(operation.mode, parts)?;
            if stay.is_empty() {
                return Ok(Some(State::Cancelled));
            }
            stay.reverse();
            let text = format!("{} of it could not be taken back", count(stay.len(), "part", "parts"));
            let report = Report::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, text);
            let report = report.detail(stay.join(" ")).hint(CALL_AGAIN);
            transaction::run(|| {
                operation::enter(id, State::Cancelled, Some("not all of it could be taken back"))?;
                tries::stays(id, report)
            })?;
            Err(Interruption::Asked)
        }
        (State::Planned, _) => Ok(Some(State::Copying)),
        (State::Copying, _) => bring_forward(operation, wanted, parts),
        _ => Ok(None),
    }
}

fn bring_forward(operation: &Operation, wanted: &NewModulus, parts: Vec<Child>) -> Step<Option<State>> {
    let number = i32::try_from(parts.len()).unwrap_or(i32::MAX);
    let has_switched = |part: &Child| part.state == State::Switched || part.state == State::Finished && part.ended;
    let (_, under_way) = sort(parts, has_switched)?;
    if !under_way.is_empty() {
        return wait();
    }
    let begun = transaction::run(|| {
        let name = wanted.table.to_string();
        let Some(table) = sql::one::<Oid>("SELECT pg_catalog.to_regclass($1)::oid", &[name.as_str().into()])? else {
            return Report::new(Code::ERRCODE_UNDEFINED_TABLE, format!("{name} is no longer there")).into();
        };
        role::acting_as(operation.role(), || {
            let Some(part) = plan::next_part(table, wanted)? else { return Ok(false) };
            part.record(operation.mode, &wanted.keep, Some((operation.id, number)))?;
            Ok(true)
        })
    })?;
    if begun { wait() } else { Ok(Some(State::Switched)) }
}

/// Brings the old partitions back, part by part, the newest first. In the end, why some of the new ones stay.
fn take_back(mode: Mode, parts: Vec<Child>) -> Step<Vec<String>> {
    let mut stay = Vec::new();
    for part in parts.into_iter().rev() {
        let id = part.id;
        let is_settled = part.state != State::Finished || part.ended;
        if let Some(why) = why_it_stays(&part, mode).filter(|_| is_settled) {
            stay.push(why);
            continue;
        }
        match part.state {
            State::Cancelled | State::Failed | State::Reverted if part.ended => {}
            _ if part.halted && !part.state.is_before_switch() => return halt(waits_for_a_person(part)),
            state if state.is_before_switch() && part.requested != Requested::Cancel => {
                ask(id, Requested::Cancel)?;
                return wait();
            }
            State::Switched if part.requested != Requested::Revert => {
                ask(id, Requested::Revert)?;
                return wait();
            }
            _ => return wait(),
        }
    }
    Ok(stay)
}

/// Why a part that has switched cannot be taken back; `None` where it can be, or was, or has not switched.
fn why_it_stays(part: &Child, mode: Mode) -> Option<String> {
    let id = part.id;
    let told = |what: String, why: &str| format!("{what} {}.", why.trim_end_matches('.'));
    match part.state {
        State::Finished => Some(format!("What operation {id} replaced was dropped.")),
        // Kept by what became of the way back, or by what somebody did to the part itself.
        State::Switched if !part.revertible => {
            let why = part.lost.as_deref().unwrap_or_else(|| revert::nothing_kept(mode));
            Some(told(format!("Operation {id}, a part of it, cannot be reverted."), why))
        }
        State::Switched => {
            let why = part.refused.as_deref()?;
            Some(told(format!("The revert of operation {id}, a part of it, was given up."), why))
        }
        _ => None,
    }
}

/// Of a group that was given up, which of these parts stay and why, and what can be done about it.
pub fn what_stays(mode: Mode, parts: &[Child]) -> (String, String) {
    let why = |part: &Child| {
        why_it_stays(part, mode).unwrap_or_else(|| format!("Operation {}, a part of it, has switched.", part.id))
    };
    let detail = parts.iter().map(why).collect::<Vec<_>>().join(" ");
    let kept = parts.iter().filter(|part| part.state == State::Switched);
    let finish: Vec<String> = kept.map(|part| format!("SELECT shard_finish({});", part.id)).collect();
    let hint = match finish.as_slice() {
        [] => CALL_AGAIN.to_string(),
        calls => format!("{CALL_AGAIN} To drop what the parts replaced, run {}", calls.join(" ")),
    };
    (detail, hint)
}

/// Tells the part that is being reverted, or about to be, to stay switched. `false` when there is none, nor one that has not
/// heard of it yet.
fn give_up(parts: &[Child]) -> Result<bool> {
    let mut any = false;
    for part in parts {
        let requested = match (part.state, part.requested) {
            // Also one that has not begun: if it begins in this moment, it has to be told.
            (State::Reverting, _) | (State::Switched, Requested::Revert | Requested::Cancel) => Requested::Cancel,
            _ => continue,
        };
        any = true;
        if part.requested != requested {
            ask(part.id, requested)?;
        }
    }
    Ok(any)
}

/// Drops what the parts replaced.
fn finish(parts: Vec<Child>) -> Step<Option<State>> {
    for part in parts.iter().filter(|part| part.state == State::Switched && part.requested != Requested::Finish) {
        ask(part.id, Requested::Finish)?;
    }
    if parts.iter().all(|part| part.ended) { Ok(Some(State::Finished)) } else { wait() }
}

/// Whether a revert can begin.
///
/// Errors: 55000 a part has no way back.
pub fn check(operation: &Operation) -> Result<()> {
    let stays = operation::children(operation.id)?.into_iter().find(|part| !part.revertible);
    let Some(part) = stays.filter(|_| operation.state == State::Switched) else { return Ok(()) };
    let why = match (part.state, part.lost) {
        (State::Switched, Some(why)) => why,
        (State::Switched, None) => revert::nothing_kept(operation.mode).into(),
        (state, _) => format!("It is {state}."),
    };
    Report::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, format!("operation {} has no way back", operation.id))
        .detail(format!("A part of it, operation {}, cannot be reverted. {why}", part.id))
        .hint("Call shard_set_modulus to change the modulus back.")
        .into()
}
