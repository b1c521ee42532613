//! English in errors and findings: numbers and articles that agree with their nouns.

use std::fmt::Display;

/// `1 partition`, `2 partitions`.
pub fn count<N: Display + PartialEq + From<u8>>(n: N, one: &str, many: &str) -> String {
    let noun = if n == N::from(1) { one } else { many };
    format!("{n} {noun}")
}

/// The noun with its article: `an integer`, `a uuid`.
pub(crate) fn a(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {noun}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_agree_with_numbers_and_articles() {
        assert_eq!([0, 1, 2].map(|n: usize| count(n, "leaf", "leaves")), ["0 leaves", "1 leaf", "2 leaves"]);
        assert_eq!(["integer", "uuid", "date"].map(a), ["an integer", "a uuid", "a date"]);
    }
}
