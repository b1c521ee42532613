//! One JSON value that can be a partition bound: a string, a number, a boolean or null.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use serde_json::Number;

/// A bound as the user wrote it; what it means depends on the type of the key.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub(crate) enum Scalar {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
}

/// Integers beyond this are not exact in JSON's doubles, and neither are 17 digits.
const EXACT: f64 = 9_007_199_254_740_992.0;
const EXACT_DIGITS: usize = 16;

impl Scalar {
    /// The text that Postgres would read; `None` for null.
    pub(crate) fn text(&self) -> Option<String> {
        match self {
            Self::Null => None,
            Self::Bool(b) => Some(b.to_string()),
            Self::Number(n) => Some(match n.as_f64() {
                Some(f) if n.is_f64() && f.fract() == 0.0 && f.abs() < EXACT => format!("{f:.0}"),
                // Plain digits: Postgres reads exponents for numeric but not for integers.
                Some(f) if n.is_f64() => format!("{f}"),
                _ => n.to_string(),
            }),
            Self::Text(s) => Some(s.clone()),
        }
    }
}

/// As an error shows it: strings in quotes, as in the document.
impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Number(n) => write!(f, "{n}"),
            Self::Text(s) => write!(f, "\"{s}\""),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ScalarVisitor)
    }
}

pub(crate) struct ScalarVisitor;

impl Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number, a boolean or null")
    }

    fn visit_unit<E: Error>(self) -> Result<Scalar, E> {
        Ok(Scalar::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Scalar, E> {
        let number =
            Number::from_f64(value).ok_or_else(|| E::invalid_value(Unexpected::Float(value), &"a finite number"))?;
        let mantissa = value.abs().to_string();
        let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
        let leading = mantissa.bytes().take_while(|b| matches!(b, b'0' | b'.')).filter(|b| *b == b'0').count();
        let whole = value.fract() == 0.0;
        if (whole && value.abs() >= EXACT) || (!whole && digits - leading > EXACT_DIGITS) {
            return Err(E::custom(format!("the number {value} may have lost digits, it must be written as a string")));
        }
        Ok(Scalar::Number(number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Scalar, E> {
        Ok(Scalar::Text(value))
    }
}

impl From<&str> for Scalar {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}
