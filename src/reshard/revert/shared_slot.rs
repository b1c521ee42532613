//! The stream that all ways back of a server share: one slot and one publication, in which each switched operation has its
//! new leaves until it is finished. However many operations are kept, a server has one slot for them.
//!
//! A publication belongs to a role: where the owners of parents are different roles on a node, each has a stream there.
//! What is made is registered before, in `shardkeeper.ways_back`; whoever changes or reads a stream holds its lock.

use crate::catalog::operation::Operation;
use crate::catalog::way_back::{self, Shared};
use crate::error::{Report, Result};
use crate::name::{QualifiedName, ident, literal};
use crate::node::channel::Channel;
use crate::node::session::{self, ConnectionParams};
use crate::pg::lock::{self, Held, Single};
use crate::pg::{role, sql, transaction};
use crate::reshard::apply::slot;
use crate::reshard::cleanup;
use crate::reshard::outcome::{Step, fail};
use crate::reshard::prepare;
use crate::reshard::server::{BRIEF, Server};
use pgrx::PgSqlErrorCode as Code;
use serde::Deserialize;
use shardkeeper_core::plan::LOCAL;
use std::time::Duration;

/// Others hold the lock of a stream for one look at it, or while a slot is made.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the stream of the operation on this server is called.
pub fn name(operation: &Operation, node: &str) -> Result<String> {
    if let Some(registered) = operation.streams.get(node) {
        return Ok(registered.name.clone());
    }
    let signature = operation.staging.rsplit('_').next().unwrap_or_default();
    if node == LOCAL {
        return Ok(format!("shardkeeper_back_local_{signature}"));
    }
    let user = transaction::run(|| ConnectionParams::of(node, operation.role()))?.user;
    let hash = transaction::run(|| {
        sql::one::<String>("SELECT pg_catalog.left(pg_catalog.md5($1), 6)", &[user.as_str().into()])
    })?;
    Ok(format!("shardkeeper_back_{}_{signature}", hash.unwrap_or_default()))
}

/// The lock of a stream, for one who reads or changes it.
pub fn hold(node: &str, stream: &str) -> Result<Held> {
    // FNV-1a: two streams with one hash would only wait for each other.
    let hash = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    let number = node.bytes().chain(stream.bytes()).fold(0x811c_9dc5, hash);
    let held = lock::hold(Single::Stream(number), PATIENCE);
    held.ok_or_else(|| {
        let text = format!("another operation has the stream of ways back on {}", server(node));
        Report::new(Code::ERRCODE_LOCK_NOT_AVAILABLE, text).hint("It is tried again and again.").into()
    })
}

fn server(node: &str) -> String {
    if node == LOCAL { "the coordinator".into() } else { format!("node {}", ident(node)) }
}

#[derive(Deserialize)]
struct There {
    publication: bool,
    slot: bool,
    lost: bool,
    tables: Vec<u32>,
    /// Those that are not in the publication.
    missing: Vec<String>,
    computes: bool,
}

/// From here on, the server keeps what changes in these tables for the operation. Safe to repeat.
pub fn join(operation: &Operation, node: &str, tables: &[QualifiedName]) -> Step {
    let name = name(operation, node)?;
    let names = tables.iter().map(|table| literal(&table.to_string())).collect::<Vec<_>>().join(", ");
    let look = format!(
        "SELECT json_build_object('publication', EXISTS (SELECT FROM pg_publication WHERE pubname = {name}),
             'slot', EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {name}),
             'lost', EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {name} AND wal_status = 'lost'),
             'tables', (SELECT json_agg(n::regclass::oid::bigint) FROM unnest(ARRAY[{names}]) AS n),
             'missing', (SELECT coalesce(json_agg(n), '[]') FROM unnest(ARRAY[{names}]) AS n WHERE NOT EXISTS (
                 SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                 WHERE p.pubname = {name} AND r.prrelid = n::regclass)),
             'computes', current_setting('server_version_num')::int >= 180000)::text",
        name = literal(&name)
    );
    let ask = || -> Result<There> {
        let found =
            session::wait(async { Server::open(node, operation.role(), BRIEF).await?.document(&look, &[]).await })?;
        found.ok_or_else(|| Report::new(Code::ERRCODE_INTERNAL_ERROR, "the server told nothing").into())
    };
    let tables = ask()?.tables;
    transaction::run(|| way_back::register(operation.id, node, &name, &tables))?;
    let _held = hold(node, &name)?;
    let there = ask()?;
    if !there.slot || there.lost {
        // What the others missed is not known any more.
        let why = format!("Its replication slot on {} is gone.", server(node));
        transaction::run(|| way_back::lose_all(node, &name, Some(operation.id), &why))?;
    }
    let mut commands = Vec::new();
    if !there.publication {
        // From Postgres 18 on, whole rows can be told only with what is computed in them.
        let how = if there.computes { " WITH (publish_generated_columns = stored)" } else { "" };
        commands.push(format!("CREATE PUBLICATION {}{how}", ident(&name)));
    }
    if !there.missing.is_empty() {
        commands.push(format!("ALTER PUBLICATION {} ADD TABLE {}", ident(&name), there.missing.join(", ")));
    }
    run(operation, node, &commands)?;
    if there.lost {
        cleanup::slot(operation, node, &name)?;
    }
    if !there.slot || there.lost {
        prepare::make_slot(operation, node, &name)?;
    }
    Ok(())
}

/// Publications on the coordinator are the worker's own: the owner need not have the right to make one.
fn run(operation: &Operation, node: &str, commands: &[String]) -> Result<()> {
    match (commands.is_empty(), node) {
        (true, _) => Ok(()),
        (_, LOCAL) => transaction::run(|| sql::run_quietly(&commands.join(";\n"))),
        _ => {
            session::wait(async { Server::open(node, operation.role(), BRIEF).await?.run(&commands.join(";\n")).await })
        }
    }
}

/// The server keeps nothing for the operation any more; the last one takes the stream away. Safe to repeat.
pub fn leave(operation: &Operation, node: &str, shared: &Shared) -> Result<()> {
    if shared.own_slot {
        cleanup::slot(operation, node, &operation.old())?;
    }
    let _held = hold(node, &shared.name)?;
    if transaction::run(|| way_back::is_last(operation.id, node, &shared.name))? {
        cleanup::stream(operation, node, &shared.name)?;
    } else {
        let tables: Vec<String> = shared.tables.iter().map(u32::to_string).collect();
        let body = format!(
            "DECLARE command text;
BEGIN
    FOR command IN SELECT pg_catalog.format('ALTER PUBLICATION %I DROP TABLE %I.%I', p.pubname, n.nspname, c.relname)
        FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
        JOIN pg_catalog.pg_class c ON c.oid = r.prrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE p.pubname = {} AND r.prrelid = ANY ('{{{}}}'::oid[])
    LOOP
        EXECUTE command;
    END LOOP;
END",
            literal(&shared.name),
            tables.join(", ")
        );
        run(operation, node, &[format!("DO {}", literal(&body))])?;
    }
    transaction::run(|| way_back::unregister(operation.id, node))
}

/// The operation is about to be reverted: from here on it is followed by slots of its own, copies of the shared ones. Others
/// need not wait for it, nor it for others. Safe to repeat.
pub fn part(operation: &Operation) -> Step {
    for (node, shared) in operation.streams.iter().filter(|(_, shared)| !shared.apart) {
        let _held = hold(node, &shared.name)?;
        let own = operation.old();
        transaction::run(|| way_back::set_apart(operation.id, node, true, false))?;
        cleanup::slot(operation, node, &own)?;
        copy(operation, node, &shared.name, &own)?;
        transaction::run(|| way_back::set_apart(operation.id, node, true, true))?;
    }
    Ok(())
}

fn copy(operation: &Operation, node: &str, from: &str, to: &str) -> Step {
    let (from, to) = (literal(from), literal(to));
    let copy = format!(
        "SELECT slot_name::text FROM pg_catalog.pg_copy_logical_replication_slot(
             (SELECT slot_name FROM pg_catalog.pg_replication_slots WHERE slot_name = {from} AND wal_status IS DISTINCT FROM 'lost'), {to})"
    );
    let there = format!("SELECT count(*)::text FROM pg_catalog.pg_replication_slots WHERE slot_name = {to}");
    let made = match node {
        LOCAL => transaction::run(|| sql::one_without_id::<String>(&copy, &[]).map(|_| ())),
        _ => session::wait(async { Server::open(node, operation.role(), BRIEF).await?.run(&copy).await }),
    };
    made.map_err(|error| short_of_slots(node, error))?;
    let there: Option<i64> =
        session::wait(async { Server::open(node, operation.role(), BRIEF).await?.document(&there, &[]).await })?;
    if there == Some(1) {
        return Ok(());
    }
    fail(
        Report::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the replication slot of a source is gone")
            .detail(format!("It was {from} on {}.", server(node))),
    )
}

fn short_of_slots(node: &str, error: crate::error::Error) -> crate::error::Error {
    let report = Report::from(error);
    if report.code != Code::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED {
        return report.into();
    }
    Report::new(report.code, format!("{} has no free replication slot for a revert", server(node)))
        .detail("While it is reverted, an operation is followed by a slot of its own.")
        .hint("Drop one that nobody needs, or raise max_replication_slots there and restart it. It is tried again and again.")
        .into()
}

/// A revert was given up: the operation goes on by the shared streams, once it has all that these have told already.
/// `back` is the operation turned round.
pub fn rejoin(operation: &Operation, back: &Operation) -> Step {
    for (node, shared) in operation.streams.iter().filter(|(_, shared)| shared.own_slot) {
        let held = hold(node, &shared.name)?;
        if shared.apart {
            bring_up(back, node)?;
            transaction::run(|| way_back::set_apart(operation.id, node, true, false))?;
        }
        drop(held);
        cleanup::slot(operation, node, &operation.old())?;
        transaction::run(|| way_back::set_apart(operation.id, node, false, false))?;
    }
    Ok(())
}

/// Applies all that the own slot has.
fn bring_up(back: &Operation, node: &str) -> Step {
    transaction::run_step(|| {
        let mut applier = crate::reshard::apply::Applier::open(back)?;
        let mut session = applier.sources.get_mut(node).and_then(Option::as_mut);
        slot::claim(back, node, session.as_deref_mut())?;
        slot::end_of_log(session)?;
        applier.up_to_date(back, node).map(drop)
    })
}

/// How many replication slots the server may have, and has; but for those that are gone in a moment.
const USED: &str = "SELECT pg_catalog.json_build_array(pg_catalog.current_setting('max_replication_slots')::bigint,
        (SELECT count(*) FROM pg_catalog.pg_replication_slots WHERE NOT (temporary AND slot_name ~ '^shardkeeper_.*_now$')))::text";

/// The operations that would lose their ways back if a new one needed a slot on the server now. In the caller's transaction.
pub fn would_give_way(node: &str) -> Result<Vec<i64>> {
    let streams = role::as_extension_owner(way_back::streams)?;
    let Some((_, stream, _)) = streams.into_iter().find(|(there, ..)| there == node) else { return Ok(Vec::new()) };
    let found: Option<(i64, i64)> = match node {
        LOCAL => sql::document(USED, &[])?,
        _ => Channel::open(node)?.document(USED)?,
    };
    match found {
        Some((most, used)) if used >= most => role::as_extension_owner(|| way_back::users(node, &stream)),
        _ => Ok(Vec::new()),
    }
}

/// A new operation needs a replication slot on the server and there is none: the stream of the oldest operation that is kept
/// there goes, with the ways back that go by it.
pub fn give_way(operation: &Operation, node: &str) -> Step {
    let found: Option<(i64, i64)> =
        session::wait(async { Server::open(node, operation.role(), BRIEF).await?.document(USED, &[]).await })?;
    let Some((most, _)) = found.filter(|(most, used)| used >= most) else { return Ok(()) };
    for (_, stream, oldest) in transaction::run(way_back::streams)?.into_iter().filter(|(there, ..)| there == node) {
        let Some(oldest) = transaction::run(|| crate::catalog::operation::load(oldest))? else { continue };
        let _held = hold(node, &stream)?;
        let why = format!(
            "Operation {} needed its replication slot on {}: all {most} of max_replication_slots were used.",
            operation.id,
            server(node)
        );
        transaction::run(|| way_back::lose_all(node, &stream, None, &why))?;
        if cleanup::slot(&oldest, node, &stream)? {
            return Ok(());
        }
    }
    Ok(())
}
