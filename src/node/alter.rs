//! Changing a node, giving it to another role, and letting it go.

use super::add::{channel_grants, prepare};
use super::bootstrap;
use super::channel::COORDINATOR;
use super::dropped_in_use;
use super::finding::{Finding, Severity};
use super::in_doubt::{self, Outcome};
use super::in_use;
use super::options;
use super::pooler;
use super::session::{self, ConnectionParams, Options, Session, Timeouts, mapping_options};
use crate::catalog::node::{self, SCHEMA, is_known, server_options, unknown_node};
use crate::catalog::operation_look::KEPT_RETIRED;
use crate::catalog::{drain, transaction};
use crate::error::{Report, Result};
use crate::name::{QualifiedName, ident, literal};
use crate::pg::{role, sql, user_mapping};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use serde_json::Value;
use shardkeeper_core::plan::LOCAL;
use shardkeeper_core::plural::count;

/// What `shard_alter_node` is told; what is absent stays as it is.
pub struct Changes<'a> {
    pub host: Option<&'a str>,
    pub port: Option<i32>,
    pub dbname: Option<&'a str>,
    pub username: Option<&'a str>,
    pub password: Option<&'a str>,
    pub region: Option<&'a str>,
    pub options: Option<&'a Value>,
}

/// The new way is tried before anything changes; where leaves live on the node, they must be found there too.
pub fn alter(node: &str, changes: &Changes<'_>) -> Result<Vec<Finding>> {
    not_the_coordinator(node, "changed")?;
    let Some(before) = known_server(node)? else { return unknown_node(node).into() };
    check_owner(node)?;
    let mut server = changed_server(&before, changes)?;
    options::pin(&mut server, None);
    let caller = role::current();
    let known = own_mapping(node, caller)?;
    let mapping: Vec<(String, String)> = [("user", changes.username), ("password", changes.password)]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_string(), value?.to_string())))
        .collect();
    let base = mapping_options(node, caller)?.unwrap_or_default();
    let mut tried = server.clone();
    // A server of an older version may be there now.
    options::pin(&mut tried, Some(&[]));
    let together: Options = tried.into_iter().chain(base).chain(mapping.clone()).collect();
    let mut findings = Vec::new();
    // Without any change the node is only made ready again.
    if server != before || !mapping.is_empty() || changes.region.is_none() {
        let mut target = ConnectionParams::from_options(node, together)?;
        target.must_use_password = !role::is_superuser(caller);
        let (facts, found) = prepare(&target)?;
        check_same_leaves(node, &target)?;
        options::pin(&mut server, Some(&facts.settings()));
        findings = found;
        node::set_identity(node, facts.identity().as_deref())?;
        findings
            .insert(0, Finding::new(Severity::Ok, format!("node \"{node}\" answers at {}", target.address()), None));
    }
    alter_server(node, &before, &server)?;
    if !mapping.is_empty() {
        let name = role::name(caller)?;
        match known {
            Some(known) => user_mapping::alter_mapping(node, &name, &known, &mapping)?,
            None => user_mapping::create_mapping(node, &name, &mapping)?,
        }
    }
    if let Some(region) = changes.region {
        node::set_region(node, region)?;
    }
    Ok(findings)
}

/// Refuses while anything of ours lives there. What was made on the node stays: another coordinator may use it.
pub fn drop(node: &str) -> Result<()> {
    not_the_coordinator(node, "dropped")?;
    if !is_known(node)? {
        return unknown_node(node).into();
    }
    check_owner(node)?;
    // Whoever is about to put a mirror there holds its row: what it puts there is seen below.
    node::hold(node)?;
    drain::nothing_comes(node)?;
    in_use::check(node)?;
    check_settled(node)?;
    // Whether this transaction has told the node something to journal. Nobody visits it any more; should it come back, what its
    // journal has of committed transactions is forgotten by their numbers.
    let told = transaction::forget_all(node)?;
    if dropped_in_use::is_busy(node)? {
        dropped_in_use::note(node, node::identity(node)?, &server_options(node)?.unwrap_or_default());
    }
    node::delete(node)?;
    role::as_extension_owner(|| {
        sql::run(&format!("DROP FOREIGN TABLE IF EXISTS {}", QualifiedName::new(SCHEMA, node)), &[])
    })?;
    for user in sql::column::<String>(
        "SELECT CASE WHEN umuser = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(usename) END
         FROM pg_catalog.pg_user_mappings WHERE srvname = $1",
        &[node.into()],
    )? {
        sql::run(&format!("DROP USER MAPPING FOR {user} SERVER {}", ident(node)), &[])?;
    }
    sql::run(&format!("DROP SERVER {}", ident(node)), &[])?;
    let more = if told { ", and the journal of this transaction until the node is added again" } else { "" };
    pgrx::notice!(
        "schemas shardkeeper and shardkeeper_trash stay on node \"{node}\"{more}; drop them there when no other coordinator uses it"
    );
    Ok(())
}

/// Gives `grantee` its own way to the node. Both ends are tried before anything changes here.
pub fn grant(node: &str, grantee: Oid, username: Option<&str>, password: Option<&str>) -> Result<()> {
    not_the_coordinator(node, "granted")?;
    let Some(server) = known_server(node)? else { return unknown_node(node).into() };
    check_owner(node)?;
    let grantee_name = role::name(grantee)?;
    let user = username.unwrap_or(&grantee_name);
    let mapping: Vec<(String, String)> = std::iter::once(("user".to_string(), user.to_string()))
        .chain(password.map(|password| ("password".to_string(), password.to_string())))
        .collect();
    let mine = ConnectionParams::of(node, role::current())?;
    let known = own_mapping(node, grantee)?;
    let mut theirs = ConnectionParams::from_options(node, server.into_iter().chain(mapping.clone()).collect())?;
    theirs.must_use_password = !role::is_superuser(grantee);
    session::wait(async {
        let limits = Timeouts::SHORT.named("shardkeeper grant node");
        if mine.user != theirs.user {
            Session::open(&mine, limits).await?.run(&bootstrap::grants(&ident(&theirs.user))).await?;
        }
        pooler::check_sessions(&theirs, limits).await?;
        bootstrap::bootstrap(&mut Session::open(&theirs, limits).await?).await
    })?;
    match known {
        Some(known) => user_mapping::alter_mapping(node, &grantee_name, &known, &mapping)?,
        None => user_mapping::create_mapping(node, &grantee_name, &mapping)?,
    }
    let quoted = ident(&grantee_name);
    sql::run(&format!("GRANT USAGE ON FOREIGN SERVER {} TO {quoted}", ident(node)), &[])?;
    role::as_extension_owner(|| sql::run(&channel_grants(node, &quoted), &[]))?;
    Ok(())
}

/// The view `shard_nodes` lists the coordinator too.
fn not_the_coordinator(node: &str, what: &str) -> Result<()> {
    if node != LOCAL {
        return Ok(());
    }
    Report::new(
        Code::ERRCODE_WRONG_OBJECT_TYPE,
        format!("the coordinator \"{LOCAL}\" is not a node that could be {what}"),
    )
    .detail(format!("The name \"{LOCAL}\" means the server that the call is made on."))
    .into()
}

fn known_server(node: &str) -> Result<Option<Options>> {
    if is_known(node)? { server_options(node) } else { Ok(None) }
}

pub fn check_owner(node: &str) -> Result<()> {
    let owned = sql::one::<bool>(
        "SELECT pg_catalog.pg_has_role(srvowner, 'USAGE') FROM pg_catalog.pg_foreign_server WHERE srvname = $1",
        &[node.into()],
    )?;
    match owned {
        Some(true) => Ok(()),
        _ => Report::new(Code::ERRCODE_INSUFFICIENT_PRIVILEGE, format!("must be owner of node \"{node}\""))
            .hint(format!("Its owner is the owner of the foreign server {}.", ident(node)))
            .into(),
    }
}

/// The names of the options of the role's own mapping; that for everybody does not count.
fn own_mapping(node: &str, role: Oid) -> Result<Option<Vec<String>>> {
    role::as_extension_owner(|| {
        sql::document(
            "SELECT (SELECT coalesce(pg_catalog.json_agg(option_name), '[]') FROM pg_catalog.pg_options_to_table(m.umoptions))::text
             FROM pg_catalog.pg_user_mapping m JOIN pg_catalog.pg_foreign_server s ON s.oid = m.umserver
             WHERE s.srvname = $1 AND m.umuser = $2",
            &[node.into(), role.into()],
        )
    })
}

fn changed_server(before: &Options, changes: &Changes<'_>) -> Result<Options> {
    let port = changes.port.map(|port| port.to_string());
    let given = [("host", changes.host), ("port", port.as_deref()), ("dbname", changes.dbname)];
    let given = given.into_iter().filter_map(|(name, value)| Some((name.to_string(), Some(value?.to_string()))));
    let more = match changes.options {
        Some(json) => options::parse(json)?,
        None => Vec::new(),
    };
    Ok(options::merge(options::merge(before.clone(), given), more))
}

fn alter_server(node: &str, before: &Options, after: &Options) -> Result<()> {
    let set = after.iter().filter_map(|(name, value)| match before.get(name) {
        None => Some(format!("ADD {} {}", ident(name), literal(value))),
        Some(old) if old != value => Some(format!("SET {} {}", ident(name), literal(value))),
        Some(_) => None,
    });
    let dropped = before.keys().filter(|name| !after.contains_key(*name)).map(|name| format!("DROP {}", ident(name)));
    let all: Vec<String> = set.chain(dropped).collect();
    if !all.is_empty() {
        sql::run(&format!("ALTER SERVER {} OPTIONS ({})", ident(node), all.join(", ")), &[])?;
    }
    Ok(())
}

/// The tables on the node that leaves of the coordinator stand for.
pub fn leaves(node: &str) -> Result<Vec<QualifiedName>> {
    sql::documents(
        "SELECT pg_catalog.json_build_object('schema', coalesce(o ->> 'schema_name', c.relnamespace::regnamespace::text),
                                             'name', coalesce(o ->> 'table_name', c.relname))::text
         FROM pg_catalog.pg_foreign_table t
         JOIN pg_catalog.pg_class c ON c.oid = t.ftrelid
         JOIN pg_catalog.pg_foreign_server s ON s.oid = t.ftserver,
         LATERAL (SELECT pg_catalog.json_object_agg(option_name, option_value) FROM pg_catalog.pg_options_to_table(t.ftoptions)) AS f (o)
         WHERE s.srvname = $1 AND c.relnamespace <> coalesce(pg_catalog.to_regnamespace($2), 0)
         ORDER BY 1",
        &[node.into(), SCHEMA.into()],
    )
}

/// What an operation has replaced and keeps is there in a schema of the same name, whatever its foreign table still points to;
/// what an operation is making, or taking away, comes and goes.
const EXPECTED: &str = "
    SELECT pg_catalog.json_build_object(
        'schema', CASE WHEN k.schema IS NULL THEN coalesce(f.o ->> 'schema_name', n.nspname::text) ELSE n.nspname::text END,
        'name', coalesce(f.o ->> 'table_name', c.relname::text))::text
    FROM pg_catalog.pg_foreign_table t
    JOIN pg_catalog.pg_class c ON c.oid = t.ftrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_foreign_server s ON s.oid = t.ftserver
    CROSS JOIN LATERAL (
        SELECT pg_catalog.json_object_agg(option_name, option_value) FROM pg_catalog.pg_options_to_table(t.ftoptions)) AS f (o)
    LEFT JOIN kept_retired k ON n.nspname::text = k.schema
    WHERE s.srvname = $1 AND n.nspname::text <> $2
      AND (k.schema IS NOT NULL OR n.nspname::text !~ '^shardkeeper_(op|old)_[0-9]+_[0-9a-f]{6}$')
    ORDER BY 1";

/// The tables that have to be on the node.
fn expected(node: &str) -> Result<Vec<QualifiedName>> {
    let query = format!("WITH {KEPT_RETIRED} {EXPECTED}");
    role::as_extension_owner(|| sql::documents(&query, &[node.into(), SCHEMA.into()]))
}

fn check_same_leaves(node: &str, target: &ConnectionParams) -> Result<()> {
    let expected = expected(node)?;
    if expected.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = expected.iter().map(QualifiedName::to_string).collect();
    let schemas: Vec<String> = expected.iter().map(|table| table.schema.clone()).collect();
    let tables: Vec<String> = expected.iter().map(|table| table.name.clone()).collect();
    let missing: Vec<String> = session::wait(async {
        let mut session = Session::open(target, Timeouts::SHORT.named("shardkeeper alter node")).await?;
        // By the catalog: the role may have no right to look into the schemas of operations of others.
        let sql = "SELECT w.shown FROM unnest($1::text[], $2::text[], $3::text[]) AS w (shown, schema, name)
             WHERE NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                               WHERE n.nspname::text = w.schema AND c.relname::text = w.name)";
        session.rows(sql, &[&names, &schemas, &tables]).await?.iter().map(|row| session::value(node, row, 0)).collect()
    })?;
    match missing.first() {
        None => Ok(()),
        Some(first) => {
            Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, format!("node \"{node}\" would lose its partitions"))
                .detail(format!(
                    "Missing at the new address: {} of {}, first {first}.",
                    missing.len(),
                    count(names.len(), "table", "tables")
                ))
                .hint("Give the address of the same database, or drop or detach the partitions first.")
                .into()
        }
    }
}

/// What the worker has not settled there yet: what is known to have been committed is forgotten at once, anything else has to
/// wait for the worker. A node that is gone for good can be dropped.
fn check_settled(node: &str) -> Result<()> {
    let signature = sql::one::<String>(&format!("SELECT {COORDINATOR}"), &[])?.unwrap_or_default();
    let target = ConnectionParams::of(node, role::current())?;
    let visit = session::wait(async {
        let mut session = Session::open(&target, Timeouts::SHORT.named("shardkeeper drop node")).await?;
        let pending = in_doubt::read_journal(&mut session, &signature).await?;
        Ok((session, pending))
    });
    let unsettled = match visit {
        Ok((_, pending)) if pending.is_empty() => return Ok(()),
        Ok((mut session, pending)) => {
            let outcomes = in_doubt::outcomes(&pending)?;
            let (committed, others): (Vec<_>, Vec<_>) =
                pending.into_iter().zip(outcomes).partition(|(_, outcome)| *outcome == Outcome::Committed);
            let committed: Vec<String> = committed.into_iter().map(|(pending, _)| pending.id).collect();
            if !committed.is_empty() {
                role::as_extension_owner(in_doubt::flush)?;
                let forgotten =
                    session::wait(async { in_doubt::forget_there(&mut session, &signature, &committed).await });
                forgotten.map(|()| others.len())
            } else {
                Ok(others.len())
            }
        }
        Err(error) => Err(error),
    };
    match unsettled {
        Ok(0) => Ok(()),
        Ok(unsettled) => {
            let transactions = count(unsettled, "transaction", "transactions");
            Report::new(
                Code::ERRCODE_OBJECT_IN_USE,
                format!("node \"{node}\" has commands of {transactions} to settle"),
            )
            .detail("They were not committed here, or it is not known how they ended.")
            .hint("The worker settles what it can within seconds; for the rest see SELECT * FROM shard_check().")
            .into()
        }
        Err(error) => {
            let report = Report::from(error);
            pgrx::warning!("node \"{node}\" is dropped without a last look: {}", report.message);
            Ok(())
        }
    }
}
