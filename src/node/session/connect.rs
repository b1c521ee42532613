//! Connecting: hosts one after the other, TLS as asked, and the kind of server that is wanted.

use super::answer;
use super::connection_params::{Attributes, ConnectionParams, Host, Secret};
use super::pin;
use super::remote;
use super::statements::{Session, Timeouts};
use super::stream::{Bytes, PasswordAsked, Stream, Watched, WaysIn};
use super::tls::{Mode, Tls};
use super::wire::Wire;
use crate::error::{Error, Result};
use pgrx::PgSqlErrorCode as Code;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::atomic::Ordering;
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

/// One address of a host.
#[derive(Debug, Clone)]
pub struct Address {
    pub host: String,
    pub port: u16,
    /// `None` for a Unix socket.
    socket: Option<SocketAddr>,
    wire: Wire,
}

/// Tries the hosts in order, as libpq does: the next one when a host cannot be reached or is not of the wanted kind.
pub(super) async fn connect(target: &ConnectionParams, limits: Timeouts) -> Result<Session> {
    if target.must_use_password && target.password.is_none() {
        return remote::password_required(target).into();
    }
    let mut failed = Vec::new();
    let mut second_choice = None;
    for host in in_order(target.hosts.iter().collect(), target.any_order) {
        let addresses = resolve(host, &target.wire).unwrap_or_else(|error| {
            failed.push(format!("{}:{}: {error}", host.name, host.port));
            Vec::new()
        });
        for address in in_order(addresses, target.any_order) {
            let reason = match tokio::time::timeout(target.connect_timeout, attempt(target, &address, limits)).await {
                Ok(Ok((session, kind))) => match kind.suits(target.attributes) {
                    Suits::Yes => return Ok(session),
                    Suits::IfNothingBetter => {
                        second_choice = second_choice.or(Some(session));
                        continue;
                    }
                    Suits::No => kind.to_string(),
                },
                Ok(Err(Failure::Unreachable(reason))) => reason,
                Ok(Err(Failure::Refused(error))) => return Err(error),
                Err(_) => format!("no answer within {} s", target.connect_timeout.as_secs()),
            };
            failed.push(format!("{}:{}: {reason}", host.name, host.port));
        }
    }
    match second_choice {
        Some(session) => Ok(session),
        None => remote::unreachable(&target.node, &failed.join("; ")).into(),
    }
}

/// As they are listed, or in any order, each as likely as another.
fn in_order<T>(mut list: Vec<T>, any: bool) -> Vec<T> {
    if any {
        let random = RandomState::new();
        for last in (1..list.len()).rev() {
            let place = random.hash_one(last) % (last as u64 + 1);
            list.swap(last, place as usize);
        }
    }
    list
}

enum Failure {
    Unreachable(String),
    Refused(Error),
}

async fn attempt(
    target: &ConnectionParams,
    address: &Address,
    limits: Timeouts,
) -> std::result::Result<(Session, Kind), Failure> {
    let mut last = None;
    for (place, mode) in attempts(target.tls.mode, address.socket.is_none()).iter().enumerate() {
        match attempt_with(target, address, *mode, limits).await {
            Ok(session) => {
                let mut session = session;
                let kind = kind(&mut session, target.attributes).await.map_err(Failure::Refused)?;
                return Ok((session, kind));
            }
            Err(failure) if place == 0 && target.tls.mode <= Mode::Prefer && may_differ_with_tls(&failure) => {
                last = Some(failure)
            }
            Err(failure) => return Err(failure),
        }
    }
    Err(last.unwrap_or_else(|| Failure::Unreachable("no way to connect".into())))
}

/// `allow` and `prefer` try a second time, the other way round.
fn attempts(mode: Mode, is_socket: bool) -> &'static [SslMode] {
    match mode {
        _ if is_socket => &[SslMode::Disable],
        Mode::Disable => &[SslMode::Disable],
        Mode::Allow => &[SslMode::Disable, SslMode::Require],
        Mode::Prefer => &[SslMode::Prefer, SslMode::Disable],
        Mode::Require | Mode::VerifyCa | Mode::VerifyFull => &[SslMode::Require],
    }
}

/// pg_hba.conf may admit a role with TLS only, or without it only.
fn may_differ_with_tls(failure: &Failure) -> bool {
    match failure {
        Failure::Unreachable(reason) => reason.contains("TLS"),
        Failure::Refused(Error::Report(report)) => report.code == Code::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
        Failure::Refused(_) => false,
    }
}

async fn attempt_with(
    target: &ConnectionParams,
    address: &Address,
    mode: SslMode,
    limits: Timeouts,
) -> std::result::Result<Session, Failure> {
    let stream = reach(address, target.ways_in).await.map_err(|error| Failure::Unreachable(error.to_string()))?;
    let asked = stream.asked();
    let config = config(target, mode, limits);
    let session = match mode {
        SslMode::Disable => {
            let (client, connection) = config
                .connect_raw(stream, tokio_postgres::NoTls)
                .await
                .map_err(|error| failure(target, address, error))?;
            Session::new(target, address, None, client, Box::pin(connection), limits)
        }
        _ => {
            let tls = Tls::new(&target.tls).map_err(|detail| Failure::Refused(remote::tls(target, &detail).into()))?;
            let (client, connection) = config
                .connect_raw(stream, tls.connector(&address.host))
                .await
                .map_err(|error| failure(target, address, error))?;
            Session::new(target, address, Some(tls), client, Box::pin(connection), limits)
        }
    };
    if target.must_use_password && !was_asked(&asked) {
        return Err(Failure::Refused(remote::password_not_asked(target).into()));
    }
    Ok(session)
}

fn was_asked(asked: &PasswordAsked) -> bool {
    asked.load(Ordering::Relaxed)
}

/// A server that answered with an error has been reached; without one, the next host may do better.
fn failure(target: &ConnectionParams, address: &Address, error: tokio_postgres::Error) -> Failure {
    let (text, said) = (error.to_string(), remote::sentence(&error));
    match error.as_db_error().map(|db| db.code().code().to_string()) {
        // Starting up, shutting down: as good as not there.
        Some(code) if code.starts_with("57P") => Failure::Unreachable(said),
        Some(_) => Failure::Refused(remote::refused(target, address, error)),
        None if said.contains("password missing") => Failure::Refused(remote::password_missing(target).into()),
        None if text.contains("TLS") => Failure::Unreachable(format!("TLS failed: {said}")),
        None if is_of_another_kind(&text, &said) => {
            Failure::Unreachable(format!("what answers there does not seem to be a Postgres server ({said})"))
        }
        None => Failure::Unreachable(said),
    }
}

/// What came is no message of the protocol, or is none that belongs here.
fn is_of_another_kind(text: &str, said: &str) -> bool {
    said.contains("bytes remaining on stream")
        || text.starts_with("unexpected message")
        || text.starts_with("error parsing response")
}

fn config(target: &ConnectionParams, mode: SslMode, limits: Timeouts) -> Config {
    let mut config = Config::new();
    config.user(&target.user).dbname(&target.dbname).application_name(limits.application_name).ssl_mode(mode);
    if let Some(Secret(password)) = &target.password {
        config.password(password);
    }
    config.channel_binding(target.channel_binding);
    // Ours come last and win.
    let own = pin::at_start(limits);
    config.options(match &target.options {
        Some(options) => format!("{options} {own}"),
        None => own,
    });
    config
}

/// The name is looked up on this thread: tokio would start a second one.
fn resolve(host: &Host, wire: &Wire) -> io::Result<Vec<Address>> {
    let address = |socket| Address { host: host.name.clone(), port: host.port, socket, wire: wire.clone() };
    if host.address.is_none() && host.name.starts_with('/') {
        return Ok(vec![address(None)]);
    }
    let name = host.address.as_deref().unwrap_or(&host.name);
    Ok((name, host.port).to_socket_addrs()?.map(|socket| address(Some(socket))).collect())
}

pub(super) async fn reach(address: &Address, ways: WaysIn) -> io::Result<Stream> {
    let bytes: Box<dyn Bytes> = match address.socket {
        None => {
            let path = Path::new(&address.host).join(format!(".s.PGSQL.{}", address.port));
            Box::new(UnixStream::connect(path).await?)
        }
        Some(socket) => {
            let stream = TcpStream::connect(socket).await?;
            stream.set_nodelay(true)?;
            address.wire.apply(&stream)?;
            Box::new(stream)
        }
    };
    Ok(Watched::new(bytes, PasswordAsked::default(), ways))
}

/// What kind of server answered; asked only where `target_session_attrs` cares.
enum Kind {
    Unknown,
    Primary { read_only: bool },
    Standby,
}

enum Suits {
    Yes,
    IfNothingBetter,
    No,
}

async fn kind(session: &mut Session, wanted: Attributes) -> Result<Kind> {
    if wanted == Attributes::Any {
        return Ok(Kind::Unknown);
    }
    let sql = "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')::boolean";
    let row = session.row(sql, &[]).await?;
    let (standby, read_only) = match row {
        Some(row) => (answer::value(session.node(), &row, 0)?, answer::value(session.node(), &row, 1)?),
        None => (false, false),
    };
    Ok(if standby { Kind::Standby } else { Kind::Primary { read_only } })
}

impl Kind {
    fn suits(&self, wanted: Attributes) -> Suits {
        let fits = match (wanted, self) {
            (Attributes::Any, _) | (_, Kind::Unknown) => true,
            (Attributes::ReadWrite, Kind::Primary { read_only }) => !read_only,
            (Attributes::ReadOnly, Kind::Primary { read_only }) => *read_only,
            (Attributes::Primary, Kind::Primary { .. }) => true,
            (Attributes::ReadOnly | Attributes::Standby | Attributes::PreferStandby, Kind::Standby) => true,
            (Attributes::PreferStandby, Kind::Primary { .. }) => return Suits::IfNothingBetter,
            _ => false,
        };
        if fits { Suits::Yes } else { Suits::No }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Unknown => "of unknown kind",
            Kind::Standby => "is a standby",
            Kind::Primary { read_only: true } => "is read-only",
            Kind::Primary { read_only: false } => "is a primary",
        })
    }
}
