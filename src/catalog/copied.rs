//! Operations of another database that this one is a copy of, as `CREATE DATABASE … TEMPLATE` copies their rows too. What they
//! have on servers is the original's, which goes on with them: here nobody works on them, and all that can be done is to
//! forget them.

use crate::error::{Report, Result};
use crate::name::QualifiedName;
use crate::pg::{role, sql};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use serde::Deserialize;

/// What is the matter with it.
pub fn told(id: i64) -> String {
    format!("operation {id} belongs to another database that this one is a copy of")
}

/// What to do about it.
pub fn way_out(id: i64) -> String {
    format!("Run SELECT shard_cancel({id}); to forget it: what came here with the copy goes, and no node is touched.")
}

/// Why it cannot be steered from here.
pub fn refusal(id: i64) -> Report {
    Report::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, told(id))
        .detail("It can be steered there alone; here nobody works on it.")
        .hint(way_out(id))
}

/// What came into this database with such an operation.
#[derive(Debug, Default, Deserialize)]
pub struct Left {
    pub schemas: Vec<String>,
    pub publications: Vec<String>,
    /// Tables that serve, and what they carried for a switch.
    pub checks: Vec<Check>,
}

#[derive(Debug, Deserialize)]
pub struct Check {
    pub table: QualifiedName,
    pub name: String,
    owner: u32,
}

impl Check {
    /// Of the table.
    pub fn owner(&self) -> Oid {
        Oid::from(self.owner)
    }
}

/// `$1` is the operation that no other one is above; `$2` the name of the check that targets are attached by. A stream of
/// ways back goes with the last operation that is registered for it.
const LEFT: &str = "WITH those AS (SELECT id, staging::text AS staging, parent FROM shardkeeper.operations WHERE $1 IN (id, part_of)),
    named AS (SELECT staging FROM those UNION SELECT pg_catalog.replace(staging, 'shardkeeper_op_', 'shardkeeper_old_') FROM those)
    SELECT pg_catalog.json_build_object(
        'schemas', (SELECT coalesce(pg_catalog.json_agg(nspname ORDER BY nspname), '[]') FROM pg_catalog.pg_namespace
                    WHERE nspname::text IN (SELECT staging FROM named)),
        'publications', (SELECT coalesce(pg_catalog.json_agg(pubname ORDER BY pubname), '[]') FROM pg_catalog.pg_publication
                         WHERE pubname::text IN (SELECT staging FROM named)
                            OR pubname::text IN (SELECT stream::text FROM shardkeeper.ways_back WHERE operation IN (SELECT id FROM those))
                               AND pubname::text NOT IN (SELECT stream::text FROM shardkeeper.ways_back
                                                         WHERE operation NOT IN (SELECT id FROM those))),
        'checks', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object('name', k.conname, 'owner', c.relowner::bigint,
                              'table', pg_catalog.json_build_object('schema', n.nspname, 'name', c.relname))), '[]')
                   FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
                   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                   WHERE k.contype = 'c' AND k.coninhcount = 0 AND n.nspname::text NOT IN (SELECT staging FROM named)
                     AND (k.conname::text IN (SELECT staging FROM those)
                          OR k.conname::text = $2 AND EXISTS (SELECT FROM shardkeeper.partitions p JOIN those t ON t.parent = p.parent
                                                              WHERE p.partition = k.conrelid))))::text";

/// Deletes it, with the group that it is a move of or the moves that it consists of. Returns what is left of them here.
pub fn forget(id: i64, attach_check: &str) -> Result<Left> {
    role::as_extension_owner(|| {
        let top = "SELECT coalesce(part_of, id) FROM shardkeeper.operations WHERE id = $1";
        let top = sql::one::<i64>(top, &[id.into()])?.unwrap_or(id);
        let left: Option<Left> = sql::document(LEFT, &[top.into(), attach_check.into()])?;
        sql::run(
            "DELETE FROM shardkeeper.progress WHERE operation IN (SELECT id FROM shardkeeper.operations WHERE $1 IN (id, part_of))",
            &[top.into()],
        )?;
        sql::run("DELETE FROM shardkeeper.operations WHERE id = $1", &[top.into()])?;
        Ok(left.unwrap_or_default())
    })
}
