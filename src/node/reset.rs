//! `shard_reset_node`: frees a node of what is ours there and no longer known here, as after a coordinator's database was
//! dropped and made again. What has rows stays unless that was asked for, and goes to the trash then.

use super::alter::{check_owner, leaves};
use super::channel::Channel;
use super::trash::KeepTime;
use crate::catalog::mirror::ALL_MIRRORS;
use crate::catalog::node::{is_known, unknown_node};
use crate::catalog::operation_look::NAMES_IN_USE;
use crate::error::{Report, Result};
use crate::name::{QualifiedName, ident, literal};
use crate::pg::{role, sql};
use pgrx::PgSqlErrorCode as Code;
use serde::Deserialize;
use serde_json::json;

/// What is to be freed.
pub struct Request<'a> {
    pub node: &'a str,
    /// Tables with rows, too.
    pub including_data: bool,
    /// Another coordinator that is gone for good, as shard_check names it.
    pub coordinator: Option<&'a str>,
}

/// One thing that was found on the node.
pub struct Item {
    pub object: String,
    /// What becomes of it, or why it stays.
    pub action: String,
    /// `None` where it stays.
    pub command: Option<String>,
    inverse: Option<String>,
}

#[derive(Deserialize)]
struct There {
    /// Those that left something.
    coordinators: Vec<Author>,
    roots: Vec<Root>,
    switches: Vec<String>,
    publications: Vec<String>,
    schemas: Vec<Schema>,
    slots: Vec<Slot>,
}

#[derive(Deserialize)]
struct Author {
    coordinator: String,
    /// Rows of the journal.
    pending: i64,
}

#[derive(Deserialize)]
struct Root {
    root: QualifiedName,
    coordinator: String,
    used: bool,
    rows: bool,
}

#[derive(Deserialize)]
struct Schema {
    name: String,
    tables: Vec<Table>,
}

#[derive(Deserialize)]
struct Table {
    table: QualifiedName,
    rows: bool,
}

#[derive(Deserialize)]
struct Slot {
    name: String,
    active: bool,
}

/// What this coordinator knows, and whom it may speak for.
#[derive(Deserialize)]
struct Here {
    /// Its signature.
    own: String,
    system: String,
    databases: Vec<i64>,
    mirrors: Vec<String>,
    staging: Vec<String>,
}

const HERE: &str = "SELECT pg_catalog.json_build_object('own', shardkeeper.coordinator(),
    'system', (SELECT system_identifier::text FROM pg_catalog.pg_control_system()),
    'databases', (SELECT pg_catalog.json_agg(oid::bigint) FROM pg_catalog.pg_database),
    'mirrors', coalesce((SELECT pg_catalog.json_agg(parent::text) FROM all_mirrors WHERE node = $1), '[]'),
    'staging', coalesce((SELECT pg_catalog.json_agg(name) FROM names_in_use), '[]'))::text";

/// `$1` is the names of parents, `$2` those of leaves on this node that a foreign table stands for: both are in use.
fn question(mirrors: &[String], leaves: &[String]) -> String {
    let known = literal(&json!(mirrors).to_string());
    let used = literal(&json!(leaves).to_string());
    format!(
        r"SELECT pg_catalog.json_build_object(
    'coordinators', coalesce((SELECT pg_catalog.json_agg(pg_catalog.json_build_object('coordinator', coordinator, 'pending', pending)) FROM (
        SELECT coordinator, sum(pending) AS pending FROM (
            SELECT coordinator, 1 AS pending FROM shardkeeper.journal WHERE role = current_user
            UNION ALL SELECT coordinator, 0 FROM shardkeeper.roots WHERE role = current_user) AS traces
        GROUP BY coordinator ORDER BY coordinator) AS authors), '[]'),
    'roots', coalesce((SELECT pg_catalog.json_agg(pg_catalog.json_build_object('root', name, 'coordinator', coordinator, 'rows', shardkeeper.has_rows(root),
            'used', root::text IN (SELECT pg_catalog.json_array_elements_text({known}))
                 OR EXISTS (SELECT FROM pg_catalog.pg_partition_tree(root) AS t
                            WHERE t.relid::text IN (SELECT pg_catalog.json_array_elements_text({used})))) ORDER BY root::text) FROM (
        SELECT r.root, r.coordinator, pg_catalog.json_build_object('schema', s.nspname, 'name', c.relname) AS name
        FROM shardkeeper.roots r JOIN pg_catalog.pg_class c ON c.oid = r.root JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace
        WHERE r.role = current_user AND c.relkind = 'p' AND c.relnamespace <> 'shardkeeper_trash'::regnamespace) AS found), '[]'),
    'switches', coalesce((SELECT pg_catalog.json_agg(staging ORDER BY staging) FROM shardkeeper.switches WHERE role = current_user), '[]'),
    'publications', coalesce((SELECT pg_catalog.json_agg(pubname ORDER BY pubname) FROM pg_catalog.pg_publication
        WHERE pubname ~ '{NAMES}' AND pg_catalog.pg_has_role(pubowner, 'USAGE')), '[]'),
    'schemas', coalesce((SELECT pg_catalog.json_agg(pg_catalog.json_build_object('name', nspname, 'tables', coalesce((
            SELECT pg_catalog.json_agg(pg_catalog.json_build_object('rows', shardkeeper.has_rows(c.oid),
                'table', pg_catalog.json_build_object('schema', nspname, 'name', c.relname)) ORDER BY c.relname)
            FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p') AND NOT c.relispartition
              AND c.relname <> 'shardkeeper_progress'), '[]')) ORDER BY nspname)
        FROM pg_catalog.pg_namespace n WHERE nspname ~ '{NAMES}' AND pg_catalog.pg_has_role(nspowner, 'USAGE')), '[]'),
    'slots', coalesce((SELECT pg_catalog.json_agg(pg_catalog.json_build_object('name', slot_name, 'active', active) ORDER BY slot_name)
        FROM pg_catalog.pg_replication_slots WHERE database = pg_catalog.current_database() AND slot_name ~ '{NAMES}'), '[]'))::text"
    )
}

/// What operations name things by: the end tells coordinators apart.
const NAMES: &str = "^shardkeeper_((op|old)_[0-9]+|back_[0-9a-z]+)_[0-9a-f]{6}$";

/// Everything of ours on the node that is not in use, in the order in which it goes; what stays comes first.
///
/// Errors: 42704 no such node; 42501 not its owner; 22023 a coordinator that is not gone.
pub fn plan(request: &Request<'_>) -> Result<Vec<Item>> {
    if !is_known(request.node)? {
        return unknown_node(request.node).into();
    }
    check_owner(request.node)?;
    let channel = Channel::open(request.node)?;
    let query = format!("WITH {ALL_MIRRORS}, {NAMES_IN_USE} {HERE}");
    let Some(here) = role::as_extension_owner(|| sql::document::<Here>(&query, &[request.node.into()]))? else {
        return Ok(Vec::new());
    };
    check_gone(&here, request.coordinator)?;
    let used: Vec<String> = leaves(request.node)?.iter().map(QualifiedName::to_string).collect();
    let Some(there) = channel.document::<There>(&question(&here.mirrors, &used))? else { return Ok(Vec::new()) };
    let gone = |coordinator: &str| here.is_gone(coordinator) || Some(coordinator) == request.coordinator;
    let mut authors: Vec<&str> = there.coordinators.iter().map(|author| author.coordinator.as_str()).collect();
    authors.extend([here.own.as_str()].into_iter().chain(request.coordinator));
    authors.retain(|author| *author == here.own || gone(author));
    let marks = marks(&authors)?;
    let is_left = |name: &str| {
        marks.iter().any(|mark| name.ends_with(mark.as_str()))
            && !here.staging.iter().any(|staging| name == staging || name == staging.replacen("_op_", "_old_", 1))
    };
    let mut items = Vec::new();
    for staging in there.switches.iter().filter(|staging| is_left(staging)) {
        let delete = format!("DELETE FROM shardkeeper.switches WHERE staging = {}", literal(staging));
        items.push(Item::goes(format!("write fence of {staging}"), "opened", delete, None));
    }
    for name in there.publications.iter().filter(|name| is_left(name)) {
        items.push(Item::goes(
            format!("publication {name}"),
            "dropped",
            format!("DROP PUBLICATION {}", ident(name)),
            None,
        ));
    }
    items.extend(there.schemas.iter().filter(|schema| is_left(&schema.name)).map(|schema| schema.item(request)));
    for root in there.roots.iter().filter(|root| !root.used) {
        if root.coordinator == here.own || gone(&root.coordinator) {
            items.push(discarded(&format!("table {}", root.root), &root.root, root.rows, request));
        } else {
            items.push(Item::stays(
                format!("table {}", root.root),
                format!("stays: coordinator {} made it", root.coordinator),
            ));
        }
    }
    for Author { coordinator, pending } in there.coordinators.iter().filter(|author| author.pending > 0) {
        if *coordinator != here.own && gone(coordinator) {
            let delete = format!(
                "DELETE FROM shardkeeper.journal WHERE coordinator = {} AND role = current_user",
                literal(coordinator)
            );
            items.push(Item::goes(
                format!("journal of coordinator {coordinator}: {pending}"),
                "forgotten",
                delete,
                None,
            ));
        }
    }
    // Last: they do not come back when the transaction is rolled back.
    for slot in there.slots.iter().filter(|slot| is_left(&slot.name)) {
        let object = format!("replication slot {}", slot.name);
        items.push(match slot.active {
            true => Item::stays(object, "stays: somebody reads it".into()),
            false => {
                let drop = format!("SELECT pg_catalog.pg_drop_replication_slot({})", literal(&slot.name));
                Item::goes(object, "dropped", drop, None)
            }
        });
    }
    items.sort_by_key(|item| item.command.is_some());
    Ok(items)
}

/// Runs the plan in the caller's transaction; returns how many objects went.
pub fn reset(request: &Request<'_>) -> Result<i64> {
    let items = plan(request)?;
    let channel = Channel::open(request.node)?;
    let mut freed = 0;
    for item in items {
        match (&item.command, &item.inverse) {
            (None, _) => pgrx::notice!("{} on node \"{}\" {}", item.object, request.node, item.action),
            (Some(command), Some(inverse)) => channel.run(command, inverse)?,
            (Some(command), None) => {
                channel.query(command)?;
            }
        }
        freed += i64::from(item.command.is_some());
    }
    crate::background::ensure_running()?;
    Ok(freed)
}

impl Here {
    /// A database of this same server that is not there any more.
    fn is_gone(&self, coordinator: &str) -> bool {
        coordinator.split_once('/').is_some_and(|(system, database)| {
            system == self.system && database.parse::<i64>().is_ok_and(|oid| !self.databases.contains(&oid))
        })
    }
}

fn check_gone(here: &Here, coordinator: Option<&str>) -> Result<()> {
    let Some(coordinator) = coordinator else { return Ok(()) };
    let wrong = |why: &str| -> Result<()> {
        Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, format!("coordinator {coordinator} {why}"))
            .hint("Name one that is gone for good, as shard_check names it: system identifier, slash, OID of the database.")
            .into()
    };
    match coordinator.split_once('/') {
        Some((system, database)) if system.parse::<u64>().is_ok() && database.parse::<u32>().is_ok() => {
            if system == here.system && !here.is_gone(coordinator) {
                return wrong("is a database of this server");
            }
            Ok(())
        }
        _ => wrong("is no coordinator's name"),
    }
}

/// The ends of the names that these coordinators give to what operations make.
fn marks(coordinators: &[&str]) -> Result<Vec<String>> {
    let coordinators: Vec<String> = coordinators.iter().map(ToString::to_string).collect();
    sql::column(
        "SELECT '_' || pg_catalog.left(pg_catalog.md5(c), 6) FROM pg_catalog.unnest($1::text[]) AS c",
        &[coordinators.into()],
    )
}

impl Item {
    fn goes(object: String, action: &str, command: String, inverse: Option<String>) -> Self {
        Self { object, action: action.into(), command: Some(command), inverse }
    }

    fn stays(object: String, action: String) -> Self {
        Self { object, action, command: None, inverse: None }
    }
}

/// An empty table needs no keeping.
fn discard(table: &QualifiedName, rows: bool) -> String {
    let keep = KeepTime::of(if rows { None } else { Some("0") });
    keep.discard(table)
}

fn restore(table: &QualifiedName) -> String {
    format!("SELECT shardkeeper.restore({}, {})", literal(&table.schema), literal(&table.name))
}

fn discarded(object: &str, table: &QualifiedName, rows: bool, request: &Request<'_>) -> Item {
    match (rows, request.including_data) {
        (true, false) => Item::stays(object.into(), HAS_ROWS.into()),
        (true, true) => {
            Item::goes(object.into(), "to the trash, with its rows", discard(table, rows), Some(restore(table)))
        }
        (false, _) => Item::goes(object.into(), "dropped, as it is empty", discard(table, rows), Some(restore(table))),
    }
}

const HAS_ROWS: &str = "stays, as it has rows: including_data => true takes it too";

impl Schema {
    fn item(&self, request: &Request<'_>) -> Item {
        let (object, name) = (format!("schema {}", self.name), ident(&self.name));
        if !request.including_data && self.tables.iter().any(|table| table.rows) {
            return Item::stays(object, HAS_ROWS.into());
        }
        let mut commands: Vec<String> = self.tables.iter().map(|item| discard(&item.table, item.rows)).collect();
        commands.push(format!("DROP SCHEMA {name} CASCADE"));
        let mut inverse = vec![format!("CREATE SCHEMA {name}")];
        inverse.extend(self.tables.iter().map(|item| restore(&item.table)));
        Item::goes(object, "dropped; its tables to the trash", commands.join(";\n"), Some(inverse.join(";\n")))
    }
}
