//! A managed hierarchy as the calls that change it need it: what was asked for, what is there, and who may change it.

use super::partition_keys::PartitionKeys;
use super::tree_tables::{self, TreeTable};
use super::validate;
use crate::catalog::carried::Key;
use crate::catalog::operation;
use crate::catalog::parent::{self, Parent};
use crate::error::{Report, Result};
use crate::name::QualifiedName;
use crate::pg::{relation, sql};
use crate::table::definition::TableDefinition;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::plan::{Bound, Tree};
use shardkeeper_core::spec::{self, Level, Site};

pub struct ManagedParent {
    pub root: Oid,
    pub catalog: Parent,
    pub level: Level,
    /// The root's description, with the keys and settings that only leaves carry.
    pub table: TableDefinition,
    /// Unique keys that are on the root itself: all while no leaf is foreign, none since the first one came.
    root_keys: Vec<String>,
    pub members: Vec<TreeTable>,
}

impl ManagedParent {
    /// The hierarchy that `relation` belongs to, locked against other changes, and the labels that lead to `relation`.
    ///
    /// Errors: 42P01 not part of a managed hierarchy; 42501 not the owner.
    pub fn open(relation: Oid) -> Result<(Self, Vec<String>)> {
        let Some((root, labels)) = parent::of_relation(relation)? else { return parent::not_managed(relation) };
        let Some(found) = TableDefinition::load(root)? else { return parent::not_managed(root) };
        validate::owned(root, &found)?;
        relation::lock_against_changes(root);
        Ok((Self::read(root)?, labels))
    }

    /// The same for a call that changes the tables.
    ///
    /// Errors: those of `open`; 55006 an operation moves data of the hierarchy.
    pub fn open_to_change(relation: Oid) -> Result<(Self, Vec<String>)> {
        let (managed, labels) = Self::open(relation)?;
        operation::refuse_if_running(managed.root, &managed.table.name.to_string())?;
        Ok((managed, labels))
    }

    /// The hierarchy of `root` as it is now, without a lock.
    pub fn read(root: Oid) -> Result<Self> {
        let catalog = parent::require(root)?;
        let Some(mut table) = TableDefinition::load(root)? else { return parent::not_managed(root) };
        let root_keys = table.keys.iter().filter(|key| key.unique).map(|key| key.name.clone()).collect();
        let kept = &catalog.extras;
        table.keys.clone_from(&kept.keys);
        table.options.clone_from(&kept.options);
        table.access_method.clone_from(&kept.access_method);
        table.publications.clone_from(&kept.publications);
        table.replica_identity = kept.replica_identity.unwrap_or(table.replica_identity);
        let level = spec::parse(&catalog.spec)?;
        Ok(Self { root, catalog, level, table, root_keys, members: tree_tables::load(root)? })
    }

    pub fn keys(&self) -> Result<PartitionKeys> {
        PartitionKeys::resolve(&self.level, &self.table)
    }

    pub fn member(&self, relation: Oid) -> Result<&TreeTable> {
        match self.members.iter().find(|member| member.oid() == relation) {
            Some(member) => Ok(member),
            None => parent::not_managed(relation),
        }
    }

    /// The partition itself and the table it is a partition of.
    ///
    /// Errors: 42809 it is the root.
    pub fn partition(&self, relation: Oid) -> Result<(&TreeTable, &TreeTable)> {
        let member = self.member(relation)?;
        match member.parent() {
            Some(parent) => Ok((member, self.member(parent)?)),
            None => Report::new(Code::ERRCODE_WRONG_OBJECT_TYPE, format!("{} is a parent, not a partition", member.name))
                .hint(format!("For the whole hierarchy there are shard_release_parent and shard_drop_parent: SELECT shard_drop_parent({});", crate::name::literal(&member.name.to_string())))
                .into(),
        }
    }

    pub fn children(&self, of: Oid) -> impl Iterator<Item = &TreeTable> {
        self.members.iter().filter(move |member| member.parent() == Some(of))
    }

    pub fn default_of(&self, table: Oid) -> Option<&TreeTable> {
        self.children(table).find(|member| member.values.as_deref() == Some("DEFAULT"))
    }

    /// Bounds of the partitions of one table, read from Postgres.
    pub fn bounds(&self, table: Oid) -> Result<Vec<(Oid, Bound)>> {
        let mut bounds = Vec::new();
        for child in self.children(table) {
            if let Some(bound) = child.bound()? {
                bounds.push((child.oid(), bound));
            }
        }
        Ok(bounds)
    }

    pub fn has_on_root(&self, key: &Key) -> bool {
        self.root_keys.contains(&key.name)
    }

    /// Local leaves carry the unique keys one by one: there are foreign leaves, or there were.
    pub fn has_keys_on_leaves(&self) -> bool {
        let foreign = self.members.iter().any(|member| member.server.is_some());
        foreign || self.table.keys.iter().any(|key| key.unique && !self.has_on_root(key))
    }

    /// Locks tables here before their nodes do: who reads or writes them through the coordinator holds locks on both
    /// sides, and two servers waiting for each other would not be noticed.
    pub fn lock_exclusive(&self, table: Oid) {
        for member in self.tables_below(table) {
            relation::lock_exclusive(member.oid());
        }
    }

    /// From the root down to `relation`, both included.
    pub fn path_to(&self, relation: Oid) -> Result<Vec<&TreeTable>> {
        let mut path = vec![self.member(relation)?];
        while let Some(parent) = path.last().and_then(|member| member.parent()) {
            path.push(self.member(parent)?);
        }
        path.reverse();
        Ok(path)
    }

    pub fn tables_below(&self, relation: Oid) -> Vec<&TreeTable> {
        tree_tables::below(&self.members, relation)
    }

    /// The tables of the mirror on `node`: its leaves and what is above them.
    pub fn tables_on(&self, node: &str) -> Result<Vec<QualifiedName>> {
        let mut names = vec![self.table.name.clone()];
        for leaf in self.members.iter().filter(|member| member.server.as_deref() == Some(node)) {
            names.extend(self.path_to(leaf.oid())?.into_iter().map(|member| member.name.clone()));
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    pub fn name(&self) -> &QualifiedName {
        &self.table.name
    }

    pub fn now(&self) -> Result<jiff::Timestamp> {
        now()
    }
}

/// A table of that level without its partitions, for making just the table.
pub fn bare_tree(site: &Site<'_>) -> Tree {
    Tree { method: site.level.method(), key: site.level.key.clone(), partitions: Vec::new() }
}

/// The time that interval levels count from: the start of the transaction.
pub fn now() -> Result<jiff::Timestamp> {
    let micros = sql::one::<i64>("SELECT (extract(epoch FROM pg_catalog.now()) * 1000000)::bigint", &[])?.unwrap_or(0);
    jiff::Timestamp::from_microsecond(micros).map_err(|error| {
        Report::new(
            Code::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            format!("the clock of the coordinator is out of range: {error}"),
        )
        .into()
    })
}
