//! TCP and unix sockets behind one type: `host:port` or `unix:///path`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A connected socket.
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A listening socket.
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The path in `unix:///path` (also `unix:path`).
fn unix_path(address: &str) -> Option<&str> {
    let rest = address.strip_prefix("unix:")?;
    Some(rest.strip_prefix("//").unwrap_or(rest))
}

/// Connect, with TLS if there is a connector for it.
///
/// # Errors
/// As the operating system says.
pub async fn connect(address: &str, tls: Option<&TlsConnector>) -> io::Result<Socket> {
    if let Some(path) = unix_path(address) {
        return Ok(Socket::Unix(UnixStream::connect(path).await?));
    }
    let stream = TcpStream::connect(address).await?;
    prepare(&stream)?;
    let Some(tls) = tls else { return Ok(Socket::Tcp(stream)) };
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned();
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    Ok(Socket::Tls(Box::new(tls.connect(name, stream).await?)))
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Without it a small answer waits 40 ms for an acknowledgement.
    stream.set_nodelay(true)?;
    // As the instance and Envoy have it here: BBR, the choice of some systems, sends by timers.
    #[cfg(target_os = "linux")]
    SockRef::from(stream).set_tcp_congestion(b"reno")?;
    Ok(())
}

impl Listener {
    /// Listen; a socket file left behind by another process is removed.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn bind(address: &str) -> io::Result<Self> {
        if let Some(path) = unix_path(address) {
            let _ = std::fs::remove_file(path);
            return Ok(Self::Unix(UnixListener::bind(path)?));
        }
        Ok(Self::Tcp(TcpListener::bind(address).await?))
    }

    /// Where it listens, with the port that was chosen for port 0.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn address(&self) -> io::Result<String> {
        match self {
            Self::Tcp(listener) => Ok(listener.local_addr()?.to_string()),
            Self::Unix(listener) => {
                let address = listener.local_addr()?;
                Ok(format!("unix://{}", address.as_pathname().unwrap_or("".as_ref()).display()))
            }
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                prepare(&stream)?;
                Ok(Socket::Tcp(stream))
            }
            Self::Unix(listener) => Ok(Socket::Unix(listener.accept().await?.0)),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
