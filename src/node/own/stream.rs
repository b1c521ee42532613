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

/// A stream that notes the first message of the server.
pub struct Watched<S> {
    inner: S,
    head: Vec<u8>,
    asked: PasswordAsked,
}

/// Enough for the answer to an SSL request, and an authentication request with its kind.
const HEAD: usize = 10;

impl<S> Watched<S> {
    pub fn new(inner: S, asked: PasswordAsked) -> Self {
        Self { inner, head: Vec::with_capacity(HEAD), asked }
    }

    pub fn asked(&self) -> PasswordAsked {
        Arc::clone(&self.asked)
    }

    fn note(&mut self, read: &[u8]) {
        if self.head.len() >= HEAD {
            return;
        }
        self.head.extend(read.iter().take(HEAD - self.head.len()));
        if is_password_request(&self.head) {
            self.asked.store(true, Ordering::Relaxed);
        }
    }
}

/// `R`, length, kind: 3 clear text, 5 MD5, 10 SASL. A server without TLS has answered `N` to the SSL request before.
fn is_password_request(head: &[u8]) -> bool {
    let message = match head {
        [b'N', rest @ ..] => rest,
        all => all,
    };
    matches!(message, [b'R', _, _, _, _, 0, 0, 0, 3 | 5 | 10, ..])
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buf);
        if polled.is_ready() {
            this.note(&buf.filled()[before..]);
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
