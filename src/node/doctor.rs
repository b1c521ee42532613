//! The node part of the doctor: what is wrong with nodes, with the worker, and with what should have been settled.

use super::bootstrap;
use super::channel::SCHEMA;
use super::facts::{Facts, Finding, Severity};
use super::heal::{Coordinator, parse_lsn};
use super::own::{self, Limits, Session, Target};
use crate::error::{Error, Report, Result};
use crate::guc;
use crate::name::literal;
use crate::pg::{role, sql};
use crate::reshard::health::{self as operations, Trace};
use crate::worker;
use pgrx::pg_sys::Oid;
use shardkeeper_core::words::count;

/// One row of `shard_check`.
pub struct Row {
    pub area: &'static str,
    pub object: Option<String>,
    pub node: Option<String>,
    pub finding: Finding,
}

impl Row {
    pub fn new(area: &'static str, object: Option<&str>, node: Option<&str>, finding: Finding) -> Self {
        Self { area, object: object.map(String::from), node: node.map(String::from), finding }
    }
}

/// All nodes, or those of one parent, with what they have of operations. Nodes are asked at the same time.
pub fn check(parent: Option<Oid>) -> Result<Vec<Row>> {
    let mut rows = check_worker()?;
    let signature = operations::signature()?;
    rows.extend(check_local_trash()?);
    let nodes = role::as_extension_owner(|| {
        sql::column::<String>(
            "SELECT name::text FROM shardkeeper.nodes n
             WHERE $1 IS NULL OR EXISTS (SELECT FROM shardkeeper.mirrors m WHERE m.node = n.name AND m.parent = $1)
             ORDER BY name",
            &[parent.into()],
        )
    })?;
    let (local, coordinator) = (Facts::local()?, Coordinator::read()?);
    let mut asked = Vec::new();
    for node in nodes {
        rows.extend(check_here(&node)?.into_iter().map(|finding| Row::new("node", None, Some(&node), finding)));
        asked.push((Target::of(&node, role::current()), node));
    }
    let found = own::wait(async {
        let all = asked.into_iter().map(|(target, node)| {
            let (local, coordinator, signature) = (&local, &coordinator, &signature);
            async move {
                let findings = match target {
                    Ok(target) => check_there(&target, local, coordinator, signature).await,
                    Err(error) => Err(error),
                };
                (node, findings.unwrap_or_else(|error| (vec![wrong(error)], Vec::new())))
            }
        });
        Ok(futures_util::future::join_all(all).await)
    })?;
    let mut traces = Vec::new();
    for (node, (findings, there)) in found {
        rows.extend(findings.into_iter().map(|finding| Row::new("node", None, Some(&node), finding)));
        traces.push((node, there));
    }
    rows.extend(operations::check(parent, &signature, traces)?);
    Ok(rows)
}

fn wrong(error: Error) -> Finding {
    Finding::from(Report::from(error))
}

fn check_worker() -> Result<Vec<Row>> {
    let (launcher, running) = (worker::has_launcher()?, worker::is_running()?);
    let preload = "Add shardkeeper to shared_preload_libraries and restart the coordinator.";
    let finding = match () {
        () if !guc::worker_enabled() => Finding::new(
            Severity::Warning,
            "the worker is switched off; nothing heals and no trash is emptied",
            Some("Set shardkeeper.worker = on and reload."),
        ),
        () if !running => {
            worker::ensure_running()?;
            let nodes = sql::one::<bool>(
                "SELECT EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.to_regnamespace($1))",
                &[SCHEMA.into()],
            )?;
            // Without nodes there is nothing to heal, only the trash to be emptied in time.
            let severity = if nodes == Some(true) { Severity::Error } else { Severity::Warning };
            let stays = "If this finding stays, see the server log, and raise max_worker_processes.";
            let text = "no worker runs in this database; one was asked for just now";
            Finding::new(severity, text, Some(if launcher { stays } else { preload }))
        }
        () if !launcher => Finding::new(
            Severity::Warning,
            "the library is not preloaded; after a restart nothing heals until the next call of a function of ours",
            Some(preload),
        ),
        () => Finding::new(Severity::Ok, "the worker is running", None),
    };
    Ok(vec![Row::new("worker", None, None, finding)])
}

/// What can be seen without asking the node.
fn check_here(node: &str) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    let channel =
        "SELECT true FROM pg_catalog.pg_class WHERE relname = $1 AND relnamespace = pg_catalog.to_regnamespace($2)";
    if sql::one::<bool>(channel, &[node.into(), SCHEMA.into()])?.is_none() {
        let text = format!("the foreign table {SCHEMA}.{} is missing", crate::name::ident(node));
        found.push(Finding::new(Severity::Error, text, Some("Drop the node and add it again; its tables stay.")));
    }
    let lacking = sql::column::<String>(
        "SELECT DISTINCT r.rolname::text FROM pg_catalog.pg_foreign_table t
         JOIN pg_catalog.pg_foreign_server s ON s.oid = t.ftserver
         JOIN pg_catalog.pg_class c ON c.oid = t.ftrelid
         JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
         WHERE s.srvname = $1 AND c.relnamespace <> pg_catalog.to_regnamespace($2)
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_user_mappings m WHERE m.srvid = s.oid AND m.umuser IN (c.relowner, 0))
         ORDER BY 1",
        &[node.into(), SCHEMA.into()],
    )?;
    for owner in lacking {
        let hint = format!(
            "Run SELECT shard_grant_node({}, {}, username => …, password => …).",
            literal(node),
            literal(&owner)
        );
        found.push(Finding::new(
            Severity::Warning,
            format!("role \"{owner}\" owns partitions there and has no user mapping"),
            Some(&hint),
        ));
    }
    Ok(found)
}

async fn check_there(
    target: &Target,
    local: &Facts,
    coordinator: &Coordinator,
    signature: &str,
) -> Result<(Vec<Finding>, Vec<Trace>)> {
    let mut session = Session::open(target, Limits::SHORT.named("shardkeeper check")).await?;
    let (facts, clock_ahead) = Facts::of(&mut session).await?;
    let mut found = facts.judge(local, &target.node, clock_ahead);
    let again = format!("Run SELECT shard_alter_node({}).", literal(&target.node));
    match bootstrap::version(&mut session).await {
        Ok(None) => found.push(Finding::new(Severity::Error, "the schema shardkeeper is missing there", Some(&again))),
        Ok(Some(version)) if version < bootstrap::VERSION => {
            found.push(Finding::new(
                Severity::Warning,
                format!("the schema shardkeeper there is of version {version}, not {}", bootstrap::VERSION),
                Some(&again),
            ));
        }
        Ok(Some(_)) => {
            found.extend(check_journal(&mut session, coordinator).await?);
            found.extend(check_trash(&mut session).await?);
        }
        Err(error) => found.push(wrong(error)),
    }
    if found.iter().all(|finding| finding.severity == Severity::Ok) {
        let text = format!(
            "PostgreSQL {} at {}, database \"{}\", role \"{}\"",
            facts.version,
            target.address(),
            target.dbname,
            target.user
        );
        found.insert(0, Finding::new(Severity::Ok, text, None));
    }
    let traces = operations::traces_on(&mut session, signature).await?;
    Ok((found, traces))
}

/// Rows that nobody settled for ten seconds, and why that may be.
async fn check_journal(session: &mut Session, coordinator: &Coordinator) -> Result<Vec<Finding>> {
    let sql = "SELECT coordinator, max(timeline), max(lsn)::text, max(xid::text), role::text, count(*),
                      extract(epoch FROM clock_timestamp() - min(done_at))::float8
               FROM shardkeeper.journal GROUP BY coordinator, transaction, role
               HAVING min(done_at) < clock_timestamp() - interval '10 seconds' ORDER BY min(id)";
    let rows = session.rows(sql, &[]).await?;
    let finding = |row: &tokio_postgres::Row| {
        let (signature, timeline): (String, i32) = (row.get(0), row.get(1));
        let lsn = parse_lsn(row.get(2)).unwrap_or(u64::MAX);
        let (xid, role, pending, age): (String, String, i64, f64) = (row.get(3), row.get(4), row.get(5), row.get(6));
        let commands = count(pending, "command", "commands");
        let what = format!("{commands} of transaction {xid} by role \"{role}\" still to be settled after {age:.0} s");
        if signature != coordinator.signature {
            let text = format!("{what}; they are of another coordinator, {signature}");
            let hint = "Its own worker settles them. Where it no longer exists, look at shardkeeper.journal there: undo by hand what should not be, and delete the rows.";
            return Finding::new(Severity::Warning, text, Some(hint));
        }
        if !coordinator.remembers(timeline, lsn) {
            let text = format!(
                "{what}; they are of timeline {timeline}, which this coordinator, on {}, does not know: it was restored to an earlier point",
                coordinator.timeline
            );
            let hint = "Look at shardkeeper.journal there: undo by hand what should not be, and delete the rows.";
            return Finding::new(Severity::Warning, text, Some(hint));
        }
        let hint = "A long transaction may still run. Else the coordinator's log says why the worker cannot undo them.";
        Finding::new(Severity::Warning, what, Some(hint))
    };
    Ok(rows.iter().map(finding).collect())
}

const TRASH: &str =
    "SELECT count(*), pg_catalog.pg_size_pretty(coalesce(sum(size), 0)), count(*) FILTER (WHERE late) FROM (
    SELECT coalesce((SELECT sum(pg_catalog.pg_total_relation_size(t.relid)) FROM pg_catalog.pg_partition_tree(c.oid) t),
                    pg_catalog.pg_total_relation_size(c.oid)) AS size,
           trash.dropped_at + trash.keep < pg_catalog.clock_timestamp() - interval '5 minutes' AS late
    FROM shardkeeper.trash JOIN pg_catalog.pg_class c ON c.oid = relation WHERE relation = root) AS tables";

async fn check_trash(session: &mut Session) -> Result<Option<Finding>> {
    let row = session.row(TRASH, &[]).await?;
    Ok(row.and_then(|row| trash_finding(row.get(0), row.get(1), row.get(2))))
}

fn check_local_trash() -> Result<Option<Row>> {
    let found = role::as_extension_owner(|| {
        sql::document::<(i64, String, i64)>(
            &format!(
                "SELECT pg_catalog.json_build_array(count, pg_size_pretty, late)::text FROM ({TRASH}) AS t (count, pg_size_pretty, late)"
            ),
            &[],
        )
    })?;
    Ok(found
        .and_then(|(count, size, late)| trash_finding(count, size, late))
        .map(|finding| Row::new("trash", None, None, finding)))
}

fn trash_finding(held: i64, size: String, late: i64) -> Option<Finding> {
    let tables = count(held, "table", "tables");
    match (held, late) {
        (0, _) => None,
        (_, 0) => Some(Finding::new(Severity::Ok, format!("{tables} in the trash, {size}"), None)),
        _ => Some(Finding::new(
            Severity::Warning,
            format!("{late} of {tables} in the trash, {size} in all, should be gone by now"),
            Some("The coordinator's log says why they cannot be dropped; an object outside may depend on one."),
        )),
    }
}
