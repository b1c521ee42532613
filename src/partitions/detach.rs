//! `shard_detach_partition` and `shard_drop_partition`: one partition leaves the hierarchy, on all servers at once.

use super::default_partition;
use super::mirror;
use super::partition_ddl::DEFAULT_CHECK;
use super::script::Script;
use crate::catalog::detached::{self, Remote};
use crate::catalog::{self, partition};
use crate::error::{Report, Result};
use crate::hierarchy::bound::default_check;
use crate::hierarchy::managed_parent::ManagedParent;
use crate::hierarchy::tree_tables::{self, TreeTable};
use crate::hierarchy::validate;
use crate::name::{ident, literal};
use crate::node::trash::KeepTime;
use crate::pg::{parent_cache, relation, role, sql};
use crate::table::definition::{TableDefinition, outside_dependents};
use crate::table::required_types;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::plan::{Bound, Method};

#[derive(Debug, Clone)]
pub enum Fate {
    /// The partition becomes a table of its own, where it is.
    Keep,
    /// It goes to the trash, and is destroyed when its keep time is over.
    Trash(KeepTime),
}

pub fn take_out(partition: Oid, fate: &Fate) -> Result<()> {
    if let Fate::Trash(keep) = fate {
        let remotes = detached::remotes(partition)?;
        if !remotes.is_empty() {
            return discard_detached(partition, &remotes, keep);
        }
    }
    let (managed, labels) = ManagedParent::open_to_change(partition)?;
    let (member, above) = managed.partition(partition)?;
    let site = managed.level.at(&labels[..labels.len().saturating_sub(1)]);
    if site.as_ref().is_some_and(|site| site.level.method() == Method::Hash) {
        return Report::new(Code::ERRCODE_FEATURE_NOT_SUPPORTED, format!("{} is a hash partition", member.name))
            .detail(format!("Without it, {} would have no place for the keys of its remainder.", above.name))
            .hint(match above.parent() {
                Some(_) => format!("Detach or drop {}, the partition above it; or change the modulus with SELECT shard_set_modulus({}, …);", above.name, literal(&above.name.to_string())),
                None => format!("Change the modulus with SELECT shard_set_modulus({}, …); or drop the whole with SELECT shard_drop_parent({});", literal(&above.name.to_string()), literal(&above.name.to_string())),
            })
            .into();
    }
    if let Fate::Trash(_) = fate {
        no_dependents(&managed, member)?;
    }
    relation::lock_exclusive(above.oid());
    managed.lock_exclusive(partition);
    if let Some(default) = managed.default_of(above.oid()) {
        managed.lock_exclusive(default.oid());
    }
    let tables = managed.tables_below(partition);
    let mut script = Script::default();
    let bounds = managed.bounds(above.oid())?;
    let others: Vec<(Oid, Bound)> = bounds.into_iter().filter(|(_, bound)| *bound != Bound::Default).collect();
    let before: Vec<Bound> = others.iter().map(|(_, bound)| bound.clone()).collect();
    let key = match &site {
        Some(site) => managed.keys()?.sql(&site.level.key),
        None => Vec::new(),
    };
    let is_default = member.values.as_deref() == Some("DEFAULT");
    let check = if is_default { default_check(&key, before.iter()) } else { None };
    let mut emptied = Vec::new();
    for node in tree_tables::nodes(tables.iter().copied()) {
        let mut leaving = Leaving::from_node(&managed, member, &node)?;
        if let Fate::Trash(_) = fate {
            leaving.pass_over_missing(&node)?;
        }
        let (commands, inverse) = leaving.commands(fate, check.as_deref());
        script.on_node(&node, commands, inverse);
        if leaving.root_is_empty {
            emptied.push(node);
        }
    }
    if !is_default && site.is_some() {
        let after: Vec<Bound> =
            others.iter().filter(|(oid, _)| *oid != partition).map(|(_, bound)| bound.clone()).collect();
        default_partition::renew(&mut script, &managed, above.oid(), &key, &before, &after)?;
    }
    script.local(vec![format!("ALTER TABLE {} DETACH PARTITION {}", above.name, member.name)]);
    script.run()?;
    for node in &emptied {
        catalog::mirror::forget(managed.root, node)?;
    }
    partition::forget(&tables.iter().map(|table| table.oid()).collect::<Vec<_>>())?;
    match fate {
        Fate::Trash(keep) => discard_local(member, &tables, keep)?,
        Fate::Keep => {
            for node in tree_tables::nodes(tables.iter().copied()) {
                detached::add(partition, &node, &member.name)?;
            }
        }
    }
    crate::background::ensure_running()
}

/// One that was detached before, with its tables on nodes.
fn discard_detached(partition: Oid, remotes: &[Remote], keep: &KeepTime) -> Result<()> {
    let tables = tree_tables::load(partition)?;
    let (Some(top), Some(definition)) = (tables.first(), TableDefinition::load(partition)?) else {
        return catalog::parent::not_managed(partition);
    };
    validate::owned(partition, &definition)?;
    let all: Vec<&TreeTable> = tables.iter().collect();
    refuse_dependents(top, outside_dependents(partition, &all.iter().map(|table| table.oid()).collect::<Vec<_>>())?)?;
    relation::lock_exclusive(partition);
    let mut script = Script::default();
    for Remote { node, table } in remotes {
        if mirror::found_on(node, std::iter::once(table))?.is_empty() {
            mirror::warn_of_missing(node, table);
            continue;
        }
        let inverse = format!("SELECT shardkeeper.restore({}, {})", literal(&table.schema), literal(&table.name));
        script.on_node(node, vec![keep.discard(table)], inverse);
    }
    script.run()?;
    detached::forget(&[partition])?;
    discard_local(top, &all, keep)?;
    crate::background::ensure_running()
}

/// What leaves a mirror with a partition: the tables above it that would have no leaf there any more go with it, so that
/// nothing is in the way of the same names later.
struct Leaving<'a> {
    /// The partition, then the emptied tables above it from the inside out, each with the table it is a partition of.
    chain: Vec<(&'a TreeTable, Option<&'a TreeTable>)>,
    root_is_empty: bool,
}

impl<'a> Leaving<'a> {
    fn from_node(managed: &'a ManagedParent, partition: &'a TreeTable, node: &str) -> Result<Self> {
        let gone: Vec<Oid> = managed.tables_below(partition.oid()).iter().map(|table| table.oid()).collect();
        let stays = |table: Oid| {
            let mut below = managed.tables_below(table).into_iter();
            below.any(|leaf| leaf.server.as_deref() == Some(node) && !gone.contains(&leaf.oid()))
        };
        let mut path = managed.path_to(partition.oid())?;
        let mut chain = Vec::new();
        while let Some(member) = path.pop() {
            if !chain.is_empty() && stays(member.oid()) {
                break;
            }
            chain.push((member, path.last().copied()));
        }
        let root_is_empty = chain.last().is_some_and(|(_, above)| above.is_none());
        Ok(Self { chain, root_is_empty })
    }

    /// Somebody may have dropped them there.
    fn pass_over_missing(&mut self, node: &str) -> Result<()> {
        let found = mirror::found_on(node, self.chain.iter().map(|(member, _)| &member.name))?;
        self.chain.retain(|(member, _)| {
            let is_there = found.contains(&member.name.to_string());
            if !is_there {
                mirror::warn_of_missing(node, &member.name);
            }
            is_there
        });
        Ok(())
    }

    /// `check` is what a default partition carries: as a table of its own it takes any row again.
    fn commands(&self, fate: &Fate, check: Option<&str>) -> (Vec<String>, String) {
        let mut commands = Vec::new();
        let mut inverse = Vec::new();
        for (at, (member, above)) in self.chain.iter().enumerate() {
            let name = &member.name;
            if let Some(above) = above {
                let values = member.values.as_deref().unwrap_or("DEFAULT");
                commands.push(format!("ALTER TABLE {} DETACH PARTITION {name}", above.name));
                inverse.push(format!("ALTER TABLE {} ATTACH PARTITION {name} {values}", above.name));
            }
            if let (0, Fate::Keep, Some(check)) = (at, fate, check) {
                let constraint = ident(DEFAULT_CHECK);
                commands.push(format!("ALTER TABLE {name} DROP CONSTRAINT IF EXISTS {constraint}"));
                inverse.push(format!("ALTER TABLE {name} ADD CONSTRAINT {constraint} CHECK ({check})"));
            }
            let keep = match fate {
                Fate::Trash(keep) => Some(keep.clone()),
                Fate::Keep => (at > 0).then(|| KeepTime::of(None)),
            };
            if let Some(keep) = keep {
                commands.push(keep.discard(name));
                inverse.push(format!("SELECT shardkeeper.restore({}, {})", literal(&name.schema), literal(&name.name)));
            }
        }
        inverse.reverse();
        (commands, inverse.join(";\n"))
    }
}

fn no_dependents(managed: &ManagedParent, member: &TreeTable) -> Result<()> {
    let mut found = Vec::new();
    for table in managed.tables_below(member.oid()) {
        let own: Vec<Oid> = managed.children(table.oid()).map(|child| child.oid()).collect();
        found.extend(outside_dependents(table.oid(), &own)?);
    }
    refuse_dependents(member, found)
}

pub fn refuse_dependents(member: &TreeTable, found: Vec<String>) -> Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    Report::new(
        Code::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
        format!("{} cannot be dropped because other objects depend on it", member.name),
    )
    .detail(format!("They are: {}.", found.join("; ")))
    .hint("Drop them first.")
    .into()
}

/// Foreign tables hold no rows here and are dropped; tables with rows go to the trash, unless they are not to be kept at all.
pub fn discard_local(top: &TreeTable, tables: &[&TreeTable], keep: &KeepTime) -> Result<()> {
    let foreign: Vec<String> =
        tables.iter().filter(|table| table.server.is_some()).map(|table| table.name.to_string()).collect();
    if !foreign.is_empty() {
        sql::run(&format!("DROP FOREIGN TABLE {}", foreign.join(", ")), &[])?;
    }
    if top.server.is_some() {
        return Ok(());
    }
    parent_cache::forget_everywhere(top.oid());
    if keep.is_zero()? || !tables.iter().any(|table| table.is_leaf() && table.server.is_none()) {
        sql::run(&format!("DROP TABLE {}", top.name), &[])?;
        return Ok(());
    }
    // The extension's owner moves it, as the trash belongs to the extension; that the caller may was checked.
    role::as_extension_owner(|| {
        if sql::one::<bool>("SELECT pg_catalog.to_regnamespace('shardkeeper_trash') IS NULL", &[])? == Some(true) {
            sql::run_quietly(&required_types::create_schema("shardkeeper_trash").join(";\n"))?;
        }
        sql::run(&format!("SELECT shardkeeper.discard($1::pg_catalog.regclass, {})", keep.sql()), &[top.oid().into()])
    })?;
    Ok(())
}
