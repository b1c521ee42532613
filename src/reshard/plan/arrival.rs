//! What a node gets before its first partition of a parent: the types that it lacks, and the tables of the mirror down to the
//! one whose partitions change.

use crate::catalog::operation::Plan;
use crate::error::Result;
use crate::hierarchy::managed_parent::ManagedParent;
use crate::partitions::mirror_path::Way;
use crate::partitions::preflight::{self, Load};

/// The server, and what is made there.
pub type Arrival = (String, String);

/// Asks the nodes; nothing is changed there.
///
/// Errors: 42710 a type there is another one than here; 42704 a type is missing that cannot be made from here; 42P07 a name of
/// the mirror is taken; 42501 the role there may not make tables.
pub fn told(managed: &ManagedParent, plan: &Plan) -> Result<Vec<Arrival>> {
    let Some(above) = managed.members.iter().find(|member| member.name == plan.above) else { return Ok(Vec::new()) };
    let way = Way { managed, above, labels: &plan.labels };
    let mut told = Vec::new();
    for node in plan.remote_target_nodes() {
        let missing = way.missing_on(&node)?;
        if missing.is_empty() {
            continue;
        }
        let names: Vec<String> = missing.iter().map(|(member, _)| member.name.name.clone()).collect();
        let load = Load { partitioned: names.len(), ..Load::default() };
        let needs = preflight::check_node(&node, &managed.table, &names, load)?.needs;
        told.extend(needs.made.iter().map(|object| (node.clone(), format!("make {object}, which is missing"))));
        told.extend(
            missing.iter().map(|(member, _)| (node.clone(), format!("make the mirror's table {}", member.name))),
        );
    }
    Ok(told)
}

/// What one part of several makes is there for the next.
pub fn add(all: &mut Vec<Arrival>, more: Vec<Arrival>) {
    for one in more {
        if !all.contains(&one) {
            all.push(one);
        }
    }
}
