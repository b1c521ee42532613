//! What a node needs of ours: schemas, the session channel, the journal and the trash. Plain SQL, run once per node.

use super::session::{self, Session};
use crate::catalog::node::IS_COORDINATOR;
use crate::error::{Report, Result};
use crate::name::literal;
use pgrx::PgSqlErrorCode as Code;

/// The number that `shardkeeper.version()` of sql/node.sql returns.
pub const VERSION: i32 = 4;

const NODE_SQL: &str = include_str!("../../sql/node.sql");
const NAMES_SQL: &str = include_str!("../../sql/names.sql");
const TRASH_SQL: &str = include_str!("../../sql/trash.sql");

/// One bootstrap of a node at a time, from wherever it comes. The number only has to be the same everywhere.
const LOCK: i64 = 0x7368_6172_646b_6565;

/// What else is there of ours, and what the current role may do with it.
const LOOK: &str = "
    has_database_privilege(current_database(), 'CREATE') AS may_create,
    n.oid IS NULL AS missing,
    n.oid IS NOT NULL AND pg_has_role(n.nspowner, 'USAGE') AS owned,
    pg_get_userbyid(n.nspowner)::text AS owner,
    n.oid IS NOT NULL AND has_schema_privilege(n.oid, 'USAGE')
        AND coalesce(has_table_privilege(to_regclass('shardkeeper.session'), 'SELECT, INSERT'), false)
        AND coalesce(has_table_privilege(to_regclass('shardkeeper.journal'), 'SELECT, INSERT'), false)
        AND coalesce(has_table_privilege(to_regclass('shardkeeper.trash'), 'SELECT, INSERT'), false)
        AND coalesce((SELECT has_schema_privilege(t.oid, 'USAGE, CREATE') FROM pg_namespace t WHERE nspname = 'shardkeeper_trash'), false)
        AS usable
    FROM (VALUES (1)) AS one LEFT JOIN pg_namespace n ON n.nspname = 'shardkeeper'";

/// Makes or brings up to date what the node needs, in one transaction there. Safe to run again and at the same time.
pub async fn bootstrap(session: &mut Session) -> Result<()> {
    let node = session.node().to_string();
    let Some(seen) = session.row(&format!("SELECT {IS_COORDINATOR} AS is_coordinator, {LOOK}"), &[]).await? else {
        return Ok(());
    };
    let is = |at| session::value::<bool>(&node, &seen, at);
    if is(0)? {
        return Report::new(Code::ERRCODE_FEATURE_NOT_SUPPORTED, format!("node \"{node}\" is a coordinator itself"))
            .detail("The extension shardkeeper is installed in its database, or was, and left its tables.")
            .hint("Use another database of that server as the node.")
            .into();
    }
    if !is(2)? {
        if is(5)? && version(session).await? >= Some(VERSION) {
            return Ok(());
        }
        if !is(3)? {
            return foreign(&node, session::value(&node, &seen, 4)?).into();
        }
    } else if !is(1)? {
        return Report::new(
            Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("permission denied to create schemas on node \"{node}\""),
        )
        .hint("There, run GRANT CREATE ON DATABASE … TO …, or add the node with another username.")
        .into();
    }
    session
        .run(&format!("BEGIN; SET LOCAL client_min_messages = warning; SELECT pg_advisory_xact_lock({LOCK}); {NODE_SQL}; {NAMES_SQL}; {TRASH_SQL}; COMMIT"))
        .await
}

/// `None` when nothing of ours is there, or something older than the first version.
pub async fn version(session: &mut Session) -> Result<Option<i32>> {
    if session.one::<String>("SELECT to_regprocedure('shardkeeper.version()')::text", &[]).await?.is_none() {
        return Ok(None);
    }
    session.one("SELECT shardkeeper.version()", &[]).await
}

/// Another role made the schema, and this one may not use it.
fn foreign(node: &str, owner: &str) -> Report {
    Report::new(Code::ERRCODE_INSUFFICIENT_PRIVILEGE, format!("permission denied for schema shardkeeper on node \"{node}\""))
        .detail(format!("It belongs to the role \"{owner}\" there."))
        .hint(format!("Let a role that reaches the node as \"{owner}\" run SELECT shard_grant_node({}, role, username => …, password => …).", literal(node)))
}

/// What a role needs on a node to work through the channel. `role` is quoted already.
pub fn grants(role: &str) -> String {
    format!(
        "GRANT USAGE ON SCHEMA shardkeeper TO {role};
         GRANT SELECT, INSERT ON shardkeeper.session TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON shardkeeper.journal, shardkeeper.trash, shardkeeper.switches, shardkeeper.roots TO {role};
         GRANT USAGE, CREATE ON SCHEMA shardkeeper_trash TO {role}"
    )
}
