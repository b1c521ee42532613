//! Ranges of numbers, each of one step.

use super::upkeep::Line;
use super::{Retention, Slot, unknown_kind};
use crate::error::{Result, SpecError};
use crate::path::Path;
use crate::plural::a;
use crate::spec::StepRule;
use crate::value::fits;
use crate::{Decimal, KeyKind, Scalar};

/// Boundary `n` is `start + n × step`.
#[derive(Clone, Debug)]
pub(super) struct Steps {
    step: Decimal,
    start: Decimal,
    end: Option<Decimal>,
    premake: u32,
    /// The width of the integer; `None` for numeric.
    bits: Option<u8>,
    path: Path,
}

impl Steps {
    pub(super) fn new(rule: &StepRule, key: &str, kind: Option<KeyKind>, path: &Path) -> Result<Self> {
        let bits = match kind.ok_or_else(|| unknown_kind(key, path))? {
            KeyKind::Integer { bits } => Some(bits),
            KeyKind::Numeric => None,
            other => {
                return Err(SpecError::new(path.field("step"), "a step needs an integer or numeric key")
                    .detail(format!("The key \"{key}\" is {}.", a(other.describe()))));
            }
        };
        let start = rule.start.unwrap_or(Decimal::ZERO);
        let given = [("step", Some(rule.step)), ("start", rule.start), ("end", rule.end)];
        for (field, number) in given {
            if let (Some(number), Some(_)) = (number, bits)
                && number.integer().is_none()
            {
                return Err(SpecError::new(path.field(field), format!("{number} is not a whole number"))
                    .detail(format!("The key \"{key}\" is an integer.")));
            }
        }
        if rule.end.is_some_and(|end| end <= start) {
            return Err(SpecError::new(path.field("end"), "the end is not after the start"));
        }
        Ok(Self { step: rule.step, start, end: rule.end, premake: rule.premake, bits, path: path.clone() })
    }

    pub(super) fn span(&self) -> Result<(i128, i128)> {
        let Some(end) = self.end else { return Ok((0, i128::from(self.premake))) };
        let whole = end.checked_sub(self.start).and_then(|reach| reach.div_floor(self.step));
        let whole = whole.ok_or_else(|| self.beyond())?;
        // A step that ends at the end is the last one; one that the end cuts is, too.
        let last = if self.at(whole)? == end { whole - 1 } else { whole };
        Ok((0, last))
    }

    pub(super) fn slot(&self, n: i128) -> Result<Slot> {
        let (from, to) = (self.at(n)?, self.at(n + 1)?);
        Ok(Slot { label: label(from), from: from.to_string(), to: to.to_string() })
    }

    pub(super) fn label_of(&self, from: &Scalar) -> Result<String> {
        self.bound(from).map(label)
    }

    fn beyond(&self) -> SpecError {
        let error = SpecError::new(self.path.field("step"), "the partitions leave the range of the key");
        match self.bits {
            Some(bits) => error.detail(format!("The key is an integer of {bits} bits.")),
            None => error.detail("Bounds have at most 38 digits."),
        }
    }

    fn at(&self, n: i128) -> Result<Decimal> {
        let number = self.step.checked_mul(n).and_then(|reach| self.start.checked_add(reach));
        let fits = |number: &Decimal| match self.bits {
            Some(bits) => number.integer().is_some_and(|whole| fits(whole, bits)),
            None => true,
        };
        number.filter(fits).ok_or_else(|| self.beyond())
    }

    fn bound(&self, value: &Scalar) -> Result<Decimal> {
        let number = value.text().and_then(|text| text.parse().ok());
        number.ok_or_else(|| SpecError::new(&self.path, format!("{value} is not a bound of this level")))
    }
}

impl Line for Steps {
    type Point = Decimal;

    fn at(&self, n: i128) -> Result<Decimal> {
        Steps::at(self, n)
    }

    fn floor(&self, point: Decimal) -> Result<i128> {
        let reach = point.checked_sub(self.start).and_then(|reach| reach.div_floor(self.step));
        reach.ok_or_else(|| self.beyond())
    }

    fn point(&self, bound: &str) -> Result<Decimal> {
        self.bound(&Scalar::from(bound))
    }

    fn slot(&self, from: Decimal, to: Decimal) -> Result<Slot> {
        Ok(Slot { label: label(from), from: from.to_string(), to: to.to_string() })
    }

    fn end(&self) -> Option<Decimal> {
        self.end
    }

    fn clock(&self, _now: jiff::Timestamp) -> Option<Decimal> {
        None
    }

    fn first(&self, _now: jiff::Timestamp) -> Result<i128> {
        Ok(0)
    }

    fn horizon(&self, kept: &Retention, _now: jiff::Timestamp, newest: Option<Decimal>) -> Result<Option<Decimal>> {
        let Retention::Number(kept) = kept else { return Ok(None) };
        Ok(newest.and_then(|newest| newest.checked_sub(*kept)))
    }
}

/// The lower bound as a piece of a name: `1000`, `m500`, `0_5`.
fn label(from: Decimal) -> String {
    from.to_string().replace('-', "m").replace('.', "_")
}
