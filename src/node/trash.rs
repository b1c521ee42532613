//! What was dropped is kept for a while on its server, and then destroyed.

use super::session::Session;
use crate::error::{Error, Result};
use crate::guc;
use crate::name::{QualifiedName, ident, literal};
use crate::pg::{sql, transaction};

/// How long something that is dropped is kept.
#[derive(Debug, Clone)]
pub struct KeepTime(String);

impl KeepTime {
    /// An interval as text, or the setting `shardkeeper.trash_keep`.
    pub fn of(given: Option<&str>) -> Self {
        let text = given.map_or_else(|| format!("{} minutes", guc::trash_keep_minutes()), str::to_string);
        Self(format!("{}::pg_catalog.interval", literal(&text)))
    }

    /// The command that moves a table on a node to the trash there.
    pub fn discard(&self, table: &QualifiedName) -> String {
        format!("SELECT shardkeeper.discard({}, {})", table.regclass(), self.sql())
    }

    pub fn sql(&self) -> &str {
        &self.0
    }

    /// Nothing is kept. On the coordinator the transaction itself can do without a trash; on a node it cannot.
    pub fn is_zero(&self) -> Result<bool> {
        Ok(sql::one::<bool>(&format!("SELECT {} = '0'::pg_catalog.interval", self.0), &[])? == Some(true))
    }
}

/// Drops the overdue tables of the session's role on its node, each in a transaction of its own. Mirrors that somebody dropped
/// are forgotten, so that no other table with their number is taken for one.
/// What could not be dropped is returned with the reason; the session may be closed then.
pub async fn empty(session: &mut Session) -> Result<Vec<Error>> {
    session
        .run("DELETE FROM shardkeeper.roots r WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = r.root)")
        .await?;
    const OVERDUE: &str = "SELECT coalesce(json_agg(overdue), '[]')::text FROM shardkeeper.overdue() AS overdue";
    let roots: Vec<String> = session.document(OVERDUE, &[]).await?.unwrap_or_default();
    let mut failed = Vec::new();
    for root in roots {
        match session.rows("SELECT shardkeeper.destroy($1::text::name)", &[&root]).await {
            Ok(_) => {}
            Err(error) if !session.is_open() => return Err(error),
            Err(error) => failed.push(error),
        }
    }
    Ok(failed)
}

/// The same on the coordinator, with the rights of the roles that dropped the tables.
pub fn empty_local() -> Result<Vec<Error>> {
    let overdue = transaction::run(|| {
        sql::documents::<(String, String)>(
            "SELECT pg_catalog.json_build_array(role, root)::text FROM shardkeeper.trash
             WHERE relation = root AND dropped_at + keep <= pg_catalog.clock_timestamp()
               AND EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role)",
            &[],
        )
    })?;
    let destroy = |(role, root): (String, String)| {
        transaction::run(|| {
            sql::run(&format!("SET LOCAL ROLE {}", ident(&role)), &[])?;
            sql::run("SELECT shardkeeper.destroy($1::name)", &[root.as_str().into()])
        })
    };
    Ok(overdue.into_iter().filter_map(|item| destroy(item).err()).collect())
}
