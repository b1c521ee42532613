//! Where a node is and who we are there: the options of its foreign server and of a user mapping, with libpq's defaults.

use super::stream::WaysIn;
use super::tls::{self, Mode};
use super::wire::Wire;
use crate::catalog::node::{server_options, unknown_node};
use crate::error::{Report, Result};
use crate::name::literal;
use crate::node::options::why_not;
use crate::pg::{role, sql};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::plural::count;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use tokio_postgres::config::ChannelBinding;

pub type Options = BTreeMap<String, String>;

/// Everything that is needed to connect.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionParams {
    pub node: String,
    pub hosts: Vec<Host>,
    pub dbname: String,
    pub user: String,
    pub password: Option<Secret>,
    pub tls: tls::Settings,
    pub wire: Wire,
    /// `load_balance_hosts=random`: the order in which hosts are tried.
    pub any_order: bool,
    pub connect_timeout: Duration,
    pub options: Option<String>,
    pub attributes: Attributes,
    pub channel_binding: ChannelBinding,
    /// `require_auth`.
    pub ways_in: WaysIn,
    /// A role that is no superuser must prove itself by a password: what the server's own operating system user may
    /// do is not the role's to use.
    pub must_use_password: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// A name, an address, or the directory of a Unix socket.
    pub name: String,
    pub address: Option<String>,
    pub port: u16,
}

/// A password. It has no `Display`, and `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attributes {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

impl ConnectionParams {
    /// As `role` reaches the node. Errors: 42704 unknown node or no user mapping.
    pub fn of(node: &str, role: Oid) -> Result<Self> {
        let Some(server) = server_options(node)? else {
            return unknown_node(node).into();
        };
        let Some(mapping) = mapping_options(node, role)? else {
            return Report::new(
                Code::ERRCODE_UNDEFINED_OBJECT,
                format!("role \"{}\" has no user mapping for node \"{node}\"", role::name(role)?),
            )
            .hint(format!(
                "Run SELECT shard_grant_node({}, {}, username => …, password => …).",
                literal(node),
                literal(&role::name(role)?)
            ))
            .into();
        };
        let mut target = Self::from_options(node, server.into_iter().chain(mapping.clone()).collect())?;
        let excused = mapping.get("password_required").is_some_and(|value| value == "false");
        target.must_use_password = !excused && !role::is_superuser(role);
        Ok(target)
    }

    /// From options as `pg_foreign_server` and `pg_user_mapping` have them.
    pub fn from_options(node: &str, options: Options) -> Result<Self> {
        let get = |name: &str| options.get(name).map(String::as_str);
        let Some(user) = get("user") else {
            return Report::new(
                Code::ERRCODE_FDW_OPTION_NAME_NOT_FOUND,
                format!("user mapping for node \"{node}\" names no user"),
            )
            .into();
        };
        // One that was set by hand, past shard_add_node: postgres_fdw would do as it says, and we would not.
        for (name, value) in &options {
            if let Some(reason) = why_not(name, value) {
                return wrong(node, format!("Option {name} = {value}: {reason}")).into();
            }
        }
        let timeout = number::<i32>(node, "connect_timeout", get("connect_timeout"))?.filter(|seconds| *seconds > 0);
        Ok(Self {
            node: node.to_string(),
            hosts: hosts(node, &options)?,
            dbname: get("dbname").unwrap_or(user).to_string(),
            user: user.to_string(),
            password: get("password").map(|text| Secret(text.to_string())),
            tls: tls::Settings {
                mode: mode(node, get("sslmode"))?,
                root: path(get("sslrootcert")),
                certificate: path(get("sslcert")),
                key: path(get("sslkey")),
                revoked: path(get("sslcrl")),
                revoked_dir: path(get("sslcrldir")),
                tell_name: get("sslsni") != Some("0"),
                oldest: protocol(node, "ssl_min_protocol_version", get("ssl_min_protocol_version"))?,
                newest: protocol(node, "ssl_max_protocol_version", get("ssl_max_protocol_version"))?,
            },
            wire: Wire {
                keepalives: number::<i32>(node, "keepalives", get("keepalives"))? != Some(0),
                idle: seconds(node, "keepalives_idle", get("keepalives_idle"))?,
                interval: seconds(node, "keepalives_interval", get("keepalives_interval"))?,
                count: positive(node, "keepalives_count", get("keepalives_count"))?,
                user_timeout: positive(node, "tcp_user_timeout", get("tcp_user_timeout"))?
                    .map(|milliseconds| Duration::from_millis(milliseconds.into())),
            },
            any_order: get("load_balance_hosts") == Some("random"),
            // libpq takes no less than two seconds.
            connect_timeout: Duration::from_secs(
                timeout.map_or(DEFAULT_TIMEOUT, |seconds| seconds.unsigned_abs().max(2).into()),
            ),
            options: get("options").map(String::from),
            attributes: attributes(node, get("target_session_attrs"))?,
            channel_binding: match get("channel_binding") {
                Some("require") => ChannelBinding::Require,
                Some("disable") => ChannelBinding::Disable,
                _ => ChannelBinding::Prefer,
            },
            ways_in: ways_in(node, get("require_auth"))?,
            must_use_password: false,
        })
    }

    /// The hosts with their ports, for messages.
    pub fn address(&self) -> String {
        self.hosts.iter().map(|host| format!("{}:{}", host.name, host.port)).collect::<Vec<_>>().join(", ")
    }
}

/// A server without a limit of its own; libpq would wait for ever.
const DEFAULT_TIMEOUT: u64 = 30;
const DEFAULT_PORT: u16 = 5432;

/// The options of the user mapping of `role`, or of the one for everybody. Only the extension's owner may see them.
pub fn mapping_options(node: &str, role: Oid) -> Result<Option<Options>> {
    role::as_extension_owner(|| {
        sql::document(
            "SELECT (SELECT coalesce(pg_catalog.json_object_agg(option_name, option_value), '{}')
                     FROM pg_catalog.pg_options_to_table(m.umoptions))::text
             FROM pg_catalog.pg_user_mapping m JOIN pg_catalog.pg_foreign_server s ON s.oid = m.umserver
             WHERE s.srvname = $1 AND m.umuser IN ($2, 0) ORDER BY m.umuser = 0 LIMIT 1",
            &[node.into(), role.into()],
        )
    })
}

/// `host`, `hostaddr` and `port` are lists; a single port counts for all.
fn hosts(node: &str, options: &Options) -> Result<Vec<Host>> {
    let list = |name: &str| {
        options.get(name).map(|text| text.split(',').map(|part| part.trim().to_string()).collect::<Vec<_>>())
    };
    let addresses = list("hostaddr").unwrap_or_default();
    let names = list("host")
        .unwrap_or_else(|| if addresses.is_empty() { vec![SOCKETS.to_string()] } else { addresses.clone() });
    let ports = list("port").unwrap_or_default();
    if !addresses.is_empty() && addresses.len() != names.len() {
        let addresses = count(addresses.len(), "address", "addresses");
        return wrong(node, format!("hostaddr lists {addresses} for {}", count(names.len(), "host", "hosts"))).into();
    }
    if ports.len() > 1 && ports.len() != names.len() {
        let ports = count(ports.len(), "port", "ports");
        return wrong(node, format!("port lists {ports} for {}", count(names.len(), "host", "hosts"))).into();
    }
    for name in names.iter().filter(|_| addresses.is_empty()) {
        if let Some((host, port)) = with_port(name) {
            return Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, format!("host {name} has a port in it"))
                .hint(format!(
                    "Give the port as the argument port: host => {}, port => {port}; several, with commas between, as port in options.",
                    literal(host)
                ))
                .into();
        }
    }
    let port = |place: usize| ports.get(place).or(ports.first()).map(String::as_str);
    names
        .into_iter()
        .enumerate()
        .map(|(place, name)| {
            Ok(Host {
                address: addresses.get(place).filter(|address| !address.is_empty()).cloned(),
                port: number(node, "port", port(place).filter(|text| !text.is_empty()))?.unwrap_or(DEFAULT_PORT),
                name,
            })
        })
        .collect()
}

/// `host:port` or `[address]:port`, as addresses are written elsewhere. An address of IPv6 has more colons.
fn with_port(name: &str) -> Option<(&str, &str)> {
    let (host, port) = name.rsplit_once(':')?;
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    (is_port && !host.starts_with('/')).then_some((host, port))
}

/// Where Debian's libpq looks for the socket when no host is given.
const SOCKETS: &str = "/var/run/postgresql";

fn mode(node: &str, text: Option<&str>) -> Result<Mode> {
    Ok(match text {
        None | Some("prefer") => Mode::Prefer,
        Some("disable") => Mode::Disable,
        Some("allow") => Mode::Allow,
        Some("require") => Mode::Require,
        Some("verify-ca") => Mode::VerifyCa,
        Some("verify-full") => Mode::VerifyFull,
        Some(other) => {
            return wrong(node, format!("sslmode {other} is unknown"))
                .hint("There are disable, allow, prefer, require, verify-ca and verify-full.")
                .into();
        }
    })
}

fn attributes(node: &str, text: Option<&str>) -> Result<Attributes> {
    Ok(match text {
        None | Some("any") => Attributes::Any,
        Some("read-write") => Attributes::ReadWrite,
        Some("read-only") => Attributes::ReadOnly,
        Some("primary") => Attributes::Primary,
        Some("standby") => Attributes::Standby,
        Some("prefer-standby") => Attributes::PreferStandby,
        Some(other) => {
            return wrong(node, format!("target_session_attrs {other} is unknown"))
                .hint("There are any, read-write, read-only, primary, standby and prefer-standby.")
                .into();
        }
    })
}

/// An empty path is as good as none.
fn path(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(String::from)
}

fn protocol(node: &str, option: &str, text: Option<&str>) -> Result<Option<tls::Protocol>> {
    match text.filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => match tls::Protocol::parse(text) {
            Some(protocol) => Ok(Some(protocol)),
            None => wrong(node, format!("{option} {text} is unknown"))
                .hint("There are TLSv1, TLSv1.1, TLSv1.2 and TLSv1.3.")
                .into(),
        },
    }
}

fn ways_in(node: &str, text: Option<&str>) -> Result<WaysIn> {
    match text.filter(|text| !text.is_empty()) {
        None => Ok(WaysIn::default()),
        Some(text) => WaysIn::parse(text).or_else(|detail| {
            wrong(node, detail)
                .hint("There are password, md5, scram-sha-256 and none, with commas between, and each with ! before it for all others.")
                .into()
        }),
    }
}

/// Zero or less stands for the system's default.
fn positive(node: &str, option: &str, text: Option<&str>) -> Result<Option<u32>> {
    let number = number::<i32>(node, option, text)?;
    Ok(number.and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0))
}

fn seconds(node: &str, option: &str, text: Option<&str>) -> Result<Option<Duration>> {
    Ok(positive(node, option, text)?.map(|seconds| Duration::from_secs(seconds.into())))
}

fn number<T: std::str::FromStr>(node: &str, option: &str, text: Option<&str>) -> Result<Option<T>> {
    match text.map(str::parse) {
        None => Ok(None),
        Some(Ok(number)) => Ok(Some(number)),
        Some(Err(_)) => wrong(node, format!("{option} is no number in range: {}", text.unwrap_or_default())).into(),
    }
}

fn wrong(node: &str, detail: String) -> Report {
    Report::new(Code::ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE, format!("node \"{node}\" has options that cannot be used"))
        .detail(detail)
}
