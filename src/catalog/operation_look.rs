//! Operations as others see them than their workers: those who wait for one, who look whether all is well, and who ask what is
//! in use.

use super::operation::{Failure, unknown};
use crate::error::Result;
use crate::pg::lock::{self, Single};
use crate::pg::{role, sql};
use serde::Deserialize;
use shardkeeper_core::operation::{Requested, State};

/// For a `WITH` clause: the schemas of replaced tables that are kept.
pub const KEPT_RETIRED: &str = "kept_retired AS NOT MATERIALIZED (
    SELECT pg_catalog.replace(staging::text, 'shardkeeper_op_', 'shardkeeper_old_') AS schema FROM shardkeeper.operations
    WHERE state IN ('switched', 'reverting') AND shardkeeper.is_own(staging))";

/// For a `WITH` clause: the staging schemas of operations that have not ended, and the streams of ways back.
pub const NAMES_IN_USE: &str = "names_in_use AS NOT MATERIALIZED (
    SELECT staging AS name FROM shardkeeper.operations WHERE ended_at IS NULL UNION SELECT stream FROM shardkeeper.ways_back)";

/// An operation as those see it who wait for it.
#[derive(Deserialize)]
pub struct Glance {
    pub state: State,
    pub requested: Requested,
    pub halted: bool,
    /// Nothing of it is left to do.
    pub ended: bool,
    /// It was called for in the current transaction.
    pub own: bool,
    /// It is not of the database that this one is a copy of.
    pub is_own: bool,
    pub error: Option<Failure>,
    /// Why there is no way back.
    pub lost: Option<String>,
    /// Why the revert was given up.
    pub refused: Option<String>,
}

/// Looks without getting a transaction id: the operation itself waits for the ends of transactions that have one.
///
/// Errors: 42704 no such operation.
pub fn glance(id: i64) -> Result<Glance> {
    let found = sql::glance(
        "SELECT pg_catalog.json_build_object('state', state, 'requested', requested, 'halted', halted, 'error', coalesce(error,
                 (SELECT m.error FROM shardkeeper.operations m WHERE m.part_of = o.id AND m.ended_at IS NULL
                  AND m.error IS NOT NULL ORDER BY m.id DESC LIMIT 1)),
             'ended', ended_at IS NOT NULL, 'is_own', shardkeeper.is_own(staging), 'lost', way_back ->> 'lost', 'refused', way_back ->> 'refused', 'own', coalesce(xmin = pg_catalog.pg_current_xact_id_if_assigned()::xid, false))::text
         FROM shardkeeper.operations o WHERE id = $1",
        &[id.into()],
    )?;
    found.map_or_else(|| unknown(id), Ok)
}

/// How an operation is doing.
#[derive(Deserialize)]
pub struct Health {
    pub id: i64,
    pub name: String,
    pub subject: String,
    pub staging: String,
    /// What its way back is followed by, with those of others.
    pub streams: Vec<String>,
    /// Why there is no way back.
    pub lost: Option<String>,
    pub parent: u32,
    pub state: State,
    pub requested: Requested,
    pub halted: bool,
    pub targets_cleaned: bool,
    pub failures: i64,
    pub message: Option<String>,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Seconds since which somebody is in the way.
    pub waits: Option<f64>,
    /// Seconds in its state, and since it could have gone on.
    pub age: f64,
    pub ready: f64,
    /// Somebody works on it.
    pub worker: bool,
    pub ended: bool,
    /// It is not of the database that this one is a copy of.
    pub own: bool,
    /// It belongs to a group.
    pub part: bool,
}

/// `$1` and `$2` are what the locks of workers of operations have in common.
const HEALTH: &str = "SELECT json_build_object('id', o.id, 'name', coalesce(o.parent::regclass::text, o.name), 'subject', o.subject,
        'staging', o.staging, 'lost', o.way_back ->> 'lost',
        'streams', (SELECT coalesce(json_agg(DISTINCT w.stream), '[]') FROM shardkeeper.ways_back w WHERE w.operation = o.id),
        'parent', o.parent::bigint, 'state', o.state, 'requested', o.requested, 'halted', o.halted, 'targets_cleaned', o.targets_cleaned,
        'failures', o.failures, 'message', o.error ->> 'message', 'detail', o.error ->> 'detail', 'hint', o.error ->> 'hint',
        'waits', extract(epoch FROM clock_timestamp() - o.waits_since),
        'age', extract(epoch FROM clock_timestamp() - o.changed_at),
        'ready', extract(epoch FROM clock_timestamp() - greatest(o.changed_at, o.retry_at)),
        'worker', EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.classid = $1::bigint::oid AND l.objsubid = $2
                          AND l.objid = o.id::oid AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())),
        'ended', o.ended_at IS NOT NULL, 'own', shardkeeper.is_own(o.staging), 'part', o.part_of IS NOT NULL)::text
    FROM shardkeeper.operations o WHERE o.ended_at IS NULL OR o.ended_at > clock_timestamp() - interval '1 minute' ORDER BY o.id";

/// Of all that have not ended. Those that ended a moment ago are there too, as servers were asked before.
pub fn health() -> Result<Vec<Health>> {
    let (class, sub) = lock::single_in_pg_locks(Single::Operation(0));
    role::as_extension_owner(|| sql::documents(HEALTH, &[i64::from(class).into(), i32::from(sub).into()]))
}

#[derive(Deserialize)]
pub struct Unended {
    pub id: i64,
    pub name: String,
    pub state: State,
}

/// Operations that have not ended, and belong to no group that has not, by the table alone: while the extension is dropped,
/// views and functions may be gone already. `coordinator` is the expression for the signature of this database; those of one
/// that this is a copy of hold nothing for it.
pub fn unended(coordinator: &str) -> Result<Vec<Unended>> {
    sql::documents(
        &format!(
            "SELECT pg_catalog.json_build_object('id', id, 'name', name, 'state', state)::text FROM shardkeeper.operations o
             WHERE ended_at IS NULL AND NOT EXISTS (
                 SELECT FROM shardkeeper.operations g WHERE g.id = o.part_of AND g.ended_at IS NULL)
               AND pg_catalog.right(staging::text, 6) = pg_catalog.left(pg_catalog.md5({coordinator}), 6) ORDER BY id"
        ),
        &[],
    )
}
