//! Names of partitions: a template, cut to what Postgres keeps of an identifier.

use crate::error::{Result, SpecError};

/// Postgres keeps this many bytes of an identifier (NAMEDATALEN - 1).
pub const MAX_BYTES: usize = 63;

const DEFAULT: &str = "{parent}_{label}";

/// A name with `{parent}` and `{label}` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(String);

impl Default for Template {
    fn default() -> Self {
        Self(DEFAULT.into())
    }
}

impl Template {
    /// Accepts only the two known placeholders; one for a single table may leave out the label.
    pub(crate) fn parse(text: &str, path: &crate::path::Path, single: bool) -> Result<Self> {
        let rest = text.replace("{parent}", "").replace("{label}", "");
        if rest.contains(['{', '}']) {
            return Err(SpecError::new(path, format!("the name template \"{text}\" has an unknown placeholder"))
                .detail("A template knows {parent} and {label}."));
        }
        if text.is_empty() || text.contains('\0') {
            return Err(SpecError::new(path, "the name template is not a name"));
        }
        if !single && !text.contains("{label}") {
            return Err(SpecError::new(path, format!("the name template \"{text}\" lacks {{label}}"))
                .detail("Without it all partitions of the level would have one name."));
        }
        Ok(Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn is_default(&self) -> bool {
        self.0 == DEFAULT
    }
}

/// The name of the partition `label` of `parent`, at most 63 bytes long.
pub(crate) fn make(template: &Template, parent: &str, label: &str) -> String {
    // One pass, so that a parent called "{label}" is not expanded again.
    let mut name = String::with_capacity(MAX_BYTES);
    let mut rest = template.0.as_str();
    while let Some(at) = rest.find('{') {
        name.push_str(&rest[..at]);
        let after = &rest[at..];
        rest = if let Some(tail) = after.strip_prefix("{parent}") {
            name.push_str(parent);
            tail
        } else if let Some(tail) = after.strip_prefix("{label}") {
            name.push_str(label);
            tail
        } else {
            name.push('{');
            &after[1..]
        };
    }
    name.push_str(rest);
    cut(name)
}

/// A name that is too long ends in a hash of the whole, so that cutting keeps names apart.
fn cut(name: String) -> String {
    if name.len() <= MAX_BYTES {
        return name;
    }
    let suffix = format!("_{:08x}", hash(name.as_bytes()));
    let mut end = MAX_BYTES - suffix.len();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &name[..end])
}

/// FNV-1a, folded to 32 bits. Names in databases depend on it: it never changes.
fn hash(bytes: &[u8]) -> u32 {
    let mut state = 0xcbf2_9ce4_8422_2325u64;
    for byte in bytes {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    (state >> 32) as u32 ^ state as u32
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hash_never_changes() {
        assert_eq!(hash(b""), 0xcbf2_9ce4 ^ 0x8422_2325);
        let long = make(&Template::default(), &"x".repeat(60), "2024_01");
        assert_eq!(long, format!("{}_88f79b33", "x".repeat(54)));
    }

    proptest! {
        #[test]
        fn names_fit_and_depend_on_nothing_else(parent in "\\PC{1,80}", label in "\\PC{1,80}") {
            let name = make(&Template::default(), &parent, &label);
            prop_assert!(name.len() <= MAX_BYTES);
            prop_assert_eq!(&name, &make(&Template::default(), &parent, &label));
            let whole = format!("{parent}_{label}");
            prop_assert!(name == whole || whole.len() > MAX_BYTES);
        }

        #[test]
        fn long_names_stay_apart(parent in "[a-zé]{40,80}", labels in prop::collection::hash_set("[a-z0-9_é]{20,60}", 2..50)) {
            let names: HashSet<_> = labels.iter().map(|label| make(&Template::default(), &parent, label)).collect();
            prop_assert_eq!(names.len(), labels.len());
        }
    }
}
