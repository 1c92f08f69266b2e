//! One type for every kind of byte stream, so that the HTTP/2 code is compiled once.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};

use crate::clock;

/// A connection, before or after its TLS handshake.
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Server(Box<server::TlsStream<TcpStream>>),
    Client(Box<client::TlsStream<TcpStream>>),
    /// From a listener of ours that speaks another protocol.
    Inside(DuplexStream),
}

/// Prepares a connection that was just opened or accepted.
///
/// # Errors
/// The other side has gone already.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Without it every small message waits for a delayed acknowledgement.
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    if stream.peer_addr()?.ip().to_canonical().is_loopback() {
        // Where BBR is the system's choice it sends by timers, so as not to flood a line. To a runtime on this machine
        // there is no line, and messages of 1 MB cost a quarter more. Reno is a part of every Linux.
        let _ = socket2::SockRef::from(stream).set_tcp_congestion(b"reno");
    }
    Ok(())
}

/// Each arm does the same on another type.
macro_rules! each {
    ($socket:expr, $inner:ident => $do:expr) => {
        match $socket {
            Socket::Tcp($inner) => $do,
            Socket::Unix($inner) => $do,
            Socket::Server($inner) => $do,
            Socket::Client($inner) => $do,
            Socket::Inside($inner) => $do,
        }
    };
}

impl Socket {
    /// The certificate that a client proved to be its own (DER).
    #[must_use]
    pub fn certificate(&self) -> Option<Arc<[u8]>> {
        let Self::Server(stream) = self else { return None };
        stream.get_ref().1.peer_certificates()?.first().map(|certificate| Arc::from(certificate.as_ref()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, inner => inner.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_shutdown(cx))
    }
}

/// A socket that notes when a byte was last received: a peer that is silent for too long is lost.
pub struct Watched {
    pub socket: Socket,
    pub last_read_ms: Arc<AtomicU64>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.last_read_ms.store(clock::monotonic_ms(), Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn both_ends_on_one_machine_are_not_paced() {
        for host in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(host).await else { continue }; // a machine without IPv6
            let port = listener.local_addr().unwrap().port();
            let host = if host.starts_with("[::1") { "::1" } else { "127.0.0.1" };
            let opened = TcpStream::connect((host, port)).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            for stream in [opened, accepted] {
                prepare(&stream).unwrap();
                assert!(stream.nodelay().unwrap());
                let algorithm = socket2::SockRef::from(&stream).tcp_congestion().unwrap();
                assert!(algorithm.starts_with(b"reno"), "{}", String::from_utf8_lossy(&algorithm));
            }
        }
    }
}
