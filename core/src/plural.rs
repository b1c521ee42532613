//! English in errors and findings: numbers and articles that agree with their nouns.

use std::fmt::Display;

/// `1 partition`, `2 partitions`.
pub fn count<N: Display + PartialEq + From<u8>>(n: N, one: &str, many: &str) -> String {
    let noun = if n == N::from(1) { one } else { many };
    format!("{n} {noun}")
}

/// `operation 3`, `operations 3, 9`.
pub fn numbered(numbers: &[i64], one: &str, many: &str) -> String {
    let noun = if numbers.len() == 1 { one } else { many };
    format!("{noun} {}", numbers.iter().map(i64::to_string).collect::<Vec<_>>().join(", "))
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
        assert_eq!([&[3][..], &[3, 9]].map(|ids| numbered(ids, "leaf", "leaves")), ["leaf 3", "leaves 3, 9"]);
        assert_eq!(["integer", "uuid", "date"].map(a), ["an integer", "a uuid", "a date"]);
    }
}
