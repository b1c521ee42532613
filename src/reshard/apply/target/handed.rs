//! Values that a row takes along to another server, and that the change which moved it does not tell.
//!
//! The servers of the targets commit one after the other. If a crash comes between them, the row has left the one and not come
//! to the other, and its source may know it no more: it was changed again, deleted or truncated. So the server that it leaves
//! keeps what it took along, in the transaction in which it leaves, until all servers have come that far.

use super::Target;
use super::statements::{texts, values};
use crate::error::Result;
use crate::name::literal;
use crate::node::session;
use crate::reshard::outcome::Step;
use shardkeeper_core::Lsn;
use shardkeeper_core::pgoutput::Value;

/// One change of a stream, named the same whenever it is read.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// The node whose stream it is.
    pub from: &'a str,
    /// The position of its commit.
    pub commit: Lsn,
    /// Its number within the transaction.
    pub number: u64,
}

impl Change<'_> {
    /// Its key in the table of progress.
    fn name(self) -> String {
        format!("{}{} {}", all_of(self.from), self.commit, self.number)
    }
}

/// How the keys of all changes of one stream begin. A quoted name ends where it says.
fn all_of(from: &str) -> String {
    format!("row from {}, ", literal(from))
}

impl Target {
    /// Keeps the values that a row takes along, as part of the open transaction. The coordinator commits last: what it has, all
    /// have.
    pub fn hand_over(&mut self, change: Change<'_>, values: &[Value]) -> Step {
        let command = format!(
            "INSERT INTO {} (operation, source, lsn, handed) VALUES ($1, $2, $3::text::pg_lsn, $4)",
            self.progress
        );
        let Some(session) = &mut self.session else { return Ok(()) };
        let (name, commit, handed) = (change.name(), change.commit.to_string(), texts(values)?);
        session::wait(session.rows(&command, &[&self.operation, &name, &commit, &handed]))?;
        self.handed.insert(change.from.to_string(), Some(change.commit));
        Ok(())
    }

    /// What was kept of a change that this server has and others lack.
    pub fn handed(&mut self, change: Change<'_>) -> Result<Option<Vec<Value>>> {
        let query = format!(
            "SELECT pg_catalog.to_json(handed)::text FROM {} WHERE operation = $1 AND source = $2",
            self.progress
        );
        let Some(session) = &mut self.session else { return Ok(None) };
        let found: Option<Vec<Option<String>>> =
            session::wait(session.document(&query, &[&self.operation, &change.name()]))?;
        Ok(found.map(values))
    }

    /// All servers have what the stream of `from` told before `everywhere`. Part of the open transaction, or of a new one.
    pub fn forget_handed(&mut self, from: &str, everywhere: Lsn) -> Result<()> {
        // Whoever was here before may have left some.
        let due = self.handed.get(from).is_none_or(|last| last.is_some_and(|last| last < everywhere));
        if self.session.is_none() || !due {
            return Ok(());
        }
        self.begin()?;
        let command = format!(
            "DELETE FROM {} WHERE operation = $1 AND handed IS NOT NULL AND lsn < $2::text::pg_lsn AND pg_catalog.starts_with(source, $3)",
            self.progress
        );
        if let Some(session) = &mut self.session {
            session::wait(session.rows(&command, &[&self.operation, &everywhere.to_string(), &all_of(from)]))?;
        }
        self.handed.insert(from.to_string(), None);
        Ok(())
    }
}
