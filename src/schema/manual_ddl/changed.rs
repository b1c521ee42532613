//! Commands that changed something managed.

use super::by_hand_everywhere;
use crate::catalog::mirror::OWN_MIRRORS;
use crate::catalog::parent::MANAGED;
use crate::catalog::partition::LABELLED;
use crate::error::{Report, Result};
use crate::hierarchy::validate::INSTEAD_OF_TRANSITION;
use crate::name::{QualifiedName, idents, literal};
use crate::pg::{role, sql};
use pgrx::PgSqlErrorCode as Code;
use serde::Deserialize;

/// One change of a table of a managed hierarchy.
#[derive(Debug, Deserialize)]
struct Change {
    words: String,
    concern: Concern,
    /// The table, its root and, of a change that is about one, the partition.
    table: QualifiedName,
    root: QualifiedName,
    partition: Option<QualifiedName>,
    /// The partition is out by this command, and the catalog has it.
    is_known: bool,
    /// A leaf that is stored here.
    is_local_leaf: bool,
    /// The column whose name changed is in a key that the catalog has in words.
    is_key: bool,
    nodes: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Concern {
    Shape,
    Column,
    Name,
    Schema,
    Attach,
    Detach,
    Transition,
}

/// Each changed object leads to its tables: a type, an extension by its types, or a collation to those that use it in a column,
/// whatever lies between, a schema to the parents in it. A restored dump's mirrors are another coordinator's: nothing there is
/// changed from here.
const CHANGES: &str = "
    said AS (
        SELECT d.classid, d.objid, d.objsubid, p.partition, p.before, p.words,
            -- A type has a schema, too.
            CASE WHEN p.concern = 'schema' AND d.classid <> 'pg_class'::regclass THEN 'shape' ELSE p.concern END AS concern
        FROM pg_event_trigger_ddl_commands() AS d CROSS JOIN LATERAL shardkeeper.ddl_parts(d.command) AS p
        WHERE NOT d.in_extension
    ),
    types (of, type) AS (
        (SELECT objid, CASE classid WHEN 'pg_type'::regclass THEN objid ELSE (SELECT reltype FROM pg_class WHERE oid = objid AND relkind = 'c') END
         FROM said WHERE classid IN ('pg_type'::regclass, 'pg_class'::regclass)
         UNION SELECT said.objid, d.objid FROM said JOIN pg_depend d ON d.refclassid = said.classid AND d.refobjid = said.objid AND d.deptype = 'e'
         WHERE said.classid = 'pg_extension'::regclass AND d.classid = 'pg_type'::regclass)
        UNION
        SELECT types.of, above.type FROM types CROSS JOIN LATERAL (
            SELECT oid FROM pg_type t WHERE (typbasetype = types.type OR typelem = types.type) AND types.type <> 0
            UNION ALL SELECT t.oid FROM pg_range r JOIN pg_type t ON t.oid IN (r.rngtypid, r.rngmultitypid) WHERE r.rngsubtype = types.type
            UNION ALL SELECT c.reltype FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'c'
                WHERE a.atttypid = types.type AND NOT a.attisdropped
        ) AS above (type)
    ),
    touched AS (
        SELECT s.*, t.relation FROM said s CROSS JOIN LATERAL (
            SELECT coalesce((SELECT indrelid FROM pg_index WHERE indexrelid = s.objid), s.objid) WHERE s.classid = 'pg_class'::regclass
            UNION SELECT conrelid FROM pg_constraint WHERE s.classid = 'pg_constraint'::regclass AND oid = s.objid
            UNION SELECT tgrelid FROM pg_trigger WHERE s.classid = 'pg_trigger'::regclass AND oid = s.objid
            UNION SELECT a.attrelid FROM types JOIN pg_attribute a ON a.atttypid = types.type AND NOT a.attisdropped
                JOIN managed m ON m.parent = a.attrelid WHERE types.of = s.objid AND types.type <> 0
            UNION SELECT a.attrelid FROM pg_attribute a JOIN managed m ON m.parent = a.attrelid
                WHERE s.classid = 'pg_collation'::regclass AND a.attcollation = s.objid AND NOT a.attisdropped
            UNION SELECT c.oid FROM pg_class c JOIN managed m ON m.parent = c.oid
                WHERE s.classid = 'pg_namespace'::regclass AND c.relnamespace = s.objid
        ) AS t (relation)
    )
    SELECT json_build_object('words', t.words, 'concern', t.concern,
        -- As they were called before the command, and are when it is undone.
        'table', json_build_object('schema', CASE WHEN o.of_schema THEN t.before ELSE n.nspname END, 'name', CASE WHEN o.of_table THEN t.before ELSE c.relname END),
        'root', json_build_object('schema', CASE WHEN o.of_schema AND (r.oid = c.oid OR t.concern = 'name') THEN t.before ELSE rn.nspname END,
                                  'name', CASE WHEN o.of_table AND r.oid = c.oid THEN t.before ELSE r.relname END),
        'partition', (SELECT json_build_object('schema', pn.nspname, 'name', pc.relname)
                      FROM pg_class pc JOIN pg_namespace pn ON pn.oid = pc.relnamespace WHERE pc.oid = coalesce(d.partition, t.partition)),
        'is_known', d.partition IS NOT NULL,
        'is_local_leaf', c.relkind = 'r' AND c.relispartition,
        'is_key', t.concern = 'column' AND (EXISTS (
            SELECT FROM pg_attribute a, pg_partition_tree(p.parent) AS tree
            JOIN pg_attribute b ON b.attrelid = tree.relid
            JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = tree.relid AND d.objsubid = b.attnum
                AND d.refclassid = 'pg_class'::regclass AND d.refobjid = tree.relid AND d.refobjsubid = 0 AND d.deptype = 'i'
            WHERE a.attrelid = t.relation AND a.attnum = t.objsubid AND b.attname = a.attname)
            OR EXISTS (
            SELECT FROM jsonb_array_elements(p.keys -> 'keys') AS k, jsonb_array_elements_text(k -> 'columns') AS name
            WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = p.parent AND a.attname = name)
              AND NOT EXISTS (SELECT FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = p.parent AND i.relname = k ->> 'name'))),
        'nodes', ARRAY(SELECT m.node FROM own_mirrors m WHERE m.parent = p.parent ORDER BY m.node))::text
    FROM touched t JOIN pg_class c ON c.oid = t.relation JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN managed p ON p.parent = t.relation OR p.parent IN (SELECT pg_partition_ancestors(t.relation))
    JOIN pg_class r ON r.oid = p.parent JOIN pg_namespace rn ON rn.oid = r.relnamespace
    CROSS JOIN LATERAL (
        SELECT t.before IS NOT NULL AND (t.concern = 'schema' OR t.concern = 'name' AND t.classid = 'pg_namespace'::regclass) AS of_schema,
               t.before IS NOT NULL AND t.concern = 'name' AND t.classid = 'pg_class'::regclass AS of_table
    ) AS o
    -- The partition that is out since this command: its topmost table.
    LEFT JOIN LATERAL (
        SELECT k.partition FROM labelled k JOIN pg_class kc ON kc.oid = k.partition
        WHERE t.concern = 'detach' AND k.parent = p.parent AND k.above IS NULL
          AND NOT EXISTS (SELECT FROM pg_partition_ancestors(k.partition) AS a WHERE a = k.parent)
        ORDER BY kc.relispartition LIMIT 1
    ) AS d ON true";

pub fn judge_all() -> Result<()> {
    let query = format!("WITH RECURSIVE {MANAGED}, {LABELLED}, {OWN_MIRRORS}, {CHANGES}");
    let changes = role::as_extension_owner(|| sql::documents::<Change>(&query, &[]))?;
    changes.iter().try_for_each(judge)
}

fn judge(change: &Change) -> Result<()> {
    match change.concern {
        Concern::Attach => attached(change),
        Concern::Detach if change.is_known => detached(change),
        Concern::Schema => moved(change),
        Concern::Column if change.nodes.is_empty() && change.is_key => renamed_key(change),
        _ if change.nodes.is_empty() => Ok(()),
        Concern::Shape | Concern::Column if change.is_local_leaf => Ok(()),
        Concern::Shape | Concern::Column => reshaped(change),
        Concern::Name => renamed(change),
        Concern::Transition => transition(change),
        Concern::Detach => Ok(()),
    }
}

fn attached(change: &Change) -> Result<()> {
    // By ATTACH, Postgres 15 does not tell which.
    let other = change.partition.as_ref().filter(|partition| **partition != change.table);
    let partition = other.map_or("a table".to_string(), ToString::to_string);
    Report::new(
        Code::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("{partition} cannot become a partition of managed table {} by {}", change.root, change.words),
    )
    .detail("No node would know it, and default partitions would still take its rows.")
    .hint(format!(
        "Add its bounds with SELECT shard_add_partition({}, …); and insert its rows there.",
        literal(&change.root.to_string())
    ))
    .into()
}

fn detached(change: &Change) -> Result<()> {
    let partition = change.partition.as_ref().unwrap_or(&change.table);
    Report::new(
        Code::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
        format!("cannot detach {partition} because it belongs to managed table {}", change.root),
    )
    .detail("Its rows would be missing, and its server would not know.")
    .hint(format!("Run SELECT shard_detach_partition({});", literal(&partition.to_string())))
    .into()
}

fn moved(change: &Change) -> Result<()> {
    let all = literal(&change.root.to_string());
    Report::new(
        Code::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("cannot set the schema of {} because it is managed", change.table),
    )
    .detail("All tables of a hierarchy are in one schema, on all servers.")
    .hint(match change.nodes.is_empty() {
        true => format!(
            "Run SELECT shard_release_parent({all}); move all its tables, and take it back with shard_adopt_parent."
        ),
        false => to_local(change),
    })
    .into()
}

fn to_local(change: &Change) -> String {
    format!(
        "Bring its partitions here first, with SELECT shard_rebalance({}, nodes => '{{local}}'); and share them out again afterwards.",
        literal(&change.root.to_string())
    )
}

fn renamed_key(change: &Change) -> Result<()> {
    let all = literal(&change.root.to_string());
    Report::new(
        Code::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("cannot rename a key column of {} because it is managed", change.root),
    )
    .detail("What the catalog knows of its keys names the column.")
    .hint(format!("Run SELECT shard_release_parent({all}); rename it, and run SELECT shard_adopt_parent({all});"))
    .into()
}

fn renamed(change: &Change) -> Result<()> {
    Report::new(
        Code::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("{} on {} does not reach nodes {}", change.words, change.root, idents(&change.nodes)),
    )
    .detail("Names are the same on all servers: calls would not find the tables there any more.")
    .hint(to_local(change))
    .into()
}

fn reshaped(change: &Change) -> Result<()> {
    Report::new(
        Code::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("{} on {} does not reach nodes {}", change.words, change.table, idents(&change.nodes)),
    )
    .detail("Servers would disagree on what the table is, and queries would return wrong rows or fail.")
    .hint(by_hand_everywhere(&change.nodes))
    .into()
}

fn transition(change: &Change) -> Result<()> {
    Report::new(
        Code::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("a trigger of {} cannot use a transition table with partitions on other servers", change.table),
    )
    .detail(format!("Postgres would refuse every insert that reaches {}.", idents(&change.nodes)))
    .hint(INSTEAD_OF_TRANSITION)
    .into()
}
