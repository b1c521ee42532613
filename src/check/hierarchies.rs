//! What is wrong with hierarchies.

use crate::catalog::mirror::OWN_MIRRORS;
use crate::catalog::parent::MANAGED;
use crate::catalog::partition::LABELLED;
use crate::error::Result;
use crate::name::literal;
use crate::node::finding::Row;
use crate::node::finding::{Finding, Severity};
use crate::pg::{role, sql};
use pgrx::pg_sys::Oid;
use serde::Deserialize;

#[derive(Deserialize)]
struct Problem {
    kind: Kind,
    object: String,
    node: Option<String>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Kind {
    StaleRights,
    Unmanaged,
    UncheckedPolicy,
}

const PROBLEMS: &str = "
    SELECT json_build_object('kind', kind, 'object', object, 'node', node)::text FROM (
        SELECT 'stale_rights' AS kind, m.parent::text AS object, m.node::text AS node
        FROM own_mirrors m JOIN pg_class c ON c.oid = m.parent
        WHERE ($1 IS NULL OR m.parent = $1) AND shardkeeper.rights(m.parent, m.node) IS DISTINCT FROM m.rights
        UNION ALL
        SELECT 'unmanaged', t.relid::text, NULL
        FROM managed p CROSS JOIN LATERAL pg_partition_tree(p.parent) t
        WHERE ($1 IS NULL OR p.parent = $1) AND t.level > 0
          AND NOT EXISTS (SELECT FROM labelled k WHERE k.partition = t.relid)
        UNION ALL
        SELECT 'unchecked_policy', p.parent::text || ' policy ' || quote_ident(r.polname), NULL
        FROM managed p JOIN pg_class c ON c.oid = p.parent AND c.relrowsecurity
        JOIN pg_policy r ON r.polrelid = p.parent
        WHERE ($1 IS NULL OR p.parent = $1) AND r.polcmd IN ('*', 'a', 'w')
          AND coalesce(pg_get_expr(r.polwithcheck, p.parent), pg_get_expr(r.polqual, p.parent), 'true') <> 'true'
          AND EXISTS (SELECT FROM pg_partition_tree(p.parent) t JOIN pg_foreign_table f ON f.ftrelid = t.relid)
    ) AS problems ORDER BY kind, object, node";

/// What is not as it should be in all hierarchies, or in one; a single `ok` row when nothing is wrong.
pub fn check(parent: Option<Oid>) -> Result<Vec<Row>> {
    let query = format!("WITH {OWN_MIRRORS}, {MANAGED}, {LABELLED} {PROBLEMS}");
    let problems = role::as_extension_owner(|| sql::documents::<Problem>(&query, &[parent.into()]))?;
    Ok(problems.iter().map(row).collect())
}

fn row(problem: &Problem) -> Row {
    let object = &problem.object;
    let finding = match problem.kind {
        Kind::StaleRights => Finding::new(
            Severity::Warning,
            "rights of mapped roles on the node are not those of their roles here",
            Some(&format!("Run SELECT shard_sync_grants({});", literal(object))),
        ),
        Kind::UncheckedPolicy => Finding::new(
            Severity::Warning,
            "the policy does not check rows written to partitions on other servers",
            Some(
                "Postgres applies WITH CHECK to its own tables only. Add a check constraint, or keep all partitions on local.",
            ),
        ),
        Kind::Unmanaged => Finding::new(
            Severity::Warning,
            "partition was attached without shard_add_partition, and no mirror knows it",
            Some(&format!(
                "Detach it, and add its bounds with shard_add_partition: ALTER TABLE … DETACH PARTITION {object};"
            )),
        ),
    };
    Row::new("hierarchy", Some(object), problem.node.as_deref(), finding)
}
