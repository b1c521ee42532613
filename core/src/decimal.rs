//! Exact decimal numbers, for steps and for comparing numeric bounds.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// `mantissa / 10^scale`, always reduced, so that equal numbers are equal values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decimal {
    mantissa: i128,
    scale: u32,
}

/// Why a text is not a [`Decimal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotDecimal {
    /// Not a number at all.
    Syntax,
    /// A number, of more digits than 38.
    TooLong,
}

impl Decimal {
    pub const ZERO: Self = Self { mantissa: 0, scale: 0 };

    fn reduced(mut mantissa: i128, mut scale: u32) -> Self {
        while scale > 0 && mantissa % 10 == 0 {
            mantissa /= 10;
            scale -= 1;
        }
        Self { mantissa, scale }
    }

    /// The mantissas of both at one scale; `None` when one does not fit.
    fn aligned(self, other: Self) -> Option<(i128, i128, u32)> {
        let scale = self.scale.max(other.scale);
        let lift = |d: Self| 10i128.checked_pow(scale - d.scale).and_then(|f| d.mantissa.checked_mul(f));
        Some((lift(self)?, lift(other)?, scale))
    }

    pub fn checked_add(self, other: Self) -> Option<Self> {
        let (a, b, scale) = self.aligned(other)?;
        Some(Self::reduced(a.checked_add(b)?, scale))
    }

    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.checked_add(Self { mantissa: other.mantissa.checked_neg()?, ..other })
    }

    pub fn checked_mul(self, times: i128) -> Option<Self> {
        Some(Self::reduced(self.mantissa.checked_mul(times)?, self.scale))
    }

    /// The whole number of times that `other` goes into this, rounded down.
    pub fn div_floor(self, other: Self) -> Option<i128> {
        let (a, b, _) = self.aligned(other)?;
        let rest = a.checked_rem_euclid(b)?;
        a.checked_sub(rest)?.checked_div(b)
    }

    pub fn is_positive(self) -> bool {
        self.mantissa > 0
    }

    /// The value, if it is a whole number.
    pub fn integer(self) -> Option<i128> {
        (self.scale == 0).then_some(self.mantissa)
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        if let Some((a, b, _)) = self.aligned(*other) {
            return a.cmp(&b);
        }
        // The one of the smaller scale did not fit when lifted to the other's: it is the larger in size.
        let coarse = if self.scale < other.scale { self } else { other };
        let sign = if coarse.mantissa > 0 { Ordering::Greater } else { Ordering::Less };
        if std::ptr::eq(coarse, self) { sign } else { sign.reverse() }
    }
}

impl FromStr for Decimal {
    type Err = NotDecimal;

    /// What Postgres reads as numeric: sign, digits, point, exponent.
    fn from_str(text: &str) -> Result<Self, NotDecimal> {
        let text = text.trim();
        let (body, exponent) = match text.find(['e', 'E']) {
            Some(at) => (&text[..at], text[at + 1..].parse::<i32>().map_err(|_| NotDecimal::Syntax)?),
            None => (text, 0),
        };
        let (negative, digits) = match body.as_bytes().first() {
            Some(b'-') => (true, &body[1..]),
            Some(b'+') => (false, &body[1..]),
            _ => (false, body),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all = || whole.bytes().chain(fraction.bytes());
        if whole.len() + fraction.len() == 0 || !all().all(|b| b.is_ascii_digit()) {
            return Err(NotDecimal::Syntax);
        }
        let mut mantissa = 0i128;
        for digit in all() {
            let next = mantissa.checked_mul(10).and_then(|m| m.checked_add(i128::from(digit - b'0')));
            mantissa = next.ok_or(NotDecimal::TooLong)?;
        }
        let scale = i64::try_from(fraction.len()).unwrap_or(i64::MAX).saturating_sub(i64::from(exponent));
        let signed = if negative { -mantissa } else { mantissa };
        if signed == 0 {
            return Ok(Self::ZERO);
        }
        let number = match u32::try_from(scale) {
            Ok(scale) => Self::reduced(signed, scale.min(100_000)),
            Err(_) => {
                let factor = u32::try_from(-scale).ok().and_then(|up| 10i128.checked_pow(up));
                Self { mantissa: factor.and_then(|f| signed.checked_mul(f)).ok_or(NotDecimal::TooLong)?, scale: 0 }
            }
        };
        // Beyond this scale two numbers cannot be aligned exactly.
        if number.scale > 38 { Err(NotDecimal::TooLong) } else { Ok(number) }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.mantissa < 0 { "-" } else { "" };
        let digits = self.mantissa.unsigned_abs().to_string();
        let scale = self.scale as usize;
        if scale == 0 {
            return write!(f, "{sign}{digits}");
        }
        let padded = format!("{digits:0>width$}", width = scale + 1);
        let (whole, fraction) = padded.split_at(padded.len() - scale);
        write!(f, "{sign}{whole}.{fraction}")
    }
}
