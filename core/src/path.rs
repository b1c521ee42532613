//! JSON paths, as errors and placement counters name them.

use std::fmt;

/// `$.partitions.values.us`; a member that is not a plain word is written `["so"]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Path(String);

impl Path {
    pub(crate) fn root() -> Self {
        Self("$".into())
    }

    pub(crate) fn field(&self, name: &str) -> Self {
        let plain = name.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_alphanumeric() || c == '_');
        Self(if plain {
            format!("{}.{name}", self.0)
        } else {
            format!("{}[{}]", self.0, serde_json::Value::from(name))
        })
    }

    pub(crate) fn index(&self, at: usize) -> Self {
        Self(format!("{}[{at}]", self.0))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
