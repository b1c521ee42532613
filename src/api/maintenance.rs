//! SQL functions for what the passing of time asks of hierarchies.

use super::hierarchies::given;
use crate::error::{Error, Report, Result};
use crate::maintain;
use crate::pg::regclass::Regclass;
use jiff::Timestamp;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use shardkeeper_core::schedule::Schedule;

/// Microseconds between the epochs of Unix and of Postgres.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// What `CALL shard_run_maintenance` would do at that time: of one parent, or of all that the caller owns. Nothing is changed.
///
/// Errors: 22008 the time is out of range; 42501 not the owner; 42P01 not a managed parent.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn shard_plan_maintenance(
    parent: default!(Option<Regclass>, "NULL"),
    at: default!(Option<TimestampWithTimeZone>, "now()"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(parent, Regclass),
            name!(action, String),
            name!(partition, String),
            name!(nodes, Vec<String>),
            name!(detail, String),
            name!(command, String),
        ),
    >,
    ErrorReport,
> {
    let steps = maintain::plan(parent.map(|parent| parent.0), instant(given("at", at)?)?)?;
    Ok(TableIterator::new(steps.into_iter().map(|step| {
        (Regclass(step.parent), step.action.to_string(), step.partition, step.nodes, step.detail, step.command)
    })))
}

/// Does what is due for one parent, in the caller's transaction; `CALL shard_run_maintenance` does it for each. Returns the names of
/// the partitions that were made.
///
/// Errors: those of `shard_plan_maintenance` and of `shard_add_partition`.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_maintain_parent(
    parent: Option<Regclass>,
    at: default!(Option<TimestampWithTimeZone>, "now()"),
) -> Result<Vec<String>, ErrorReport> {
    Ok(maintain::run(given("parent", parent)?.0, instant(given("at", at)?)?)?)
}

/// The next times of a schedule, so that one sees what it means: at most `count` after `after`, in the zone `timezone`.
///
/// Errors: 22023 `schedule` is none, or `count` is not from 1 to 1000; 22023 no such time zone; 22008 the time is out of range.
#[pg_extern(stable, parallel_safe)]
#[search_path(pg_catalog, pg_temp)]
fn shard_plan_job(
    schedule: Option<&str>,
    timezone: default!(Option<&str>, "'UTC'"),
    count: default!(Option<i32>, "5"),
    after: default!(Option<TimestampWithTimeZone>, "now()"),
) -> Result<SetOfIterator<'static, TimestampWithTimeZone>, ErrorReport> {
    let invalid = |text: String| Report::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, text);
    let (count, zone) = (given("count", count)?, given("timezone", timezone)?);
    let count = usize::try_from(count).ok().filter(|count| (1..=1000).contains(count));
    let Some(count) = count else { return Err(Error::from(invalid("count is not from 1 to 1000".into())).into()) };
    if !Schedule::is_zone(zone) {
        let report = invalid(format!("there is no time zone \"{zone}\""));
        return Err(Error::from(report.hint("Zones have names such as Europe/Berlin; see pg_timezone_names.")).into());
    }
    let schedule = Schedule::parse(given("schedule", schedule)?)
        .map_err(|error| Error::from(invalid(error.message).hint(error.hint)))?;
    let times = schedule.upcoming(instant(given("after", after)?)?, zone, count).into_iter();
    let times = times.map(|time| TimestampWithTimeZone::try_from(time.as_microsecond() - POSTGRES_EPOCH));
    let times = times.collect::<std::result::Result<Vec<_>, _>>();
    Ok(SetOfIterator::new(times.map_err(|_| Error::from(invalid("the times are out of range".into())))?))
}

fn instant(at: TimestampWithTimeZone) -> Result<Timestamp> {
    let micros = i64::from(at).checked_add(POSTGRES_EPOCH);
    micros
        .and_then(|micros| Timestamp::from_microsecond(micros).ok())
        .map_or_else(|| Report::new(PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW, "at is out of range").into(), Ok)
}

extension_sql_file!(
    "../../sql/maintenance.sql",
    name = "maintenance",
    requires = ["hierarchies", shard_plan_maintenance, shard_maintain_parent, shard_plan_job]
);
