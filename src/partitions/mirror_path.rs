//! The way down to a partitioned table on a node: the mirrors of the tables above it, as far as the node lacks them.

use super::mirror;
use super::partition_ddl::{Blueprint, Joining};
use crate::catalog::{self, partition};
use crate::error::{Report, Result};
use crate::hierarchy::bound::default_check;
use crate::hierarchy::managed_parent::{ManagedParent, bare_tree};
use crate::hierarchy::partition_keys::PartitionKeys;
use crate::hierarchy::tree_tables::TreeTable;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::plan::Partition;

pub struct Way<'a> {
    pub managed: &'a ManagedParent,
    /// Where it leads.
    pub above: &'a TreeTable,
    /// The labels from the root to there.
    pub labels: &'a [String],
}

impl Way<'_> {
    /// The tables from the root down to `above` that the node has not got yet, with their depth.
    pub fn missing_on(&self, node: &str) -> Result<Vec<(&TreeTable, usize)>> {
        let path = self.managed.path_to(self.above.oid())?;
        if !catalog::mirror::nodes(self.managed.root)?.iter().any(|known| known == node) {
            return Ok(path.into_iter().zip(0..).collect());
        }
        let here: Vec<Oid> = self
            .managed
            .members
            .iter()
            .filter(|leaf| leaf.server.as_deref() == Some(node))
            .map(|leaf| self.managed.path_to(leaf.oid()))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .map(TreeTable::oid)
            .collect();
        // The mirror's own table stays when its last leaf goes, the tables between may be gone with it: the node knows.
        let there = mirror::found_on(node, path.iter().map(|member| &member.name))?;
        let is_there = |member: &TreeTable| here.contains(&member.oid()) || there.contains(&member.name.to_string());
        Ok(path.into_iter().zip(0..).filter(|(member, _)| !is_there(member)).collect())
    }

    /// The commands that make them.
    pub fn make(&self, blueprint: &Blueprint<'_>, missing: &[(&TreeTable, usize)]) -> Result<Vec<String>> {
        let mut commands = Vec::new();
        for (member, depth) in missing {
            commands.extend(self.make_one(blueprint, member, *depth)?);
        }
        Ok(commands)
    }

    fn make_one(&self, blueprint: &Blueprint<'_>, member: &TreeTable, depth: usize) -> Result<Vec<String>> {
        let Some(site) = self.managed.level.at(&self.labels[..depth.min(self.labels.len())]) else {
            return Report::new(
                Code::ERRCODE_INTERNAL_ERROR,
                format!("no level of the spec describes {}", member.name),
            )
            .into();
        };
        let tree = bare_tree(&site);
        let (Some(above), Some(bound)) = (member.parent(), member.bound()?) else {
            return Ok(blueprint.mirror_root(&tree));
        };
        let above = self.managed.member(above)?;
        let check = check_of(self.managed, blueprint.keys, member.oid())?;
        let partition = Partition {
            name: member.name.name.clone(),
            label: String::new(),
            bound,
            node: None,
            deal: String::new(),
            sub: Some(tree),
            path: String::new(),
        };
        Ok(blueprint.mirror_partition("", &above.name, &partition, check, Joining::Attached))
    }
}

/// The check that a table on a node carries because it is a default partition, or lies below one: checks are inherited, and
/// a table is attached only if it has what it would inherit.
pub fn check_of(managed: &ManagedParent, keys: &PartitionKeys, table: Oid) -> Result<Option<String>> {
    let path = managed.path_to(table)?;
    let labels = partition::labels(managed.root)?;
    let labels: Vec<&str> =
        path.iter().filter_map(|member| labels.get(&member.oid().to_u32()).map(String::as_str)).collect();
    let Some(depth) = path.iter().rposition(|member| member.values.as_deref() == Some("DEFAULT")) else {
        return Ok(None);
    };
    let (Some(above), Some(site)) = (path[depth].parent(), managed.level.at(&labels[..depth - 1])) else {
        return Ok(None);
    };
    let siblings = managed.bounds(above)?;
    Ok(default_check(&keys.sql(&site.level.key), siblings.iter().map(|(_, bound)| bound)))
}
