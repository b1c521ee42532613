//! What the catalog has to follow of commands that were let through: keys that leaves and mirrors to come will carry, and
//! partitions that were taken out and put back by hand.

use super::{Hand, hand};
use crate::catalog::carried::Key;
use crate::catalog::parent::{self, MANAGED};
use crate::catalog::partition;
use crate::error::{Report, Result};
use crate::hierarchy::managed_parent::ManagedParent;
use crate::name::literal;
use crate::pg::ddl::Detaching;
use crate::pg::{role, sql};
use crate::table::definition::TableDefinition;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use serde::Deserialize;

/// Before `DETACH PARTITION` runs. `CONCURRENTLY` commits half of it before anybody could undo it, so it is refused now;
/// and where a partition was cannot be told afterwards.
///
/// Errors: 2BP01 a managed partition would be detached concurrently.
pub fn before_detach(detaching: &[Detaching]) -> Result<()> {
    for detaching in detaching {
        let Some((_, labels)) = parent::of_relation(detaching.partition)? else { continue };
        match hand() {
            Hand::User if detaching.concurrently && !labels.is_empty() => return concurrently(detaching.partition),
            Hand::Allowed => partition::note_place(detaching.partition)?,
            _ => {}
        }
    }
    Ok(())
}

fn concurrently(partition: Oid) -> Result<()> {
    let query = "SELECT $1::pg_catalog.regclass::text";
    let name = role::as_extension_owner(|| sql::one::<String>(query, &[partition.into()]))?.unwrap_or_default();
    Report::new(
        Code::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
        format!("cannot detach {name} concurrently because it belongs to a managed table"),
    )
    .hint(format!("Run SELECT shard_detach_partition({});", literal(&name)))
    .into()
}

/// Parents whose indexes a command may have changed, names of indexes that are gone, and partitions that it brought.
#[derive(Deserialize)]
struct Followed {
    roots: Vec<u32>,
    dropped: Vec<String>,
    attached: Vec<u32>,
}

const CHANGED: &str = "
    said AS (
        SELECT p.concern, p.partition, coalesce(
            (SELECT indrelid FROM pg_index WHERE d.classid = 'pg_class'::regclass AND indexrelid = d.objid),
            (SELECT conrelid FROM pg_constraint WHERE d.classid = 'pg_constraint'::regclass AND oid = d.objid),
            CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid END) AS relation
        FROM pg_event_trigger_ddl_commands() AS d CROSS JOIN LATERAL shardkeeper.ddl_parts(d.command) AS p
    )
    SELECT json_build_object('dropped', '[]'::json,
        'roots', (SELECT coalesce(json_agg(DISTINCT p.parent::oid::bigint), '[]') FROM said
                  JOIN managed p ON p.parent = relation WHERE concern <> 'attach'),
        'attached', (SELECT coalesce(json_agg(DISTINCT said.partition::bigint), '[]') FROM said
                     JOIN pg_class c ON c.oid = said.partition AND c.relkind IN ('r', 'p', 'f') WHERE concern = 'attach'))::text";

const DROPPED: &str = "
    gone AS (
        SELECT o.address_names[1] AS schema, o.address_names[2] AS name FROM pg_event_trigger_dropped_objects() AS o WHERE o.object_type = 'index'
    )
    SELECT json_build_object('attached', '[]'::json, 'dropped', (SELECT coalesce(json_agg(name), '[]') FROM gone), 'roots', (
        SELECT coalesce(json_agg(DISTINCT p.parent::oid::bigint), '[]') FROM gone
        JOIN pg_namespace n ON n.nspname = gone.schema
        JOIN pg_class c ON c.relnamespace = n.oid JOIN managed p ON p.parent = c.oid
        WHERE EXISTS (SELECT FROM jsonb_array_elements(p.keys -> 'keys') AS k WHERE k ->> 'name' = gone.name)))::text";

pub enum After {
    Change,
    Drop,
}

/// After a command that was not refused.
pub fn keep_up(after: After) -> Result<()> {
    if hand() == Hand::Ours {
        return Ok(());
    }
    let query = match after {
        After::Change => CHANGED,
        After::Drop => DROPPED,
    };
    let query = format!("WITH {MANAGED}, {query}");
    let Some(found) = role::as_extension_owner(|| sql::document::<Followed>(&query, &[]))? else { return Ok(()) };
    for partition in found.attached {
        partition::note_attached(Oid::from(partition))?;
    }
    found.roots.iter().try_for_each(|root| follow_keys(Oid::from(*root), &found.dropped))
}

/// The keys of the root as they are now, and those that it does not have: it cannot carry unique ones as long as there are
/// foreign leaves, and in a dump that is being restored they come later.
fn follow_keys(root: Oid, dropped: &[String]) -> Result<()> {
    let managed = ManagedParent::read(root)?;
    let Some(now) = TableDefinition::load(root)? else { return Ok(()) };
    let kept = &managed.catalog.extras.keys;
    let same = |one: &Key, other: &Key| one.definition == other.definition && one.constraint == other.constraint;
    let named = |keys: &[Key], name: &str| keys.iter().any(|key| key.name == name);
    let renamed = |live: &Key| kept.iter().find(|key| same(key, live) && !named(&now.keys, &key.name));
    let mut keys = Vec::new();
    for key in kept.iter().filter(|key| !named(&now.keys, &key.name)) {
        let is_gone = dropped.contains(&key.name) && !(key.unique && on_leaves(&managed, key)?);
        let has_new_name = now.keys.iter().any(|live| same(key, live) && !named(kept, &live.name));
        if !is_gone && !has_new_name {
            keys.push(key.clone());
        }
    }
    for live in &now.keys {
        keys.push(match kept.iter().find(|key| key.name == live.name).or_else(|| renamed(live)) {
            Some(before) if before.name == live.name && same(before, live) => before.clone(),
            // Marks of the leaves' indexes, which an index of a partitioned table cannot have.
            Some(before) => {
                Key { clustered: before.clustered, replica_identity: before.replica_identity, ..live.clone() }
            }
            None => live.clone(),
        });
    }
    parent::set_keys(root, &keys)
}

fn on_leaves(managed: &ManagedParent, key: &Key) -> Result<bool> {
    if managed.members.iter().any(|member| member.server.is_some()) {
        return Ok(true);
    }
    let Some(leaf) = managed.members.iter().find(|member| member.is_leaf()) else { return Ok(false) };
    let found = TableDefinition::load(leaf.oid())?;
    Ok(found.is_some_and(|found| found.keys.iter().any(|own| own.unique && own.columns == key.columns)))
}
