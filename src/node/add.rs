//! Adding a node: checked from here, made ready there, then written down in the caller's transaction.

use super::bootstrap;
use super::dropped_in_use;
use super::finding::{Finding, Severity, tolerable};
use super::options;
use super::pooler;
use super::server_info::ServerInfo;
use super::session::{self, ConnectionParams, Options, Session, Timeouts};
use crate::background;
use crate::catalog::node::{self, SCHEMA};
use crate::error::{Report, Result};
use crate::name::{QualifiedName, ident, literal};
use crate::pg::{role, sql, user_mapping};
use pgrx::PgSqlErrorCode as Code;
use serde_json::Value;
use shardkeeper_core::plan::LOCAL;

/// What `shard_add_node` is told.
pub struct NewNode<'a> {
    pub name: &'a str,
    pub host: &'a str,
    pub port: i32,
    pub dbname: Option<&'a str>,
    pub username: Option<&'a str>,
    pub password: Option<&'a str>,
    pub region: Option<&'a str>,
    pub options: &'a Value,
}

/// Postgres keeps this many bytes of a name.
const LONGEST_NAME: usize = shardkeeper_core::name::MAX_BYTES;

/// Errors: 42939 reserved name; 42710 exists; 42501 may not create servers; 08001 not reachable; 28P01 wrong password;
/// 0A000 too old, other encoding; 25006 read-only; 55006 dropped in this transaction, which is at work there; 22023 a wrong
/// argument.
pub fn add(new: &NewNode<'_>) -> Result<Vec<Finding>> {
    check_name(new.name)?;
    check_free(new.name)?;
    check_may_create_servers()?;
    let (mut server, mapping) = (server_options(new)?, mapping_options(new)?);
    let mut target =
        ConnectionParams::from_options(new.name, server.clone().into_iter().chain(mapping.clone()).collect())?;
    target.must_use_password = !role::is_superuser(role::current());
    let (facts, findings) = prepare(&target)?;
    dropped_in_use::check(&target, facts.identity().as_deref(), &server)?;
    options::pin(&mut server, Some(&facts.settings()));
    create_server(new.name, &server)?;
    let mapping: Vec<_> = mapping.into_iter().collect();
    user_mapping::create_mapping(new.name, &role::name(role::current())?, &mapping)?;
    create_channel(new.name)?;
    write_down(new, &facts)?;
    background::ensure_running()?;
    let ready = format!(
        "node \"{}\" is ready: PostgreSQL {}, database \"{}\" at {}",
        new.name,
        facts.version,
        target.dbname,
        target.address()
    );
    Ok(std::iter::once(Finding::new(Severity::Ok, ready, None)).chain(findings).collect())
}

/// Looks at the server and makes it ready; what it has against being a node is the error.
pub fn prepare(target: &ConnectionParams) -> Result<(ServerInfo, Vec<Finding>)> {
    let local = ServerInfo::local()?;
    session::wait(async {
        let limits = Timeouts::SHORT.named("shardkeeper add node");
        pooler::check_sessions(target, limits).await?;
        let mut session = Session::open(target, limits).await?;
        let (facts, clock_ahead) = ServerInfo::of(&mut session).await?;
        let mut findings = tolerable(facts.judge(&local, &target.node, clock_ahead))?;
        findings.extend(pooler::check_options(&mut session).await?);
        bootstrap::bootstrap(&mut session).await?;
        Ok((facts, findings))
    })
}

fn check_name(name: &str) -> Result<()> {
    if name == LOCAL {
        return Report::new(Code::ERRCODE_RESERVED_NAME, "node name \"local\" is reserved")
            .detail("It means the coordinator itself.")
            .hint("Choose another name.")
            .into();
    }
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Report::new(Code::ERRCODE_INVALID_NAME, "node name must have 1 to 63 bytes")
            .detail(format!("It has {}.", name.len()))
            .into();
    }
    Ok(())
}

fn check_free(name: &str) -> Result<()> {
    node::hold_all()?;
    if node::is_known(name)? {
        return Report::new(Code::ERRCODE_DUPLICATE_OBJECT, format!("node \"{name}\" exists already"))
            .hint(format!("Change it with SELECT shard_alter_node({}, …).", literal(name)))
            .into();
    }
    if sql::one::<bool>("SELECT true FROM pg_catalog.pg_foreign_server WHERE srvname = $1", &[name.into()])?.is_some() {
        return Report::new(
            Code::ERRCODE_DUPLICATE_OBJECT,
            format!("a foreign server \"{name}\" exists already, and is no node"),
        )
        .hint("Choose another name for the node, or rename or drop that server.")
        .into();
    }
    Ok(())
}

/// Before anything connects: who may not create a server must not use us to knock at addresses.
fn check_may_create_servers() -> Result<()> {
    let caller = role::current();
    let missing = "SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'postgres_fdw')";
    let missing = sql::one::<bool>(missing, &[])? == Some(true);
    if missing && role::is_superuser(caller) {
        sql::run("CREATE EXTENSION IF NOT EXISTS postgres_fdw", &[])?;
        return Ok(());
    }
    let may = "SELECT pg_catalog.has_foreign_data_wrapper_privilege('postgres_fdw', 'USAGE')";
    if missing || sql::one::<bool>(may, &[])? != Some(true) {
        let create = if missing { "CREATE EXTENSION postgres_fdw; " } else { "" };
        let user = ident(&role::name(caller)?);
        return Report::new(Code::ERRCODE_INSUFFICIENT_PRIVILEGE, "permission denied to add a node")
            .hint(format!("A superuser can run {create}GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO {user}."))
            .into();
    }
    Ok(())
}

fn server_options(new: &NewNode<'_>) -> Result<Options> {
    if new.host.trim().is_empty() {
        return Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, "host must not be empty").into();
    }
    if !(1..=65_535).contains(&new.port) {
        return Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, format!("port {} is out of range", new.port))
            .detail("Ports go from 1 to 65535.")
            .into();
    }
    let dbname = match new.dbname {
        Some(dbname) => dbname.to_string(),
        None => sql::one::<String>("SELECT pg_catalog.current_database()::text", &[])?.unwrap_or_default(),
    };
    let mut server = options::defaults();
    server.insert("host".into(), new.host.to_string());
    server.insert("port".into(), new.port.to_string());
    server.insert("dbname".into(), dbname);
    Ok(options::merge(server, options::parse(new.options)?))
}

fn mapping_options(new: &NewNode<'_>) -> Result<Options> {
    let user = match new.username {
        Some(user) => user.to_string(),
        None => role::name(role::current())?,
    };
    let password = new.password.map(|password| ("password".to_string(), password.to_string()));
    Ok(std::iter::once(("user".to_string(), user)).chain(password).collect())
}

fn create_server(name: &str, server: &Options) -> Result<()> {
    let options: Vec<String> =
        server.iter().map(|(name, value)| format!("{} {}", ident(name), literal(value))).collect();
    let sql =
        format!("CREATE SERVER {} FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({})", ident(name), options.join(", "));
    sql::run(&sql, &[])?;
    Ok(())
}

/// The foreign table over the node's session view, for the caller to use.
fn create_channel(node: &str) -> Result<()> {
    let caller = ident(&role::name(role::current())?);
    let table = QualifiedName::new(SCHEMA, node);
    let statements = [
        format!("CREATE SCHEMA IF NOT EXISTS {}", ident(SCHEMA)),
        format!(
            "COMMENT ON SCHEMA {} IS 'shardkeeper: for each node the foreign table that runs commands there'",
            ident(SCHEMA)
        ),
        format!(
            "CREATE FOREIGN TABLE {table} (command text, result text, inverse text, coordinator text, timeline integer,
                 lsn text, transaction text, xid text)
             SERVER {} OPTIONS (schema_name 'shardkeeper', table_name 'session')",
            ident(node)
        ),
        format!("COMMENT ON FOREIGN TABLE {table} IS 'shardkeeper: runs the command of an inserted row on the node'"),
        channel_grants(node, &caller),
    ];
    let exists = "SELECT true FROM pg_catalog.pg_namespace WHERE nspname = $1";
    role::as_extension_owner(|| {
        let skip = if sql::one::<bool>(exists, &[SCHEMA.into()])?.is_some() { 1 } else { 0 };
        statements.iter().skip(skip).try_for_each(|statement| sql::run(statement, &[]).map(drop))
    })
}

/// What a role needs on the coordinator to use the channel. `role` is quoted already.
pub fn channel_grants(node: &str, role: &str) -> String {
    format!(
        "GRANT USAGE ON SCHEMA {} TO {role}; GRANT SELECT, INSERT ON {} TO {role}",
        ident(SCHEMA),
        QualifiedName::new(SCHEMA, node)
    )
}

fn write_down(new: &NewNode<'_>, facts: &ServerInfo) -> Result<()> {
    let identity = facts.identity();
    if let Some(other) = node::name_of(identity.as_deref())? {
        return Report::new(
            Code::ERRCODE_DUPLICATE_OBJECT,
            format!("node \"{}\" is the same database as node \"{other}\"", new.name),
        )
        .hint("Each node is a database of its own; one server can hold several.")
        .into();
    }
    node::insert(new.name, new.region, identity.as_deref())
}
