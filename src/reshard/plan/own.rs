//! What somebody gave to a single leaf: keys, checks, settings that its parent does not have. A leaf that moves takes it along;
//! where other leaves come in its place, nobody can say which of them should have it.

use crate::catalog::carried::Key;
use crate::catalog::operation::{Own, Plan};
use crate::error::{Report, Result};
use crate::hierarchy::managed_parent::ManagedParent;
use crate::hierarchy::validate;
use crate::name::{QualifiedName, ident};
use crate::node::channel::Channel;
use crate::table::columns;
use crate::table::definition::{Check, Column, TableDefinition};
use pgrx::PgSqlErrorCode as Code;
use shardkeeper_core::plan::LOCAL;
use std::collections::BTreeMap;

/// What begins so is ours, and comes and goes with what we do.
const OURS: &str = "shardkeeper_";

/// A leaf beside what all leaves of its server are like.
struct Single<'a> {
    name: &'a QualifiedName,
    leaf: TableDefinition,
    common: &'a TableDefinition,
}

/// Checks the leaves that an operation replaces. Of a leaf that becomes the same partition elsewhere, what it takes along.
///
/// Errors: 0A000 a leaf has something of its own that would be lost; 55000 it has rows that its constraints need not hold for.
pub fn own(managed: &ManagedParent, plan: &Plan) -> Result<Option<Own>> {
    let mut found = None;
    let mut common = BTreeMap::new();
    for (name, node) in plan.source_leaves() {
        let Some(member) = managed.members.iter().find(|member| member.name == *name) else { continue };
        if !common.contains_key(node) {
            common.insert(node, common_on(managed, node)?);
        }
        let leaf = match node {
            LOCAL => TableDefinition::load(member.oid())?,
            _ => Channel::open(node)?.document(&TableDefinition::question(&member.name))?,
        };
        let (Some(mut leaf), Some(Some(common))) = (leaf, common.get(node)) else { continue };
        leaf.options.sort();
        let single = Single { name, leaf, common };
        validate::all_valid(&single.leaf)?;
        let moves = match (plan.sources.as_slice(), plan.targets.as_slice()) {
            ([_], [target]) => target.sub.is_none() && plan.above.sibling(&target.name) == *name,
            _ => false,
        };
        single.refuse(moves)?;
        if moves {
            found = Some(single.taken_along());
        }
        single.tell_what_stays_behind(moves);
    }
    Ok(found.filter(|own| !own.is_empty()))
}

/// What the leaves on a server have in common: the parent, or its mirror.
fn common_on(managed: &ManagedParent, node: &str) -> Result<Option<TableDefinition>> {
    let common = if node == LOCAL {
        let mut table = managed.table.clone();
        // Others than these may have been given to the parent since.
        table.keys.extend(TableDefinition::load(managed.root)?.into_iter().flat_map(|root| root.keys));
        Some(table)
    } else {
        Channel::open(node)?.document::<TableDefinition>(&TableDefinition::question(managed.name()))?
    };
    Ok(common.map(|mut common| {
        // A partitioned table cannot carry these itself.
        common.options.clone_from(&managed.table.options);
        common.options.sort();
        common.access_method.clone_from(&managed.table.access_method);
        common.replica_identity = managed.table.replica_identity;
        common
    }))
}

impl Single<'_> {
    fn keys(&self) -> impl Iterator<Item = &Key> {
        let same = |one: &Key, other: &Key| {
            one.primary == other.primary && one.unique == other.unique && one.definition == other.definition
        };
        self.leaf.keys.iter().filter(move |key| !self.common.keys.iter().any(|common| same(common, key)))
    }

    fn checks(&self) -> impl Iterator<Item = &Check> {
        let known =
            move |name: &str| name.starts_with(OURS) || self.common.checks.iter().any(|check| check.name == name);
        self.leaf.checks.iter().filter(move |check| !known(&check.name))
    }

    /// Columns with their common form.
    fn columns(&self) -> impl Iterator<Item = (&Column, &Column)> {
        self.leaf.columns.iter().filter_map(|column| Some((column, self.common.column(&column.name)?)))
    }

    /// Columns that are not null here only, but for those of a primary key of its own.
    fn not_null(&self) -> impl Iterator<Item = &Column> {
        let primary = move |name: &String| self.leaf.keys.iter().any(|key| key.primary && key.columns.contains(name));
        self.columns()
            .filter(move |(own, common)| own.not_null && !common.not_null && !primary(&own.name))
            .map(|(own, _)| own)
    }

    /// What cannot be taken along at all, and, where other leaves come, also what decides about rows.
    fn refuse(&self, moves: bool) -> Result<()> {
        let mut found = Vec::new();
        let triggers = self.leaf.triggers.iter().map(|trigger| &trigger.name);
        let triggers = triggers.filter(|name| !name.starts_with(OURS));
        let triggers = triggers.filter(|name| !self.common.triggers.iter().any(|common| common.name == **name));
        found.extend(triggers.map(|name| format!("trigger {}", ident(name))));
        found.extend(self.leaf.exclusions.iter().map(|name| format!("exclusion constraint {}", ident(name))));
        found.extend(self.leaf.policies.iter().map(|policy| format!("policy {}", ident(&policy.name))));
        if !moves {
            found
                .extend(self.keys().filter(|key| key.unique).map(|key| format!("{} {}", key.what(), ident(&key.name))));
            found.extend(self.checks().map(|check| format!("check {}", ident(&check.name))));
            found.extend(self.not_null().map(|column| format!("NOT NULL of column {}", ident(&column.name))));
        }
        if found.is_empty() {
            return Ok(());
        }
        let hint = match moves {
            true => "Drop it, or give it to the parent. What a leaf has of its own cannot move to another server.",
            false => "Drop it, or give it to the parent; afterwards give the new partitions what they shall have.",
        };
        Report::new(
            Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("partition {} has something of its own that would be lost", self.name),
        )
        .detail(format!("Its parent does not have: {}.", found.join(", ")))
        .hint(hint)
        .into()
    }

    /// What decides about no row is not made on those that come in its place; and what holds only for who comes to the leaf
    /// directly is left to its server.
    fn tell_what_stays_behind(&self, moves: bool) {
        let mut told = Vec::new();
        if !moves {
            told.extend(self.keys().map(|key| format!("index {}", ident(&key.name))));
            told.extend(self.leaf.statistics.iter().map(|s| format!("statistics object {}", s.name)));
            told.extend((self.leaf.options != self.common.options).then(|| "storage parameters".to_string()));
        }
        told.extend(self.leaf.row_security.then(|| "row level security".to_string()));
        if !told.is_empty() {
            pgrx::warning!("what {} has of its own goes with it: {}", self.name, told.join(", "));
        }
    }

    fn taken_along(&self) -> Own {
        let mut actions = Vec::new();
        let mut own = Own::default();
        if self.leaf.access_method != self.common.access_method {
            let method = self.leaf.access_method.as_deref().unwrap_or("heap");
            actions.push(format!("SET ACCESS METHOD {}", ident(method)));
        }
        if self.leaf.options != self.common.options {
            let name = |option: &String| option.split('=').next().unwrap_or_default().to_string();
            let gone: Vec<String> = self.common.options.iter().map(name).collect();
            if !gone.is_empty() {
                let gone: Vec<String> =
                    gone.iter().map(|name| name.split('.').map(ident).collect::<Vec<_>>().join(".")).collect();
                actions.push(format!("RESET ({})", gone.join(", ")));
            }
            if !self.leaf.options.is_empty() {
                actions.push(format!("SET ({})", columns::options(&self.leaf.options)));
            }
        }
        for (column, common) in self.columns() {
            let name = ident(&column.name);
            let set = |what: String| format!("ALTER COLUMN {name} SET {what}");
            match &column.default {
                Some(default)
                    if column.generated.is_empty() && column.default != common.default && !column.default_is_local =>
                {
                    actions.push(set(format!("DEFAULT {default}")));
                }
                _ => {}
            }
            match &column.storage {
                Some(storage) if column.storage != common.storage => actions.push(set(format!("STORAGE {storage}"))),
                _ => {}
            }
            match &column.compression {
                Some(method) if column.compression != common.compression => {
                    actions.push(set(format!("COMPRESSION {method}")));
                }
                _ => {}
            }
            match column.statistics {
                Some(target) if column.statistics != common.statistics => {
                    actions.push(set(format!("STATISTICS {target}")));
                }
                _ => {}
            }
            if column.options != common.options && !column.options.is_empty() {
                actions.push(set(format!("({})", columns::options(&column.options))));
            }
        }
        actions.extend(self.not_null().map(|column| format!("ALTER COLUMN {} SET NOT NULL", ident(&column.name))));
        actions
            .extend(self.checks().map(|check| format!("ADD CONSTRAINT {} {}", ident(&check.name), check.definition)));
        own.keys = self.keys().cloned().collect();
        let identity = self.leaf.replica_identity;
        if identity != self.common.replica_identity || own.keys.iter().any(|key| key.primary) {
            own.replica_identity = Some(identity);
        }
        let is_common = |key: &&Key| {
            let same = |other: &&Key| other.definition == key.definition && other.unique == key.unique;
            let common = self.common.keys.iter().find(same);
            common.is_some_and(|common| {
                common.replica_identity == key.replica_identity && common.clustered == key.clustered
            })
        };
        let marked = self.leaf.keys.iter().filter(|key| key.replica_identity || key.clustered);
        own.marks = marked.filter(|key| !is_common(key)).cloned().collect();
        own.statistics.clone_from(&self.leaf.statistics);
        own.actions = actions;
        own
    }
}
