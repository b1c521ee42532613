//! The bytes between us and a node, by TCP, Unix socket or TLS.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

pub trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}

pub type Stream = Watched<Box<dyn Bytes>>;

/// Whether the server asked for a password before it let us in. A server that trusts the coordinator's machine would
/// let in every role of the coordinator: that must not be a way round the user mapping.
pub type PasswordAsked = Arc<AtomicBool>;

/// How a server may let us in: `require_auth`. By default, any way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaysIn(u8);

/// By the number that a server asks with; the first is that of a server which asks for nothing.
const WAYS: [(&str, u8); 6] =
    [("none", 0), ("password", 3), ("md5", 5), ("gss", 7), ("sspi", 9), ("scram-sha-256", 10)];

impl Default for WaysIn {
    fn default() -> Self {
        WaysIn(u8::MAX)
    }
}

impl WaysIn {
    /// A list of ways that are allowed, or of those that are not. The error is a sentence for DETAIL.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut allowed, mut excluded) = (0, 0);
        for word in text.split(',').map(str::trim) {
            let (list, name) = match word.strip_prefix('!') {
                Some(name) => (&mut excluded, name),
                None => (&mut allowed, word),
            };
            match WAYS.iter().position(|(known, _)| *known == name) {
                Some(place) => *list |= 1 << place,
                None => return Err(format!("require_auth {word} is unknown")),
            }
        }
        match (allowed, excluded) {
            (allowed, 0) => Ok(WaysIn(allowed)),
            (0, excluded) => Ok(WaysIn(!excluded)),
            _ => Err("require_auth allows and excludes at the same time".into()),
        }
    }

    /// Before the answer is given: a password sent in clear text cannot be taken back.
    fn check(self, asked: u8) -> io::Result<()> {
        match WAYS.iter().enumerate().find(|(_, (_, number))| *number == asked) {
            Some((place, (name, _))) if self.0 & (1 << place) == 0 => {
                Err(io::Error::other(format!("the server's way to let us in is {name}, which require_auth excludes")))
            }
            _ => Ok(()),
        }
    }
}

/// A stream that notes the first message of the server.
pub struct Watched<S> {
    inner: S,
    head: Vec<u8>,
    asked: PasswordAsked,
    ways: WaysIn,
}

/// Enough for the answer to an SSL request, and an authentication request with its kind.
const HEAD: usize = 10;

impl<S> Watched<S> {
    pub fn new(inner: S, asked: PasswordAsked, ways: WaysIn) -> Self {
        Self { inner, head: Vec::with_capacity(HEAD), asked, ways }
    }

    pub fn asked(&self) -> PasswordAsked {
        Arc::clone(&self.asked)
    }

    pub fn ways(&self) -> WaysIn {
        self.ways
    }

    fn note(&mut self, read: &[u8]) -> io::Result<()> {
        let known = asked_for(&self.head).is_some();
        if known || self.head.len() >= HEAD {
            return Ok(());
        }
        self.head.extend(read.iter().take(HEAD - self.head.len()));
        let Some(asked) = asked_for(&self.head) else { return Ok(()) };
        if matches!(asked, 3 | 5 | 10) {
            self.asked.store(true, Ordering::Relaxed);
        }
        self.ways.check(asked)
    }
}

/// `R`, length, kind: 0 nothing more, 3 clear text, 5 MD5, 10 SASL. A server without TLS has answered `N` to the SSL
/// request before.
fn asked_for(head: &[u8]) -> Option<u8> {
    let message = match head {
        [b'N', rest @ ..] => rest,
        all => all,
    };
    match message {
        [b'R', _, _, _, _, 0, 0, 0, kind, ..] => Some(*kind),
        _ => None,
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buf);
        if matches!(polled, Poll::Ready(Ok(()))) {
            this.note(&buf.filled()[before..])?;
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Watched<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.inner.channel_binding()
    }
}
