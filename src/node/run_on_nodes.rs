//! Statements on several nodes: at the same time and by themselves, or as part of the caller's transaction.

use super::channel::{Answer as Returned, Channel};
use super::session::{self, ConnectionParams, Session, Timeouts};
use crate::catalog::node::{self, is_known, unknown_node};
use crate::error::{Error, Report, Result};
use crate::pg::{interrupt, parse, role, sql, subtransaction, transaction};
use pgrx::PgSqlErrorCode as Code;
use postgres_types::Type;
use serde_json::{Map, Value};
use shardkeeper_core::plan::LOCAL;
use std::cell::RefCell;
use std::time::Duration;
use tokio_postgres::SimpleQueryMessage;

/// What one node answered.
pub struct Answer {
    pub node: String,
    pub outcome: Outcome,
}

/// The number of rows returned or changed, and the rows themselves.
type Outcome = Result<(i64, Option<Value>)>;

/// On the given nodes, or on all. What goes wrong on a node is its answer; a node that does not exist is an error.
///
/// A statement that is part of a transaction goes through the session channel: it sees what the transaction did on the node
/// before, waits for no lock of it, and ends with it. Alone, it runs on all nodes at the same time, and commits there at once.
pub fn run(text: &str, nodes: Option<Vec<String>>) -> Result<Vec<Answer>> {
    let inside = transaction::is_part_of_more();
    let nodes = match nodes {
        Some(nodes) => nodes,
        None => node::names(None)?,
    };
    nodes.iter().try_for_each(|node| check_remote(node))?;
    let statements = split(text)?;
    if !inside {
        return at_once(&statements, nodes);
    }
    if matches!(subtransaction::attempt(|| Ok(parse::sets_for_session(text))), Ok(true)) {
        return Report::new(Code::ERRCODE_FEATURE_NOT_SUPPORTED, "the setting would outlive the transaction on the node")
            .detail("Within a transaction the statement runs in the session that foreign tables are read by, and later queries would be answered with that setting.")
            .hint("Use SET LOCAL, or call shard_run_on_nodes outside of a transaction.")
            .into();
    }
    within_transaction(&statements, nodes)
}

/// What the coordinator's parser does not know, a newer node may: it gets the text as it is.
fn split(text: &str) -> Result<Vec<String>> {
    match subtransaction::attempt(|| Ok(parse::statements(text))) {
        Ok(Some(statements)) if !statements.is_empty() => Ok(statements),
        Ok(Some(_)) | Err(_) => Ok(vec![text.to_string()]),
        Ok(None) => Report::new(Code::ERRCODE_FEATURE_NOT_SUPPORTED, "the statements begin or end a transaction")
            .detail("On each node they are one transaction, or part of the one that calls.")
            .hint("Leave BEGIN, COMMIT and the like out.")
            .into(),
    }
}

/// Node after node, each in a savepoint: what fails there is undone there, and leaves the transaction as it was.
fn within_transaction(statements: &[String], nodes: Vec<String>) -> Result<Vec<Answer>> {
    let mut answers = Vec::with_capacity(nodes.len());
    for node in nodes {
        may_use(&node)?;
        let outcome = subtransaction::attempt(|| {
            let channel = Channel::open(&node)?;
            let mut last = Returned::default();
            for statement in statements {
                last = channel.answer(statement)?;
            }
            Ok((last.rows, last.result))
        });
        let outcome = outcome.map_err(|report| Error::from(explained(report)));
        answers.push(Answer { node, outcome });
    }
    Ok(answers)
}

/// VACUUM, CREATE INDEX CONCURRENTLY and others stand alone.
fn explained(report: Report) -> Report {
    match report.code {
        Code::ERRCODE_ACTIVE_SQL_TRANSACTION => report.hint(
            "Here the statement is part of a transaction; call shard_run_on_nodes outside of a transaction block, function or DO block.",
        ),
        _ => report,
    }
}

/// How long nodes may take to answer after they were told of a cancel.
const PATIENCE: Duration = Duration::from_secs(5);

fn at_once(statements: &[String], nodes: Vec<String>) -> Result<Vec<Answer>> {
    let limits = Timeouts { statement: statement_timeout()?, lock: None, application_name: "shardkeeper run" };
    let targets: Vec<Result<ConnectionParams>> = nodes.iter().map(|node| target(node)).collect();
    let answered: Vec<RefCell<Option<Outcome>>> = nodes.iter().map(|_| RefCell::default()).collect();
    let all = targets.into_iter().zip(&answered).map(|(target, place)| async move {
        let outcome = match target {
            Ok(target) => run_on(&target, limits, statements).await,
            Err(error) => Err(error),
        };
        place.replace(Some(outcome));
    });
    session::wait_for_answers(PATIENCE, futures_util::future::join_all(all))?;
    let outcomes: Vec<Option<Outcome>> = answered.into_iter().map(RefCell::into_inner).collect();
    if interrupt::is_ending() {
        settle_cancel(&nodes, &outcomes)?;
    }
    let answer = |(node, outcome): (String, Option<Outcome>)| {
        let outcome = outcome.unwrap_or_else(|| Err(unknown(&node).into()));
        Answer { node, outcome }
    };
    Ok(nodes.into_iter().zip(outcomes).map(answer).collect())
}

/// The nodes were told of a cancel. Where one had committed by then, the answers are the result, for nobody must believe that
/// nothing happened; else the cancel is raised.
fn settle_cancel(nodes: &[String], outcomes: &[Option<Outcome>]) -> Result<()> {
    if outcomes.iter().flatten().any(|outcome| outcome.is_ok()) {
        interrupt::forget_cancel();
        return Ok(());
    }
    let silent: Vec<&str> =
        nodes.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_none()).map(|(node, _)| node.as_str()).collect();
    if silent.is_empty() {
        interrupt::check();
        return Ok(());
    }
    interrupt::forget_cancel();
    Report::new(Code::ERRCODE_QUERY_CANCELED, "canceling statement on nodes")
        .detail(format!(
            "No answer came from {}: whether the statement took effect there is not known.",
            silent.join(", ")
        ))
        .into()
}

fn unknown(node: &str) -> Report {
    Report::new(
        Code::ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN,
        format!("node \"{node}\" was told to cancel, and did not answer"),
    )
    .detail("Whether the statement took effect there is not known.")
}

fn check_remote(node: &str) -> Result<()> {
    if node == LOCAL {
        return Report::new(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            "the statement cannot be sent to the node \"local\"",
        )
        .hint("That is this session: run it here.")
        .into();
    }
    if is_known(node)? { Ok(()) } else { unknown_node(node).into() }
}

/// A user mapping for everybody must not give the node to those who may not use the server.
fn may_use(node: &str) -> Result<()> {
    let may = sql::one::<bool>("SELECT pg_catalog.has_server_privilege($1, 'USAGE')", &[node.into()])?;
    match may {
        Some(true) => Ok(()),
        _ => Report::new(Code::ERRCODE_INSUFFICIENT_PRIVILEGE, format!("permission denied for node \"{node}\"")).into(),
    }
}

fn target(node: &str) -> Result<ConnectionParams> {
    may_use(node)?;
    ConnectionParams::of(node, role::current())
}

/// The caller's own limit counts there too.
fn statement_timeout() -> Result<Option<Duration>> {
    let setting = "SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'statement_timeout'";
    let milliseconds = sql::one::<i64>(setting, &[])?.and_then(|value| u64::try_from(value).ok());
    Ok(milliseconds.filter(|value| *value > 0).map(Duration::from_millis))
}

/// Several statements are one transaction. The answer is that of the last.
async fn run_on(target: &ConnectionParams, limits: Timeouts, statements: &[String]) -> Outcome {
    let mut session = Session::open(target, limits).await?;
    let Some((last, before)) = statements.split_last() else { return Ok((0, None)) };
    if before.is_empty() {
        return answer(&mut session, last).await;
    }
    session.run("BEGIN").await?;
    for statement in before {
        not_cancelled()?;
        session.run(statement).await?;
    }
    let answer = answer(&mut session, last).await?;
    not_cancelled()?;
    session.run("COMMIT").await?;
    Ok(answer)
}

/// After a cancel nothing new is begun on a node.
fn not_cancelled() -> Result<()> {
    if interrupt::is_ending() {
        return Report::new(Code::ERRCODE_QUERY_CANCELED, "canceling statement before it ran").into();
    }
    Ok(())
}

async fn answer(session: &mut Session, statement: &str) -> Outcome {
    // Preparing it gives the types of the columns.
    let prepared = session.with(async |client| client.prepare(statement).await).await?;
    let types: Vec<Type> = prepared.columns().iter().map(|column| column.type_().clone()).collect();
    let mut rows = Vec::new();
    let mut count = 0;
    not_cancelled()?;
    for message in session.text(statement).await? {
        match message {
            SimpleQueryMessage::Row(row) => {
                let mut members = Map::new();
                for (place, column) in row.columns().iter().enumerate() {
                    let text = session::text(session.node(), &row, place)?;
                    members.insert(column.name().to_string(), value(text, types.get(place)));
                }
                rows.push(Value::Object(members));
            }
            SimpleQueryMessage::CommandComplete(number) => count = i64::try_from(number).unwrap_or(i64::MAX),
            _ => {}
        }
    }
    let result = (!types.is_empty()).then_some(Value::Array(rows));
    Ok((count, result))
}

/// As `to_jsonb` would do it: numbers, booleans and JSON as such, all else as text. A number with more digits than a
/// double precision number keeps stays text, so that none is lost.
fn value(text: Option<&str>, kind: Option<&Type>) -> Value {
    let Some(text) = text else { return Value::Null };
    let parsed = match kind {
        Some(&Type::BOOL) => Some(Value::Bool(text == "t")),
        Some(&(Type::INT2 | Type::INT4 | Type::INT8 | Type::OID | Type::JSON | Type::JSONB)) => {
            serde_json::from_str(text).ok()
        }
        Some(&(Type::FLOAT4 | Type::FLOAT8)) => serde_json::from_str(text).ok(),
        Some(&Type::NUMERIC) if text.bytes().filter(u8::is_ascii_digit).count() <= EXACT_DIGITS => {
            serde_json::from_str(text).ok()
        }
        _ => None,
    };
    parsed.unwrap_or_else(|| Value::String(text.to_string()))
}

const EXACT_DIGITS: usize = 15;
