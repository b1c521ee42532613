//! Commands that dropped something managed, named or by `CASCADE`.

use super::by_hand_everywhere;
use crate::catalog::mirror::OWN_MIRRORS;
use crate::catalog::node::KNOWN_NODES;
use crate::catalog::parent::MANAGED;
use crate::catalog::partition::LABELLED;
use crate::error::{Report, Result};
use crate::name::{QualifiedName, ident, idents, literal};
use crate::pg::{role, sql};
use pgrx::PgSqlErrorCode as Code;
use serde::Deserialize;

/// Something of ours that is gone.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Gone {
    Parent {
        table: String,
        nodes: Vec<String>,
    },
    Partition {
        table: String,
        root: String,
        others: i64,
    },
    /// A column, constraint or index of a table that stays.
    Part {
        what: String,
        table: String,
        nodes: Vec<String>,
    },
    Node {
        node: String,
    },
    /// The foreign table that commands to the node go through.
    Channel {
        node: String,
    },
    Mapping {
        node: String,
        role: String,
        parent: QualifiedName,
    },
}

/// What an index belonged to is not told; but its name is in the catalog. Leaves that are stored here may have keys of their
/// own. Mirrors of a restored dump are another coordinator's.
const GONE: &str = "
    gone AS MATERIALIZED (
        SELECT o.classid, o.objid, o.objsubid, o.object_type, o.object_identity, o.address_names, o.address_args
        FROM pg_event_trigger_dropped_objects() AS o
    ),
    tables AS (SELECT objid, object_identity FROM gone WHERE classid = 'pg_class'::regclass AND objsubid = 0),
    partitions AS (
        SELECT t.object_identity, k.parent FROM tables t JOIN labelled k ON k.partition = t.objid
        WHERE k.parent NOT IN (SELECT objid FROM tables)
    ),
    parts AS (
        SELECT 'DROP COLUMN' AS what, objid AS relation FROM gone WHERE classid = 'pg_class'::regclass AND objsubid <> 0
        UNION
        SELECT 'DROP CONSTRAINT', to_regclass(format('%I.%I', address_names[1], address_names[2])) FROM gone
        WHERE object_type = 'table constraint'
        UNION
        SELECT 'DROP INDEX', p.parent FROM gone
        JOIN managed p ON p.parent NOT IN (SELECT objid FROM tables)
        JOIN pg_class c ON c.oid = p.parent JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE object_type = 'index' AND n.nspname = address_names[1]
          AND EXISTS (SELECT FROM jsonb_array_elements(p.keys -> 'keys') AS k WHERE k ->> 'name' = address_names[2])
    ),
    ours AS (
        SELECT m.parent, jsonb_agg(m.node ORDER BY m.node) AS nodes FROM own_mirrors m GROUP BY m.parent
    )
    SELECT gone::text FROM (
        SELECT 1 AS rank, json_build_object('kind', 'parent', 'table', t.object_identity, 'nodes', o.nodes) AS gone
        FROM tables t JOIN ours o ON o.parent = t.objid
        UNION ALL
        SELECT 2, json_build_object('kind', 'partition', 'table', min(object_identity), 'root', parent::regclass::text, 'others', count(*) - 1)
        FROM partitions GROUP BY parent
        UNION ALL
        SELECT 3, json_build_object('kind', 'part', 'what', x.what, 'table', x.relation::regclass::text, 'nodes', o.nodes)
        FROM parts x JOIN pg_class c ON c.oid = x.relation
        JOIN ours o ON o.parent = x.relation OR o.parent IN (SELECT pg_partition_ancestors(x.relation))
        WHERE x.relation NOT IN (SELECT objid FROM tables) AND NOT (c.relkind = 'r' AND c.relispartition)
        UNION ALL
        SELECT 4, json_build_object('kind', 'node', 'node', n.name) FROM gone JOIN known_nodes n ON n.name = address_names[1]
        WHERE object_type = 'server'
        UNION ALL
        SELECT 5, json_build_object('kind', 'channel', 'node', n.name) FROM gone JOIN known_nodes n ON n.name = address_names[2]
        WHERE object_type = 'foreign table' AND address_names[1] = 'shardkeeper_nodes'
        UNION ALL
        SELECT 6, json_build_object('kind', 'mapping', 'node', s.srvname, 'role', r.rolname,
            'parent', json_build_object('schema', pn.nspname, 'name', c.relname))
        FROM gone JOIN pg_foreign_server s ON s.srvname = address_args[1]
        JOIN own_mirrors m ON m.node = s.srvname
        JOIN pg_class c ON c.oid = m.parent JOIN pg_namespace pn ON pn.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner
        WHERE object_type = 'user mapping' AND address_names[1] IN (r.rolname, 'public')
          AND NOT EXISTS (SELECT FROM pg_user_mapping u WHERE u.umserver = s.oid AND u.umuser IN (0, c.relowner))
    ) AS found ORDER BY rank, gone::text";

pub fn judge_all() -> Result<()> {
    let query = format!("WITH {MANAGED}, {LABELLED}, {OWN_MIRRORS}, {KNOWN_NODES}, {GONE}");
    let gone = role::as_extension_owner(|| sql::documents::<Gone>(&query, &[]))?;
    gone.first().map_or(Ok(()), judge)
}

fn judge(gone: &Gone) -> Result<()> {
    let used = |message: String| Report::new(Code::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST, message);
    let report = match gone {
        Gone::Parent { table, nodes } => {
            used(format!("cannot drop managed table {table} because partitions of it are on other servers"))
                .detail(format!("They would stay on {}.", idents(nodes)))
                .hint(format!("Run SELECT shard_drop_parent({});", literal(table)))
        }
        Gone::Partition { table, root, others } => {
            let more = match others {
                0 => String::new(),
                others => format!(" So are {others} more."),
            };
            used(format!("cannot drop {table} because it belongs to managed table {root}"))
                .detail(format!("It is a partition with rows of its own, here or on a node.{more}"))
                .hint(format!(
                    "Run SELECT shard_drop_partition({}); or SELECT shard_drop_parent({}); for all of them, as partitions by hash go together.",
                    literal(table),
                    literal(root)
                ))
        }
        Gone::Part { what, table, nodes } => Report::new(
            Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("{what} on {table} does not reach nodes {}", idents(nodes)),
        )
        .detail("Servers would disagree on what the table is, and queries would return wrong rows or fail.")
        .hint(by_hand_everywhere(nodes)),
        Gone::Node { node } => used(format!("cannot drop server {} because it is a node", ident(node)))
            .hint(format!("Run SELECT shard_drain_node({0}); and SELECT shard_drop_node({0});", literal(node))),
        Gone::Channel { node } => used(format!("cannot drop shardkeeper_nodes.{} because {0} is a node", ident(node)))
            .detail("Commands to the node go through this table.")
            .hint(format!("Run SELECT shard_drop_node({});", literal(node))),
        Gone::Mapping { node, role, parent } => used(format!(
            "cannot drop the user mapping of {} because {parent} has partitions on {}",
            ident(role),
            ident(node)
        ))
        .detail(format!("{} owns it, and could not reach them any more.", ident(role)))
        .hint(format!(
            "To change it, run SELECT shard_grant_node({}, {}, username => …, password => …);",
            literal(node),
            literal(role)
        )),
    };
    report.into()
}
