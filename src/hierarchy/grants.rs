//! Rights on nodes: a role with its own user mapping reaches a leaf as another role there, which needs the same rights.

use crate::error::Result;
use crate::name::{QualifiedName, ident, idents};
use crate::pg::{role, sql};
use pgrx::pg_sys::Oid;
use serde::Deserialize;

/// What the role that a user mapping leads to may do with the tables of one parent.
#[derive(Debug, Deserialize)]
struct Rights {
    remote: String,
    table: Vec<String>,
    /// Privilege and columns, for rights on single columns.
    columns: Vec<(String, Vec<String>)>,
}

const RIGHTS: &str = "
    SELECT json_build_object(
        'remote', coalesce((SELECT option_value FROM pg_options_to_table(m.umoptions) WHERE option_name = 'user'), r.name),
        'table', (SELECT coalesce(json_agg(p), '[]') FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS p
                  WHERE has_table_privilege(r.name, $1, p)),
        'columns', (
            SELECT coalesce(json_agg(json_build_array(p, names)), '[]') FROM (
                SELECT p, json_agg(a.attname ORDER BY a.attnum) AS names
                FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) AS p, pg_attribute a
                WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
                  AND NOT has_table_privilege(r.name, $1, p) AND has_column_privilege(r.name, $1, a.attnum, p)
                GROUP BY p) AS c))::text
    FROM pg_user_mapping m JOIN pg_foreign_server s ON s.oid = m.umserver
    CROSS JOIN LATERAL (SELECT CASE WHEN m.umuser = 0 THEN 'public' ELSE pg_get_userbyid(m.umuser) END::name AS name) AS r
    WHERE s.srvname = $2";

/// The commands that give the mapped roles on `node` what their roles here may do with `parent`. `owner` is the role
/// that owns the tables there; `tables` are those of the mirror.
pub fn for_node(
    parent: Oid,
    node: &str,
    owner: &str,
    owns_schema: bool,
    tables: &[QualifiedName],
) -> Result<Vec<String>> {
    let rights = role::as_extension_owner(|| sql::documents::<Rights>(RIGHTS, &[parent.into(), node.into()]))?;
    let Some(first) = tables.first() else { return Ok(Vec::new()) };
    let list = tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut commands = Vec::new();
    for right in rights.iter().filter(|r| r.remote != owner && !(r.table.is_empty() && r.columns.is_empty())) {
        let to = ident(&right.remote);
        if owns_schema {
            commands.push(format!("GRANT USAGE ON SCHEMA {} TO {to}", ident(&first.schema)));
        }
        if !right.table.is_empty() {
            commands.push(format!("GRANT {} ON TABLE {list} TO {to}", right.table.join(", ")));
        }
        for (privilege, columns) in &right.columns {
            commands.push(format!("GRANT {privilege} ({}) ON TABLE {list} TO {to}", idents(columns)));
        }
    }
    commands.sort();
    commands.dedup();
    Ok(commands)
}
