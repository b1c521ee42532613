//! What a person asks of an operation, and when that is refused.

use super::{State, named};

named! {
    /// What somebody asked an operation to do. The worker looks at it between its steps, so a request can come too late:
    /// one that [`allowed`] refuses in the new state is dropped.
    "requested" Requested {
        /// Also: go on after a pause.
        Run = "run",
        /// Stop between two steps, and keep what was made.
        Pause = "pause",
        /// Before the switch, give up. After it, take back a revert.
        Cancel = "cancel",
        /// After the switch, bring the sources back, with what was written since.
        Revert = "revert",
        /// After the switch, give up the sources now, not when their time is over.
        Finish = "finish",
    }
}

impl Requested {
    /// The SQL function that asks for it.
    pub const fn function(self) -> &'static str {
        match self {
            Self::Run => "shard_resume",
            Self::Pause => "shard_pause",
            Self::Cancel => "shard_cancel",
            Self::Revert => "shard_revert",
            Self::Finish => "shard_finish",
        }
    }

    /// "cannot be …"
    const fn participle(self) -> &'static str {
        match self {
            Self::Run => "resumed",
            Self::Pause => "paused",
            Self::Cancel => "cancelled",
            Self::Revert => "reverted",
            Self::Finish => "finished",
        }
    }
}

/// Why an operation does not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is in a final state.
    #[error("the operation cannot be {}: its state is {state}", requested.participle())]
    Over {
        /// What was asked for.
        requested: Requested,
        /// The final state.
        state: State,
    },
    /// It is too late to cancel.
    #[error("the operation cannot be cancelled: it has switched")]
    Switched,
    /// Reverting and finishing need a switch that has happened.
    #[error("the operation cannot be {}: it has not switched yet", requested.participle())]
    NotSwitched {
        /// [`Requested::Revert`] or [`Requested::Finish`].
        requested: Requested,
        /// One of those before the switch.
        state: State,
    },
    /// It is on the way back.
    #[error("the operation cannot be {}: it is being reverted", requested.participle())]
    Reverting {
        /// [`Requested::Finish`]: all else is taken then.
        requested: Requested,
    },
}

impl Refusal {
    /// Whole sentences: what the state means for the request.
    pub fn detail(&self) -> String {
        match self {
            Self::Over { state, .. } => match state {
                State::Finished => "Its sources are given up; the new partitions are the only copy of the data.",
                State::Reverted => "The old partitions serve again, and the new ones are removed.",
                _ => "The partitions are as they were before it, and what it had made is removed.",
            }
            .to_owned(),
            Self::Switched => "The new partitions serve; the old ones are kept for a while.".to_owned(),
            Self::NotSwitched { state, .. } => format!("Its state is {state}; the old partitions still serve."),
            Self::Reverting { .. } => "The old partitions are about to serve again.".to_owned(),
        }
    }

    /// Whole sentences: the command to use instead, for the operation with this number.
    pub fn hint(&self, operation: i64) -> String {
        let run = |requested: Requested| format!("SELECT {}({operation});", requested.function());
        match self {
            Self::Over { .. } => "Start a new operation if the data has to move.".to_owned(),
            Self::Switched => format!("To bring the old ones back, run {}", run(Requested::Revert)),
            Self::NotSwitched { requested: Requested::Revert, .. } => {
                format!("To give it up, run {}", run(Requested::Cancel))
            }
            Self::NotSwitched { .. } => {
                format!(
                    "Run SELECT shard_wait({operation}); and try again, or give it up with {}",
                    run(Requested::Cancel)
                )
            }
            Self::Reverting { .. } => format!("Run SELECT shard_wait({operation});"),
        }
    }
}

/// Whether an operation in `state` takes the request.
///
/// A cancel is taken while the switch is tried: the worker looks at the request before each try, and the switch itself is
/// one transaction. If that one wins, the operation is switched, and the cancel is refused there.
pub const fn allowed(state: State, requested: Requested) -> Result<(), Refusal> {
    match (state, requested) {
        (State::Finished | State::Cancelled | State::Failed | State::Reverted, _) => {
            Err(Refusal::Over { requested, state })
        }
        (_, Requested::Run | Requested::Pause) => Ok(()),
        // To cancel a revert leaves the operation switched.
        (State::Reverting, Requested::Revert | Requested::Cancel) => Ok(()),
        (State::Reverting, Requested::Finish) => Err(Refusal::Reverting { requested }),
        (State::Switched, Requested::Cancel) => Err(Refusal::Switched),
        (State::Switched, Requested::Revert | Requested::Finish) => Ok(()),
        (_, Requested::Cancel) => Ok(()),
        (_, Requested::Revert | Requested::Finish) => Err(Refusal::NotSwitched { requested, state }),
    }
}

/// The same for an operation that was asked for `before` and has not done it yet.
///
/// A cancel takes back a revert that has not begun: the operation stays switched.
pub const fn allowed_after(before: Requested, state: State, requested: Requested) -> Result<(), Refusal> {
    match (before, state, requested) {
        (Requested::Revert, State::Switched, Requested::Cancel) => Ok(()),
        _ => allowed(state, requested),
    }
}
