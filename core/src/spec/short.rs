//! The one-level short form: arguments instead of a document. It goes through the document, so all checks exist once.

use serde_json::{Map, Value};

use super::Level;
use crate::error::Result;
use crate::path::Form;

/// The arguments of the short form of `shard_create_parent`; what is `None` was not given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShortForm {
    /// `range`, `list` or `hash`, in any case.
    pub method: Option<String>,
    /// One column name or expression per entry; the argument's text was split by the caller.
    pub key: Option<Vec<String>>,
    /// The number of hash partitions.
    pub modulus: Option<i64>,
    /// The period of each partition, as Postgres writes it: `1 month`.
    pub interval: Option<String>,
    /// So many numbers per partition, as digits.
    pub step: Option<String>,
    /// Where the first partition begins, included: a time or a number.
    pub start: Option<String>,
    /// Where the last partition ends, not included: `end` in a document.
    pub until: Option<String>,
    /// How many periods or steps are made beyond the first or current one.
    pub premake: Option<i64>,
    /// The IANA name of the zone that boundaries are computed in.
    pub timezone: Option<String>,
    /// What a number that stands for a time counts: `s`, `ms`, `us` or `ns`.
    pub epoch: Option<String>,
    /// Label → values, as `values` in a document.
    pub lists: Option<Value>,
    /// An array of points, or label → range.
    pub bounds: Option<Value>,
    /// Where the leaves are dealt to in turn.
    pub nodes: Option<Vec<String>>,
    /// Whether there is a default partition: `default` in a document.
    pub default_partition: Option<bool>,
}

impl ShortForm {
    fn into_json(self) -> Value {
        let members = [
            ("method", self.method.map(Value::from)),
            ("key", self.key.map(Value::from)),
            ("modulus", self.modulus.map(Value::from)),
            ("interval", self.interval.map(Value::from)),
            ("step", self.step.map(Value::from)),
            ("start", self.start.map(Value::from)),
            ("end", self.until.map(Value::from)),
            ("premake", self.premake.map(Value::from)),
            ("timezone", self.timezone.map(Value::from)),
            ("epoch", self.epoch.map(Value::from)),
            ("values", self.lists),
            ("bounds", self.bounds),
            ("nodes", self.nodes.map(Value::from)),
            ("default", self.default_partition.map(Value::from)),
        ];
        let given = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(given.collect::<Map<_, _>>())
    }
}

impl Level {
    /// The level that the short form describes. Errors, the later ones too, name arguments instead of JSON paths.
    pub fn short_form(form: ShortForm) -> Result<Level> {
        super::read(&form.into_json(), Form::Arguments)
    }
}
