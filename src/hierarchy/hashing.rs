//! What of a type's values hashes to something else on another server, however deep in the type it is.

use crate::error::Result;
use crate::pg::sql;
use pgrx::pg_sys::Oid;
use serde::Deserialize;

/// A part of a type, or the type itself, that keeps it from being a hash key.
#[derive(Debug, Deserialize)]
pub struct Unsteady {
    pub why: Why,
    /// Of the part.
    pub name: String,
    /// It is the type itself, a domain over it or an array of it.
    pub is_whole: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    Enum,
    /// A name that is stored as an object identifier: `regclass` and its like.
    Object,
    /// Texts with a nondeterministic collation.
    Collation,
}

/// Arrays, domains, composites, ranges and multiranges are taken apart.
const PARTS: &str = "
    WITH RECURSIVE parts (type, whole) AS (
        SELECT $1::pg_catalog.oid, true
        UNION
        SELECT inner_type, whole AND (t.typtype = 'd' OR t.typcategory = 'A')
        FROM parts JOIN pg_catalog.pg_type t ON t.oid = parts.type
        CROSS JOIN LATERAL (
            SELECT t.typbasetype WHERE t.typtype = 'd'
            UNION ALL SELECT t.typelem WHERE t.typcategory = 'A' AND t.typelem <> 0
            UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a
                WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
            UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
        ) AS i (inner_type)
    ), collations (id) AS (
        SELECT a.attcollation FROM parts JOIN pg_catalog.pg_type t ON t.oid = parts.type
        JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped WHERE t.typtype = 'c'
        UNION SELECT t.typcollation FROM parts JOIN pg_catalog.pg_type t ON t.oid = parts.type WHERE NOT whole
        UNION SELECT r.rngcollation FROM parts JOIN pg_catalog.pg_range r ON parts.type IN (r.rngtypid, r.rngmultitypid)
    )
    SELECT pg_catalog.json_build_object('why', why, 'name', name, 'is_whole', whole)::text FROM (
        SELECT CASE t.typtype WHEN 'e' THEN 'enum' ELSE 'object' END AS why, pg_catalog.format_type(t.oid, NULL) AS name, whole
        FROM parts JOIN pg_catalog.pg_type t ON t.oid = parts.type
        WHERE t.typtype = 'e' OR t.typtype = 'b' AND t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace AND t.typname ~ '^reg'
        UNION ALL
        SELECT 'collation', pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.collname), false
        FROM collations JOIN pg_catalog.pg_collation c ON c.oid = collations.id
        JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace WHERE NOT c.collisdeterministic
    ) AS unsteady ORDER BY whole DESC, why LIMIT 1";

/// The first such part of a type; `None` if equal values have equal hashes everywhere.
pub fn unsteady(data_type: Oid) -> Result<Option<Unsteady>> {
    sql::document(PARTS, &[data_type.into()])
}
