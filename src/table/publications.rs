//! Publications of the coordinator that have rows of a hierarchy: those of partitions on nodes are not in them, and their
//! subscribers would miss them without a word.

use crate::catalog::parent::MANAGED;
use crate::error::{Report, Result};
use crate::name::{QualifiedName, idents};
use crate::pg::{role, sql};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;

/// What a caller accepts that would otherwise be refused.
#[derive(Debug, Clone, Copy, Default)]
pub struct Accept {
    publication: bool,
}

impl Accept {
    /// Of who made the hierarchy: what comes later by itself is as what is there.
    pub const BEFORE: Self = Self { publication: true };

    /// Errors: 22023 a word that stands for nothing.
    pub fn parse(words: Option<Vec<Option<String>>>) -> Result<Self> {
        let mut accept = Self::default();
        for word in words.unwrap_or_default() {
            match word.as_deref() {
                Some("publication") => accept.publication = true,
                other => {
                    let other = other.unwrap_or("NULL");
                    return Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, format!("accept cannot be \"{other}\""))
                        .hint("It is publication.")
                        .into();
                }
            }
        }
        Ok(accept)
    }
}

/// Publications that the table, a partition of it on the coordinator, its schema or everything is in, and those that a
/// managed table was in. Our own are none.
const NAMES: &str = "
    SELECT p.pubname::text FROM pg_catalog.pg_publication p
    WHERE p.pubname !~ '^shardkeeper_(op|old|back)_' AND (p.puballtables
        OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid
                   AND (r.prrelid = $1 OR r.prrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1))))
        OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace n JOIN pg_catalog.pg_class c ON c.relnamespace = n.pnnspid
                   WHERE n.pnpubid = p.oid AND c.oid = $1)
        OR EXISTS (SELECT FROM managed m, pg_catalog.jsonb_array_elements(m.keys -> 'publications') AS k
                   WHERE m.parent = $1 AND k ->> 'name' = p.pubname))
    ORDER BY p.pubname";

pub fn of(table: Oid) -> Result<Vec<String>> {
    let query = format!("WITH {MANAGED} {NAMES}");
    role::as_extension_owner(|| sql::column(&query, &[table.into()]))
}

/// What a plan says of partitions that come to `nodes`.
pub fn warning(publications: &[String], nodes: &[String]) -> String {
    format!(
        "rows on {} are not in publication {}; the call wants accept => '{{publication}}'",
        idents(nodes),
        idents(publications)
    )
}

/// Errors: 55000 rows of the table would leave publications, and the caller does not say that they may.
pub fn check(table: Oid, name: &QualifiedName, nodes: &[String], accept: Accept) -> Result<()> {
    if accept.publication || nodes.is_empty() {
        return Ok(());
    }
    let publications = of(table)?;
    if publications.is_empty() {
        return Ok(());
    }
    Report::new(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("rows of {name} on {} would not be in publication {}", idents(nodes), idents(&publications)),
    )
    .detail("A publication has the rows of its own server only; subscribers would miss the others without a word.")
    .hint("Publish the table on these nodes too, subscribe to each, and call again with accept => '{publication}'; or keep all partitions on local.")
    .into()
}
