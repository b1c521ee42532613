//! The spec as JSON has it: which members there are and of what type, before it is known what they mean together.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use crate::Scalar;
use crate::scalar::ScalarVisitor;

/// Every member that some method knows; which of them belong together is checked later.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "an object that describes a level")]
pub(super) struct Document {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<OneOrMany<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<Scalar>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Scalar>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<Scalar>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub premake: Option<Scalar>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounds: Option<Bounds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Labelled<Values>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modulus: Option<Scalar>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Default_>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<Below>,
}

/// One partition of a list level.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "an array of values or an object with \"in\"")]
pub(super) struct ListObject {
    #[serde(rename = "in", deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<Scalar>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<Below>,
}

/// One partition of a range level with written bounds.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "an object with \"from\" and \"to\"")]
pub(super) struct RangeObject {
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub from: Option<OneOrMany<Scalar>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub to: Option<OneOrMany<Scalar>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<Below>,
}

/// The default partition, when there is something to say about it.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "true, false or an object")]
pub(super) struct DefaultObject {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<Below>,
}

/// A null here is a value, not an absence, so that the error can be about it.
pub(crate) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// What must be an object: a derived reader would take an array for it, member by member.
#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
                map(object).map(Object)
            }
        }
        from.deserialize_any(Members(PhantomData))
    }
}

/// An object whose members are labels, in the order of the document.
pub(super) struct Labelled<T>(pub Vec<(String, T)>);

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Values {
    Short(Vec<Scalar>),
    Long(ListObject),
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Bounds {
    Points(Vec<OneOrMany<Scalar>>),
    Labelled(Labelled<Object<RangeObject>>),
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Default_ {
    Flag(bool),
    Object(DefaultObject),
}

/// `false` is a partition without partitions of its own.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Below {
    Flag(bool),
    Level(Box<Document>),
}

#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub(super) fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }

    pub(super) fn of(mut many: Vec<T>) -> Self {
        match (many.len(), many.pop()) {
            (1, Some(one)) => Self::One(one),
            (_, last) => {
                many.extend(last);
                Self::Many(many)
            }
        }
    }
}

impl<T: Serialize> Serialize for Labelled<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for (label, value) in &self.0 {
            map.serialize_entry(label, value)?;
        }
        map.end()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Labelled<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Labelled<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one member per partition")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Labelled(entries))
            }
        }
        from.deserialize_map(Entries(PhantomData))
    }
}

/// Implements `Deserialize` for a type that reads different kinds of JSON differently, each one exactly: an untagged
/// serde enum would forget the path of the error.
macro_rules! by_kind {
    ($type:ty, $expecting:literal, { $($visit:tt)* }) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Kinds;
                impl<'de> Visitor<'de> for Kinds {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    $($visit)*
                }
                from.deserialize_any(Kinds)
            }
        }
    };
}

fn seq<'de, A: SeqAccess<'de>, T: Deserialize<'de>>(seq: A) -> Result<T, A::Error> {
    T::deserialize(SeqAccessDeserializer::new(seq))
}

fn map<'de, A: MapAccess<'de>, T: Deserialize<'de>>(map: A) -> Result<T, A::Error> {
    T::deserialize(MapAccessDeserializer::new(map))
}

by_kind!(Values, "an array of values or an object with \"in\"", {
    fn visit_seq<A: SeqAccess<'de>>(self, values: A) -> Result<Values, A::Error> {
        seq(values).map(Values::Short)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Values, A::Error> {
        map(object).map(Values::Long)
    }
});

by_kind!(Bounds, "an array of points or an object with one range per label", {
    fn visit_seq<A: SeqAccess<'de>>(self, points: A) -> Result<Bounds, A::Error> {
        seq(points).map(Bounds::Points)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Bounds, A::Error> {
        map(object).map(Bounds::Labelled)
    }
});

by_kind!(Default_, "true, false or an object", {
    fn visit_bool<E: Error>(self, flag: bool) -> Result<Default_, E> {
        Ok(Default_::Flag(flag))
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Default_, A::Error> {
        map(object).map(Default_::Object)
    }
});

by_kind!(Below, "an object that describes a level, or false", {
    fn visit_bool<E: Error>(self, flag: bool) -> Result<Below, E> {
        Ok(Below::Flag(flag))
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Below, A::Error> {
        map(object).map(Box::new).map(Below::Level)
    }
});

by_kind!(OneOrMany<String>, "a string or an array of strings", {
    fn visit_str<E: Error>(self, one: &str) -> Result<OneOrMany<String>, E> {
        Ok(OneOrMany::One(one.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, many: A) -> Result<OneOrMany<String>, A::Error> {
        seq(many).map(OneOrMany::Many)
    }
});

by_kind!(OneOrMany<Scalar>, "a value or an array of values", {
    fn visit_unit<E: Error>(self) -> Result<OneOrMany<Scalar>, E> {
        Ok(OneOrMany::One(Scalar::Null))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<OneOrMany<Scalar>, E> {
        Ok(OneOrMany::One(Scalar::Bool(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<OneOrMany<Scalar>, E> {
        ScalarVisitor.visit_i64(value).map(OneOrMany::One)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<OneOrMany<Scalar>, E> {
        ScalarVisitor.visit_u64(value).map(OneOrMany::One)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<OneOrMany<Scalar>, E> {
        ScalarVisitor.visit_f64(value).map(OneOrMany::One)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<OneOrMany<Scalar>, E> {
        ScalarVisitor.visit_str(value).map(OneOrMany::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, many: A) -> Result<OneOrMany<Scalar>, A::Error> {
        seq(many).map(OneOrMany::Many)
    }
});
