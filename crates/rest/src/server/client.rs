//! One connection of a client: TLS, HTTP of the version it speaks, and how long it may keep us waiting.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use modelmesh_core::{Door, Guest, Socket};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval, sleep_until, timeout};

use super::exchange;
use super::guests::{Client, House, IDLE, PATIENCE, Pace};
use super::malformed;

const LOOK: Duration = Duration::from_secs(1);

const STREAMS: u32 = 256;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
const FRAME: u32 = 64 << 10;
/// Header lists of HTTP/2 are read up to so many times their limit, so that what exceeds it is answered as everything else.
const LISTS_READ: usize = 2;
/// hyper wants no less.
const LEAST_BUFFER: usize = 8 << 10;
/// An HTTP/2 client that does not answer a ping in time has gone.
const PING: Duration = Duration::from_secs(60);
const PONG: Duration = Duration::from_secs(20);

/// Serves one connection to its end.
pub async fn serve(stream: TcpStream, mut guest: Guest, house: Arc<House>) {
    let mut door = house.door.clone();
    // A client that cannot shake hands, or goes, is no event of ours.
    let Ok(Ok(socket)) = timeout(PATIENCE, door.secure(stream)).await else { return };
    guest.comes_by(&socket);
    let pace: Arc<Pace> = Arc::default();
    let header_bytes = door.max_header_bytes();
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(header_bytes.max(LEAST_BUFFER))
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(u32::try_from(LISTS_READ * header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG);
    let client = Arc::new(Client { guest, house, pace: Arc::clone(&pace) });
    let served = Arc::clone(&client);
    let service = service_fn(move |request| {
        let client = Arc::clone(&served);
        async move {
            let answer = exchange::answer(&client, request).await;
            if answer.status().is_client_error() || answer.status().is_server_error() {
                client.house.door.count_fault(answer.status().as_u16());
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut connection =
        pin!(builder.serve_connection(TokioIo::new(Paced::new(socket, Arc::clone(&pace), door.clone())), service));
    let mut look = interval(LOOK);
    let mut leaving = false;
    let (age, grace) = door.age();
    let old = age.map(|age| Instant::now() + age);
    let mut over: Option<Instant> = None;
    loop {
        tokio::select! {
            // A client that breaks the protocol, or goes, is no event of ours.
            _ = connection.as_mut() => return,
            () = door.drained(), if !leaving => {
                leaving = true;
                connection.as_mut().graceful_shutdown();
            }
            () = until(old), if !leaving => {
                leaving = true;
                over = grace.map(|grace| Instant::now() + grace);
                connection.as_mut().graceful_shutdown();
            }
            () = until(over), if over.is_some() => return,
            _ = look.tick() => {
                if client.guest.is_expelled() {
                    return;
                }
                if pace.is_quiet() {
                    client.guest.rest();
                }
                if !pace.is_over(door.is_crowded()) {
                    continue;
                }
                if leaving {
                    // Asked before, and still there.
                    return;
                }
                leaving = true;
                pace.note();
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// A socket that notes when bytes move, and completes the answers to what is not HTTP.
struct Paced {
    socket: Socket,
    pace: Arc<Pace>,
    door: Door,
    /// Whether everything has been written, so that what is written next begins an answer.
    is_flushed: bool,
    /// The rest of an answer that was written instead of another.
    instead: Bytes,
}

impl Paced {
    fn new(socket: Socket, pace: Arc<Pace>, door: Door) -> Self {
        Self { socket, pace, door, is_flushed: true, instead: Bytes::new() }
    }

    /// Whether something else is written instead of these bytes.
    fn replaces(&mut self, bytes: &[u8]) -> bool {
        if !std::mem::take(&mut self.is_flushed) {
            return false;
        }
        let Some((status, whole)) = malformed::with_body(bytes) else { return false };
        self.door.count_fault(status.as_u16());
        self.instead = whole;
        true
    }

    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.instead.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.instead))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.instead.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn noted<T>(&self, moved: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Ok(_)) = moved {
            self.pace.note();
        }
        moved
    }
}

impl AsyncRead for Paced {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        self.noted(read)
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_instead(cx))?;
        if self.replaces(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.noted(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_instead(cx))?;
        if let [bytes] = slices
            && self.replaces(bytes)
        {
            return Poll::Ready(Ok(bytes.len()));
        }
        self.is_flushed = false;
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.noted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        self.is_flushed = true;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
