//! What users did to hierarchies by hand: partitions that are missing, rows that publications
//! miss, and triggers that cannot work.

use crate::catalog::mirror;
use crate::catalog::parent::MANAGED;
use crate::catalog::partition::LABELLED;
use crate::error::Result;
use crate::hierarchy::validate::INSTEAD_OF_TRANSITION;
use crate::name::{QualifiedName, ident, idents, literal};
use crate::node::finding::Row;
use crate::node::finding::{Finding, Severity};
use crate::node::session::{self, ConnectionParams, Session, Timeouts};
use crate::pg::{role, sql};
use crate::schema::come_back::{self, Lost};
use crate::table::definition::TableDefinition;
use crate::table::publications;
use pgrx::pg_sys::Oid;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Gap {
    /// In the catalog, and in the hierarchy no more. Where it was, if it was detached while somebody looked.
    Detached {
        table: QualifiedName,
        above: Option<QualifiedName>,
        bounds: Option<String>,
    },
    /// Keys of one remainder have no partition.
    Remainder {
        root: QualifiedName,
        above: QualifiedName,
        modulus: i64,
        remainder: i64,
    },
    Transition {
        table: QualifiedName,
        trigger: String,
    },
    /// A parent with partitions on nodes.
    OnNodes {
        oid: u32,
        table: QualifiedName,
        nodes: Vec<String>,
    },
}

/// Hash partitions of different moduli may stand side by side: of the largest, each remainder has to be covered by one.
const GAPS: &str = "
    trees AS (
        SELECT p.parent, t.relid FROM managed p CROSS JOIN LATERAL pg_partition_tree(p.parent) AS t
        WHERE $1 IS NULL OR p.parent = $1
    ),
    hashed AS (
        SELECT t.parent, i.inhparent AS above, m[1]::bigint AS modulus, m[2]::bigint AS remainder
        FROM trees t JOIN pg_inherits i ON i.inhrelid = t.relid AND t.relid <> t.parent JOIN pg_class c ON c.oid = t.relid
        CROSS JOIN LATERAL regexp_match(pg_get_expr(c.relpartbound, c.oid), '^FOR VALUES WITH \\(modulus (\\d+), remainder (\\d+)\\)', 'i') AS m
        WHERE m IS NOT NULL AND NOT i.inhdetachpending
    ),
    levels AS (SELECT parent, above, max(modulus) AS modulus FROM hashed GROUP BY parent, above),
    empty AS (
        SELECT l.parent, l.above, l.modulus, r AS remainder FROM levels l CROSS JOIN LATERAL generate_series(0, l.modulus - 1) AS r
        WHERE NOT EXISTS (SELECT FROM hashed h WHERE h.above = l.above AND r % h.modulus = h.remainder)
    ),
    named AS (SELECT c.oid, json_build_object('schema', n.nspname, 'name', c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace)
    SELECT gap::text FROM (
        SELECT 1 AS rank, json_build_object('kind', 'detached', 'table', c.name,
            'above', (SELECT name FROM named WHERE oid = k.above), 'bounds', k.bounds) AS gap
        FROM labelled k JOIN named c ON c.oid = k.partition
        WHERE ($1 IS NULL OR k.parent = $1)
          AND NOT EXISTS (SELECT FROM pg_partition_ancestors(k.partition) AS a WHERE a = k.parent)
          -- With what is above it, it comes back.
          AND NOT EXISTS (SELECT FROM pg_inherits i JOIN labelled u ON u.partition = i.inhparent WHERE i.inhrelid = k.partition)
        UNION ALL
        SELECT 2, json_build_object('kind', 'remainder', 'root', r.name, 'above', a.name, 'modulus', e.modulus, 'remainder', e.remainder)
        FROM empty e JOIN named a ON a.oid = e.above JOIN named r ON r.oid = e.parent
        -- That of a partition which is told of above comes back with it.
        WHERE NOT EXISTS (SELECT FROM labelled k WHERE k.above = e.above
                          AND lower(k.bounds) = format('for values with (modulus %s, remainder %s)', e.modulus, e.remainder))
        UNION ALL
        SELECT 3, json_build_object('kind', 'transition', 'table', c.name, 'trigger', g.tgname)
        FROM trees t JOIN pg_trigger g ON g.tgrelid = t.relid AND NOT g.tgisinternal JOIN named c ON c.oid = t.relid
        JOIN pg_class k ON k.oid = t.relid AND k.relkind = 'p'
        WHERE (g.tgoldtable IS NOT NULL OR g.tgnewtable IS NOT NULL)
          AND EXISTS (SELECT FROM pg_partition_tree(t.relid) AS below JOIN pg_foreign_table f ON f.ftrelid = below.relid)
        UNION ALL
        SELECT 4, json_build_object('kind', 'on_nodes', 'oid', t.parent::oid::bigint, 'table', min(c.name::text)::json,
            'nodes', json_agg(DISTINCT s.srvname ORDER BY s.srvname))
        FROM trees t JOIN named c ON c.oid = t.parent
        JOIN pg_foreign_table f ON f.ftrelid = t.relid JOIN pg_foreign_server s ON s.oid = f.ftserver
        GROUP BY t.parent
    ) AS found ORDER BY rank, gap::text";

pub fn check(parent: Option<Oid>) -> Result<Vec<Row>> {
    let query = format!("WITH {MANAGED}, {LABELLED}, {GAPS}");
    let gaps = role::as_extension_owner(|| sql::documents::<Gap>(&query, &[parent.into()]))?;
    let mut rows = Vec::new();
    for gap in &gaps {
        rows.extend(row(gap)?);
    }
    Ok(rows)
}

fn row(gap: &Gap) -> Result<Option<Row>> {
    let told = |object: &QualifiedName, severity, text: String, hint: &str| {
        Row::new("hierarchy", Some(&object.to_string()), None, Finding::new(severity, text, Some(hint)))
    };
    Ok(Some(match gap {
        Gap::Detached { table, above, bounds } => {
            let text = "was detached by hand: its rows are missing from the parent";
            let hint = match (above, bounds) {
                (Some(above), Some(bounds)) => format!(
                    "Run SET shardkeeper.allow_manual_ddl = on; ALTER TABLE {above} ATTACH PARTITION {table} {bounds};"
                ),
                _ => format!(
                    "Attach it with the bounds that it had: SET shardkeeper.allow_manual_ddl = on; ALTER TABLE … ATTACH PARTITION {table} FOR VALUES …;"
                ),
            };
            told(table, Severity::Error, text.to_string(), &hint)
        }
        Gap::Remainder { root, above, modulus, remainder } => {
            let text = format!(
                "has no partition for remainder {remainder} of {modulus}: rows of it are missing, and inserts fail"
            );
            told(above, Severity::Error, text, &bring_back(root, above, *modulus, *remainder)?)
        }
        Gap::Transition { table, trigger } => {
            let text = format!("trigger {} uses a transition table: inserts that reach nodes fail", ident(trigger));
            told(table, Severity::Error, text, INSTEAD_OF_TRANSITION)
        }
        Gap::OnNodes { oid, table, nodes } => {
            let publications = publications::of(Oid::from(*oid))?;
            if publications.is_empty() {
                return Ok(None);
            }
            let text = format!("rows on {} are not in publication {}", idents(nodes), idents(&publications));
            let hint = format!(
                "Run CREATE PUBLICATION … FOR TABLE {table}; on these nodes, and subscribe to each; or move its partitions to local."
            );
            told(table, Severity::Warning, text, &hint)
        }
    }))
}

/// A node may still have the partition, with its rows: then a foreign table for it is all that is missing.
fn bring_back(root: &QualifiedName, above: &QualifiedName, modulus: i64, remainder: i64) -> Result<String> {
    for node in mirror::nodes_of_named(root)? {
        if let Some(found) = on_node(&node, above, modulus, remainder)? {
            let bound = format!("FOR VALUES WITH (MODULUS {modulus}, REMAINDER {remainder})");
            let lost = Lost { name: &found, above, bound: &bound, key: None };
            if let Some(root) = described(root)? {
                return Ok(format!("Run {}", come_back::commands(&root, &[lost], &node)?));
            }
        }
    }
    let bounds = format!("{{\"modulus\": {modulus}, \"remainder\": {remainder}}}");
    Ok(format!(
        "Run SELECT shard_add_partition({}, {}); it comes back empty.",
        literal(&above.to_string()),
        literal(&bounds)
    ))
}

fn described(root: &QualifiedName) -> Result<Option<TableDefinition>> {
    let oid = sql::one::<Oid>("SELECT pg_catalog.to_regclass($1)::oid", &[root.to_string().into()])?;
    oid.map_or(Ok(None), TableDefinition::load)
}

/// The node's partition with these bounds. What a node that does not answer has is told by other findings.
fn on_node(node: &str, above: &QualifiedName, modulus: i64, remainder: i64) -> Result<Option<QualifiedName>> {
    let query = format!(
        "SELECT json_build_object('schema', n.nspname, 'name', c.relname)::text
         FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE i.inhparent = to_regclass({}) AND lower(pg_get_expr(c.relpartbound, c.oid)) = 'for values with (modulus {modulus}, remainder {remainder})'",
        literal(&above.to_string())
    );
    let Ok(target) = ConnectionParams::of(node, role::current()) else { return Ok(None) };
    let found = session::wait(async {
        let mut session = Session::open(&target, Timeouts::SHORT.named("shardkeeper check")).await?;
        session.document::<QualifiedName>(&query, &[]).await
    });
    Ok(found.ok().flatten())
}
