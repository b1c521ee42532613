//! Who is in the way of an operation: sessions and prepared transactions that hold a lock which it needs, or that are older
//! than a consistent start. It is said at once, and whoever asks something of the operation meanwhile is heard.

use super::outcome::Step;
use super::run;
use super::server::{BRIEF, Server};
use crate::catalog::operation::Operation;
use crate::catalog::tries;
use crate::error::{Report, Result};
use crate::name::{ident, literal};
use crate::node::session;
use crate::pg::{sql, transaction, worker};
use pgrx::PgSqlErrorCode as Code;
use serde::Deserialize;
use shardkeeper_core::plan::LOCAL;
use std::time::{Duration, Instant};

/// What every busy server makes others wait for, and how often it is looked again.
const MOMENT: Duration = Duration::from_millis(300);
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Deserialize)]
struct Holder {
    /// A process or a prepared transaction.
    who: String,
    role: Option<String>,
    application: Option<String>,
    /// When its transaction began, where that may be seen.
    since: Option<String>,
    holds: Option<String>,
}

impl Holder {
    fn sentence(self, node: &str) -> String {
        let Holder { who, role, application, since, holds } = self;
        let place = if node == LOCAL { "the coordinator".to_string() } else { format!("node {}", ident(node)) };
        let also = [
            role.map(|role| format!(", role {role}")),
            application.map(|name| format!(", application {name}")),
            since.map(|since| format!(", since {since}")),
        ];
        let also: String = also.into_iter().flatten().collect();
        match holds {
            Some(holds) => format!("{who} on {place}{also}, holds {holds}"),
            None => format!("{who} on {place}{also}"),
        }
    }
}

/// Which transaction comes first, and whose it is.
const HOLDER: &str = "SELECT json_build_object('who', who, 'role', role, 'application', nullif(application, ''),
        'since', to_char(since, 'YYYY-MM-DD HH24:MI:SS TZ'), 'holds', holds)::text";

/// The session that has held a lock on the tables of the operation for longest, as far as can be told. Outside a transaction.
pub fn of_locks(operation: &Operation) -> Option<String> {
    let mut nodes = vec![LOCAL.to_string()];
    nodes.extend(operation.plan.remote_nodes());
    nodes.iter().find_map(|node| ask(operation, node, &locks(operation, node)))
}

/// As the worker itself on the coordinator, which sees since when others run.
fn ask(operation: &Operation, node: &str, query: &str) -> Option<String> {
    let found = match node {
        LOCAL => transaction::run(|| sql::document::<Holder>(query, &[])),
        _ => session::wait(async {
            Server::open(node, operation.role(), BRIEF).await?.document::<Holder>(query, &[]).await
        }),
    };
    found.ok().flatten().map(|holder| holder.sentence(node))
}

fn locks(operation: &Operation, node: &str) -> String {
    let plan = &operation.plan;
    let mut roots = vec![format!("to_regclass({})::oid", literal(&plan.above.to_string()))];
    if node == LOCAL {
        roots.push(format!("{}::oid", operation.parent().to_u32()));
    }
    let leaves = plan.source_leaves().filter(|(_, place)| *place == node);
    roots.extend(leaves.map(|(leaf, _)| format!("to_regclass({})::oid", literal(&leaf.to_string()))));
    format!(
        "WITH RECURSIVE tree (oid) AS (
             SELECT root FROM unnest(ARRAY[{}]) AS root UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid)
         {HOLDER} FROM (
             SELECT coalesce('process ' || l.pid, 'prepared transaction ' || quote_literal(p.gid)), coalesce(a.usename, p.owner),
                    a.application_name, coalesce(a.xact_start, p.prepared), l.mode || ' on ' || l.relation::regclass
             FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
             LEFT JOIN pg_prepared_xacts p ON l.pid IS NULL AND l.virtualtransaction = '-1/' || p.transaction
             WHERE l.locktype = 'relation' AND l.granted AND l.relation IN (SELECT oid FROM tree)
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND l.pid IS DISTINCT FROM pg_backend_pid() AND coalesce(a.application_name, '') NOT LIKE 'shardkeeper %'
         ) AS open (who, role, application, since, holds) WHERE who IS NOT NULL ORDER BY since LIMIT 1",
        roots.join(", ")
    )
}

/// Says what lock is waited for and who has it; the operation goes on asking. Outside a transaction.
pub fn waits_for_lock(operation: &Operation, report: Report) -> Result<()> {
    let holder = of_locks(operation);
    let report = with_holder(report, holder.as_deref());
    transaction::run(|| tries::waits(operation.id, report, holder.as_deref()))
}

pub fn with_holder(mut report: Report, holder: Option<&str>) -> Report {
    if let Some(holder) = holder {
        let more = report.detail.map(|detail| format!(" {detail}")).unwrap_or_default();
        report.detail = Some(format!("It is {holder}.{more}"));
    }
    report
}

/// Waits until every transaction has ended that runs on the server now. A snapshot taken from then on sees every transaction
/// that a slot made before does not tell of: a commit can be in the log, and so before the slot's beginning, long before
/// others see it, as it may wait for a standby in between. Outside a transaction.
pub fn wait_until_quiet(operation: &Operation, node: &str) -> Step {
    let mut place = session::wait(Server::open(node, operation.role(), BRIEF))?;
    let mut ask = |query: &str| -> Result<i64> {
        let found = session::wait(place.document::<i64>(query, &[]))?;
        Ok(found.unwrap_or_default())
    };
    let now = ask("SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text")?;
    let (mut looked, mut told) = (Instant::now(), false);
    while ask("SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text")? < now {
        if looked.elapsed() > MOMENT {
            says_who_is_older(operation, node)?;
            run::look(operation)?;
            (looked, told) = (Instant::now(), true);
        }
        worker::sleep(LOOK);
    }
    if told {
        transaction::run(|| tries::waits_no_more(operation.id))?;
    }
    Ok(())
}

/// An old transaction is in the way of a consistent start; which one, as far as can be told. Outside a transaction.
pub fn says_who_is_older(operation: &Operation, node: &str) -> Result<()> {
    let query = format!(
        "{HOLDER} FROM (
             SELECT 'process ' || pid, usename, application_name, xact_start, NULL::text, backend_xid FROM pg_stat_activity
             WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
             UNION ALL SELECT 'prepared transaction ' || quote_literal(gid), owner, NULL, prepared, NULL, transaction FROM pg_prepared_xacts
         ) AS open (who, role, application, since, holds, xid) ORDER BY age(xid) DESC LIMIT 1"
    );
    let holder = ask(operation, node, &query);
    let mut report = Report::new(
        Code::ERRCODE_OBJECT_IN_USE,
        format!("an open transaction on node {} is in the way of a consistent start", ident(node)),
    )
    .hint("It goes on by itself when that transaction ends.");
    report.detail = holder.as_ref().map(|holder| format!("The oldest one is of {holder}."));
    transaction::run(|| tries::waits(operation.id, report, holder.as_deref()))
}
