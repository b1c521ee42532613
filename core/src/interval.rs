//! A positive calendar interval, read as Postgres and ISO 8601 write it.

use std::fmt;

use jiff::Span;

pub(crate) const SECOND: i64 = 1_000_000;
pub(crate) const DAY: i64 = 86_400 * SECOND;

/// Months, days and microseconds, kept apart as in Postgres: none is a fixed number of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interval {
    pub months: i64,
    pub days: i64,
    pub micros: i64,
}

/// No period is longer than the years that can be computed with.
const MAX_MONTHS: i64 = 12 * 9999;
const MAX_DAYS: i64 = 366 * 9999;

impl Interval {
    /// The error is a message for the user.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
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

    /// How long one interval lasts, in microseconds, with months of 30 days. Never zero.
    pub(crate) fn about(&self) -> i128 {
        let days = i128::from(self.months) * 30 + i128::from(self.days);
        (days * i128::from(DAY) + i128::from(self.micros)).max(1)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_reads_postgres_and_iso() {
        let read = |text| Interval::parse(text).map(|i| (i.months, i.days, i.micros));
        for text in ["1 month", "1 mon", "1mon", "1 MONTH", "P1M", "@ 1 mon"] {
            assert_eq!(read(text), Ok((1, 0, 0)), "{text}");
        }
        assert_eq!(read("1 year 6 months"), Ok((18, 0, 0)));
        assert_eq!(read("2 mons 3 days 04:05:06.7"), Ok((2, 3, 14_706_700_000)));
        assert_eq!(read("2 weeks"), Ok((0, 14, 0)));
        assert_eq!(read("06:00:00"), Ok((0, 0, 6 * 3600 * SECOND)));
        assert_eq!(read("15 minutes"), Ok((0, 0, 900 * SECOND)));
        assert_eq!(read("PT15M"), Ok((0, 0, 900 * SECOND)));
        for wrong in
            ["", "month", "1", "1 moon", "-1 day", "1 day ago", "0 s", "1 ns", "99999 years", "9999999999 hours"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn it_reads_what_it_writes(months in 0i64..50_000, days in 0i64..50_000, micros in 0i64..1_000_000_000_000) {
            let interval = Interval { months, days, micros };
            prop_assume!(months + days + micros > 0);
            prop_assert_eq!(Interval::parse(&interval.to_string()), Ok(interval));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[-@0-9.:a-zPT ]{0,30}") {
            let _ = Interval::parse(&text);
        }
    }
}
