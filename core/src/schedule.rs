//! When a job runs: by a cron expression in a time zone, or every so often.
//!
//! A cron expression has five fields, minute, hour, day of month, month and day of week, or six with seconds before them; names
//! (`JAN`, `MON`), ranges, steps, lists, `L` for the last day of a month or the last such weekday, `#` for the nth one. Where both
//! days are limited, either of them counts. Read by the crate `croner`.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;

use crate::interval::{Interval, SECOND};
use crate::zone::Zone;

/// A schedule that can be asked for its times.
#[derive(Clone, Debug)]
pub struct Schedule(Rule);

#[derive(Clone, Debug)]
enum Rule {
    /// Microseconds, counted from the Unix epoch.
    Every(i64),
    Cron(Box<Cron>),
}

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ScheduleError {
    /// One line about the text.
    pub message: String,
    /// What could be written instead.
    pub hint: String,
}

const FORMS: &str = "A schedule is a cron expression, such as '30 3 * * *', a word such as '@daily', or 'every 30 s'.";
const DAYS: &str = "How long a day or a month is, the calendar says: '@daily' or '0 3 1 * *'.";

impl Schedule {
    /// Reads a schedule as a user writes it.
    ///
    /// # Errors
    /// The text is none, or its times never come.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let text = text.trim();
        let rule = match length(text) {
            Some(length) => every(text, length)?,
            None => cron(text)?,
        };
        let schedule = Self(rule);
        if schedule.next(Timestamp::UNIX_EPOCH, "UTC").is_none() {
            return Err(error(format!("the times of \"{text}\" never come"), "See the day and the month."));
        }
        Ok(schedule)
    }

    /// The first time after `after`, in a zone by its IANA name. `None` if there is none within what can be computed with, or no
    /// such zone.
    pub fn next(&self, after: Timestamp, zone: &str) -> Option<Timestamp> {
        let next = match &self.0 {
            Rule::Every(length) => {
                let number = after.as_microsecond().div_euclid(*length).checked_add(1)?;
                Timestamp::from_microsecond(number.checked_mul(*length)?).ok()?
            }
            Rule::Cron(cron) => {
                let zone = Zone::get(zone)?;
                cron.find_next_occurrence(&after.to_zoned(zone.time_zone()), false).ok()?.timestamp()
            }
        };
        Some(next).filter(|next| *next > after)
    }

    /// The next times, at most `count`.
    pub fn upcoming(&self, after: Timestamp, zone: &str, count: usize) -> Vec<Timestamp> {
        std::iter::successors(self.next(after, zone), |last| self.next(*last, zone)).take(count).collect()
    }

    /// Whether there is a time zone of that name.
    pub fn is_zone(name: &str) -> bool {
        Zone::get(name).is_some()
    }
}

/// The part of `every 30 s`, or of `30 seconds`, that is a length.
fn length(text: &str) -> Option<&str> {
    let lower = text.to_ascii_lowercase();
    if let Some(rest) = lower.strip_prefix("every").filter(|rest| rest.starts_with(char::is_whitespace)) {
        return Some(text[text.len() - rest.len()..].trim());
    }
    let mut words = lower.split_whitespace();
    let is_number = words.next()?.chars().all(|c| c.is_ascii_digit());
    let is_unit = words.next()?.chars().all(|c| c.is_ascii_lowercase()) && words.next().is_none();
    (is_number && is_unit).then_some(text)
}

fn every(text: &str, length: &str) -> Result<Rule, ScheduleError> {
    let interval = Interval::parse(length).map_err(|message| error(message, FORMS))?;
    if interval.months != 0 || interval.days != 0 {
        return Err(error(format!("\"{text}\" is a schedule by days or longer"), DAYS));
    }
    if interval.micros < SECOND {
        return Err(error(format!("\"{text}\" is shorter than a second"), "A job begins at most once a second."));
    }
    Ok(Rule::Every(interval.micros))
}

fn cron(text: &str) -> Result<Rule, ScheduleError> {
    if text.eq_ignore_ascii_case("@reboot") {
        return Err(error(
            "\"@reboot\" is no time".into(),
            "A job runs by the clock; what it missed is caught up once.",
        ));
    }
    parse_cron(text).map(|cron| Rule::Cron(Box::new(cron))).ok_or_else(|| why_no_cron(text))
}

fn parse_cron(text: &str) -> Option<Cron> {
    CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build().parse(text).ok()
}

/// The fields of a cron expression, with what may be in them.
const FIELDS: [(&str, &str); 6] = [
    ("second", "0 to 59"),
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of month", "1 to 31, or L for the last one"),
    ("month", "1 to 12, or JAN to DEC"),
    (
        "day of week",
        "0 to 7 with Sunday as 0 and 7, or SUN to SAT; 5#2 is the second Friday of a month, 5L the last one",
    ),
];

fn why_no_cron(text: &str) -> ScheduleError {
    let fields: Vec<&str> = text.split_whitespace().collect();
    match fields.len() {
        0 => return error("the schedule is empty".into(), FORMS),
        5 | 6 => {}
        count if count > 1 => return error(format!("\"{text}\" is no schedule: it has {count} fields"), FORMS),
        _ => return error(format!("\"{text}\" is no schedule"), FORMS),
    }
    let kinds = &FIELDS[FIELDS.len() - fields.len()..];
    // The library does not say which one: each is tried by itself.
    let is_wrong = |at: &usize| {
        let alone = (0..fields.len()).map(|other| if other == *at { fields[*at] } else { "*" });
        parse_cron(&alone.collect::<Vec<_>>().join(" ")).is_none()
    };
    match (0..fields.len()).find(is_wrong) {
        Some(at) => {
            let (name, range) = kinds[at];
            let message = format!("\"{text}\" is no cron expression: \"{}\" is no {name}", fields[at]);
            error(
                message,
                &format!("The field {name} is {range}; also lists (1,2), ranges (1-5), steps (*/5) and * for each."),
            )
        }
        None => error(format!("\"{text}\" is no cron expression"), FORMS),
    }
}

fn error(message: String, hint: &str) -> ScheduleError {
    ScheduleError { message, hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(schedule: &str, after: &str, zone: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(schedule).unwrap();
        let zone = zone.to_owned();
        let times = schedule.upcoming(after.parse().unwrap(), &zone, count);
        let tz = Zone::get(&zone).unwrap();
        times.into_iter().map(|time| tz.literal(time)).collect()
    }

    #[test]
    fn a_daily_job_keeps_its_hour_over_a_change_of_the_clock() {
        let times = times("30 3 * * *", "2024-03-30T00:00:00Z", "Europe/Berlin", 3);
        assert_eq!(times, ["2024-03-30 03:30:00+01", "2024-03-31 03:30:00+02", "2024-04-01 03:30:00+02"]);
    }

    #[test]
    fn a_time_that_the_clock_leaves_out_is_made_up_for_and_one_that_comes_twice_runs_once() {
        let gap = times("30 2 * * *", "2024-03-30T12:00:00Z", "Europe/Berlin", 2);
        assert_eq!(gap, ["2024-03-31 03:00:00+02", "2024-04-01 02:30:00+02"]);
        let fold = times("30 2 * * *", "2024-10-26T12:00:00Z", "Europe/Berlin", 2);
        assert_eq!(fold, ["2024-10-27 02:30:00+02", "2024-10-28 02:30:00+01"]);
    }

    #[test]
    fn every_so_often_is_counted_from_the_epoch() {
        let all = times("every 90 s", "2024-01-01T00:00:10Z", "UTC", 2);
        assert_eq!(all, ["2024-01-01 00:01:30+00", "2024-01-01 00:03:00+00"]);
        assert_eq!(times("30 seconds", "2024-01-01T00:00:30Z", "UTC", 1), ["2024-01-01 00:01:00+00"]);
        assert_eq!(times("Every 2 hours", "2024-01-01T03:00:00Z", "UTC", 1), ["2024-01-01 04:00:00+00"]);
    }

    #[test]
    fn the_last_day_the_nth_weekday_and_seconds_are_understood() {
        assert_eq!(times("0 4 L * *", "2024-02-01T00:00:00Z", "UTC", 1), ["2024-02-29 04:00:00+00"]);
        assert_eq!(times("0 4 * * FRI#2", "2024-02-01T00:00:00Z", "UTC", 1), ["2024-02-09 04:00:00+00"]);
        assert_eq!(times("0 4 * * 5L", "2024-02-01T00:00:00Z", "UTC", 1), ["2024-02-23 04:00:00+00"]);
        assert_eq!(times("*/20 * * * * *", "2024-02-01T00:00:01Z", "UTC", 1), ["2024-02-01 00:00:20+00"]);
        assert_eq!(times("@monthly", "2024-02-01T00:00:00Z", "UTC", 1), ["2024-03-01 00:00:00+00"]);
        assert_eq!(times("0 12 * JAN-MAR,DEC MON-FRI/2", "2024-04-01T00:00:00Z", "UTC", 1), ["2024-12-02 12:00:00+00"]);
    }

    #[test]
    fn what_is_no_schedule_is_told_in_one_line() {
        let told = [
            ("", "the schedule is empty"),
            ("* * *", "\"* * *\" is no schedule: it has 3 fields"),
            ("* * * * * * *", "\"* * * * * * *\" is no schedule: it has 7 fields"),
            ("61 * * * *", "\"61 * * * *\" is no cron expression: \"61\" is no minute"),
            ("0 25 * * *", "\"0 25 * * *\" is no cron expression: \"25\" is no hour"),
            ("0 0 4 13 13 *", "\"0 0 4 13 13 *\" is no cron expression: \"13\" is no month"),
            ("0 4 * * 8", "\"0 4 * * 8\" is no cron expression: \"8\" is no day of week"),
            ("a b c d e", "\"a b c d e\" is no cron expression: \"a\" is no minute"),
            ("0 0 30 2 *", "the times of \"0 0 30 2 *\" never come"),
            ("every 1 day", "\"every 1 day\" is a schedule by days or longer"),
            ("every 0 s", "the interval \"0 s\" is not positive"),
            ("every 200 ms", "\"every 200 ms\" is shorter than a second"),
            ("every", "\"every\" is no schedule"),
            ("@reboot", "\"@reboot\" is no time"),
            ("@often", "\"@often\" is no schedule"),
            ("5 apples", "\"5 apples\" is not an interval"),
        ];
        for (text, message) in told {
            assert_eq!(Schedule::parse(text).unwrap_err().message, message, "{text:?}");
        }
    }
}
