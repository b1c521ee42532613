//! Labels of partitions that the spec does not label: a bound or a value as a piece of a name.

use super::Limit;
use super::overlap::Edge;
use crate::{KeyKind, Scalar};

/// Of a range, by its lower bound.
pub(super) fn of_edge(from: &Edge, kinds: &[Option<KeyKind>], at: usize) -> String {
    let limits: Vec<_> = from.0.iter().map(|(limit, _)| limit).collect();
    let word = |(column, limit): (usize, &&Limit)| match limit {
        Limit::MinValue => "min".to_owned(),
        Limit::MaxValue => "max".to_owned(),
        Limit::Value(text) => match kinds.get(column).copied().flatten() {
            Some(KeyKind::Date | KeyKind::Timestamp | KeyKind::TimestampTz) => time(text),
            _ => word(text),
        },
    };
    join(limits.iter().enumerate().map(word), at)
}

/// Of a list, by its values.
pub(super) fn of_values(values: &[Scalar]) -> String {
    join(values.iter().map(|value| value.text().map_or("null".to_owned(), |text| word(&text))), 0)
}

fn join(words: impl Iterator<Item = String>, at: usize) -> String {
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    if words.is_empty() { format!("p{at}") } else { words.join("_") }
}

/// Letters and digits in lower case; a leading minus is an `m`, also of infinity.
fn word(text: &str) -> String {
    let text = text.trim();
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) if rest.starts_with(|c: char| c.is_alphanumeric()) => ("m", rest),
        _ => ("", text),
    };
    let plain: String = rest.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
    format!("{sign}{}", plain.trim_matches('_').to_lowercase())
}

/// `2024-01-01 06:00:00+02` is `2024_01_01_0600`; midnight is not said.
fn time(literal: &str) -> String {
    let Some((date, time)) = literal.split_once(' ') else { return word(literal) };
    let clock = time.split(['+', '-']).next().unwrap_or_default();
    match clock {
        "00:00:00" => word(date),
        _ => {
            let clock = clock.strip_suffix(":00").unwrap_or(clock);
            format!("{}_{}", word(date), clock.replace(':', "").replace('.', "_"))
        }
    }
}
