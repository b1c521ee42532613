//! What an operation will replace, as it has to be again after a revert.

use crate::catalog::operation::{Before, Plan};
use crate::catalog::partition;
use crate::error::Result;
use crate::hierarchy::managed_parent::ManagedParent;
use crate::hierarchy::tree_tables::TreeTable;
use shardkeeper_core::plan::{Bound, LOCAL, Partition, Tree};
use shardkeeper_core::spec::Site;
use std::collections::BTreeMap;

/// `None` where the spec does not describe what is there.
pub fn before(managed: &ManagedParent, plan: &Plan) -> Result<Option<Before>> {
    let labels = partition::labels(managed.root)?;
    let Some(site) = managed.level.at(&plan.labels) else { return Ok(None) };
    let mut partitions = Vec::new();
    for source in &plan.sources {
        let Some(member) = managed.members.iter().find(|member| member.name == source.name) else { return Ok(None) };
        let below = site.below(&source.label);
        let found = Found { managed, labels: &labels };
        match found.partition(member, source.label.clone(), source.bound.clone(), below.as_ref())? {
            Some(partition) => partitions.push(partition),
            None => return Ok(None),
        }
    }
    Ok(Some(Before { partitions, spec: managed.catalog.spec.clone(), dealt: managed.catalog.dealt.clone() }))
}

struct Found<'a> {
    managed: &'a ManagedParent,
    labels: &'a BTreeMap<u32, String>,
}

impl Found<'_> {
    fn partition(
        &self,
        member: &TreeTable,
        label: String,
        bound: Bound,
        site: Option<&Site<'_>>,
    ) -> Result<Option<Partition>> {
        let (mut node, mut sub) = (None, None);
        if member.is_leaf() {
            node = Some(member.server.clone().unwrap_or_else(|| LOCAL.to_string()));
        } else {
            let Some(site) = site else { return Ok(None) };
            let mut partitions = Vec::new();
            for child in self.managed.children(member.oid()) {
                let label = self.labels.get(&child.oid().to_u32()).cloned().unwrap_or_default();
                let bound = child.bound()?.unwrap_or(Bound::Default);
                let below = site.below(&label);
                match self.partition(child, label, bound, below.as_ref())? {
                    Some(partition) => partitions.push(partition),
                    None => return Ok(None),
                }
            }
            sub = Some(Tree { method: site.level.method(), key: site.level.key.clone(), partitions });
        }
        let name = member.name.name.clone();
        Ok(Some(Partition { name, label, bound, node, deal: String::new(), sub, path: String::new() }))
    }
}
