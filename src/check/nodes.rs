//! What is wrong with nodes, with the worker, and with what should have been settled.

use crate::background;
use crate::catalog::node::{self, SCHEMA};
use crate::error::{Error, Report, Result};
use crate::guc;
use crate::name::literal;
use crate::node::bootstrap;
use crate::node::finding::{Finding, Row, Severity};
use crate::node::in_doubt::Coordinator;
use crate::node::pooler;
use crate::node::server_info::ServerInfo;
use crate::node::session::{self, ConnectionParams, Session, Timeouts};
use crate::node::unsettled::{self, Unsettled};
use crate::pg::{role, sql};
use crate::reshard::check::{self as operations, Trace};
use pgrx::pg_sys::Oid;
use shardkeeper_core::plan::LOCAL;
use shardkeeper_core::plural::count;
use std::collections::BTreeMap;
use tokio_postgres::SimpleQueryMessage;

/// What was found, and what the nodes answered.
#[derive(Default)]
pub struct Asked {
    pub rows: Vec<Row>,
    /// To the question about hierarchies.
    pub answers: Vec<(String, String)>,
    /// What each has of operations.
    pub traces: Vec<(String, Vec<Trace>)>,
}

/// All nodes, or those of one parent, with what they have of operations. Nodes are asked at the same time, and at the same
/// occasion what somebody else wants to know of them: statements for one transaction, of which one returns a text.
pub fn check(parent: Option<Oid>, questions: &BTreeMap<String, String>) -> Result<Asked> {
    let mut rows = check_worker()?;
    let signature = operations::signature()?;
    rows.extend(check_local_trash()?);
    let nodes = node::names(parent)?;
    let local = ServerInfo::local()?;
    rows.extend(local.greedy_publications().map(|finding| Row::new("publication", None, Some(LOCAL), finding)));
    let mut asked = Vec::new();
    for node in nodes {
        rows.extend(check_here(&node)?.into_iter().map(|finding| Row::new("node", None, Some(&node), finding)));
        asked.push((ConnectionParams::of(&node, role::current()), node));
    }
    let found = session::wait(async {
        let all = asked.into_iter().map(|(target, node)| {
            let (local, signature) = (&local, &signature);
            async move {
                let question = questions.get(&node);
                let found = match target {
                    Ok(target) => check_there(&target, local, signature, question).await,
                    Err(error) => Err(error),
                };
                (node, found.unwrap_or_else(|error| There { findings: vec![wrong(error)], ..There::default() }))
            }
        });
        Ok(futures_util::future::join_all(all).await)
    })?;
    let (mut traces, mut answers) = (Vec::new(), Vec::new());
    let coordinator = Coordinator::read()?;
    for (node, there) in found {
        answers.extend(there.answer.map(|answer| (node.clone(), answer)));
        let mut findings = there.findings;
        findings.extend(unsettled::findings(&node, &there.unsettled, &coordinator)?);
        if findings.iter().all(|finding| finding.severity == Severity::Ok) {
            findings.splice(0..0, there.fine);
        }
        rows.extend(findings.into_iter().map(|finding| Row::new("node", None, Some(&node), finding)));
        traces.push((node, there.traces));
    }
    Ok(Asked { rows, answers, traces })
}

fn wrong(error: Error) -> Finding {
    Finding::from(Report::from(error))
}

fn check_worker() -> Result<Vec<Row>> {
    let (launcher, running) = (background::has_launcher()?, background::is_running()?);
    let preload = "Add shardkeeper to shared_preload_libraries and restart the coordinator.";
    let finding = match () {
        () if !guc::worker_enabled() => Finding::new(
            Severity::Warning,
            "the worker is switched off; nothing heals and no trash is emptied",
            Some("Set shardkeeper.worker = on and reload."),
        ),
        () if !running => {
            background::ensure_running()?;
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
            "the library is not preloaded; after a restart nothing heals until the next call of a function of ours, and snapshots from before a switch miss rows without a word",
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

/// What a node says when it is asked.
#[derive(Default)]
struct There {
    findings: Vec<Finding>,
    /// What to say when nothing is wrong.
    fine: Option<Finding>,
    unsettled: Vec<Unsettled>,
    traces: Vec<Trace>,
    /// To the question about its mirrors.
    answer: Option<String>,
}

async fn check_there(
    target: &ConnectionParams,
    local: &ServerInfo,
    signature: &str,
    question: Option<&String>,
) -> Result<There> {
    let mut session = Session::open(target, Timeouts::SHORT.named("shardkeeper check")).await?;
    let (facts, clock_ahead) = ServerInfo::of(&mut session).await?;
    let mut there = There { findings: facts.judge(local, &target.node, clock_ahead), ..There::default() };
    there.findings.extend(pooler::check_options(&mut session).await?);
    let again = format!("Run SELECT shard_alter_node({}).", literal(&target.node));
    if facts.lacks_pin(target.options.as_deref().unwrap_or_default()) {
        let text = "default_transaction_read_only is on there for the role or the database, and writes through foreign tables fail";
        there.findings.push(Finding::new(Severity::Error, text, Some(&again)));
    }
    match bootstrap::version(&mut session).await {
        Ok(None) => {
            there.findings.push(Finding::new(Severity::Error, "the schema shardkeeper is missing there", Some(&again)));
        }
        Ok(Some(version)) if version < bootstrap::VERSION => {
            there.findings.push(Finding::new(
                Severity::Warning,
                format!("the schema shardkeeper there is of version {version}, not {}", bootstrap::VERSION),
                Some(&again),
            ));
        }
        Ok(Some(_)) => {
            there.unsettled = unsettled::unsettled(&mut session).await?;
            there.findings.extend(check_trash(&mut session).await?);
        }
        Err(error) => there.findings.push(wrong(error)),
    }
    let text = format!(
        "PostgreSQL {} at {}, database \"{}\", role \"{}\"",
        facts.version,
        target.address(),
        target.dbname,
        target.user
    );
    there.fine = Some(Finding::new(Severity::Ok, text, None));
    there.traces = operations::traces_on(&mut session, signature).await?;
    if let Some(question) = question {
        // In one round trip.
        for message in session.text(&format!("BEGIN READ ONLY; {question}; COMMIT")).await? {
            if let SimpleQueryMessage::Row(row) = message {
                there.answer = session::text(session.node(), &row, 0)?.map(String::from);
            }
        }
    }
    Ok(there)
}

const TRASH: &str =
    "SELECT count(*), pg_catalog.pg_size_pretty(coalesce(sum(size), 0)), count(*) FILTER (WHERE late) FROM (
    SELECT coalesce((SELECT sum(pg_catalog.pg_total_relation_size(t.relid)) FROM pg_catalog.pg_partition_tree(c.oid) t),
                    pg_catalog.pg_total_relation_size(c.oid)) AS size,
           trash.dropped_at + trash.keep < pg_catalog.clock_timestamp() - interval '5 minutes' AS late
    FROM shardkeeper.trash JOIN pg_catalog.pg_class c ON c.relname = relation AND c.relnamespace = pg_catalog.to_regnamespace('shardkeeper_trash')
    WHERE relation = root) AS tables";

async fn check_trash(session: &mut Session) -> Result<Option<Finding>> {
    let Some(row) = session.row(TRASH, &[]).await? else { return Ok(None) };
    let node = session.node();
    Ok(trash_finding(session::value(node, &row, 0)?, session::value(node, &row, 1)?, session::value(node, &row, 2)?))
}

fn check_local_trash() -> Result<Vec<Row>> {
    let found = role::as_extension_owner(|| {
        sql::document::<(i64, String, i64)>(
            &format!(
                "SELECT pg_catalog.json_build_array(count, pg_size_pretty, late)::text FROM ({TRASH}) AS t (count, pg_size_pretty, late)"
            ),
            &[],
        )
    })?;
    let found = found.and_then(|(count, size, late)| trash_finding(count, size, late));
    let findings = found.into_iter().chain(strays()?);
    Ok(findings.map(|finding| Row::new("trash", None, None, finding)).collect())
}

/// What was in the trash when the extension was dropped: nothing destroys it any more.
fn strays() -> Result<Option<Finding>> {
    let found = role::as_extension_owner(|| {
        sql::column::<String>(
            "SELECT pg_catalog.quote_ident(c.relname) FROM pg_catalog.pg_class c
             WHERE c.relnamespace = pg_catalog.to_regnamespace('shardkeeper_trash') AND c.relkind IN ('r', 'p') AND NOT c.relispartition
               AND NOT EXISTS (SELECT FROM shardkeeper.trash t WHERE t.relation = c.relname) ORDER BY 1",
            &[],
        )
    })?;
    Ok(found.first().map(|first| {
        Finding::new(
            Severity::Warning,
            format!("the trash holds {} that nothing will destroy", count(found.len(), "table", "tables")),
            Some(&format!(
                "They are older than the extension. Look at them and drop them: DROP TABLE shardkeeper_trash.{first};"
            )),
        )
    }))
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
