//! Periods of time: boundaries computed on the wall clock of a zone, as multiples of an interval from an anchor.

use jiff::civil::{Date, DateTime};
use jiff::{Span, Timestamp};

use super::upkeep::Line;
use super::{Retention, Slot, unknown_kind};
use crate::error::{Result, SpecError};
use crate::interval::DAY;
use crate::path::Path;
use crate::plural::a;
use crate::spec::{Epoch, IntervalRule};
use crate::value::{Moment, civil_from_micros, civil_micros, fits, uuid_bits, uuid_literal};
use crate::zone::civil_literal;
use crate::{Interval, KeyKind, Scalar, Zone};

/// Boundary `n` is `anchor + n × interval`, never boundary `n - 1` plus one, so that ends of months do not wander.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    interval: Interval,
    anchor: DateTime,
    start: Option<Mark>,
    end: Option<Mark>,
    premake: u32,
    zone: Zone,
    shape: Shape,
    path: Path,
}

/// How a boundary is written as a value of the key.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Date,
    Timestamp,
    TimestampTz,
    Uuid,
    /// The width of the integer; `None` for numeric.
    Epoch(Epoch, Option<u8>),
}

/// A boundary: what the wall shows, and its place in microseconds among others of its shape.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mark {
    civil: DateTime,
    micros: i128,
}

/// On which side of the years that can be written a boundary fell.
enum Beyond {
    Before,
    After,
}

/// UUIDs of version 7 begin with this many bits of milliseconds.
const UUID_MILLIS: std::ops::Range<i128> = 0..1 << 48;

impl Grid {
    pub(super) fn new(rule: &IntervalRule, key: &str, kind: Option<KeyKind>, path: &Path) -> Result<Self> {
        let place = path.field("interval");
        let shape = shape(rule, key, kind, path)?;
        if shape == Shape::Date && rule.interval.micros != 0 {
            return Err(SpecError::new(place, "the interval of a date key has a part of a day")
                .detail(format!("The interval is {}.", rule.interval)));
        }
        let mut grid = Self {
            interval: rule.interval,
            anchor: DateTime::ZERO,
            start: None,
            end: None,
            premake: rule.premake,
            zone: rule.timezone.clone(),
            shape,
            path: path.clone(),
        };
        grid.start = rule.start.as_ref().map(|start| grid.read(start, "start")).transpose()?;
        grid.end = rule.end.as_ref().map(|end| grid.read(end, "end")).transpose()?;
        grid.anchor = match grid.start {
            Some(start) => start.civil,
            None => aligned(&rule.interval).ok_or_else(|| {
                SpecError::new(place, format!("an interval of {} needs a start", rule.interval))
                    .detail("Only whole months, whole days or parts of a day have a natural beginning.")
                    .hint("Add \"start\".")
            })?,
        };
        if let (Some(start), Ok(first)) = (grid.start, grid.at(0))
            && start.micros != first.micros
        {
            return Err(SpecError::new(path.field("start"), "the start is in an hour that the clock repeats")
                .detail(format!("The clock of {} shows it twice.", grid.zone.name()))
                .hint("Choose another start, or the time zone UTC."));
        }
        if let (Some(start), Some(end)) = (grid.start, grid.end)
            && end.micros <= start.micros
        {
            return Err(SpecError::new(path.field("end"), "the end is not after the start"));
        }
        Ok(grid)
    }

    /// The first and the last period of a new table.
    pub(super) fn span(&self, now: Timestamp) -> Result<(i128, i128)> {
        let current = self.floor(self.place(now));
        let first = if self.start.is_some() { 0 } else { current };
        let Some(end) = self.end else {
            return Ok((first, current.max(first) + i128::from(self.premake)));
        };
        let last = self.floor(end.micros - 1);
        if last < first {
            return Err(SpecError::new(self.path.field("end"), "the end is before the current period")
                .hint("Add \"start\", or leave out \"end\"."));
        }
        Ok((first, last))
    }

    fn place(&self, instant: Timestamp) -> i128 {
        match self.shape {
            Shape::Date | Shape::Timestamp => civil_micros(self.zone.civil(instant)),
            _ => i128::from(instant.as_microsecond()),
        }
    }

    /// What is at a place.
    fn mark_at(&self, micros: i128) -> Result<Mark> {
        let civil = match self.shape {
            Shape::Date | Shape::Timestamp => civil_from_micros(micros),
            _ => {
                let instant = i64::try_from(micros).ok().and_then(|micros| Timestamp::from_microsecond(micros).ok());
                instant.map(|instant| self.zone.civil(instant))
            }
        };
        civil.map(|civil| Mark { civil, micros }).ok_or_else(|| self.beyond())
    }

    pub(super) fn slot(&self, n: i128) -> Result<Option<Slot>> {
        let (from, to) = (self.checked(n)?, self.checked(n + 1)?);
        if from.micros == to.micros {
            return Ok(None);
        }
        let label = self.label(&from, false);
        Ok(Some(Slot { label, from: self.literal(&from)?, to: self.literal(&to)? }))
    }

    pub(super) fn label_of(&self, from: &Scalar) -> Result<String> {
        let mark = self.bound(from)?;
        let on_grid = self.at(self.floor(mark.micros)).is_ok_and(|at| at.micros == mark.micros);
        Ok(self.label(&mark, !on_grid))
    }

    fn beyond(&self) -> SpecError {
        SpecError::new(self.path.field("interval"), "the partitions leave the range of years from 1 to 9999")
    }

    /// Boundary `n`.
    fn at(&self, n: i128) -> std::result::Result<Mark, Beyond> {
        let beyond = || if n < 0 { Beyond::Before } else { Beyond::After };
        let months = n.checked_mul(i128::from(self.interval.months)).and_then(|m| i64::try_from(m).ok());
        let span = months.and_then(|m| Span::new().try_months(m).ok()).ok_or_else(beyond)?;
        let civil = self.anchor.checked_add(span).map_err(|_| beyond())?;
        let rest = i128::from(self.interval.days) * i128::from(DAY) + i128::from(self.interval.micros);
        let micros = n.checked_mul(rest).and_then(|r| r.checked_add(civil_micros(civil))).ok_or_else(beyond)?;
        let civil = civil_from_micros(micros).ok_or_else(beyond)?;
        if civil.year() < 1 {
            return Err(Beyond::Before);
        }
        self.mark(civil).ok_or_else(beyond)
    }

    fn checked(&self, n: i128) -> Result<Mark> {
        self.at(n).map_err(|_| self.beyond())
    }

    fn mark(&self, civil: DateTime) -> Option<Mark> {
        match self.shape {
            Shape::Date | Shape::Timestamp => Some(Mark { civil, micros: civil_micros(civil) }),
            _ => {
                let micros = i128::from(self.zone.instant(civil)?.as_microsecond());
                Some(Mark { civil, micros })
            }
        }
    }

    /// The last boundary at or before `micros`. Boundaries never decrease, so a search finds it.
    fn floor(&self, micros: i128) -> i128 {
        let after = |n: i128| match self.at(n) {
            Ok(mark) => mark.micros > micros,
            Err(Beyond::Before) => false,
            Err(Beyond::After) => true,
        };
        // Months and offsets make the guess wrong by a little: strides that double find both sides of the answer.
        let guess = (micros - civil_micros(self.anchor)) / self.interval.about();
        let (mut low, mut high, mut stride) = (guess, guess + 1, 1);
        while after(low) {
            (low, high, stride) = (low - stride, low, stride * 2);
        }
        stride = 1;
        while !after(high) {
            (low, high, stride) = (high, high + stride, stride * 2);
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if after(middle) { high = middle } else { low = middle }
        }
        low
    }

    /// A time in the spec.
    fn read(&self, value: &Scalar, field: &str) -> Result<Mark> {
        self.parse(value).ok_or_else(|| {
            let what = if matches!(self.shape, Shape::Date) { "date" } else { "time" };
            SpecError::new(self.path.field(field), format!("{value} is not a {what}"))
                .hint("Write it in ISO 8601, such as \"2024-01-01\" or \"2024-01-01T00:00:00Z\".")
        })
    }

    /// A bound of an existing partition.
    fn bound(&self, value: &Scalar) -> Result<Mark> {
        self.parse(value).ok_or_else(|| SpecError::new(&self.path, format!("{value} is not a bound of this level")))
    }

    fn parse(&self, value: &Scalar) -> Option<Mark> {
        let text = value.text()?;
        let instant = match self.shape {
            Shape::Date | Shape::Timestamp => None,
            Shape::TimestampTz => Some(Moment::parse(&text)?.instant(&self.zone)?),
            Shape::Uuid => match uuid_bits(&text) {
                Some(bits) => Some(Timestamp::from_millisecond(i64::try_from(bits >> 80).ok()?).ok()?),
                None => Some(Moment::parse(&text)?.instant(&self.zone)?),
            },
            Shape::Epoch(unit, _) => match text.trim().parse::<i128>() {
                Ok(number) => {
                    let nanos = number.checked_mul(unit.nanos())?;
                    Some(Timestamp::from_microsecond(i64::try_from(nanos.div_euclid(1000)).ok()?).ok()?)
                }
                Err(_) => Some(Moment::parse(&text)?.instant(&self.zone)?),
            },
        };
        match instant {
            Some(instant) => {
                let civil = self.zone.civil(instant);
                let mark = Mark { civil, micros: i128::from(instant.as_microsecond()) };
                (civil.year() >= 1).then_some(mark)
            }
            None => {
                let civil = Moment::parse(&text)?.civil(&self.zone);
                let whole = self.shape != Shape::Date || civil.time() == jiff::civil::Time::midnight();
                whole.then(|| Mark { civil, micros: civil_micros(civil) })
            }
        }
    }

    pub(super) fn key_of_time(&self, value: &Scalar, place: &Path) -> Result<Option<String>> {
        let Scalar::Text(text) = value else { return Ok(None) };
        let is_time = Moment::parse(text).is_some()
            && match self.shape {
                Shape::Uuid => uuid_bits(text).is_none(),
                Shape::Epoch(..) => text.trim().parse::<i128>().is_err(),
                Shape::Date | Shape::Timestamp | Shape::TimestampTz => false,
            };
        if !is_time {
            return Ok(None);
        }
        let literal = self.parse(value).and_then(|mark| self.literal(&mark).ok());
        literal.map(Some).ok_or_else(|| {
            SpecError::new(place, format!("{value} is not a time that the key can hold"))
                .detail("It is finer than what the key counts, or beyond its type.")
        })
    }

    fn literal(&self, mark: &Mark) -> Result<String> {
        let instant = || Timestamp::from_microsecond(i64::try_from(mark.micros).unwrap_or(i64::MAX));
        Ok(match self.shape {
            Shape::Date => mark.civil.date().to_string(),
            Shape::Timestamp => civil_literal(mark.civil),
            Shape::TimestampTz => self.zone.literal(instant().map_err(|_| self.beyond())?),
            Shape::Uuid => {
                let millis = self.exactly(mark.micros * 1000, 1_000_000)?;
                if !UUID_MILLIS.contains(&millis) {
                    return Err(SpecError::new(&self.path, "a uuid of version 7 begins with a time after 1970"));
                }
                uuid_literal((millis as u128) << 80)
            }
            Shape::Epoch(unit, bits) => {
                let number = self.exactly(mark.micros * 1000, unit.nanos())?;
                if bits.is_some_and(|bits| !fits(number, bits)) {
                    return Err(SpecError::new(&self.path, "a bound is beyond the integer type of the key")
                        .detail(format!("It is {number}.")));
                }
                number.to_string()
            }
        })
    }

    /// A boundary that the key cannot hold would be another one, and two could become the same.
    fn exactly(&self, nanos: i128, unit: i128) -> Result<i128> {
        if nanos.rem_euclid(unit) != 0 {
            return Err(SpecError::new(self.path.field("interval"), "the periods are finer than the key").detail(
                format!("Not every multiple of {} from the start is a whole number of units.", self.interval),
            ));
        }
        Ok(nanos.div_euclid(unit))
    }

    /// As fine as the interval, or to the last digit.
    fn label(&self, mark: &Mark, exact: bool) -> String {
        let civil = match self.shape {
            Shape::Date | Shape::Timestamp => mark.civil,
            // A boundary in a gap of the clock is at the end of the gap.
            _ => i64::try_from(mark.micros)
                .ok()
                .and_then(|micros| Timestamp::from_microsecond(micros).ok())
                .map_or(mark.civil, |instant| self.zone.civil(instant)),
        };
        let (date, time) = (civil.date(), civil.time());
        let Interval { months, days, micros } = self.interval;
        let midnight = time == jiff::civil::Time::midnight();
        if !exact && (days, micros) == (0, 0) {
            return match months % 12 {
                0 => format!("{:04}", date.year()),
                _ => format!("{:04}_{:02}", date.year(), date.month()),
            };
        }
        let day = format!("{:04}_{:02}_{:02}", date.year(), date.month(), date.day());
        if micros == 0 && (!exact || midnight) {
            return day;
        }
        let mut label = format!("{day}_{:02}{:02}", time.hour(), time.minute());
        let fraction = time.subsec_nanosecond() / 1000;
        if time.second() != 0 || fraction != 0 {
            label.push_str(&format!("{:02}", time.second()));
        }
        if fraction != 0 {
            label.push_str(&format!("_{fraction:06}"));
        }
        label
    }
}

impl Line for Grid {
    type Point = i128;

    fn at(&self, n: i128) -> Result<i128> {
        self.checked(n).map(|mark| mark.micros)
    }

    fn floor(&self, point: i128) -> Result<i128> {
        Ok(Grid::floor(self, point))
    }

    fn point(&self, bound: &str) -> Result<i128> {
        self.bound(&Scalar::from(bound)).map(|mark| mark.micros)
    }

    fn slot(&self, from: i128, to: i128) -> Result<Slot> {
        let mark = self.mark_at(from)?;
        let label = self.label_of(&Scalar::from(self.literal(&mark)?.as_str()))?;
        Ok(Slot { label, from: self.literal(&mark)?, to: self.literal(&self.mark_at(to)?)? })
    }

    fn end(&self) -> Option<i128> {
        self.end.map(|end| end.micros)
    }

    fn clock(&self, now: Timestamp) -> Option<i128> {
        Some(self.place(now))
    }

    fn first(&self, now: Timestamp) -> Result<i128> {
        Ok(if self.start.is_some() { 0 } else { Grid::floor(self, self.place(now)) })
    }

    fn horizon(&self, retention: &Retention, now: Timestamp, _newest: Option<i128>) -> Result<Option<i128>> {
        let Retention::Time(kept) = retention else { return Ok(None) };
        let months = Span::new().try_months(kept.months).map_err(|_| self.beyond())?;
        let back = self
            .zone
            .civil(now)
            .checked_sub(months)
            .map(|civil| civil_micros(civil) - i128::from(kept.days) * i128::from(DAY) - i128::from(kept.micros));
        // Before the first year that there is, nothing is.
        let civil = back.ok().and_then(civil_from_micros);
        Ok(civil.and_then(|civil| self.mark(civil)).map(|mark| mark.micros))
    }
}

fn shape(rule: &IntervalRule, key: &str, kind: Option<KeyKind>, path: &Path) -> Result<Shape> {
    let kind = kind.ok_or_else(|| unknown_kind(key, path))?;
    let no_epoch = |shape| match rule.epoch {
        None => Ok(shape),
        Some(_) => Err(SpecError::new(path.field("epoch"), "\"epoch\" is for integer and numeric keys")
            .detail(format!("The key \"{key}\" is {}.", a(kind.describe())))),
    };
    match kind {
        KeyKind::Date => no_epoch(Shape::Date),
        KeyKind::Timestamp => no_epoch(Shape::Timestamp),
        KeyKind::TimestampTz => no_epoch(Shape::TimestampTz),
        KeyKind::Uuid => no_epoch(Shape::Uuid),
        KeyKind::Integer { .. } | KeyKind::Numeric => {
            let bits = if let KeyKind::Integer { bits } = kind { Some(bits) } else { None };
            rule.epoch.map(|unit| Shape::Epoch(unit, bits)).ok_or_else(|| {
                SpecError::new(path.field("interval"), "an interval on a number needs \"epoch\"")
                    .detail(format!("The key \"{key}\" is {}.", a(kind.describe())))
                    .hint(
                        "Say what the number counts with \"epoch\": \"s\", \"ms\", \"us\" or \"ns\"; or use \"step\".",
                    )
            })
        }
        KeyKind::Float | KeyKind::Text | KeyKind::Bool | KeyKind::Other => {
            Err(SpecError::new(path.field("interval"), "an interval needs a key that is a time")
                .detail(format!("The key \"{key}\" is {}.", a(kind.describe())))
                .hint("Times are date, timestamp, timestamptz, uuid of version 7, and numbers with \"epoch\"."))
        }
    }
}

/// Where the calendar itself begins periods of this length; `None` for a mix of units.
fn aligned(interval: &Interval) -> Option<DateTime> {
    interval.is_one_unit().then(|| {
        let date = if interval.months != 0 {
            Date::ZERO
        } else if interval.days % 7 == 0 && interval.days != 0 {
            // A Monday.
            Date::constant(1970, 1, 5)
        } else {
            Date::constant(1970, 1, 1)
        };
        date.to_datetime(jiff::civil::Time::midnight())
    })
}
