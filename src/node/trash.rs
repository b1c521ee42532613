//! Destroying what was dropped, once its keep time is over.

use super::own::{self, Session};
use crate::error::{Error, Result};
use crate::name::ident;
use crate::pg::{sql, transaction};
use pgrx::pg_sys::Oid;

/// Drops the overdue tables of the session's role on its node, each in a transaction of its own. Mirrors that somebody dropped
/// are forgotten, so that no other table with their number is taken for one.
/// What could not be dropped is returned with the reason; the session may be closed then.
pub async fn empty(session: &mut Session) -> Result<Vec<Error>> {
    session
        .run("DELETE FROM shardkeeper.roots r WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = r.root)")
        .await?;
    let roots = session.rows("SELECT overdue FROM shardkeeper.overdue()", &[]).await?;
    let mut failed = Vec::new();
    for root in roots {
        let root: u32 = own::value(session.node(), &root, 0)?;
        match session.rows("SELECT shardkeeper.destroy($1)", &[&root]).await {
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
        sql::documents::<(String, u32)>(
            "SELECT pg_catalog.json_build_array(role, root::bigint)::text FROM shardkeeper.trash
             WHERE relation = root AND dropped_at + keep <= pg_catalog.clock_timestamp()
               AND EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role)",
            &[],
        )
    })?;
    let destroy = |(role, root): (String, u32)| {
        transaction::run(|| {
            sql::run(&format!("SET LOCAL ROLE {}", ident(&role)), &[])?;
            sql::run("SELECT shardkeeper.destroy($1)", &[Oid::from(root).into()])
        })
    };
    Ok(overdue.into_iter().filter_map(|item| destroy(item).err()).collect())
}
