//! The findings of `shard_check` about operations: what does not go on by itself, what costs the servers room, and what is left on
//! servers that no operation knows.

use crate::catalog::copied;
use crate::catalog::operation_look::{self, Health};
use crate::error::Result;
use crate::name::{ident, literal};
use crate::node::finding::Row;
use crate::node::finding::{Finding, Severity};
use crate::node::session::Session;
use crate::pg::{role, sql};
use pgrx::pg_sys::Oid;
use serde::Deserialize;
use shardkeeper_core::operation::{Requested, State};
use shardkeeper_core::plan::LOCAL;

/// Seconds for which the switch may try, a worker may be waited for, and cleaning up may take, before it is worth telling.
const LOCK_PATIENCE: f64 = 10.0;
const WORKER_PATIENCE: f64 = 10.0;
const CLEAN_UP_PATIENCE: f64 = 30.0;
/// Failed tries from which on a person shall look.
const MANY_TRIES: i64 = 3;
/// Log that a server keeps for an operation, in bytes, and the part of max_slot_wal_keep_size, from which on it is told.
const MUCH_LOG: f64 = (1_u64 << 30) as f64;
const MUCH_OF_LIMIT: f64 = 0.8;

/// Something of an operation on a server, found by its name.
#[derive(Debug, Clone, Deserialize)]
pub struct Trace {
    kind: Kind,
    name: String,
    /// Of a slot: bytes of log that it keeps, and how many it may keep.
    kept: Option<f64>,
    limit: Option<f64>,
    lost: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Slot,
    Publication,
    Schema,
}

/// Names end in what tells coordinators apart.
const TRACES: &str = "SELECT pg_catalog.json_build_object('kind', kind, 'name', name, 'kept', kept, 'limit', most, 'lost', lost)::text FROM (
    SELECT 'slot' AS kind, slot_name::text AS name,
           CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn) END AS kept,
           (SELECT nullif(setting, '-1')::float8 * 1048576 FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size') AS most,
           wal_status = 'lost' AS lost
    FROM pg_catalog.pg_replication_slots WHERE database = pg_catalog.current_database()
    UNION ALL SELECT 'publication', pubname, NULL, NULL, NULL FROM pg_catalog.pg_publication
    UNION ALL SELECT 'schema', nspname, NULL, NULL, NULL FROM pg_catalog.pg_namespace) AS traces
    WHERE name ~ ('^shardkeeper_((op|old)_[0-9]+|back_[0-9a-z]+)_' || $1::text || '$') ORDER BY kind, name";

/// What this coordinator's objects on nodes are named by.
pub fn signature() -> Result<String> {
    let found = role::as_extension_owner(|| {
        sql::one::<String>("SELECT pg_catalog.left(pg_catalog.md5(shardkeeper.coordinator()), 6)", &[])
    })?;
    Ok(found.unwrap_or_default())
}

pub async fn traces_on(session: &mut Session, signature: &str) -> Result<Vec<Trace>> {
    session.documents(TRACES, &[&signature]).await
}

/// Here everything is ours: what has another signature came with the dump of another coordinator.
fn traces_here() -> Result<Vec<Trace>> {
    role::as_extension_owner(|| sql::documents(TRACES, &["[0-9a-f]{6}".into()]))
}

/// Operations on all parents or on one, with what the nodes that were asked have of them.
pub fn check(parent: Option<Oid>, there: &[(String, Vec<Trace>)]) -> Result<Vec<Row>> {
    let here = [(LOCAL.to_string(), traces_here()?)];
    let traces = here.iter().chain(there);
    let found = operation_look::health()?;
    let asked = |found: &&Health| !found.ended && parent.is_none_or(|parent| Oid::from(found.parent) == parent);
    let mut rows = Vec::new();
    for operation in found.iter().filter(asked) {
        if !operation.own {
            let id = operation.id;
            let finding = Finding::new(Severity::Warning, copied::told(id), Some(&copied::way_out(id)));
            rows.extend((!operation.part).then(|| Row::new("operation", Some(&operation.name), None, finding)));
            continue;
        }
        let finding = operation.finding();
        rows.push(Row::new("operation", Some(&operation.name), None, finding));
        if operation.waits_for_worker() {
            rows.push(Row::new("operation", Some(&operation.name), None, no_worker(operation)));
        }
    }
    for (node, trace) in traces.flat_map(|(node, traces)| traces.iter().map(move |trace| (node, trace))) {
        let of = found.iter().find(|operation| !operation.ended && operation.has(&trace.name));
        let of = of.or_else(|| found.iter().find(|operation| operation.has(&trace.name)));
        let sharing = found.iter().filter(|operation| !operation.ended && operation.has(&trace.name));
        let sharing: Vec<String> = sharing.map(|operation| operation.id.to_string()).collect();
        let finding = match of {
            Some(operation) if asked(&operation) => trace.too_large(operation, &sharing),
            Some(_) => None,
            // Whose it was may have ended since the server was asked.
            None if trace.is_shared() && found.iter().any(|operation| operation.ended) => None,
            None if parent.is_none() => Some(trace.left_over()),
            None => None,
        };
        let object = of.map_or(&trace.name, |operation| &operation.name);
        rows.extend(finding.map(|finding| Row::new("operation", Some(object), Some(node), finding)));
    }
    Ok(rows)
}

impl Health {
    fn has(&self, name: &str) -> bool {
        name == self.staging
            || name == self.staging.replacen("shardkeeper_op_", "shardkeeper_old_", 1)
            || self.streams.iter().any(|stream| stream == name)
    }

    /// What went wrong last, in one line.
    fn last_error(&self) -> Option<String> {
        let message = self.message.as_ref()?;
        Some(match &self.detail {
            Some(detail) => format!("{message}: {detail}"),
            None => message.clone(),
        })
    }

    fn finding(&self) -> Finding {
        let Health { id, state, .. } = self;
        let resume = self.way_out();
        let told = |severity, what: String, hint: Option<&str>| {
            let text = match self.last_error() {
                Some(error) => format!("{what}: {error}"),
                None => what,
            };
            Finding::new(severity, text, self.hint.as_deref().or(hint))
        };
        let tries = shardkeeper_core::plural::count(self.failures, "try", "tries");
        if self.halted {
            return told(Severity::Error, format!("operation {id} stands still in state {state}"), Some(&resume));
        }
        if state.is_final() && (self.failures > 0 || self.age > CLEAN_UP_PATIENCE) {
            let again = "It is tried again. The server log of the coordinator says which server is in the way.";
            // What ended it is not what is in the way of cleaning up.
            let what = format!("what operation {id} made is not all removed; it is {state} since {:.0} s", self.age);
            return told(Severity::Warning, what, Some(again));
        }
        if *state == State::Switching {
            let severity = if self.age > LOCK_PATIENCE { Severity::Warning } else { Severity::Ok };
            return told(severity, format!("operation {id} waits for its lock since {:.0} s", self.age), None);
        }
        if let Some(waits) = self.waits {
            let severity = if waits > LOCK_PATIENCE { Severity::Warning } else { Severity::Ok };
            return told(severity, format!("operation {id} is {state} and waits since {waits:.0} s"), Some(&resume));
        }
        if self.failures > 0 {
            let severity = if self.failures >= MANY_TRIES { Severity::Warning } else { Severity::Ok };
            return told(severity, format!("operation {id} is {state}; {tries} failed"), Some(&resume));
        }
        if self.requested == Requested::Pause && !state.is_final() {
            let meanwhile = match state {
                State::Switched => "it does not end by itself",
                _ => "log is kept for it meanwhile",
            };
            let what = format!("operation {id} is paused in state {state}; {meanwhile}");
            return Finding::new(Severity::Ok, what, Some(&resume));
        }
        let text = format!("operation {id} is {state}: {}", self.subject);
        match &self.lost {
            Some(why) if *state == State::Switched => {
                Finding::new(Severity::Ok, format!("{text}; it cannot be reverted: {why}"), None)
            }
            _ => Finding::new(Severity::Ok, text, None),
        }
    }

    /// Calls that its state allows.
    fn way_out(&self) -> String {
        let Health { id, state, .. } = self;
        match state {
            State::Switched => format!(
                "The new partitions serve. Run SELECT shard_resume({id}); to try again now, or give the way back up with SELECT shard_finish({id});"
            ),
            State::Reverting => {
                format!("Run SELECT shard_resume({id}); to give the revert up, run SELECT shard_cancel({id});")
            }
            _ => format!("Run SELECT shard_resume({id}); or end it with SELECT shard_cancel({id});"),
        }
    }

    fn waits_for_worker(&self) -> bool {
        let nothing_to_do = self.state == State::Switched && self.targets_cleaned
            || self.requested == Requested::Pause && !self.state.is_final();
        !self.worker && !self.halted && !nothing_to_do && self.ready > WORKER_PATIENCE
    }
}

fn no_worker(operation: &Health) -> Finding {
    Finding::new(
        Severity::Warning,
        format!("operation {} has no worker since {:.0} s", operation.id, operation.ready),
        Some(
            "Each operation needs one of max_worker_processes on the coordinator: if the server log says that none is free, raise it and restart. shardkeeper.worker must be on.",
        ),
    )
}

impl Trace {
    /// Of the stream that all ways back share.
    fn is_shared(&self) -> bool {
        self.name.starts_with("shardkeeper_back_")
    }

    /// `sharing`: the operations that it is kept for.
    fn too_large(&self, operation: &Health, sharing: &[String]) -> Option<Finding> {
        let id = operation.id;
        let whom = match sharing {
            [] | [_] => format!("operation {id}"),
            many => format!("operations {}", many.join(", ")),
        };
        if self.lost == Some(true) {
            return Some(Finding::new(
                Severity::Error,
                format!("the replication slot {} lost its log to max_slot_wal_keep_size", self.name),
                Some(&match operation.state {
                    State::Switched => format!("It cannot be reverted any more: run SELECT shard_finish({id});"),
                    State::Reverting => format!("It cannot be reverted any more: run SELECT shard_cancel({id});"),
                    state if state.is_final() => "It is being removed.".into(),
                    _ => format!("Run SELECT shard_cancel({id}); raise max_slot_wal_keep_size there, and start again."),
                }),
            ));
        }
        let kept = self.kept?;
        let near = self.limit.is_some_and(|limit| kept > limit * MUCH_OF_LIMIT);
        if !near && kept < MUCH_LOG {
            return None;
        }
        let megabytes = |bytes: f64| format!("{:.0} MB", bytes / f64::from(1 << 20));
        let text = match self.limit {
            Some(limit) => {
                format!("{} of log are kept for {whom}, at most {}", megabytes(kept), megabytes(limit))
            }
            None => format!("{} of log are kept for {whom}", megabytes(kept)),
        };
        let hint = match (operation.requested, operation.state) {
            (_, State::Switched) if sharing.len() > 1 => format!(
                "It is kept for their ways back, and goes when all are brought up to date, or finished: SELECT shard_finish({id}); Look at the disk there."
            ),
            (_, State::Switched) => format!(
                "It is kept for the way back. Look at the disk there; SELECT shard_finish({id}); gives it free."
            ),
            (_, State::Reverting) => format!(
                "It is kept until the operation is reverted. Look at the disk there, or give the revert up with SELECT shard_cancel({id});"
            ),
            (_, state) if state.is_final() => "It is being removed.".into(),
            (Requested::Pause, _) => {
                format!("Run SELECT shard_resume({id}); or end it with SELECT shard_cancel({id});")
            }
            _ => format!(
                "It is kept until the operation has switched. Look at the disk there; SELECT shard_cancel({id}); gives it free."
            ),
        };
        Some(Finding::new(Severity::Warning, text, Some(&hint)))
    }

    /// Nothing removes it any more.
    fn left_over(&self) -> Finding {
        let (what, command) = match self.kind {
            Kind::Slot => ("replication slot", format!("SELECT pg_drop_replication_slot({});", literal(&self.name))),
            Kind::Publication => ("publication", format!("DROP PUBLICATION {};", ident(&self.name))),
            Kind::Schema => ("schema", format!("DROP SCHEMA {} CASCADE;", ident(&self.name))),
        };
        let text = match self.kind {
            Kind::Slot => format!("the {what} {} belongs to no operation; log is kept for it", self.name),
            _ => format!("the {what} {} belongs to no operation", self.name),
        };
        Finding::new(Severity::Warning, text, Some(&format!("There, run {command}")))
    }
}
