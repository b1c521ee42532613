//! Other hash partitions in the place of those that a table has.

use super::{Decided, known_node, source};
use crate::catalog::operation::Plan;
use crate::error::{Report, Result};
use crate::hierarchy::managed::Managed;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::operation::Kind;
use shardkeeper_core::plan::{self, Bound, Method, NewPartition, PlanInput};
use shardkeeper_core::spec::{Level, Rule};

/// As many hash partitions as `modulus` says in the place of those that `table` has.
///
/// Errors: 42P01 not managed; 42501 not the owner; 42809 not partitioned by hash; 22023 modulus below 1; 42704 no such
/// node; 55000 nothing would change.
pub fn set_modulus(table: Oid, modulus: i32, nodes: Option<Vec<String>>) -> Result<Decided> {
    let Some(modulus) = u32::try_from(modulus).ok().filter(|modulus| *modulus > 0) else {
        return Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, "modulus must be a whole number of 1 or more")
            .into();
    };
    let (managed, labels) = Managed::open(table)?;
    let above = managed.member(table)?;
    let Some(site) = managed.level.at(&labels).filter(|site| !above.is_leaf() && site.level.method() == Method::Hash)
    else {
        return Report::new(Code::ERRCODE_WRONG_OBJECT_TYPE, format!("{} is not partitioned by hash", above.name))
            .hint("Name the table whose partitions are hash partitions: the parent, or a partitioned table below it.")
            .into();
    };
    if nodes.as_ref().is_some_and(Vec::is_empty) {
        return Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, "nodes is empty").into();
    }
    for node in nodes.iter().flatten() {
        known_node(node)?;
    }
    let old = managed.children(table).count();
    if nodes.is_none() && old == modulus as usize {
        return Report::new(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("{} has modulus {modulus} already", above.name),
        )
        .hint("To place its partitions anew, name the nodes.")
        .into();
    }
    let mut level: Level = site.level.clone();
    level.rule = Rule::Hash { modulus };
    if let Some(nodes) = nodes {
        level.nodes = Some(nodes);
    }
    let subject = format!("{}: modulus {old} to {modulus}", above.name);
    let new_site = site.with(&level);
    let keys = managed.keys()?;
    let mut input = PlanInput {
        root: &above.name.name,
        now: managed.now()?,
        kind: &|key| keys.kind(key),
        dealt: managed.catalog.dealt.clone(),
        max_leaves: plan::DEFAULT_MAX_LEAVES,
    };
    // The level is dealt out anew from its first node on.
    let below = site.path().to_string();
    input.dealt.retain(|path, _| !path.starts_with(&below));
    let mut targets = Vec::new();
    for remainder in 0..modulus {
        let new = NewPartition {
            bound: Bound::Hash { modulus, remainder },
            label: remainder.to_string(),
            name: None,
            place: String::new(),
        };
        let (partition, dealt) = plan::expand_one(&new_site, &new, None, &input)?;
        input.dealt = dealt;
        targets.push(partition);
    }
    let mut spec = managed.level.clone();
    spec.replace_at(&labels, level.clone());
    let sources = managed
        .children(table)
        .map(|child| {
            let bound = child.bound()?.unwrap_or(Bound::Default);
            let label = match bound {
                Bound::Hash { remainder, .. } => remainder.to_string(),
                _ => child.name.name.clone(),
            };
            Ok(source(&managed, child, label, bound))
        })
        .collect::<Result<_>>()?;
    let plan = Plan {
        above: above.name.clone(),
        labels,
        method: Method::Hash,
        key: level.key.clone(),
        sources,
        targets,
        spec: spec.to_json(),
        dealt: input.dealt,
        ..Plan::default()
    };
    Ok(Decided { managed, kind: Kind::Modulus, subject, plan })
}
