//! An operation that moves data: its kinds, its states, and what may be asked of it in each.

mod backoff;
mod cure;
mod requested;

pub use backoff::Backoff;
pub use cure::may_pass;
pub use requested::{Refusal, Requested, allowed, allowed_after};

/// A word that is none of an enum's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{name}\" is no {what}")]
pub struct UnknownName {
    /// What was looked for, for example "state of an operation".
    pub what: &'static str,
    /// The word itself.
    pub name: String,
}

/// An enum whose variants have one name each, the same in SQL, in JSON and in messages.
macro_rules! named {
    ($(#[$about:meta])* $what:literal $type:ident { $($(#[$doc:meta])* $variant:ident = $name:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $type {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)+
        }

        impl $type {
            /// Each variant once, in the order of the declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name of the variant, which [`FromStr`](std::str::FromStr) reads back.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::operation::UnknownName;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                match name {
                    $($name => Ok(Self::$variant),)+
                    _ => Err($crate::operation::UnknownName { what: $what, name: name.to_owned() }),
                }
            }
        }
    };
}
use named;

named! {
    /// What an operation does. Each replaces a set of source leaves by a set of target leaves.
    "kind of operation" Kind {
        /// One leaf by the same leaf on another node.
        Move = "move",
        /// The hash partitions of one table by others, of another modulus or on other nodes. Where that can be done in
        /// parts, it is a group with an operation for each part, which its plan tells.
        Modulus = "modulus",
        /// One leaf by several, which hold its keys between them.
        Split = "split",
        /// Several leaves of one table by one, which holds the keys of all.
        Merge = "merge",
        /// Two list partitions of one table by themselves: some values of the one, not all, have gone to the other.
        Values = "move_values",
        /// A plain table with rows by the leaves of a hierarchy, of which the table becomes the parent.
        Convert = "convert",
        /// A group of moves: all leaves of a node to other nodes.
        Drain = "drain",
        /// A group of moves: leaves from nodes that have more than their share.
        Rebalance = "rebalance",
    }
}

named! {
    /// What writers may do while the data is copied.
    "mode of an operation" Mode {
        /// They write on; their changes follow by logical decoding.
        Online = "online",
        /// They wait. Needs neither logical decoding nor a replica identity.
        BlockWrites = "block_writes",
    }
}

named! {
    /// How far an operation is. "paused" is no state: it is a [`Requested`]. A group goes from planned to copying, and from there to
    /// switched or to a final state.
    "state of an operation" State {
        /// Nothing was made yet.
        Planned = "planned",
        /// The empty targets are made. With [`Mode::Online`], changes of the sources begin to be kept.
        Preparing = "preparing",
        /// The rows of the sources are copied. With [`Mode::BlockWrites`] one transaction does that and the switch. In a
        /// group, operations of its own run.
        Copying = "copying",
        /// What changed in the sources since they were copied is applied to the targets.
        CatchingUp = "catching_up",
        /// The rows of sources and targets are compared.
        Verifying = "verifying",
        /// The targets equal the sources and are kept so.
        Ready = "ready",
        /// The switch is tried, until one transaction does it. Between two tries nothing has changed for users.
        Switching = "switching",
        /// The targets serve; the sources are kept, and current, for a revert.
        Switched = "switched",
        /// The sources are given up. Entered before the first of them is dropped, so that no revert meets a half.
        Finished = "finished",
        /// Given up before the switch because somebody asked. What it made is removed.
        Cancelled = "cancelled",
        /// Given up before the switch because of an error that trying again does not mend. What it made is removed.
        Failed = "failed",
        /// The switch back is tried, until one transaction does it.
        Reverting = "reverting",
        /// The sources serve again. The targets are removed.
        Reverted = "reverted",
    }
}

impl Kind {
    /// Whether it is a group of moves that are operations of their own.
    pub const fn is_group(self) -> bool {
        matches!(self, Self::Drain | Self::Rebalance)
    }
}

impl State {
    /// Whether no other state follows. Removing what is no longer needed may still go on.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Finished | Self::Cancelled | Self::Failed | Self::Reverted)
    }

    /// Whether the sources still serve, as if the operation had never begun.
    pub const fn is_before_switch(self) -> bool {
        matches!(
            self,
            Self::Planned
                | Self::Preparing
                | Self::Copying
                | Self::CatchingUp
                | Self::Verifying
                | Self::Ready
                | Self::Switching
        )
    }

    /// Whether an operation in this state may go to `next`. A state does not follow itself.
    pub const fn can_become(self, next: Self) -> bool {
        match (self, next) {
            (Self::Planned, Self::Preparing)
            // A group makes nothing itself: it waits for operations of its own.
            | (Self::Planned, Self::Copying)
            | (Self::Copying, Self::Finished)
            | (Self::Preparing, Self::Copying)
            | (Self::Copying, Self::CatchingUp)
            // Where writers wait, one transaction copies, compares and switches. What interrupts it undoes all of it.
            | (Self::Copying, Self::Switched | Self::Preparing)
            | (Self::CatchingUp, Self::Verifying)
            // A node that came back late: behind again, so the comparison has to wait.
            | (Self::Verifying | Self::Ready, Self::CatchingUp)
            | (Self::Verifying, Self::Ready)
            | (Self::Ready, Self::Switching)
            // The lock was not to be had for now; writers go on.
            | (Self::Switching, Self::Ready)
            // The work was interrupted: what was compared may have been changed by others meanwhile.
            | (Self::Ready | Self::Switching, Self::Verifying)
            | (Self::Switching, Self::Switched)
            | (Self::Switched, Self::Finished | Self::Reverting)
            // The switch back was not to be had: the targets serve on.
            | (Self::Reverting, Self::Switched | Self::Reverted) => true,
            (from, Self::Cancelled | Self::Failed) => from.is_before_switch(),
            _ => false,
        }
    }
}
