//! Values of partition keys: whether a text is one, how it is best written, and which of two is the lesser.

use std::cmp::Ordering;

use jiff::civil::{DateTime, Time};
use jiff::fmt::temporal::{Pieces, PiecesOffset};
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

use crate::decimal::NotDecimal;
use crate::zone::civil_literal;
use crate::{Decimal, Scalar, Zone};

/// What is known of the type of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Whole days.
    Date,
    /// What a clock on the wall shows, without a time zone.
    Timestamp,
    /// Instants.
    TimestampTz,
    /// For intervals: version 7, which begins with a time.
    Uuid,
    /// With a sign.
    Integer {
        /// 16, 32 or 64.
        bits: u8,
    },
    /// Those of up to 38 digits are compared here, longer ones by Postgres alone.
    Numeric,
    /// `real` or `double precision`.
    Float,
    /// Ordered by a collation, which only Postgres knows.
    Text,
    /// False is before true.
    Bool,
    /// A type whose order and texts only Postgres knows.
    Other,
}

impl KeyKind {
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Date => "date",
            Self::Timestamp => "timestamp without time zone",
            Self::TimestampTz => "timestamp with time zone",
            Self::Uuid => "uuid",
            Self::Integer { bits: 16 } => "smallint",
            Self::Integer { bits: 32 } => "integer",
            Self::Integer { .. } => "bigint",
            Self::Numeric => "numeric",
            Self::Float => "floating point number",
            Self::Text => "text",
            Self::Bool => "boolean",
            Self::Other => "value of its type",
        }
    }
}

/// A value, written so that Postgres reads it the same in every session.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parsed {
    pub literal: String,
    pub order: Order,
}

/// A place among the values of one kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Order {
    Lowest,
    /// Integers, days, microseconds, booleans, uuids: whatever a whole number orders.
    Whole(i128),
    Bits(u128),
    Decimal(Decimal),
    Float(f64),
    Highest,
    /// Above infinity, as Postgres has it.
    NaN,
    /// Only Postgres knows.
    Unknown,
}

impl Order {
    /// `None` when only Postgres knows.
    pub(crate) fn compare(&self, other: &Self) -> Option<Ordering> {
        let rank = |o: &Self| match o {
            Self::Lowest => Some(0),
            Self::Whole(_) | Self::Bits(_) | Self::Decimal(_) | Self::Float(_) => Some(1),
            Self::Highest => Some(2),
            Self::NaN => Some(3),
            Self::Unknown => None,
        };
        let (a, b) = (rank(self)?, rank(other)?);
        if (a, b) != (1, 1) {
            return Some(a.cmp(&b));
        }
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => Some(a.cmp(b)),
            (Self::Bits(a), Self::Bits(b)) => Some(a.cmp(b)),
            (Self::Decimal(a), Self::Decimal(b)) => Some(a.cmp(b)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(b),
            _ => None,
        }
    }
}

/// Reads `value` as one of `kind`. `None` if it is none; a time without an offset is one in `zone`.
pub(crate) fn parse(kind: KeyKind, value: &Scalar, zone: &Zone) -> Option<Parsed> {
    let text = value.text()?;
    let parsed = |literal: String, order| Some(Parsed { literal, order });
    match (kind, value) {
        (KeyKind::Text | KeyKind::Other, _) => parsed(text, Order::Unknown),
        (KeyKind::Bool, _) => {
            let flag = match text.trim().to_ascii_lowercase().as_str() {
                "true" | "t" | "yes" | "y" | "on" | "1" => true,
                "false" | "f" | "no" | "n" | "off" | "0" => false,
                _ => return None,
            };
            parsed(flag.to_string(), Order::Whole(i128::from(flag)))
        }
        (_, Scalar::Bool(_)) => None,
        (KeyKind::Integer { bits }, _) => {
            let number: i128 = text.trim().parse().ok()?;
            fits(number, bits).then_some(())?;
            parsed(number.to_string(), Order::Whole(number))
        }
        (KeyKind::Numeric, _) => match text.parse::<Decimal>() {
            Ok(number) => parsed(text.trim().to_owned(), Order::Decimal(number)),
            Err(NotDecimal::TooLong) => parsed(text.trim().to_owned(), Order::Unknown),
            Err(NotDecimal::Syntax) => parsed(text.trim().to_owned(), special(&text)?),
        },
        (KeyKind::Float, _) => match special(&text) {
            Some(order) => parsed(text.trim().to_owned(), order),
            None => {
                let number: f64 = text.trim().parse().ok()?;
                number.is_finite().then_some(())?;
                parsed(text.trim().to_owned(), Order::Float(number))
            }
        },
        (_, Scalar::Number(_) | Scalar::Null) => None,
        (KeyKind::Uuid, _) => {
            let bits = uuid_bits(&text)?;
            parsed(uuid_literal(bits), Order::Bits(bits))
        }
        (KeyKind::Date | KeyKind::Timestamp | KeyKind::TimestampTz, _) => {
            if let Some(order @ (Order::Lowest | Order::Highest)) = special(&text) {
                return parsed(text.trim().to_ascii_lowercase(), order);
            }
            let time = Moment::parse(&text)?;
            match kind {
                KeyKind::Date => {
                    let civil = time.civil(zone);
                    (civil.time() == Time::midnight()).then_some(())?;
                    parsed(civil.date().to_string(), Order::Whole(civil_micros(civil)))
                }
                KeyKind::Timestamp => {
                    let civil = time.civil(zone);
                    parsed(civil_literal(civil), Order::Whole(civil_micros(civil)))
                }
                _ => {
                    let instant = time.instant(zone)?;
                    parsed(zone.literal(instant), Order::Whole(i128::from(instant.as_microsecond())))
                }
            }
        }
    }
}

/// One text for all writings of one value.
pub(crate) fn canonical(value: &Parsed) -> String {
    match value.order {
        Order::Decimal(number) => number.to_string(),
        // Zero has one place, but two signs.
        Order::Float(number) => (number + 0.0).to_string(),
        Order::NaN => "nan".into(),
        Order::Highest => "infinity".into(),
        Order::Lowest => "-infinity".into(),
        Order::Whole(number) => number.to_string(),
        Order::Bits(_) | Order::Unknown => value.literal.clone(),
    }
}

/// Whether a signed integer of this width holds `number`.
pub(crate) fn fits(number: i128, bits: u8) -> bool {
    let limit = 1i128 << (u32::from(bits.clamp(1, 64)) - 1);
    (-limit..limit).contains(&number)
}

fn special(text: &str) -> Option<Order> {
    match text.trim().to_ascii_lowercase().as_str() {
        "infinity" | "+infinity" | "inf" | "+inf" => Some(Order::Highest),
        "-infinity" | "-inf" => Some(Order::Lowest),
        "nan" => Some(Order::NaN),
        _ => None,
    }
}

/// An ISO 8601 time as it was written: with or without an offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    civil: DateTime,
    offset: Option<Offset>,
}

impl Moment {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let pieces = Pieces::parse(text.trim()).ok()?;
        if pieces.time_zone_annotation().is_some() {
            return None;
        }
        let offset = match pieces.offset() {
            None => None,
            Some(PiecesOffset::Zulu) => Some(Offset::UTC),
            Some(PiecesOffset::Numeric(numeric)) => Some(numeric.offset()),
            Some(_) => return None,
        };
        let civil = pieces.date().to_datetime(pieces.time().unwrap_or(Time::midnight()));
        // Postgres keeps microseconds, and writes years before 1 in another way.
        (civil.subsec_nanosecond() % 1000 == 0 && civil.year() >= 1).then_some(Self { civil, offset })
    }

    pub(crate) fn civil(&self, zone: &Zone) -> DateTime {
        match self.offset.and_then(|offset| offset.to_timestamp(self.civil).ok()) {
            Some(instant) => zone.civil(instant),
            None => self.civil,
        }
    }

    pub(crate) fn instant(&self, zone: &Zone) -> Option<Timestamp> {
        match self.offset {
            Some(offset) => offset.to_timestamp(self.civil).ok(),
            None => zone.instant(self.civil),
        }
    }
}

/// Microseconds on the wall since 1970.
pub(crate) fn civil_micros(civil: DateTime) -> i128 {
    civil.duration_since(DateTime::constant(1970, 1, 1, 0, 0, 0, 0)).as_micros()
}

/// The inverse of [`civil_micros`].
pub(crate) fn civil_from_micros(micros: i128) -> Option<DateTime> {
    let since = SignedDuration::from_micros(i64::try_from(micros).ok()?);
    DateTime::constant(1970, 1, 1, 0, 0, 0, 0).checked_add(since).ok()
}

pub(crate) fn uuid_bits(text: &str) -> Option<u128> {
    let inner = text.trim();
    let inner = inner.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(inner);
    let digits: String = inner.chars().filter(|c| *c != '-').collect();
    let plain = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u128::from_str_radix(&digits, 16).ok()).flatten()
}

pub(crate) fn uuid_literal(bits: u128) -> String {
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
