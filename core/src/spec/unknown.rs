//! What serde found wrong, said so that the user can mend it: the path, and for an unknown member the valid ones.

use serde_json::Value;
use serde_path_to_error::Segment;

use crate::SpecError;
use crate::path::Path;

const COMMON: &[&str] = &["method", "key", "nodes", "name", "partitions"];
const RANGE: &[&str] = &["interval", "step", "bounds", "start", "end", "premake", "timezone", "epoch", "default"];
const LIST: &[&str] = &["values", "default"];
const HASH: &[&str] = &["modulus"];

/// The members that a level of this method can have; of all methods if it is not known.
pub(super) fn members(method: Option<&str>) -> Vec<&'static str> {
    let own: Vec<&[&str]> = match method.map(str::to_ascii_lowercase).as_deref() {
        Some("range") => vec![RANGE],
        Some("list") => vec![LIST],
        Some("hash") => vec![HASH],
        _ => vec![&["values", "modulus"], RANGE],
    };
    COMMON.iter().chain(own.into_iter().flatten()).copied().collect()
}

/// A member that this kind of object, at `path`, does not have.
pub(super) fn unknown(path: &Path, name: &str, of: &str, valid: &[&str]) -> SpecError {
    let place = path.field(name);
    if path.is_call() {
        let name = path.member(name).unwrap_or(name);
        let valid: Vec<&str> = valid.iter().filter_map(|name| path.member(name)).collect();
        return SpecError::new(place, format!("{of} has no argument \"{name}\""))
            .detail(format!("Its arguments are {}.", enumerate(&valid)));
    }
    let error = SpecError::new(place, format!("unknown field \"{name}\""))
        .detail(format!("The fields of {of} are {}.", enumerate(valid)));
    let near = nearest(name, valid)
        .or_else(|| SYNONYMS.iter().find(|(word, ours)| *word == name && valid.contains(ours)).map(|(_, ours)| *ours));
    match near {
        Some(near) => error.hint(format!("Perhaps you mean \"{near}\".")),
        None => error,
    }
}

/// Words for the same that the call, Postgres or other tools have.
const SYNONYMS: [(&str, &str); 11] = [
    ("until", "end"),
    ("lists", "values"),
    ("values", "in"),
    ("list", "in"),
    ("in", "values"),
    ("default_partition", "default"),
    ("partition_by", "method"),
    ("type", "method"),
    ("column", "key"),
    ("every", "interval"),
    ("count", "modulus"),
];

/// The report for an error that serde raised while it read `doc`, which stands at `root`.
pub(crate) fn explain(doc: &Value, error: &serde_path_to_error::Error<serde_json::Error>, root: &Path) -> SpecError {
    let mut path = root.clone();
    let mut at = Some(doc);
    let (mut parent, mut object) = (None, root.clone());
    for segment in error.path() {
        (parent, object) = (at, path.clone());
        match segment {
            Segment::Map { key } => {
                path = path.field(key);
                at = at.and_then(|v| v.get(key));
            }
            Segment::Seq { index } => {
                path = path.index(*index);
                at = at.and_then(|v| v.get(index));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    let text = error.inner().to_string();
    if let Some(rest) = text.strip_prefix("unknown field ") {
        // Every second piece between backticks is a name: the unknown member, then the ones it could have been.
        let mut names = rest.split('`').skip(1).step_by(2);
        let name = names.next().unwrap_or_default();
        let valid: Vec<&str> = names.collect();
        if !valid.contains(&"method") {
            return unknown(&object, name, "this object", &valid);
        }
        let method = parent.and_then(|p| p.get("method")).and_then(Value::as_str);
        let of = match method.map(str::to_ascii_lowercase).as_deref() {
            Some(known @ ("range" | "list" | "hash")) => format!("a {known} level"),
            _ => "a level".into(),
        };
        return unknown(&object, name, &of, &members(method));
    }
    SpecError::new(path, plain(&text))
}

/// serde's words for types, as JSON calls them.
fn plain(message: &str) -> String {
    message
        .replace('`', "")
        .replace("invalid type: map", "invalid type: object")
        .replace("invalid type: sequence", "invalid type: array")
        .replace("expected a sequence", "expected an array")
}

/// The candidate that is few edits away from `word`, if one is.
pub(super) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    let close = candidates.iter().map(|c| (distance(&word, c), *c)).min_by_key(|(d, _)| *d);
    close.filter(|(d, c)| *d <= 1 + c.len() / 4).map(|(_, c)| c)
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// `a, b and c`.
pub(super) fn enumerate(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
