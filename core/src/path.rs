//! Places in a spec, as errors and placement counters name them.

use std::fmt;

/// What a spec was written as, and so in whose words its places are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Form {
    /// A document: `$.values.us[0]`.
    Document,
    /// The arguments of the short form: `lists.us[0]`.
    Arguments,
}

/// Members of the document that the arguments call differently.
const RENAMED: &[(&str, &str)] = &[("values", "lists"), ("default", "default_partition"), ("end", "until")];
/// Members that no argument stands for.
const NO_ARGUMENT: &[&str] = &["name", "partitions"];

/// `$.partitions.values.us`; a member that is not a plain word is written `["so"]`.
///
/// It is shown in the words of its form, and counted by [`Path::as_str`], which is the same in all forms.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Path {
    text: String,
    form: Form,
}

impl Path {
    pub(crate) fn root(form: Form) -> Self {
        Self { text: "$".into(), form }
    }

    pub(crate) fn field(&self, name: &str) -> Self {
        let plain = name.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_alphanumeric() || c == '_');
        let text = if plain {
            format!("{}.{name}", self.text)
        } else {
            format!("{}[{}]", self.text, serde_json::Value::from(name))
        };
        Self { text, form: self.form }
    }

    pub(crate) fn index(&self, at: usize) -> Self {
        Self { text: format!("{}[{at}]", self.text), form: self.form }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// Its members are arguments.
    pub(crate) fn is_call(&self) -> bool {
        self.form == Form::Arguments && self.text == "$"
    }

    /// What the member `name` of this object is called where it was written; `None` if it cannot be written there.
    pub(crate) fn member<'n>(&self, name: &'n str) -> Option<&'n str> {
        match self.is_call() {
            true if NO_ARGUMENT.contains(&name) => None,
            true => Some(argument(name)),
            false => Some(name),
        }
    }
}

fn argument(member: &str) -> &str {
    RENAMED.iter().find(|(document, _)| *document == member).map_or(member, |(_, argument)| *argument)
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.form == Form::Document {
            return f.write_str(&self.text);
        }
        let members = self.text.trim_start_matches(['$', '.']);
        let (first, rest) = members.split_at(members.find(['.', '[']).unwrap_or(members.len()));
        write!(f, "{}{rest}", argument(first))
    }
}
