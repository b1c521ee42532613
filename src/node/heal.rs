//! Settling what a split commit left: a transaction that a node committed and the coordinator rolled back is undone on
//! the node; one that both committed is forgotten there.
//!
//! The order of looking makes it right. First the node's journal is read: what is in it, the node committed. Then the
//! coordinator is asked: a row in `shardkeeper.transactions` is visible exactly if the transaction committed here; a
//! transaction that runs no longer, and has none, was rolled back.

use super::channel::{COORDINATOR, TIMELINE};
use super::own::Session;
use crate::error::Result;
use crate::pg::{sql, transaction};
use std::collections::HashSet;

/// This coordinator as its journal rows name it, and the timelines that its history consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coordinator {
    pub signature: String,
    pub timeline: i32,
    /// Earlier timelines, each with the position where this history left it.
    history: Vec<(i32, u64)>,
}

impl Coordinator {
    /// Within a transaction.
    pub fn read() -> Result<Self> {
        let signature = sql::one::<String>(&format!("SELECT {COORDINATOR}"), &[])?.unwrap_or_default();
        let timeline = sql::one::<i32>(&format!("SELECT {TIMELINE}"), &[])?.unwrap_or_default();
        // The first timeline has no file; one that cannot be read only means that older rows are left alone.
        let history = std::fs::read_to_string(format!("pg_wal/{timeline:08X}.history")).unwrap_or_default();
        Ok(Self { signature, timeline, history: parse_history(&history) })
    }

    /// Whether what happened there and then is part of our past. After a restore to an earlier point it may not be:
    /// then we do not know what became of it.
    pub fn remembers(&self, timeline: i32, lsn: u64) -> bool {
        timeline == self.timeline || self.history.iter().any(|(past, end)| *past == timeline && lsn < *end)
    }
}

/// Lines of a timeline history file: timeline, end, reason.
fn parse_history(text: &str) -> Vec<(i32, u64)> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse().ok()?, parse_lsn(words.next()?)?))
        })
        .collect()
}

pub fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}

/// A transaction with rows in a node's journal.
#[derive(Debug)]
struct Pending {
    id: String,
    xid: String,
    timeline: i32,
    lsn: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Committed,
    RolledBack,
    /// Still running here, or of another history: only reported.
    LeaveAlone,
}

/// What is left of one role's journal on a node after a visit.
#[derive(Debug, Default)]
pub struct Settled {
    pub undone: usize,
    /// Transactions that still have rows.
    pub left: HashSet<String>,
}

/// Settles the journal rows of the session's role. Errors leave the rest for the next visit.
pub async fn settle(session: &mut Session, coordinator: &Coordinator) -> Result<Settled> {
    let pending = read_journal(session, coordinator).await?;
    let mut settled = Settled::default();
    if pending.is_empty() {
        return Ok(settled);
    }
    let verdicts = transaction::run(|| decide(coordinator, &pending))?;
    let with = |wanted: Verdict| {
        let both = pending.iter().zip(&verdicts);
        both.filter(move |(_, verdict)| **verdict == wanted).map(|(pending, _)| pending.id.clone())
    };
    settled.left = with(Verdict::LeaveAlone).collect();
    let committed: Vec<String> = with(Verdict::Committed).collect();
    if !committed.is_empty() {
        // What is forgotten on the node must not be lost here by a crash.
        transaction::run(flush)?;
        session
            .rows("SELECT shardkeeper.forget($1, $2::text[]::uuid[])", &[&coordinator.signature, &committed])
            .await?;
    }
    let mut failed = None;
    for id in with(Verdict::RolledBack) {
        let sql = "SELECT shardkeeper.undo($1, $2::text::uuid)";
        match session.rows(sql, &[&coordinator.signature, &id]).await {
            Ok(_) => settled.undone += 1,
            Err(error) if !session.is_open() => return Err(error),
            // One that cannot be undone yet must not hold up the others.
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(settled),
    }
}

/// The newest first: later transactions may have built on earlier ones.
async fn read_journal(session: &mut Session, coordinator: &Coordinator) -> Result<Vec<Pending>> {
    let sql = "SELECT transaction::text, max(xid::text), max(timeline), max(lsn)::text FROM shardkeeper.journal
               WHERE coordinator = $1 AND role = current_user GROUP BY transaction ORDER BY max(id) DESC";
    let rows = session.rows(sql, &[&coordinator.signature]).await?;
    let pending = rows.iter().map(|row| Pending {
        id: row.get(0),
        xid: row.get(1),
        timeline: row.get(2),
        lsn: parse_lsn(row.get(3)).unwrap_or(u64::MAX),
    });
    Ok(pending.collect())
}

/// Within a transaction at READ COMMITTED: who runs is asked first, with which outcome after that.
fn decide(coordinator: &Coordinator, pending: &[Pending]) -> Result<Vec<Verdict>> {
    let xids: Vec<String> = pending.iter().map(|pending| pending.xid.clone()).collect();
    let ids: Vec<String> = pending.iter().map(|pending| pending.id.clone()).collect();
    // Each transaction holds a lock on its own number from before it can send a command until after it is over. Asking
    // for its status would fail for a number that a crash made free again.
    let running = set(
        "SELECT x FROM pg_catalog.unnest($1) x WHERE EXISTS (
             SELECT FROM pg_catalog.pg_locks WHERE locktype = 'transactionid' AND granted AND transactionid = x::xid8::xid)",
        xids,
    )?;
    let committed = set("SELECT id::text FROM shardkeeper.transactions WHERE id = ANY ($1::uuid[])", ids)?;
    let verdict = |pending: &Pending| match () {
        () if committed.contains(&pending.id) => Verdict::Committed,
        () if running.contains(&pending.xid) => Verdict::LeaveAlone,
        () if coordinator.remembers(pending.timeline, pending.lsn) => Verdict::RolledBack,
        () => Verdict::LeaveAlone,
    };
    Ok(pending.iter().map(verdict).collect())
}

fn set(sql: &str, values: Vec<String>) -> Result<HashSet<String>> {
    Ok(sql::column::<String>(sql, &[values.into()])?.into_iter().collect())
}

/// Makes everything durable that is visible: a commit of ours that waits for the disk waits for all before it.
fn flush() -> Result<()> {
    sql::run("SET LOCAL synchronous_commit = local", &[])?;
    sql::run("SELECT pg_catalog.pg_logical_emit_message(true, 'shardkeeper', '')", &[])?;
    Ok(())
}

/// Committed transactions that the coordinator still remembers for a node. Read this before the node's journals.
pub fn remembered(node: &str) -> Result<Vec<String>> {
    sql::column("SELECT id::text FROM shardkeeper.transactions WHERE node = $1", &[node.into()])
}

/// Forgets here what all journals of the node have forgotten.
pub fn forget(node: &str, ids: &[String]) -> Result<()> {
    if !ids.is_empty() {
        let ids = ids.to_vec();
        sql::run(
            "DELETE FROM shardkeeper.transactions WHERE node = $1 AND id = ANY ($2::text[]::uuid[])",
            &[node.into(), ids.into()],
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_ours_up_to_where_it_was_left() {
        let history = parse_history("1\t0/3000000\tno recovery target specified\n\n2\t1/A0\tbefore 2024\n");
        let coordinator = Coordinator { signature: "7/5".into(), timeline: 3, history };
        assert!(coordinator.remembers(3, u64::MAX));
        assert!(coordinator.remembers(1, 0x2ff_ffff));
        assert!(!coordinator.remembers(1, 0x300_0000));
        assert!(coordinator.remembers(2, (1 << 32) + 0x9f));
        assert!(!coordinator.remembers(4, 0));
    }
}
