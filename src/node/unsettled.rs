//! What `in_doubt` leaves unsettled: transactions whose outcome this coordinator cannot know, or whose undoing fails.
//! `shard_check` reports them with the command that settles them, and a person decides.

use super::channel::Channel;
use super::finding::{Finding, Severity};
use super::in_doubt::{Coordinator, Outcome, Pending, outcomes};
use super::session::{self, Session};
use crate::error::{Report, Result};
use crate::name::literal;
use pgrx::PgSqlErrorCode as Code;
use serde::Deserialize;
use shardkeeper_core::plural::count;

/// A transaction with commands in a node's journal, by one role.
#[derive(Debug, Deserialize)]
pub struct Unsettled {
    coordinator: String,
    #[serde(flatten)]
    pending: Pending,
    role: String,
    commands: i64,
    /// Seconds.
    age: f64,
}

const UNSETTLED: &str =
    "SELECT pg_catalog.json_build_object('coordinator', coordinator, 'id', transaction, 'xid', max(xid::text),
        'timeline', min(timeline), 'lsn', max(lsn), 'role', role, 'commands', count(*),
        'age', extract(epoch FROM pg_catalog.clock_timestamp() - min(done_at))::float8)::text
    FROM shardkeeper.journal";

/// Those that nobody settled for ten seconds.
pub async fn unsettled(session: &mut Session) -> Result<Vec<Unsettled>> {
    let sql = format!(
        "{UNSETTLED} GROUP BY coordinator, transaction, role
         HAVING min(done_at) < pg_catalog.clock_timestamp() - interval '10 seconds' ORDER BY min(id)"
    );
    let rows = session.rows(&sql, &[]).await?;
    let node = session.node();
    rows.iter().map(|row| session::document(node, session::value::<&str>(node, row, 0)?)).collect()
}

/// What each of them is, and what to do about it. Within a transaction.
pub fn findings(node: &str, unsettled: &[Unsettled], coordinator: &Coordinator) -> Result<Vec<Finding>> {
    let pending: Vec<Pending> = unsettled.iter().map(|one| one.pending.clone()).collect();
    if pending.is_empty() {
        return Ok(Vec::new());
    }
    let ends = outcomes(&pending)?;
    Ok(unsettled.iter().zip(ends).map(|(one, end)| one.finding(node, end, coordinator)).collect())
}

impl Unsettled {
    fn finding(&self, node: &str, end: Outcome, coordinator: &Coordinator) -> Finding {
        let Self { pending: Pending { id, xid, timeline, .. }, role, age, .. } = self;
        let commands = count(self.commands, "command", "commands");
        let what = format!("{commands} of transaction {xid} by role \"{role}\" still to be settled after {age:.0} s");
        let call = |how: &str| format!("SELECT shard_settle({}, {}, {})", literal(node), literal(id), literal(how));
        let (keep, undo) = (call("keep"), call("undo"));
        let told = |why: &str, hint: &str| Finding::new(Severity::Warning, format!("{what}{why}"), Some(hint));
        let decide = format!("Look at shardkeeper.journal there. Run {keep} if they are to count, or {undo}.");
        if self.coordinator != coordinator.signature {
            let hint = format!("Its own worker settles them. Where that coordinator is gone for good: {decide}");
            return told(&format!("; they are of another coordinator, {}", self.coordinator), &hint);
        }
        match end {
            Outcome::Running => told("", "The transaction still runs; see pg_stat_activity, by backend_xid."),
            Outcome::Committed => told("", "The coordinator's log says why the worker cannot forget them."),
            Outcome::RolledBack => told(
                "",
                &format!("The coordinator's log says why the worker cannot undo them. To give up on them, run {keep}."),
            ),
            Outcome::Forgotten => told("; how it ended is not known here any more: it is too long ago", &decide),
            Outcome::Foreign if *timeline == 0 => {
                told("; this coordinator does not know it: it was restored to an earlier point", &decide)
            }
            Outcome::Foreign => told(
                &format!(
                    "; they are of timeline {timeline}, which this coordinator, on {}, does not know: it was restored to an earlier point",
                    coordinator.timeline
                ),
                &decide,
            ),
        }
    }
}

/// What is to become of the commands of a transaction on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// They count.
    Keep,
    /// Their inverses are run, the last one first.
    Undo,
}

/// Settles what the current role's user mapping sees of a transaction in the journal of a node, in the caller's
/// transaction. What is known to have been committed is left to the worker. What was rolled back can be given up.
///
/// Errors: 42704 no such node or no such commands; 55006 it still runs; 55000 it was committed.
pub fn settle(node: &str, transaction: &str, decision: Decision) -> Result<i64> {
    let channel = Channel::open(node)?;
    let id = literal(transaction);
    let query =
        format!("{UNSETTLED} WHERE transaction = {id} AND role = current_user GROUP BY coordinator, transaction, role");
    let Some(found) = channel.document::<Unsettled>(&query)? else {
        return Report::new(
            Code::ERRCODE_UNDEFINED_OBJECT,
            format!("node \"{node}\" has no commands of transaction {transaction} to settle"),
        )
        .hint("Each role sees its own. See SELECT * FROM shard_check().")
        .into();
    };
    if found.coordinator == Coordinator::read()?.signature {
        refuse_what_is_known(&found)?;
    }
    let signature = literal(&found.coordinator);
    match decision {
        Decision::Keep => {
            channel.query(&format!("SELECT shardkeeper.forget({signature}, ARRAY[{id}]::pg_catalog.uuid[])"))?
        }
        Decision::Undo => channel.query(&format!("SELECT shardkeeper.undo({signature}, {id})"))?,
    };
    Ok(found.commands)
}

fn refuse_what_is_known(found: &Unsettled) -> Result<()> {
    let number = &found.pending.xid;
    let end = outcomes(std::slice::from_ref(&found.pending))?.into_iter().next();
    match end {
        Some(Outcome::Running) => Report::new(Code::ERRCODE_OBJECT_IN_USE, format!("transaction {number} still runs"))
            .hint("See pg_stat_activity, by backend_xid. The worker settles its commands once it is over.")
            .into(),
        Some(Outcome::Committed) => {
            Report::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, format!("transaction {number} was committed"))
                .detail("What was committed is never undone: other servers have their part of it.")
                .hint("The worker forgets its commands by itself.")
                .into()
        }
        _ => Ok(()),
    }
}
