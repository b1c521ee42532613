//! Reading a stream message by message: the transaction at hand, the tables described so far, and what each message means.

use super::Applier;
use super::column_map::{ColumnMap, known};
use crate::catalog::operation::Operation;
use crate::reshard::outcome::Step;
use shardkeeper_core::Lsn;
use shardkeeper_core::pgoutput::Message;
use shardkeeper_core::plan::LOCAL;
use shardkeeper_core::snapshot::Snapshot;
use std::collections::HashMap;

#[derive(Default)]
pub struct Reading {
    /// Only transactions that it sees are applied.
    pub as_of: Option<Snapshot>,
    pub(super) relations: HashMap<u32, ColumnMap>,
    pub(super) current: Current,
    /// The transaction at hand is left out.
    pub(super) closed: bool,
    /// One was left out already.
    pub(super) shut: bool,
    /// See [`super::Round`].
    pub(super) disordered: bool,
    /// The end of the last transaction that was not left out.
    pub applied: Lsn,
}

impl Reading {
    pub(super) fn begin(&mut self, current: Current) {
        self.current = current;
        let sees = self.as_of.as_ref().is_none_or(|as_of| as_of.sees(current.xid));
        self.disordered |= sees && self.shut;
        self.shut |= !sees;
        self.closed = self.shut;
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Current {
    pub xid: u32,
    pub lsn: Lsn,
    /// Of the row within its transaction, counted over the operation's own tables: the same whenever it is read.
    pub number: u64,
    /// It brought what the sources have: the switch itself.
    pub ours: bool,
}

impl Applier {
    /// Collects what the next message of a stream tells.
    pub fn take(&mut self, operation: &Operation, node: &str, reading: &mut Reading, message: Message) -> Step {
        let between = matches!(message, Message::Begin { .. } | Message::Relation(_) | Message::Commit { .. });
        if reading.closed && !between {
            return Ok(());
        }
        if matches!(message, Message::Insert { .. } | Message::Update { .. } | Message::Delete { .. }) {
            reading.current.number += 1;
        }
        let current = reading.current;
        match message {
            Message::Begin { final_lsn, xid, .. } => {
                let ours = node == LOCAL && operation.switched_in() == Some(xid);
                reading.begin(Current { xid, lsn: final_lsn, number: 0, ours });
            }
            Message::Commit { end_lsn, .. } => {
                if !reading.shut {
                    reading.applied = end_lsn;
                }
            }
            Message::Relation(relation) => {
                let layout = ColumnMap::of(&relation, &self.table)?;
                reading.relations.insert(relation.id, layout);
            }
            Message::Insert { relation, new } => {
                let layout = known(&reading.relations, relation)?;
                let row = layout.row(new);
                let at = self.target_of(&row)?;
                if self.wants(at, layout, current, node) {
                    self.identified(at, layout)?.insert(row)?;
                    self.changes += 1;
                }
            }
            Message::Update { relation, old, new } => {
                let layout = known(&reading.relations, relation)?;
                self.update(layout, (current, node), old, new)?;
                self.changes += 1;
            }
            Message::Delete { relation, old } => {
                let layout = known(&reading.relations, relation)?;
                let (full, old) = layout.old(old);
                let at = self.target_of(&full)?;
                if self.wants(at, layout, current, node) {
                    self.identified(at, layout)?.delete(old)?;
                    self.changes += 1;
                }
            }
            Message::Truncate { relations: truncated, .. } => {
                for id in truncated {
                    let layout = known(&reading.relations, id)?;
                    self.truncate(layout, current, node)?;
                    self.changes += 1;
                }
            }
            Message::Origin { .. } | Message::Type { .. } | Message::Logical { .. } => {}
        }
        Ok(())
    }
}
