//! The life of an operation: every request in every state, what a state means, and which errors pass.

use std::time::Duration;

use proptest::prelude::*;
use shardkeeper_core::operation::State::*;
use shardkeeper_core::operation::{Backoff, Kind, Mode, Refusal, Requested, State, allowed, allowed_after, may_pass};

/// What may follow each state. From planned to copying and from there to finished goes a group.
const FOLLOW: [(State, &[State]); 13] = [
    (Planned, &[Preparing, Copying, Cancelled, Failed]),
    (Preparing, &[Copying, Cancelled, Failed]),
    (Copying, &[Preparing, CatchingUp, Switched, Finished, Cancelled, Failed]),
    (CatchingUp, &[Verifying, Cancelled, Failed]),
    (Verifying, &[CatchingUp, Ready, Cancelled, Failed]),
    (Ready, &[CatchingUp, Verifying, Switching, Cancelled, Failed]),
    (Switching, &[Verifying, Ready, Switched, Cancelled, Failed]),
    (Switched, &[Finished, Reverting]),
    (Finished, &[]),
    (Cancelled, &[]),
    (Failed, &[]),
    (Reverting, &[Switched, Reverted]),
    (Reverted, &[]),
];

/// What each state says to run, pause, cancel, revert and finish.
/// "+" takes it; "o" is over; "r" says to revert; "n" has not switched; "b" is on the way back.
const REQUESTS: [(State, &str); 13] = [
    (Planned, "+++nn"),
    (Preparing, "+++nn"),
    (Copying, "+++nn"),
    (CatchingUp, "+++nn"),
    (Verifying, "+++nn"),
    (Ready, "+++nn"),
    (Switching, "+++nn"),
    (Switched, "++r++"),
    (Finished, "ooooo"),
    (Cancelled, "ooooo"),
    (Failed, "ooooo"),
    (Reverting, "++++b"),
    (Reverted, "ooooo"),
];

#[test]
fn an_operation_that_has_switched_is_not_before_the_switch_and_one_that_is_over_is_neither() {
    let all = |is: fn(State) -> bool| State::ALL.iter().copied().filter(|state| is(*state)).collect::<Vec<_>>();
    assert_eq!(all(State::is_before_switch), [Planned, Preparing, Copying, CatchingUp, Verifying, Ready, Switching]);
    assert_eq!(all(State::is_final), [Finished, Cancelled, Failed, Reverted]);
}

#[test]
fn each_state_has_its_followers_and_no_other() {
    assert_eq!(FOLLOW.map(|(state, _)| state), State::ALL);
    for (state, next) in FOLLOW {
        let follow: Vec<State> = State::ALL.iter().copied().filter(|next| state.can_become(*next)).collect();
        let mut wanted = next.to_vec();
        wanted.sort_by_key(|state| State::ALL.iter().position(|other| other == state));
        assert_eq!(follow, wanted, "after {state}");
        assert_eq!(state.is_final(), next.is_empty(), "{state}");
        assert_eq!(state.is_before_switch(), next.contains(&Cancelled), "{state}");
    }
}

#[test]
fn every_state_is_reached_and_every_way_ends() {
    let mut seen = vec![Planned];
    let mut at = 0;
    while at < seen.len() {
        let follow = State::ALL.iter().filter(|next| seen[at].can_become(**next));
        let new: Vec<State> = follow.copied().filter(|next| !seen.contains(next)).collect();
        seen.extend(new);
        at += 1;
    }
    assert_eq!(seen.len(), State::ALL.len());
    // No way from a state that has switched to one that says the operation left no trace.
    assert!([Switched, Reverting].iter().all(|state| !state.can_become(Cancelled) && !state.can_become(Failed)));
}

#[test]
fn every_request_in_every_state() {
    assert_eq!(REQUESTS.map(|(state, _)| state), State::ALL);
    for (state, answers) in REQUESTS {
        for (&requested, answer) in Requested::ALL.iter().zip(answers.chars()) {
            let wanted = match answer {
                '+' => Ok(()),
                'o' => Err(Refusal::Over { requested, state }),
                'r' => Err(Refusal::Switched),
                'n' => Err(Refusal::NotSwitched { requested, state }),
                _ => Err(Refusal::Reverting { requested }),
            };
            assert_eq!(allowed(state, requested), wanted, "{requested} when {state}");
        }
    }
}

#[test]
fn a_cancel_takes_back_a_revert_that_has_not_begun() {
    for before in Requested::ALL {
        for state in State::ALL {
            for requested in Requested::ALL {
                let wanted = match (before, state, requested) {
                    (Requested::Revert, Switched, Requested::Cancel) => Ok(()),
                    _ => allowed(*state, *requested),
                };
                assert_eq!(
                    allowed_after(*before, *state, *requested),
                    wanted,
                    "{requested} after {before} when {state}"
                );
            }
        }
    }
}

#[test]
fn a_refusal_names_the_command_to_use_instead() {
    let text = |state, requested| {
        let refusal = allowed(state, requested).unwrap_err();
        format!("{refusal}\n{}\n{}", refusal.detail(), refusal.hint(7))
    };
    insta::assert_snapshot!(text(Switched, Requested::Cancel), @"
    the operation cannot be cancelled: it has switched
    The new partitions serve; the old ones are kept for a while.
    To bring the old ones back, run SELECT shard_revert(7);
    ");
    insta::assert_snapshot!(text(CatchingUp, Requested::Revert), @"
    the operation cannot be reverted: it has not switched yet
    Its state is catching_up; the old partitions still serve.
    To give it up, run SELECT shard_cancel(7);
    ");
    insta::assert_snapshot!(text(Copying, Requested::Finish), @"
    the operation cannot be finished: it has not switched yet
    Its state is copying; the old partitions still serve.
    Run SELECT shard_wait(7); and try again, or give it up with SELECT shard_cancel(7);
    ");
    insta::assert_snapshot!(text(Reverting, Requested::Finish), @"
    the operation cannot be finished: it is being reverted
    The old partitions are about to serve again.
    Run SELECT shard_wait(7);
    ");
    insta::assert_snapshot!(text(Failed, Requested::Run), @"
    the operation cannot be resumed: its state is failed
    The partitions are as they were before it, and what it had made is removed.
    Start a new operation if the data has to move.
    ");
    insta::assert_snapshot!(text(Finished, Requested::Pause), @"
    the operation cannot be paused: its state is finished
    Its sources are given up; the new partitions are the only copy of the data.
    Start a new operation if the data has to move.
    ");
}

#[test]
fn a_name_is_the_same_everywhere() {
    macro_rules! same {
        ($($type:ty),+) => {$(
            for value in <$type>::ALL {
                assert_eq!(value.as_str().parse(), Ok(*value));
                assert_eq!(value.to_string(), value.as_str());
                assert_eq!(serde_json::to_value(value).unwrap(), value.as_str());
                assert_eq!(serde_json::from_value::<$type>(value.as_str().into()).unwrap(), *value);
            }
        )+};
    }
    same!(State, Kind, Mode, Requested);
    assert_eq!(CatchingUp.as_str(), "catching_up");
    assert_eq!(Mode::BlockWrites.as_str(), "block_writes");
    assert_eq!("paused".parse::<State>().unwrap_err().to_string(), "\"paused\" is no state of an operation");
}

#[test]
fn the_delay_doubles_up_to_its_most() {
    let backoff = Backoff::default();
    for (attempt, full) in [(0, 0.5), (1, 1.0), (2, 2.0), (5, 16.0), (6, 30.0), (31, 30.0), (u32::MAX, 30.0)] {
        for seed in 0..100 {
            let delay = backoff.delay(attempt, seed).as_secs_f64();
            assert!(full / 2.0 <= delay && delay <= full, "{delay} after attempt {attempt}");
        }
    }
    assert_eq!(backoff.delay(3, 42), backoff.delay(3, 42));
    assert_ne!(backoff.delay(3, 42), backoff.delay(3, 43));
}

proptest! {
    #[test]
    fn a_delay_is_within_its_bounds(first in 0u64..10_000, most in 0u64..100_000, attempt: u32, seed: u64) {
        let backoff = Backoff { first: Duration::from_millis(first), most: Duration::from_millis(most) };
        prop_assert!(backoff.delay(attempt, seed) <= backoff.most);
    }
}

#[test]
fn an_error_passes_or_stays_by_its_sqlstate() {
    for code in [
        "08006", "08001", "25006", "28P01", "28000", "2F003", "3D000", "40001", "40P01", "42501", "53100", "53300",
        "53400", "55000", "55006", "55P03", "57014", "57P01", "57P03", "58030", "HV00N",
    ] {
        assert!(may_pass(code), "{code}");
    }
    for code in [
        "08P01", "0A000", "21000", "22003", "22P02", "23502", "23505", "23514", "25P02", "26000", "2BP01", "38000",
        "3F000", "40002", "42P01", "42P07", "42703", "42846", "44000", "54000", "P0001", "XX000", "XX001", "", "4",
        "what?",
    ] {
        assert!(!may_pass(code), "{code}");
    }
}
