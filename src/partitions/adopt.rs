//! `shard_adopt_parent`: a tree that somebody built by hand, foreign partitions included, comes under management.
//!
//! Nothing is made anew: the spec is read from the tables, and on each node the mirror is built around the tables that are
//! there. Attaching them reads their rows, so none is in the wrong place afterwards.

mod mirror;

use self::mirror::Mirror;
use super::create::{extras, fit, plan_tree};
use super::grants;
use super::partition_ddl::Blueprint;
use crate::catalog::carried::Key;
use crate::catalog::node::KNOWN_NODES;
use crate::catalog::{parent, partition};
use crate::error::{Error, Report, Result};
use crate::hierarchy::managed_parent::ManagedParent;
use crate::hierarchy::partition_keys::PartitionKeys;
use crate::hierarchy::tree_tables::{self, TreeTable};
use crate::hierarchy::validate;
use crate::name::{QualifiedName, ident, literal};
use crate::node::channel::Channel;
use crate::pg::{parent_cache as cache, relation, role, sql};
use crate::table::definition::TableDefinition;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use serde::Deserialize;
use shardkeeper_core::plan::{Method, Partition, Tree, derive};
use std::collections::HashMap;

pub fn adopt(oid: Oid) -> Result<()> {
    let Some(table) = TableDefinition::load(oid)? else { return parent::not_managed(oid) };
    fit(oid, &table)?;
    if table.kind != 'p' {
        return Report::new(Code::ERRCODE_WRONG_OBJECT_TYPE, format!("{} is not partitioned", table.name))
            .hint("Make it a parent with SELECT shard_create_parent(…).")
            .into();
    }
    relation::lock_against_changes(oid);
    let Some(mut table) = TableDefinition::load(oid)? else { return parent::not_managed(oid) };
    let members = tree_tables::load(oid)?;
    let facts = facts(oid)?;
    check(&table, &members, &facts)?;
    let tree = grown(&members, &facts, oid)?;
    let derived = derive(&tree, &table.name.name).map_err(Error::from)?;
    let keys = PartitionKeys::resolve(&derived.level, &table)?;
    let foreign: Vec<&TreeTable> = members.iter().filter(|member| member.server.is_some()).collect();
    if !foreign.is_empty() {
        validate::fit_for_nodes(&table)?;
        validate::warn_of_unchecked_policies(&table);
        // Here before on the nodes: who uses them through this server holds locks on both sides.
        foreign.iter().for_each(|leaf| relation::lock_exclusive(leaf.oid()));
        let common = named_as_before(&table, &foreign, common_keys(&table, &members, &keys)?)?;
        table.keys.extend(common);
    }
    say_names(&members, &facts)?;
    validate::unique_keys(&table, &keys)?;
    same_keys(&table, &keys, &tree, &members, oid)?;
    let plan = plan_tree(&derived.level, &table, &keys)?;
    let labels: Vec<(String, String)> = derived.labels.into_iter().collect();
    parent::insert(oid, derived.level.to_json(), &extras(&table), &plan.dealt)?;
    partition::add(oid, &table.name.schema, &labels)?;
    cache::forget_everywhere(oid);
    let managed = ManagedParent::read(oid)?;
    let nodes = tree_tables::nodes(&members);
    for node in &nodes {
        Mirror { managed: &managed, keys: &keys, node }.make()?;
    }
    grants::warn_of_owner_without_way(oid, &nodes)?;
    crate::background::ensure_running()
}

/// What of a partition is neither its bound nor its name.
#[derive(Deserialize)]
struct Facts {
    oid: u32,
    kind: char,
    owner: String,
    /// The key of a partitioned table, entry by entry; `null` if more than one is an expression.
    key: Option<Vec<String>>,
    /// Of a foreign table: the table it stands for, and whether its server is a node.
    remote_schema: Option<String>,
    remote_name: Option<String>,
    renamed_columns: bool,
    server: Option<String>,
    is_node: bool,
}

const FACTS: &str = "
    SELECT pg_catalog.json_build_object('oid', c.oid::bigint, 'kind', c.relkind, 'owner', pg_catalog.pg_get_userbyid(c.relowner),
        'key', CASE WHEN p.partrelid IS NULL OR (SELECT count(*) FROM pg_catalog.unnest(p.partattrs::int2[]) AS a WHERE a = 0) < 2 THEN (
            SELECT pg_catalog.json_agg(CASE WHEN k.number = 0 THEN pg_catalog.pg_get_expr(p.partexprs, p.partrelid) ELSE a.attname::text END ORDER BY k.at)
            FROM pg_catalog.unnest(p.partattrs::int2[]) WITH ORDINALITY AS k (number, at)
            LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number) END,
        'remote_schema', (SELECT option_value FROM pg_catalog.pg_options_to_table(f.ftoptions) WHERE option_name = 'schema_name'),
        'remote_name', (SELECT option_value FROM pg_catalog.pg_options_to_table(f.ftoptions) WHERE option_name = 'table_name'),
        'renamed_columns', EXISTS (SELECT FROM pg_catalog.pg_attribute a, pg_catalog.pg_options_to_table(a.attfdwoptions) AS o
                                   WHERE a.attrelid = c.oid AND o.option_name = 'column_name' AND o.option_value <> a.attname),
        'server', s.srvname, 'is_node', EXISTS (SELECT FROM known_nodes n WHERE n.name = s.srvname))::text
    FROM pg_catalog.pg_partition_tree($1) AS t JOIN pg_catalog.pg_class c ON c.oid = t.relid
    LEFT JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = c.oid
    LEFT JOIN pg_catalog.pg_foreign_table f ON f.ftrelid = c.oid LEFT JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver";

fn facts(root: Oid) -> Result<HashMap<u32, Facts>> {
    let query = format!("WITH {KNOWN_NODES} {FACTS}");
    let found: Vec<Facts> = role::as_extension_owner(|| sql::documents(&query, &[root.into()]))?;
    Ok(found.into_iter().map(|facts| (facts.oid, facts)).collect())
}

/// Each table is one that we could have made.
fn check(table: &TableDefinition, members: &[TreeTable], facts: &HashMap<u32, Facts>) -> Result<()> {
    for member in members {
        let Some(found) = facts.get(&member.oid().to_u32()) else { return parent::not_managed(member.oid()) };
        let name = &member.name;
        let wrong = |code, message: String, detail: String, hint: String| -> Result<()> {
            Report::new(code, message).detail(detail).hint(hint).into()
        };
        let state = Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
        let kind = if found.kind == 'f' { "FOREIGN TABLE" } else { "TABLE" };
        if name.schema != table.name.schema {
            return wrong(
                state,
                format!("partition {name} is in another schema than its parent"),
                format!("The parent is {}.", table.name),
                format!("ALTER {kind} {name} SET SCHEMA {};", ident(&table.name.schema)),
            );
        }
        if found.owner != table.owner {
            return wrong(
                state,
                format!("partition {name} belongs to another role than its parent"),
                format!("It belongs to {}, the parent to {}.", ident(&found.owner), ident(&table.owner)),
                format!("ALTER {kind} {name} OWNER TO {};", ident(&table.owner)),
            );
        }
        let Some(server) = &found.server else { continue };
        let server = ident(server);
        if !found.is_node {
            return wrong(
                Code::ERRCODE_UNDEFINED_OBJECT,
                format!("partition {name} is on the server {server}, which is no node"),
                "A node is a server that shard_add_node has made.".into(),
                format!(
                    "Add it as a node with SELECT shard_add_node(name, host => …); then make the foreign table anew with SERVER and the node's name, in the place of {name}."
                ),
            );
        }
        let there = QualifiedName::new(
            found.remote_schema.clone().unwrap_or_else(|| name.schema.clone()),
            found.remote_name.clone().unwrap_or_else(|| name.name.clone()),
        );
        if there != *name {
            return wrong(
                state,
                format!("partition {name} has another name on node {server}"),
                format!("There it is {there}."),
                rename(&there, name, found),
            );
        }
        if found.renamed_columns {
            return wrong(
                state,
                format!("partition {name} has columns of other names on node {server}"),
                "Its foreign table has the option column_name.".into(),
                format!(
                    "On the node, run ALTER TABLE {there} RENAME COLUMN …; here, ALTER FOREIGN TABLE {name} ALTER COLUMN … OPTIONS (DROP column_name);"
                ),
            );
        }
    }
    Ok(())
}

/// Foreign tables say by options what they stand for, as ours do: when a leaf moves, these change with it.
fn say_names(members: &[TreeTable], facts: &HashMap<u32, Facts>) -> Result<()> {
    for member in members.iter().filter(|member| member.server.is_some()) {
        let Some(found) = facts.get(&member.oid().to_u32()) else { continue };
        let name = &member.name;
        let option = |option: &str, said: &Option<String>, is: &str| {
            said.is_none().then(|| format!("ADD {option} {}", literal(is)))
        };
        let options = [
            option("schema_name", &found.remote_schema, &name.schema),
            option("table_name", &found.remote_name, &name.name),
        ];
        let options = options.into_iter().flatten().collect::<Vec<_>>().join(", ");
        if !options.is_empty() {
            sql::run_quietly(&format!("ALTER FOREIGN TABLE {name} OPTIONS ({options})"))?;
        }
    }
    Ok(())
}

/// The commands that give both sides one name.
fn rename(there: &QualifiedName, here: &QualifiedName, found: &Facts) -> String {
    let mut remote = Vec::new();
    if there.name != here.name {
        remote.push(format!("ALTER TABLE {there} RENAME TO {};", ident(&here.name)));
    }
    if there.schema != here.schema {
        remote.push(format!("ALTER TABLE {} SET SCHEMA {};", there.sibling(here.name.clone()), ident(&here.schema)));
    }
    let option =
        |name: &str, was: &Option<String>, is: &str| was.as_ref().map(|_| format!("SET {name} {}", literal(is)));
    let options = [
        option("schema_name", &found.remote_schema, &here.schema),
        option("table_name", &found.remote_name, &here.name),
    ];
    let options = options.into_iter().flatten().collect::<Vec<_>>().join(", ");
    format!("On the node, run {} Here, run ALTER FOREIGN TABLE {here} OPTIONS ({options});", remote.join(" "))
}

/// The partitions below `above` as a plan has them.
fn grown(members: &[TreeTable], facts: &HashMap<u32, Facts>, above: Oid) -> Result<Tree> {
    let Some(table) = members.iter().find(|member| member.oid() == above) else { return parent::not_managed(above) };
    let Some(key) = facts.get(&above.to_u32()).and_then(|found| found.key.clone()) else {
        return Report::new(
            Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("the partition key of {} has several expressions", table.name),
        )
        .detail(format!("It is {}.", table.key.as_deref().unwrap_or_default()))
        .into();
    };
    let method = match table.key.as_deref().and_then(|key| key.split(' ').next()) {
        Some("HASH") => Method::Hash,
        Some("LIST") => Method::List,
        _ => Method::Range,
    };
    let mut partitions = Vec::new();
    for member in members.iter().filter(|member| member.parent() == Some(above)) {
        let Some(bound) = member.bound()? else { return parent::not_managed(member.oid()) };
        let sub = if member.is_leaf() { None } else { Some(grown(members, facts, member.oid())?) };
        partitions.push(Partition {
            name: member.name.name.clone(),
            label: String::new(),
            bound,
            node: member.is_leaf().then(|| member.node().to_string()),
            deal: String::new(),
            sub,
            path: String::new(),
        });
    }
    Ok(Tree { method, key, partitions })
}

/// What we would write in `PARTITION BY` is what is written there: no other collation or operator class.
fn same_keys(table: &TableDefinition, keys: &PartitionKeys, tree: &Tree, members: &[TreeTable], at: Oid) -> Result<()> {
    let blueprint = Blueprint { table, keys, mixed: false };
    let Some(member) = members.iter().find(|member| member.oid() == at) else { return parent::not_managed(at) };
    let wanted = blueprint.partition_by(tree).replacen("PARTITION BY ", "", 1);
    let is = member.key.clone().unwrap_or_default();
    if is != wanted {
        return Report::new(
            Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("the partition key of {} is not one that a spec can say", member.name),
        )
        .detail(format!("It is {is}, a spec would make {wanted}."))
        .hint("Collations and operator classes of keys are those of their columns.")
        .into();
    }
    for (partition, sub) in tree.partitions.iter().filter_map(|partition| Some((partition, partition.sub.as_ref()?))) {
        let found = members.iter().find(|member| member.parent() == Some(at) && member.name.name == partition.name);
        if let Some(found) = found {
            same_keys(table, keys, sub, members, found.oid())?;
        }
    }
    Ok(())
}

/// Unique keys that every leaf has: with foreign leaves the parent cannot have them, and so nobody can have put them there.
fn common_keys(table: &TableDefinition, members: &[TreeTable], keys: &PartitionKeys) -> Result<Vec<Key>> {
    let mut common: Option<Vec<Key>> = None;
    let partition_key: Vec<String> =
        keys.columns().map(|column| column.map(str::to_string).unwrap_or_default()).collect();
    for leaf in members.iter().filter(|member| member.is_leaf()) {
        let found = match &leaf.server {
            None => TableDefinition::load(leaf.oid())?,
            Some(node) => Channel::open(node)?.document::<TableDefinition>(&TableDefinition::question(&leaf.name))?,
        };
        let Some(found) = found else { return not_there(leaf) };
        let fits =
            |key: &Key| key.unique && key.valid && partition_key.iter().all(|column| key.columns.contains(column));
        let found: Vec<Key> = found.keys.into_iter().filter(fits).collect();
        common = Some(match common {
            None => found,
            Some(before) => before.into_iter().filter(|key| found.iter().any(|other| is_same(key, other))).collect(),
        });
    }
    let root = &table.name.name;
    let mut common = common.unwrap_or_default();
    for key in &mut common {
        let name = if key.primary { format!("{root}_pkey") } else { format!("{root}_{}_key", key.columns.join("_")) };
        key.name = shorten(name);
        key.tablespace = None;
        key.clustered = false;
        key.replica_identity = false;
    }
    Ok(common)
}

/// Where a released parent left its mirrors, its keys are there under their own names.
fn named_as_before(table: &TableDefinition, foreign: &[&TreeTable], mut keys: Vec<Key>) -> Result<Vec<Key>> {
    let Some(leaf) = foreign.first() else { return Ok(keys) };
    let question = TableDefinition::question(&table.name);
    let before = Channel::open(leaf.node())?.document::<Option<TableDefinition>>(&question)?.flatten();
    for key in &mut keys {
        let known = before.iter().filter(|root| root.kind == 'p').flat_map(|root| &root.keys);
        if let Some(known) = known.into_iter().find(|known| is_same(known, key)) {
            key.name.clone_from(&known.name);
        }
    }
    Ok(keys)
}

fn shorten(mut name: String) -> String {
    while name.len() > 63 {
        name.pop();
    }
    name
}

fn is_same(one: &Key, other: &Key) -> bool {
    one.primary == other.primary && one.constraint == other.constraint && one.definition == other.definition
}

fn not_there<T>(leaf: &TreeTable) -> Result<T> {
    Report::new(
        Code::ERRCODE_UNDEFINED_TABLE,
        format!("partition {} does not exist on node {}", leaf.name, ident(leaf.node())),
    )
    .hint("Make the table there, or detach the partition and drop it.")
    .into()
}
