//! Settling what a split commit left: a transaction that a node committed and the coordinator rolled back is undone on
//! the node; one that both committed is forgotten there.
//!
//! The order of looking makes it right. First the node's journal is read: what is in it, the node committed. Then the
//! coordinator is asked. A row in `shardkeeper.transactions` is visible only if the transaction committed here. Without
//! one, the server's own memory of its transactions decides: the row may have gone with the extension. Only what that calls
//! aborted is undone. All cases are in docs/design.md, "The journal, and
//! healing".

use super::channel::{COORDINATOR, TIMELINE};
use super::session::{self, Session};
use crate::catalog;
use crate::error::Result;
use crate::pg::{sql, transaction, wal};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};

/// This coordinator as its journal rows name it, and the timelines that its history consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coordinator {
    pub signature: String,
    pub timeline: i32,
    /// How far its log has come.
    position: u64,
    /// Earlier timelines, each with the position where this history left it.
    history: Vec<(i32, u64)>,
}

impl Coordinator {
    /// Within a transaction.
    pub fn read() -> Result<Self> {
        let signature = sql::one::<String>(&format!("SELECT {COORDINATOR}"), &[])?.unwrap_or_default();
        let timeline = sql::one::<i32>(&format!("SELECT {TIMELINE}"), &[])?.unwrap_or_default();
        let position = sql::one::<String>("SELECT pg_catalog.pg_current_wal_insert_lsn()::text", &[])?;
        let position = position.as_deref().and_then(parse_lsn).unwrap_or_default();
        // The first timeline has no file; one that cannot be read only means that older rows are left alone.
        let history = std::fs::read_to_string(format!("pg_wal/{timeline:08X}.history")).unwrap_or_default();
        Ok(Self { signature, timeline, position, history: parse_history(&history) })
    }

    /// Whether what happened there and then is part of our past. After a restore to an earlier point it may not be:
    /// then we do not know what became of it.
    pub fn remembers(&self, timeline: i32, lsn: u64) -> bool {
        if timeline == self.timeline {
            // Not where a restore kept the timeline, as that of a snapshot of the disk does, and the log has not come there
            // yet. A crash can cut off the record that was being written.
            return lsn <= self.position.saturating_add(CUT_OFF);
        }
        self.history.iter().any(|(past, end)| *past == timeline && lsn < *end)
    }
}

/// Bytes of log, more than the one record that a crash cuts off: a journal row's position may be in it, and is of our past all
/// the same.
const CUT_OFF: u64 = 16 << 20;

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
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Pending {
    pub id: String,
    pub xid: String,
    pub timeline: i32,
    pub lsn: String,
}

/// How a transaction ended on the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    RolledBack,
    Running,
    /// Of a past that is not ours, as after a restore to an earlier point.
    Foreign,
    /// So long ago that the server does not know any more.
    Forgotten,
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
    let pending = read_journal(session, &coordinator.signature).await?;
    let mut settled = Settled::default();
    if pending.is_empty() {
        return Ok(settled);
    }
    let signature = &coordinator.signature;
    let outcomes = transaction::run(|| outcomes(&pending))?;
    let with = |wanted: &[Outcome]| -> Vec<String> {
        let both = pending.iter().zip(&outcomes).filter(|(_, outcome)| wanted.contains(outcome));
        both.map(|(pending, _)| pending.id.clone()).collect()
    };
    settled.left = with(&[Outcome::Running, Outcome::Foreign, Outcome::Forgotten]).into_iter().collect();
    let committed = with(&[Outcome::Committed]);
    if !committed.is_empty() {
        // What is forgotten on the node must not be lost here by a crash.
        transaction::run(flush)?;
        forget_there(session, signature, &committed).await?;
    }
    let foreign = with(&[Outcome::Foreign]);
    if !foreign.is_empty() {
        session.rows(DISOWN, &[signature, &foreign, &coordinator.timeline]).await?;
    }
    let mut failed = None;
    for id in with(&[Outcome::RolledBack]) {
        match session.rows("SELECT shardkeeper.undo($1, $2::text::uuid)", &[signature, &id]).await {
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

/// Takes what both have committed out of the node's journal. The commit here is on disk.
pub async fn forget_there(session: &mut Session, signature: &str, ids: &[String]) -> Result<()> {
    session.rows("SELECT shardkeeper.forget($1, $2::text[]::uuid[])", &[&signature, &ids]).await.map(drop)
}

/// A row of a past that was cut off by a restore, though the number of its timeline is ours: once the log has grown to its position
/// and its transaction number is used again, it would look like one of ours. So it is marked now, by a timeline that nobody has.
const DISOWN: &str = "UPDATE shardkeeper.journal SET timeline = 0
    WHERE coordinator = $1 AND role = current_user AND transaction = ANY ($2::text[]::uuid[]) AND timeline = $3";

/// The newest first: later transactions may have built on earlier ones.
pub async fn read_journal(session: &mut Session, signature: &str) -> Result<Vec<Pending>> {
    let sql = "SELECT transaction::text, max(xid::text), min(timeline), max(lsn)::text FROM shardkeeper.journal
               WHERE coordinator = $1 AND role = current_user GROUP BY transaction ORDER BY max(id) DESC";
    let rows = session.rows(sql, &[&signature]).await?;
    let node = session.node();
    let pending = |row| {
        Ok(Pending {
            id: session::value(node, row, 0)?,
            xid: session::value(node, row, 1)?,
            timeline: session::value(node, row, 2)?,
            lsn: session::value(node, row, 3)?,
        })
    };
    rows.iter().map(pending).collect()
}

/// Within a transaction at READ COMMITTED, after the journal was read.
pub fn outcomes(pending: &[Pending]) -> Result<Vec<Outcome>> {
    let coordinator = Coordinator::read()?;
    let next = transaction::next_number();
    // Each transaction logs its number and waits for the disk before it sends a command. So in a past that is ours the
    // number is that of this transaction and of no other, crash or not, and has been used.
    let is_ours = |pending: &&Pending| {
        coordinator.remembers(pending.timeline, parse_lsn(&pending.lsn).unwrap_or(u64::MAX))
            && pending.xid.parse::<u64>().is_ok_and(|number| number < next)
    };
    let ours: HashSet<&str> = pending.iter().filter(is_ours).map(|pending| pending.id.as_str()).collect();
    let numbers = pending.iter().filter(is_ours).map(|pending| pending.xid.clone()).collect::<Vec<String>>();
    // Looking at who runs comes first in there, then who has committed.
    let ends: HashMap<String, Option<String>> = sql::documents::<(String, Option<String>)>(
        "SELECT pg_catalog.json_build_array(x, pg_catalog.pg_xact_status(x::xid8))::text FROM pg_catalog.unnest($1::text[]) AS x",
        &[numbers.into()],
    )?
    .into_iter()
    .collect();
    let ids: Vec<String> = pending.iter().map(|pending| pending.id.clone()).collect();
    let committed: HashSet<String> = catalog::transaction::committed(ids)?.into_iter().collect();
    let outcome = |pending: &Pending| match ends.get(&pending.xid).map(Option::as_deref) {
        _ if committed.contains(&pending.id) => Outcome::Committed,
        _ if !ours.contains(pending.id.as_str()) => Outcome::Foreign,
        Some(Some("in progress")) => Outcome::Running,
        Some(Some("committed")) => Outcome::Committed,
        Some(Some("aborted")) => Outcome::RolledBack,
        _ => Outcome::Forgotten,
    };
    Ok(pending.iter().map(outcome).collect())
}

/// Makes everything durable that is visible: what was committed stands before a record of ours in the log.
pub fn flush() -> Result<()> {
    sql::run("SELECT pg_catalog.pg_logical_emit_message(true, 'shardkeeper', '')", &[])?;
    wal::flush_own();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_ours_up_to_where_it_was_left() {
        let history = parse_history("1\t0/3000000\tno recovery target specified\n\n2\t1/A0\tbefore 2024\n");
        let coordinator = Coordinator { signature: "7/5".into(), timeline: 3, position: 1 << 33, history };
        assert!(coordinator.remembers(3, (1 << 33) + CUT_OFF));
        assert!(!coordinator.remembers(3, (1 << 33) + CUT_OFF + 1));
        assert!(coordinator.remembers(1, 0x2ff_ffff));
        assert!(!coordinator.remembers(1, 0x300_0000));
        assert!(coordinator.remembers(2, (1 << 32) + 0x9f));
        assert!(!coordinator.remembers(4, 0));
    }
}
