//! What a step that did not work means for its operation.

use crate::error::{Error, Report};

/// Why a step ended early.
#[derive(Debug)]
pub enum Trouble {
    /// It may work later: a server is down, a lock is held. The worker tries again by itself.
    Again(Error),
    /// A person has to look: the operation stands still until it is resumed or cancelled.
    Halt(Error),
    /// Somebody asked for something else meanwhile.
    Asked,
    /// It will never work: the operation fails, and what it made is removed.
    Fail(Error),
}

pub type Step<T = ()> = std::result::Result<T, Trouble>;

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Again(error)
    }
}

impl From<Report> for Trouble {
    fn from(report: Report) -> Self {
        Trouble::Again(report.into())
    }
}

pub fn halt<T>(report: Report) -> Step<T> {
    Err(Trouble::Halt(report.into()))
}

pub fn fail<T>(report: Report) -> Step<T> {
    Err(Trouble::Fail(report.into()))
}
