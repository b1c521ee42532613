//! A positive calendar interval, read as Postgres and ISO 8601 write it.

use std::fmt;

use jiff::Span;

pub(crate) const SECOND: i64 = 1_000_000;
pub(crate) const DAY: i64 = 86_400 * SECOND;

/// Months, days and microseconds, kept apart as in Postgres: none is a fixed number of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    pub months: i64,
    pub days: i64,
    pub micros: i64,
}

/// No period is longer than the years that can be computed with.
const MAX_MONTHS: i64 = 12 * 9999;
const MAX_DAYS: i64 = 366 * 9999;

impl Interval {
    /// The error is a message for the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is not an interval");
        let words = text.replace([',', '@'], " ").to_ascii_lowercase();
        // Postgres prints "mon" and "mons", which the parser does not know.
        let words = words.split_whitespace().map(|word| match word.trim_start_matches(|c: char| c.is_ascii_digit()) {
            "mon" | "mons" => word.replace("mon", "mo").replace("mos", "mo"),
            _ => word.to_owned(),
        });
        let words = words.collect::<Vec<_>>().join(" ");
        let span: Span = words.parse().or_else(|_| text.trim().parse()).map_err(|_| wrong())?;
        if span.is_negative() || span.is_zero() {
            return Err(format!("the interval \"{text}\" is not positive"));
        }
        let nanos = span.get_nanoseconds();
        if nanos % 1000 != 0 {
            return Err(format!("the interval \"{text}\" is finer than a microsecond"));
        }
        let months = i64::from(span.get_years()) * 12 + i64::from(span.get_months());
        let days = i64::from(span.get_weeks()) * 7 + i64::from(span.get_days());
        let parts = [
            (i64::from(span.get_hours()), 3600 * SECOND),
            (span.get_minutes(), 60 * SECOND),
            (span.get_seconds(), SECOND),
            (span.get_milliseconds(), 1000),
            (span.get_microseconds(), 1),
            (nanos / 1000, 1),
        ];
        let micros = parts.iter().try_fold(0i64, |sum, (n, unit)| sum.checked_add(n.checked_mul(*unit)?));
        match micros {
            Some(micros) if months <= MAX_MONTHS && days <= MAX_DAYS && micros <= MAX_DAYS * DAY => {
                Ok(Self { months, days, micros })
            }
            _ => Err(format!("the interval \"{text}\" is too long")),
        }
    }

    /// The least that one interval can last, in microseconds.
    pub(crate) fn at_least(&self) -> i128 {
        (i128::from(self.months) * 28 + i128::from(self.days)) * i128::from(DAY) + i128::from(self.micros)
    }

    /// Whether the calendar alone says where it begins: years or months, or days, or a part of a day.
    pub(crate) fn is_one_unit(&self) -> bool {
        [self.months, self.days, self.micros].iter().filter(|n| **n != 0).count() == 1
    }
}

/// As Postgres prints it.
impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |n: i64| if n == 1 { "" } else { "s" };
        let mut words = Vec::new();
        for (n, unit) in [(self.months / 12, "year"), (self.months % 12, "mon"), (self.days, "day")] {
            if n != 0 {
                words.push(format!("{n} {unit}{}", plural(n)));
            }
        }
        if self.micros != 0 {
            let seconds = self.micros / SECOND;
            let mut time = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
            if self.micros % SECOND != 0 {
                time.push_str(format!(".{:06}", self.micros % SECOND).trim_end_matches('0'));
            }
            words.push(time);
        }
        f.write_str(&words.join(" "))
    }
}
