//! The one-level short form: arguments instead of a document. It goes through the document, so all checks exist once.

use serde_json::{Map, Value};

use super::Level;
use crate::error::Result;
use crate::path::Form;

/// The arguments of the short form of `shard_create_parent`; what is `None` was not given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShortForm {
    pub method: Option<String>,
    pub key: Option<Vec<String>>,
    pub modulus: Option<i64>,
    pub interval: Option<String>,
    pub step: Option<String>,
    pub start: Option<String>,
    pub until: Option<String>,
    pub premake: Option<i64>,
    pub timezone: Option<String>,
    pub epoch: Option<String>,
    /// Label → values, as `values` in a document.
    pub lists: Option<Value>,
    pub bounds: Option<Value>,
    pub nodes: Option<Vec<String>>,
    pub default_partition: Option<bool>,
}

impl ShortForm {
    pub fn to_json(self) -> Value {
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
        super::read(&form.to_json(), Form::Arguments)
    }
}
