//! Catching up: what changed in the sources since they were copied is applied to the targets, transaction by transaction
//! in the order of their commits, each exactly once on each target.

pub mod column_map;
mod reading;
pub mod slot;
pub mod target;

use self::slot::Slot;
use self::target::{Change, Column, Table, Target};
use super::convert::source_table::OperationTable;
use super::outcome::{Step, halt};
use super::prepare::staging::Staging;
use super::server;
use crate::catalog::operation::Operation;
use crate::error::{Report, Result};
use crate::hierarchy::bound::default_check;
use crate::name::{QualifiedName, ident};
use crate::node::session::Session;
use crate::pg::{key_router, sql};
use column_map::ColumnMap;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use reading::Current;
pub use reading::Reading;
use shardkeeper_core::Lsn;
use shardkeeper_core::pgoutput::{Old, Tuple, Value};
use shardkeeper_core::plan::LOCAL;
use shardkeeper_core::snapshot::Snapshot;
use std::collections::{BTreeMap, HashMap};

/// Sessions and what is known of the tables, for as long as nothing goes wrong.
pub struct Applier {
    pub table: Table,
    pub targets: Vec<Target>,
    /// The sessions that slots are read by; `None` is the coordinator.
    pub sources: BTreeMap<String, Option<Session>>,
    /// The leaves of the staged tree on the coordinator, with the place of their server in `targets`.
    leaves: HashMap<Oid, usize>,
    /// What each source holds, as a condition on rows of the targets: for TRUNCATE.
    conditions: HashMap<QualifiedName, Option<String>>,
    /// Per source server, a snapshot: only transactions that it sees are applied.
    pub as_of: BTreeMap<String, Snapshot>,
    /// How far all targets have each stream for good: a transaction of the coordinator may still be undone.
    safe: HashMap<String, Lsn>,
    /// Changes applied so far, for people.
    pub changes: i64,
}

/// What one look at a slot brought.
#[derive(Debug, Clone, Copy, Default)]
pub struct Round {
    /// All targets have what committed before, and the slot may move on to it.
    pub applied: Lsn,
    /// A transaction was read that the snapshot does not see, and after it one that it sees: the order of commits and what the
    /// snapshot sees do not agree.
    pub disordered: bool,
    /// Nothing is left of what was in the server's log on disk when the slot was looked at: the limit did not end it.
    pub whole: bool,
}

impl Applier {
    /// Within a transaction.
    pub fn open(operation: &Operation) -> Result<Self> {
        let mut applier = Self::towards(operation)?;
        for node in operation.plan.source_nodes() {
            let session = match node.as_str() {
                LOCAL => None,
                _ => Some(server::session(operation, &node)?),
            };
            applier.sources.insert(node, session);
        }
        Ok(applier)
    }

    /// The same for changes that somebody else reads. Within a transaction.
    pub fn towards(operation: &Operation) -> Result<Self> {
        let source = OperationTable::read(operation)?;
        let keys = source.keys.sql(&operation.plan.key);
        let staging = Staging::of(source, operation)?;
        let columns = staging.columns();
        let root = staging.root().clone();
        let Some(oid) = sql::one::<Oid>("SELECT pg_catalog.to_regclass($1)::oid", &[root.to_string().into()])? else {
            return Report::new(Code::ERRCODE_UNDEFINED_TABLE, format!("the staging table {root} is gone")).into();
        };
        let (generated, primary) = (staging.generated(), staging.primary());
        let contested = staging.is_contested();
        let table = Table { name: root, columns, generated, primary, contested, oid, role: operation.role() };
        let mut targets = Vec::new();
        for node in operation.plan.target_nodes() {
            let mut target = Target::open(operation, &node, &table)?;
            target.read_progress()?;
            target.begins_at(operation.starts());
            targets.push(target);
        }
        let leaves = leaves(&table.name, &targets)?;
        let above = &operation.plan.above;
        let condition = |source: &crate::catalog::operation::Source| match &source.bound {
            // The function takes any modulus, and the real table of the same key.
            shardkeeper_core::plan::Bound::Hash { modulus, remainder } => Some(format!(
                "pg_catalog.satisfies_hash_partition({}, {modulus}, {remainder}, {})",
                above.regclass(),
                keys.join(", ")
            )),
            bound => default_check(&keys, std::iter::once(bound)).map(|others| format!("({others}) IS FALSE")),
        };
        let mut conditions = HashMap::new();
        for source in &operation.plan.sources {
            for leaf in source.tables.iter().filter(|table| table.node.is_some()) {
                // Of a source with partitions, a leaf holds only a part: there is no short condition for it.
                let whole = source.tables.len() == 1;
                conditions.insert(leaf.name.clone(), if whole { condition(source) } else { None });
            }
        }
        let (sources, as_of) = (BTreeMap::new(), BTreeMap::new());
        let mut applier = Self { table, targets, sources, leaves, conditions, as_of, safe: HashMap::new(), changes: 0 };
        applier.safe =
            operation.plan.source_nodes().into_iter().map(|node| (node.clone(), applier.everywhere(&node))).collect();
        Ok(applier)
    }

    /// Takes away what is there of these sources where some targets have one and others do not: a crash came between the
    /// commits of its copy. Where it cannot be told from other sources, all goes. Within a transaction.
    pub fn forget_halves<'a>(&mut self, sources: impl Iterator<Item = &'a QualifiedName>) -> Step {
        for source in sources {
            let name = source.to_string();
            let have = self.targets.iter().filter(|target| target.brought.copied.contains_key(&name)).count();
            if have == 0 || have == self.targets.len() {
                continue;
            }
            let condition = self.condition(source).map(str::to_string);
            self.targets.iter_mut().try_for_each(|target| target.forget_copied(&name, condition.as_deref()))?;
        }
        Ok(self.targets.iter_mut().try_for_each(Target::commit)?)
    }

    /// What tells rows of a source from those of others.
    fn condition(&self, source: &QualifiedName) -> Option<&str> {
        match self.conditions.get(source) {
            Some(Some(condition)) => Some(condition),
            _ => (self.conditions.len() == 1).then_some("true"),
        }
    }

    /// The server that stores a row with these values.
    fn target_of(&self, values: &[Value]) -> Result<usize> {
        if self.targets.len() == 1 {
            return Ok(0);
        }
        let row = TextRow { columns: &self.table.columns, values };
        let leaf = key_router::leaf(self.table.oid, &row)?;
        match self.leaves.get(&leaf) {
            Some(at) => Ok(*at),
            None => Report::new(Code::ERRCODE_INTERNAL_ERROR, "a row belongs to no target").into(),
        }
    }

    /// Applies what the slot of `node` has, up to the first end of a transaction after `limit` changes, if there is one. Within a
    /// transaction, which has to be committed before the slot may move on.
    pub fn round(&mut self, operation: &Operation, node: &str, limit: Option<i32>) -> Step<Round> {
        let mut session = self.sources.get_mut(node).and_then(Option::take);
        let outcome = self.read(operation, node, session.as_mut(), limit);
        self.sources.insert(node.to_string(), session);
        let mut round = outcome?;
        self.settle(node, round.applied)?;
        round.applied = self.everywhere(node);
        Ok(round)
    }

    /// Brings what was collected to the targets, and notes there how far the stream of `node` is applied.
    pub fn settle(&mut self, node: &str, applied: Lsn) -> Step {
        let safe = self.safe.get(node).copied().unwrap_or_default();
        for target in &mut self.targets {
            target.flush()?;
            if applied > target.applied(node) {
                target.forget_handed(node, safe)?;
                target.note_applied(node, applied)?;
            }
            target.commit()?;
        }
        Ok(())
    }

    /// The transaction of a round has been committed.
    pub fn has_committed(&mut self, node: &str, round: Round) {
        self.safe.insert(node.to_string(), round.applied);
    }

    /// How far all targets have the stream of `node`.
    fn everywhere(&self, node: &str) -> Lsn {
        self.targets.iter().map(|target| target.applied(node)).min().unwrap_or_default()
    }

    /// Applies everything that the snapshot sees of what is in the server's log on disk (see `slot::end_of_log`); `false`
    /// when the snapshot and the order of commits do not agree.
    ///
    /// In one look without a limit: the slot does not move on meanwhile, so a second look with one would see the same again.
    pub fn up_to_date(&mut self, operation: &Operation, node: &str) -> Step<bool> {
        let round = self.round(operation, node, None)?;
        Ok(!round.disordered)
    }

    fn read(
        &mut self,
        operation: &Operation,
        node: &str,
        session: Option<&mut Session>,
        limit: Option<i32>,
    ) -> Step<Round> {
        let mut reading = Reading { as_of: self.as_of.get(node).cloned(), ..Reading::default() };
        let mut messages = 0;
        let own = operation.streams.get(node).filter(|_| operation.is_return);
        slot::read(&Slot::of(operation, node), session, limit, |message| {
            messages += 1;
            match own {
                // The publication is that of all ways back.
                Some(shared) if !slot::is_about(&message, &shared.tables) => Ok(()),
                Some(shared) => self.take(operation, node, &mut reading, slot::narrowed(message, &shared.tables)),
                None => self.take(operation, node, &mut reading, message),
            }
        })?;
        let whole = limit.is_none_or(|limit| messages < limit);
        Ok(Round { applied: reading.applied, disordered: reading.disordered, whole })
    }

    /// Whether the target lacks the change: it is in neither the copy of its source nor what was applied before.
    fn wants(&self, at: usize, layout: &ColumnMap, current: Current, node: &str) -> bool {
        let target = &self.targets[at];
        let copied = target.brought.copied.get(&layout.source).is_some_and(|snapshot| snapshot.sees(current.xid));
        // The position of a commit is before the end of its record, up to which the stream was applied.
        !copied && !current.ours && current.lsn >= target.applied(node)
    }

    fn identified(&mut self, at: usize, layout: &ColumnMap) -> Step<&mut Target> {
        self.targets[at].identify(&layout.key, layout.full)?;
        Ok(&mut self.targets[at])
    }

    fn update(&mut self, layout: &ColumnMap, (current, node): (Current, &str), old: Option<Old>, new: Tuple) -> Step {
        let mut row = layout.row(new);
        let Some(old) = old else {
            let at = self.target_of(&row)?;
            return if self.wants(at, layout, current, node) {
                self.identified(at, layout)?.update(None, row)
            } else {
                Ok(())
            };
        };
        let (before, old) = layout.old(old);
        if layout.whole {
            // The old row tells what the new one leaves out.
            for (value, before) in row.iter_mut().zip(&before) {
                if *value == Value::Unchanged {
                    value.clone_from(before);
                }
            }
        }
        for (at, value) in layout.key.iter().zip(&old) {
            if row[*at] == Value::Unchanged {
                row[*at].clone_from(value);
            }
        }
        let (from, to) = (self.target_of(&before)?, self.target_of(&row)?);
        if from == to {
            return if self.wants(to, layout, current, node) {
                self.identified(to, layout)?.update(Some(old), row)
            } else {
                Ok(())
            };
        }
        // The row moves to another server, with values that only the old one may know.
        let (leaves, arrives) = (self.wants(from, layout, current, node), self.wants(to, layout, current, node));
        let unknown: Vec<usize> = (0..row.len()).filter(|at| row[*at] == Value::Unchanged).collect();
        if !unknown.is_empty() && arrives {
            let change = Change { from: node, commit: current.lsn, number: current.number };
            let values = match leaves {
                true => {
                    let values = self.identified(from, layout)?.fetch(&old, &unknown)?;
                    self.targets[from].hand_over(change, &values)?;
                    values
                }
                // A crash came between the commits of two targets, and the row has left the one.
                false => match self.targets[from].handed(change)? {
                    Some(values) => values,
                    None => return self.targets[to].unexpected("a row that moves is not there"),
                },
            };
            for (at, value) in unknown.into_iter().zip(values) {
                row[at] = value;
            }
        }
        if leaves {
            self.identified(from, layout)?.delete(old)?;
        }
        if arrives { self.identified(to, layout)?.insert(row) } else { Ok(()) }
    }

    fn truncate(&mut self, layout: &ColumnMap, current: Current, node: &str) -> Step {
        let condition = match self.condition(&layout.name) {
            Some(condition) => condition.to_string(),
            None => {
                return halt(
                    Report::new(
                        Code::ERRCODE_FEATURE_NOT_SUPPORTED,
                        format!("partition {} was truncated while it moves", layout.name),
                    )
                    .detail("Which rows of the copy were in it cannot be told from its bounds.")
                    .hint(format!("Cancel the operation and start it again: the table {} is empty now.", layout.name)),
                );
            }
        };
        for at in 0..self.targets.len() {
            if self.wants(at, layout, current, node) {
                self.targets[at].delete_where(&condition)?;
            }
        }
        Ok(())
    }
}

/// A row of texts, for finding its place.
struct TextRow<'a> {
    columns: &'a [Column],
    values: &'a [Value],
}

impl key_router::Row for TextRow<'_> {
    fn value(&self, column: &str) -> Option<Option<&str>> {
        let at = self.columns.iter().position(|found| found.name == column)?;
        match &self.values[at] {
            Value::Text(bytes) => std::str::from_utf8(bytes).ok().map(Some),
            Value::Null => Some(None),
            Value::Unchanged | Value::Binary(_) => None,
        }
    }
}

/// The leaves of the staged tree, each with the target that stores it.
fn leaves(root: &QualifiedName, targets: &[Target]) -> Result<HashMap<Oid, usize>> {
    let place = |(oid, node): (Oid, String)| match targets.iter().position(|target| target.node == node) {
        Some(at) => Ok((oid, at)),
        None => Report::new(Code::ERRCODE_INTERNAL_ERROR, format!("no way to node {} was opened", ident(&node))).into(),
    };
    leaf_nodes(root)?.into_iter().map(place).collect()
}

/// The leaves of the staged tree, each with its server.
pub fn leaf_nodes(root: &QualifiedName) -> Result<Vec<(Oid, String)>> {
    let rows: Vec<(u32, String)> = sql::documents(
        "SELECT pg_catalog.json_build_array(t.relid::oid::bigint, coalesce(s.srvname, 'local'))::text
         FROM pg_catalog.pg_partition_tree($1::text::regclass) AS t
         LEFT JOIN pg_catalog.pg_foreign_table f ON f.ftrelid = t.relid LEFT JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver
         WHERE t.isleaf",
        &[root.to_string().into()],
    )?;
    Ok(rows.into_iter().map(|(oid, node)| (Oid::from(oid), node)).collect())
}
