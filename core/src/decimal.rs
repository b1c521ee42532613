//! Exact decimal numbers, for steps and for comparing numeric bounds.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// `mantissa / 10^scale`, always reduced, so that equal numbers are equal values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Decimal {
    mantissa: i128,
    scale: u32,
}

/// Why a text is not a [`Decimal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotDecimal {
    /// Not a number at all.
    Syntax,
    /// A number, of more digits than 38.
    TooLong,
}

impl Decimal {
    pub(crate) const ZERO: Self = Self { mantissa: 0, scale: 0 };

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

    /// `None` when the sum has more digits than 38, or one of both cannot be written in the scale of the other.
    pub(crate) fn checked_add(self, other: Self) -> Option<Self> {
        let (a, b, scale) = self.aligned(other)?;
        Some(Self::reduced(a.checked_add(b)?, scale))
    }

    pub(crate) fn checked_sub(self, other: Self) -> Option<Self> {
        self.checked_add(Self { mantissa: other.mantissa.checked_neg()?, ..other })
    }

    pub(crate) fn checked_mul(self, times: i128) -> Option<Self> {
        Some(Self::reduced(self.mantissa.checked_mul(times)?, self.scale))
    }

    /// The whole number of times that `other` goes into this, rounded down.
    pub(crate) fn div_floor(self, other: Self) -> Option<i128> {
        let (a, b, _) = self.aligned(other)?;
        let rest = a.checked_rem_euclid(b)?;
        a.checked_sub(rest)?.checked_div(b)
    }

    pub(crate) fn is_positive(self) -> bool {
        self.mantissa > 0
    }

    /// The value, if it is a whole number.
    pub(crate) fn integer(self) -> Option<i128> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().expect("a decimal")
    }

    #[test]
    fn it_reads_what_postgres_reads() {
        let read = |text: &str| text.parse::<Decimal>().map(|number| number.to_string());
        assert_eq!(read(" -1.50 ").as_deref(), Ok("-1.5"));
        assert_eq!(read("1e3").as_deref(), Ok("1000"));
        assert_eq!(read(".5").as_deref(), Ok("0.5"));
        assert_eq!(read("5.").as_deref(), Ok("5"));
        assert_eq!(read("-0.00").as_deref(), Ok("0"));
        assert_eq!(read("1e-20").as_deref(), Ok("0.00000000000000000001"));
        for wrong in ["", ".", "-", "1e", "0x10", "1,5", "٣"] {
            assert_eq!(read(wrong), Err(NotDecimal::Syntax), "{wrong}");
        }
        for long in ["1e39", "1e-39", "1e2147483647", "123456789012345678901234567890123456789012"] {
            assert_eq!(read(long), Err(NotDecimal::TooLong), "{long}");
        }
    }

    #[test]
    fn numbers_far_apart_in_scale_compare() {
        let huge = decimal("99999999999999999999999999999999999999");
        let tiny = decimal("0.00000000000000000000000000000000000001");
        assert!(tiny < huge && decimal("0") < tiny);
        let below = decimal("-99999999999999999999999999999999999999");
        assert!(below < tiny);
        assert_eq!((huge.cmp(&tiny), tiny.cmp(&below)), (Ordering::Greater, Ordering::Greater));
    }

    proptest! {
        #[test]
        fn arithmetic_is_that_of_whole_numbers(a in -1_000_000i64..1_000_000, b in 1i64..1_000_000, scale in 0u32..6) {
            let at = |n: i64| decimal(&format!("{n}e-{scale}"));
            prop_assert_eq!(at(a).checked_add(at(b)), Some(at(a + b)));
            prop_assert_eq!(at(a).checked_sub(at(b)), Some(at(a - b)));
            prop_assert_eq!(at(a).div_floor(at(b)), Some(i128::from(a.div_euclid(b))));
            prop_assert_eq!(at(a).cmp(&at(b)), a.cmp(&b));
            prop_assert_eq!(decimal(&at(a).to_string()), at(a));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[-+0-9.eE ]{0,50}") {
            if let Ok(number) = text.parse::<Decimal>() {
                prop_assert_eq!(decimal(&number.to_string()), number);
                let _ = (number.checked_add(number), number.div_floor(number), number.checked_mul(i128::MAX));
            }
        }
    }
}
