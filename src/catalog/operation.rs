//! `shardkeeper.operations` and the servers of each operation.

use super::node::{self, SCHEMA};
use crate::catalog::way_back::{Shared, WayBack};
use crate::error::{Report, Result, sql_state};
use crate::name::QualifiedName;
use crate::pg::{role, sql};
use pgrx::pg_sys::Oid;
use pgrx::{JsonB, PgSqlErrorCode as Code};
use serde::Deserialize;
use shardkeeper_core::operation::{Kind, Mode, Requested, State};
use std::collections::BTreeMap;

pub use super::plan::{Before, Move, NewModulus, Own, Plan, Source, SourceTable};

#[derive(Debug, Clone, Deserialize)]
pub struct Operation {
    pub id: i64,
    pub kind: Kind,
    pub mode: Mode,
    parent: u32,
    pub name: String,
    role: u32,
    /// The schema of the targets until the switch, on every server; also the name of publications and slots.
    pub staging: String,
    /// Not of the database that this one is a copy of.
    pub is_own: bool,
    pub plan: Plan,
    pub state: State,
    pub requested: Requested,
    pub failures: u32,
    /// It is not yet time to try again.
    pub rests: bool,
    /// Seconds until the replaced tables may go.
    pub keep_left: f64,
    /// They are kept at all.
    pub keeps: bool,
    pub staging_dropped: bool,
    pub targets_cleaned: bool,
    pub way_back: Option<WayBack>,
    /// What its way back is followed by, per server.
    pub streams: BTreeMap<String, Shared>,
    /// It is an operation turned round: its sources are what the operation brought, its targets what that replaced.
    #[serde(skip)]
    pub is_return: bool,
}

impl Operation {
    pub fn parent(&self) -> Oid {
        Oid::from(self.parent)
    }

    /// The parent's owner.
    pub fn role(&self) -> Oid {
        Oid::from(self.role)
    }

    /// The parent is a plain table still: its one source.
    pub fn converts(&self) -> bool {
        self.kind == Kind::Convert && self.state.is_before_switch()
    }

    /// It moves nothing itself: its operations do.
    pub fn is_group(&self) -> bool {
        self.kind.is_group() || self.plan.modulus.is_some()
    }

    /// The schema of the replaced tables after the switch. Turned round, the two schemas change places.
    pub fn retired(&self) -> String {
        let (staging, retired) = ("shardkeeper_op_", "shardkeeper_old_");
        let (from, to) = if self.is_return { (retired, staging) } else { (staging, retired) };
        self.staging.replacen(from, to, 1)
    }

    /// The schema of the replaced tables, whichever way round it is; also the name of a revert's own slots.
    pub fn old(&self) -> String {
        self.staging.replacen("shardkeeper_op_", "shardkeeper_old_", 1)
    }

    pub fn staged(&self, name: &str) -> QualifiedName {
        QualifiedName::new(self.staging.clone(), name)
    }
}

pub struct NewOperation<'a> {
    pub kind: Kind,
    pub mode: Mode,
    pub parent: Oid,
    pub name: &'a str,
    /// What changes, for people.
    pub subject: String,
    pub role: Oid,
    pub keep: &'a str,
    pub plan: &'a Plan,
    /// The group that it is a move of, and the number of the move.
    pub part_of: Option<(i64, i32)>,
}

/// Errors: 55006 another operation runs on the parent; 42704 a node was dropped just now.
pub fn insert(new: &NewOperation<'_>) -> Result<i64> {
    let plan = JsonB(serde_json::to_value(new.plan)?);
    new.plan.arrives_at().iter().try_for_each(|node| node::keep(node))?;
    role::as_extension_owner(|| {
        let group = new.part_of.map(|(group, _)| group);
        if let Some(running) = running_besides(group, new.parent)? {
            return in_use(running, new.name, "A parent has one operation at a time.").into();
        }
        let id = sql::one::<i64>(
            "INSERT INTO shardkeeper.operations (id, kind, mode, parent, name, subject, role, staging, plan, keep, part_of, part)
             SELECT n, $1, $2, coalesce($3, 0::oid), $4, $5, $6,
                    'shardkeeper_op_' || n || '_' || pg_catalog.left(pg_catalog.md5(shardkeeper.coordinator()), 6), $7, $8::interval, $9, $10
             FROM pg_catalog.nextval(pg_catalog.pg_get_serial_sequence('shardkeeper.operations', 'id')) AS n RETURNING id",
            &[
                new.kind.as_str().into(),
                new.mode.as_str().into(),
                new.parent.into(),
                new.name.into(),
                new.subject.as_str().into(),
                new.role.into(),
                plan.into(),
                new.keep.into(),
                group.into(),
                new.part_of.map(|(_, number)| number).into(),
            ],
        )?
        .unwrap_or_default();
        let (sources, targets) = (new.plan.source_nodes(), new.plan.target_nodes());
        sql::run(
            "INSERT INTO shardkeeper.operation_servers (operation, node, is_source, is_target)
             SELECT $1, n, n = ANY ($2::text[]), n = ANY ($3::text[])
             FROM (SELECT unnest($2::text[]) UNION SELECT unnest($3::text[])) AS named (n)",
            &[id.into(), sources.into(), targets.into()],
        )?;
        log(id, State::Planned, None)?;
        Ok(id)
    })
}

/// Errors: 55006 an operation moves data of `parent`, whose tables have to stay as they are meanwhile.
pub fn refuse_if_running(parent: Oid, name: &str) -> Result<()> {
    match role::as_extension_owner(|| running(parent))? {
        Some(running) => in_use(running, name, "The tables of a parent stay as they are while its data moves.").into(),
        None => Ok(()),
    }
}

/// The event triggers in `sql/events.sql` raise the same.
fn in_use(running: i64, name: &str, why: &str) -> Report {
    Report::new(Code::ERRCODE_OBJECT_IN_USE, format!("operation {running} runs on {name}"))
        .detail(why)
        .hint(format!("Wait with SELECT shard_wait({running}); or end it with SELECT shard_cancel({running});"))
}

/// A move of a group, as the group sees it.
#[derive(Debug, Deserialize)]
pub struct Child {
    pub id: i64,
    pub part: i32,
    pub state: State,
    pub requested: Requested,
    pub halted: bool,
    /// Also what it left behind is gone.
    pub ended: bool,
    /// It has switched and can be reverted.
    pub revertible: bool,
    /// Why it cannot be.
    pub lost: Option<String>,
    /// Why its revert was given up.
    pub refused: Option<String>,
    pub error: Option<Failure>,
}

/// An error of a worker as it was written down.
#[derive(Debug, Deserialize)]
pub struct Failure {
    code: String,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl Failure {
    pub fn report(self) -> Report {
        Report { code: sql_state(&self.code), message: self.message, detail: self.detail, hint: self.hint }
    }
}

pub fn children(group: i64) -> Result<Vec<Child>> {
    role::as_extension_owner(|| {
        sql::documents(
            "SELECT pg_catalog.json_build_object('id', id, 'part', part, 'state', state, 'requested', requested, 'halted', halted,
                 'ended', ended_at IS NOT NULL, 'revertible', state = 'switched' AND coalesce(way_back ? 'since', false),
                 'lost', way_back ->> 'lost', 'refused', way_back ->> 'refused', 'error', error)::text
             FROM shardkeeper.operations WHERE part_of = $1 ORDER BY id",
            &[group.into()],
        )
    })
}

/// The operation that has not switched the parent yet; its group, if that has this parent too. Groups of several parents
/// have the parent 0, which as an argument is NULL.
pub fn running(parent: Oid) -> Result<Option<i64>> {
    running_besides(None, parent)
}

fn running_besides(group: Option<i64>, parent: Oid) -> Result<Option<i64>> {
    sql::document::<i64>(
        "SELECT id::text FROM shardkeeper.operations
         WHERE parent = coalesce($1, 0::oid) AND state NOT IN ('switched', 'finished', 'cancelled', 'failed', 'reverted')
           AND id IS DISTINCT FROM $2 AND shardkeeper.is_own(staging)
         ORDER BY part_of IS NOT NULL LIMIT 1",
        &[parent.into(), group.into()],
    )
}

const OPERATION: &str =
    "SELECT json_build_object('id', id, 'kind', kind, 'mode', mode, 'parent', parent::bigint, 'name', name,
        'role', role::bigint, 'staging', staging, 'is_own', shardkeeper.is_own(staging), 'plan', plan,
        'state', state, 'requested', requested, 'failures', failures,
        'rests', coalesce(retry_at > pg_catalog.clock_timestamp(), false),
        'keep_left', extract(epoch FROM changed_at + keep - pg_catalog.clock_timestamp()), 'keeps', keep > '0',
        'staging_dropped', staging_dropped, 'targets_cleaned', targets_cleaned, 'way_back', way_back,
        'streams', (SELECT coalesce(json_object_agg(w.node, json_build_object('name', w.stream, 'tables', w.tables::bigint[],
                        'own_slot', w.own_slot, 'apart', w.apart)), '{}')
                    FROM shardkeeper.ways_back w WHERE w.operation = id))::text
     FROM shardkeeper.operations";

pub fn load(id: i64) -> Result<Option<Operation>> {
    sql::document(&format!("{OPERATION} WHERE id = $1"), &[id.into()])
}

/// Errors: 42704 no such operation.
pub fn require(id: i64) -> Result<Operation> {
    match role::as_extension_owner(|| load(id))? {
        Some(found) => Ok(found),
        None => unknown(id),
    }
}

pub fn unknown<T>(id: i64) -> Result<T> {
    Report::new(Code::ERRCODE_UNDEFINED_OBJECT, format!("operation {id} does not exist"))
        .hint("See the view shard_operations.")
        .into()
}

/// Operations that need a worker: those that are to be brought forward, or cleaned up after.
pub fn wanting() -> Result<Vec<i64>> {
    sql::column(
        "SELECT id FROM shardkeeper.operations
         WHERE ended_at IS NULL AND NOT halted
           AND (requested <> 'pause' OR state IN ('finished', 'cancelled', 'failed', 'reverted') OR state = 'switched' AND NOT targets_cleaned)
           AND (state <> 'switched' OR requested <> 'run' OR NOT targets_cleaned OR changed_at + keep <= pg_catalog.clock_timestamp())
           AND coalesce(retry_at <= pg_catalog.clock_timestamp(), true)
           AND shardkeeper.is_own(staging)
         ORDER BY id",
        &[],
    )
}

/// Enters a state; what went wrong before is forgotten. Not on the way to the switch: one that fails again and again goes
/// this way each time.
///
/// Errors: XX000 no operation goes from the state that it is in to this one.
pub fn enter(id: i64, state: State, note: Option<&str>) -> Result<()> {
    may_become(id, state)?;
    let keeps = matches!(state, State::Ready | State::Switching);
    sql::run(
        "UPDATE shardkeeper.operations SET state = $2, changed_at = pg_catalog.clock_timestamp(),
             failures = CASE WHEN keeps THEN failures ELSE 0 END, hopeless = CASE WHEN keeps THEN hopeless ELSE 0 END,
             error = CASE WHEN keeps THEN error END, waits = NULL, waits_since = NULL, retry_at = NULL, halted = false, ended_at = NULL
         FROM (SELECT $3 OR mode = $4 AND $2 = $5 AS keeps FROM shardkeeper.operations WHERE id = $1) AS k WHERE id = $1",
        &[
            id.into(),
            state.as_str().into(),
            keeps.into(),
            // All of its way is one transaction, and what undoes it brings it back to where it begins.
            Mode::BlockWrites.as_str().into(),
            State::Copying.as_str().into(),
        ],
    )?;
    log(id, state, note)
}

/// Enters an earlier state; what went wrong stays told.
pub fn go_back(id: i64, state: State) -> Result<()> {
    may_become(id, state)?;
    sql::run(
        "UPDATE shardkeeper.operations SET state = $2, changed_at = pg_catalog.clock_timestamp() WHERE id = $1",
        &[id.into(), state.as_str().into()],
    )?;
    log(id, state, Some("taken up again"))
}

/// The one machine of states: nothing else changes them.
fn may_become(id: i64, next: State) -> Result<()> {
    let now = sql::one::<String>("SELECT state FROM shardkeeper.operations WHERE id = $1 FOR UPDATE", &[id.into()])?;
    let Some(now) = now.as_deref().and_then(|now| now.parse::<State>().ok()) else { return unknown(id) };
    if now.can_become(next) {
        return Ok(());
    }
    Report::new(Code::ERRCODE_INTERNAL_ERROR, format!("operation {id} is {now} and cannot become {next}")).into()
}

fn log(id: i64, state: State, note: Option<&str>) -> Result<()> {
    sql::run(
        "INSERT INTO shardkeeper.operation_log (operation, state, note) VALUES ($1, $2, $3)",
        &[id.into(), state.as_str().into(), note.into()],
    )?;
    Ok(())
}

/// Says more about the last change of its state.
pub fn note_last(id: i64, note: &str) -> Result<()> {
    sql::run(
        "UPDATE shardkeeper.operation_log SET note = $2 WHERE operation = $1
         AND at = (SELECT max(at) FROM shardkeeper.operation_log WHERE operation = $1)",
        &[id.into(), note.into()],
    )?;
    Ok(())
}

/// The table that was made a parent has its name from another relation now.
pub fn set_parent(id: i64, parent: Oid) -> Result<()> {
    sql::run("UPDATE shardkeeper.operations SET parent = $2 WHERE id = $1", &[id.into(), parent.into()])?;
    Ok(())
}

pub fn set_requested(id: i64, requested: Requested) -> Result<()> {
    role::as_extension_owner(|| {
        sql::run(
            "UPDATE shardkeeper.operations SET requested = $2, halted = false, retry_at = NULL, hopeless = 0 WHERE id = $1",
            &[id.into(), requested.as_str().into()],
        )
    })?;
    Ok(())
}

/// An operation that has switched has nothing to cancel any more: the cancel came too late, or took back the request to revert.
pub fn forget_cancel(id: i64) -> Result<()> {
    sql::run(
        "UPDATE shardkeeper.operations SET requested = 'run' WHERE id = $1 AND requested = 'cancel'",
        &[id.into()],
    )?;
    Ok(())
}

/// What the view `shard_progress` shows.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Progress {
    pub rows_total: Option<i64>,
    pub bytes_total: Option<i64>,
    pub rows_done: i64,
    pub changes: i64,
    pub lag: Option<i64>,
}

pub fn set_progress(id: i64, progress: Progress) -> Result<()> {
    let Progress { rows_total, bytes_total, rows_done, changes, lag } = progress;
    sql::run(
        "UPDATE shardkeeper.operations SET rows_total = coalesce($2, rows_total), bytes_total = coalesce($3, bytes_total),
             rows_done = greatest(rows_done, $4), changes = $5, lag = coalesce($6, lag) WHERE id = $1",
        &[id.into(), rows_total.into(), bytes_total.into(), rows_done.into(), changes.into(), lag.into()],
    )?;
    Ok(())
}

/// Everything that it made is gone.
pub fn end(id: i64) -> Result<()> {
    sql::run(
        "UPDATE shardkeeper.operations SET ended_at = pg_catalog.clock_timestamp(), retry_at = NULL, waits = NULL, waits_since = NULL,
             error = CASE WHEN state = 'failed' OR error ? 'stays' THEN error - 'left' END
         WHERE id = $1",
        &[id.into()],
    )?;
    Ok(())
}

/// Back to a switched operation that goes on as one: the revert is given up. No server may have committed it.
pub fn stay_switched(id: i64, note: &str) -> Result<()> {
    may_become(id, State::Switched)?;
    sql::run(
        "UPDATE shardkeeper.operations SET state = 'switched', requested = 'run', halted = false, retry_at = NULL, targets_cleaned = false,
             failures = 0, hopeless = 0, waits = NULL, waits_since = NULL, way_back = way_back - 'refused',
             changed_at = pg_catalog.clock_timestamp() WHERE id = $1",
        &[id.into()],
    )?;
    log(id, State::Switched, Some(note))
}

/// What was in the way of keeping its sources current is gone.
pub fn recover(id: i64) -> Result<()> {
    sql::run(
        "UPDATE shardkeeper.operations SET retry_at = NULL, error = NULL, failures = 0, hopeless = 0, waits = NULL, waits_since = NULL
         WHERE id = $1 AND state = 'switched' AND targets_cleaned AND failures > 0",
        &[id.into()],
    )?;
    Ok(())
}

/// After the switch, the staging schema is gone.
pub fn set_staging_dropped(id: i64) -> Result<()> {
    sql::run("UPDATE shardkeeper.operations SET staging_dropped = true WHERE id = $1", &[id.into()])?;
    Ok(())
}

/// After the switch, nothing is left but the tables that it replaced. A cancel that came too late is forgotten.
pub fn set_targets_cleaned(id: i64) -> Result<()> {
    sql::run(
        "UPDATE shardkeeper.operations SET targets_cleaned = true, error = NULL, failures = 0, hopeless = 0, waits = NULL, waits_since = NULL,
             requested = CASE requested WHEN 'cancel' THEN 'run' ELSE requested END
         WHERE id = $1",
        &[id.into()],
    )?;
    Ok(())
}

/// An operation that has not ended and has something on a node.
#[derive(Debug, Deserialize)]
pub struct Holder {
    pub id: i64,
    pub state: State,
    pub requested: Requested,
    /// Foreign tables here for what it has replaced there.
    pub tables: usize,
}

/// Operations that keep tables of the node which they have replaced, or need a mirror there. A part of a change of the modulus
/// is steered by its group.
pub fn holders(node: &str) -> Result<Vec<Holder>> {
    role::as_extension_owner(|| {
        sql::documents(
            "WITH kept AS (
                 SELECT o.id, count(*) AS tables FROM pg_catalog.pg_foreign_table t
                 JOIN pg_catalog.pg_foreign_server s ON s.oid = t.ftserver
                 JOIN pg_catalog.pg_class c ON c.oid = t.ftrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 JOIN shardkeeper.operations o ON o.ended_at IS NULL
                     AND n.nspname = pg_catalog.replace(o.staging, 'shardkeeper_op_', 'shardkeeper_old_')
                 WHERE s.srvname = $1 AND n.nspname <> $2 GROUP BY o.id),
             needing AS (
                 SELECT o.id FROM shardkeeper.mirrors m JOIN shardkeeper.operations o ON o.parent = m.parent AND o.ended_at IS NULL
                 JOIN shardkeeper.operation_servers s ON s.operation = o.id AND s.node = m.node WHERE m.node = $1)
             SELECT pg_catalog.json_build_object('id', coalesce(g.id, o.id), 'state', coalesce(g.state, o.state),
                 'requested', coalesce(g.requested, o.requested), 'tables', coalesce(sum(k.tables), 0))::text
             FROM shardkeeper.operations o LEFT JOIN kept k ON k.id = o.id
             LEFT JOIN shardkeeper.operations g ON g.id = o.part_of AND g.plan ? 'modulus' AND g.ended_at IS NULL
             WHERE k.id IS NOT NULL OR o.id IN (SELECT id FROM needing)
             GROUP BY coalesce(g.id, o.id), coalesce(g.state, o.state), coalesce(g.requested, o.requested)
             ORDER BY coalesce(g.id, o.id)",
            &[node.into(), SCHEMA.into()],
        )
    })
}

/// Whether another operation that has not ended works with the parent on that node.
pub fn uses(parent: Oid, node: &str, but: i64) -> Result<bool> {
    let found = role::as_extension_owner(|| {
        sql::one::<bool>(
            "SELECT EXISTS (SELECT FROM shardkeeper.operations o JOIN shardkeeper.operation_servers s ON s.operation = o.id
                            WHERE o.parent = $1 AND s.node = $2 AND o.id <> $3 AND o.ended_at IS NULL)",
            &[parent.into(), node.into(), but.into()],
        )
    })?;
    Ok(found == Some(true))
}
