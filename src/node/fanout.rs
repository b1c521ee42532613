//! One statement on several nodes at the same time.

use super::channel::unknown_node;
use super::own::{self, Limits, Session, Target};
use super::register::is_known;
use crate::error::{Report, Result};
use crate::pg::{role, sql};
use pgrx::PgSqlErrorCode as Code;
use serde_json::{Map, Value};
use std::time::Duration;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::Type;

/// What one node answered.
pub struct Answer {
    pub node: String,
    /// The number of rows returned or changed, and the rows themselves.
    pub outcome: Result<(i64, Option<Value>)>,
}

/// On the given nodes, or on all. What goes wrong on a node is its answer; a node that does not exist is an error.
pub fn run(statement: &str, nodes: Option<Vec<String>>) -> Result<Vec<Answer>> {
    let nodes = match nodes {
        Some(nodes) => nodes,
        None => {
            role::as_extension_owner(|| sql::column("SELECT name::text FROM shardkeeper.nodes ORDER BY name", &[]))?
        }
    };
    let limits = Limits { statement: statement_timeout()?, lock: None, application_name: "shardkeeper run" };
    let mut targets = Vec::with_capacity(nodes.len());
    for node in nodes {
        check_remote(&node)?;
        targets.push((target(&node), node));
    }
    own::wait(async {
        let all = targets.into_iter().map(|(target, node)| async move {
            let outcome = match target {
                Ok(target) => run_on(&target, limits, statement).await,
                Err(error) => Err(error),
            };
            Answer { node, outcome }
        });
        Ok(futures_util::future::join_all(all).await)
    })
}

fn check_remote(node: &str) -> Result<()> {
    if node == "local" {
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
fn target(node: &str) -> Result<Target> {
    let may = sql::one::<bool>("SELECT pg_catalog.has_server_privilege($1, 'USAGE')", &[node.into()])?;
    if may != Some(true) {
        return Report::new(Code::ERRCODE_INSUFFICIENT_PRIVILEGE, format!("permission denied for node \"{node}\""))
            .into();
    }
    Target::of(node, role::current())
}

/// The caller's own limit counts there too.
fn statement_timeout() -> Result<Option<Duration>> {
    let setting = "SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'statement_timeout'";
    let milliseconds = sql::one::<i64>(setting, &[])?.and_then(|value| u64::try_from(value).ok());
    Ok(milliseconds.filter(|value| *value > 0).map(Duration::from_millis))
}

async fn run_on(target: &Target, limits: Limits, statement: &str) -> Result<(i64, Option<Value>)> {
    let mut session = Session::open(target, limits).await?;
    // Preparing it gives the types of the columns, and refuses more than one statement.
    let prepared = session.with(async |client| client.prepare(statement).await).await?;
    let types: Vec<Type> = prepared.columns().iter().map(|column| column.type_().clone()).collect();
    let mut rows = Vec::new();
    let mut count = 0;
    for message in session.text(statement).await? {
        match message {
            SimpleQueryMessage::Row(row) => {
                let mut members = Map::new();
                for (place, column) in row.columns().iter().enumerate() {
                    let text = own::text(session.node(), &row, place)?;
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
