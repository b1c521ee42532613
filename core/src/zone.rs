//! The time zone of a level: which instants its civil boundaries are.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

/// An IANA zone, equal by name.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    name: String,
    tz: TimeZone,
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Zone {
    pub(crate) fn utc() -> Self {
        Self { name: "UTC".into(), tz: TimeZone::UTC }
    }

    /// `None` if there is no such zone.
    pub(crate) fn get(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("utc") {
            return Some(Self::utc());
        }
        let tz = TimeZone::get(name).ok()?;
        let name = tz.iana_name()?.to_owned();
        Some(Self { name, tz })
    }

    /// As the zone database spells it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn time_zone(&self) -> TimeZone {
        self.tz.clone()
    }

    pub(crate) fn is_utc(&self) -> bool {
        self.name == "UTC"
    }

    /// What a clock on the wall shows at `instant`.
    pub(crate) fn civil(&self, instant: Timestamp) -> DateTime {
        self.tz.to_datetime(instant)
    }

    /// The first instant at which a clock on the wall has reached `civil`.
    ///
    /// In a gap that is the transition, in a repeated hour its first pass. So the function never decreases, which
    /// makes boundaries that grow on the wall grow in time too.
    pub(crate) fn instant(&self, civil: DateTime) -> Option<Timestamp> {
        match self.tz.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
                offset.to_timestamp(civil).ok()
            }
            AmbiguousOffset::Gap { after, .. } => {
                let earlier = after.to_timestamp(civil).ok()?;
                self.tz.following(earlier).next().map(|t| t.timestamp())
            }
        }
    }

    /// `instant` as Postgres reads it in any session: ISO with an explicit offset.
    pub(crate) fn literal(&self, instant: Timestamp) -> String {
        let offset = self.tz.to_offset(instant);
        let seconds = offset.seconds();
        // Offsets with seconds (local mean time) are beyond what every reader of the text accepts.
        if seconds % 60 != 0 {
            return Self::utc().literal(instant);
        }
        let (hours, minutes) = (seconds.abs() / 3600, seconds.abs() / 60 % 60);
        let sign = if seconds < 0 { '-' } else { '+' };
        let civil = civil_literal(offset.to_datetime(instant));
        match minutes {
            0 => format!("{civil}{sign}{hours:02}"),
            _ => format!("{civil}{sign}{hours:02}:{minutes:02}"),
        }
    }
}

/// A timestamp without zone: `2024-01-01 00:00:00`, with a fraction only if there is one.
pub(crate) fn civil_literal(civil: DateTime) -> String {
    let (date, time) = (civil.date(), civil.time());
    let mut text = format!("{date} {:02}:{:02}:{:02}", time.hour(), time.minute(), time.second());
    let micros = time.subsec_nanosecond() / 1000;
    if micros != 0 {
        text.push_str(format!(".{micros:06}").trim_end_matches('0'));
    }
    text
}
