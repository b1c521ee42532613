//! The one error of this crate: a mistake in a spec, with the place of it.

/// What is wrong with a spec, worded as Postgres words its reports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}{}{message}", if path.is_empty() { "" } else { ": " })]
pub struct SpecError {
    /// JSON path of the mistake (`$.partitions.modulus`), or the argument's name in the short form; empty if it is the whole call.
    pub path: String,
    /// One factual line, lower case, no period.
    pub message: String,
    /// Whole sentences: the numbers and names behind the message.
    pub detail: Option<String>,
    /// Whole sentences: what to do.
    pub hint: Option<String>,
}

impl SpecError {
    pub(crate) fn new(path: impl ToString, message: impl Into<String>) -> Self {
        Self { path: path.to_string(), message: message.into(), detail: None, hint: None }
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

pub(crate) type Result<T> = std::result::Result<T, SpecError>;
