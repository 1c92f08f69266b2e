//! The listeners: bound before anything runs, so that a port in use is an error of `start`; then one
//! acceptor that hands connections to the least loaded data thread.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::clock;
use crate::drain::Phase;
use crate::socket;
use crate::worker::{Command, Handle};

const BACKLOG: i32 = 1024;
/// After an error of `accept` (no descriptors left, mostly): trying at once would only spin.
const PAUSE: Duration = Duration::from_millis(50);
pub const HEARTBEAT: Duration = Duration::from_millis(250);

/// Which listener a connection came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// For clients.
    Serving,
    /// For other instances.
    Peer,
}

impl Port {
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Peer => "peer",
        }
    }
}

/// A bound listener.
pub struct Listener {
    pub port: Port,
    pub address: SocketAddr,
    tcp: TcpListener,
}

impl Listener {
    /// Binds `host:port`.
    ///
    /// # Errors
    /// The address is in use, not ours or no address; the message names it.
    pub fn bind(port: Port, address: &str) -> io::Result<Self> {
        Self::try_bind(port, address).map_err(|error| {
            let what = format!("cannot listen on {address} ({} port): {error}", port.text());
            io::Error::new(error.kind(), what)
        })
    }

    fn try_bind(port: Port, address: &str) -> io::Result<Self> {
        let resolved = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let socket = Socket::new(Domain::for_address(resolved), Type::STREAM, Some(Protocol::TCP))?;
        // Without it a restart fails while connections of the old process linger. Not SO_REUSEPORT:
        // with that two processes take the same port and neither is told.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&resolved.into())?;
        socket.listen(BACKLOG)?;
        let tcp = TcpListener::from(socket);
        Ok(Self { port, address: tcp.local_addr()?, tcp })
    }
}

/// Accepts connections until the core drains or stops; then the listeners are closed.
pub async fn accept_all(
    listeners: Vec<Listener>,
    workers: Arc<[Handle]>,
    connections: Arc<Connections>,
    mut phase: watch::Receiver<Phase>,
    turned_ms: Arc<AtomicU64>,
) {
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, Arc::clone(&workers), Arc::clone(&connections)));
    }
    let mut beat = tokio::time::interval(HEARTBEAT);
    loop {
        tokio::select! {
            _ = beat.tick() => turned_ms.store(clock::monotonic_ms(), Ordering::Relaxed),
            _ = phase.wait_for(|phase| *phase != Phase::Running) => break,
        }
    }
    // Dropping the tasks closes the listeners.
    accepting.shutdown().await;
    loop {
        tokio::select! {
            _ = beat.tick() => turned_ms.store(clock::monotonic_ms(), Ordering::Relaxed),
            _ = phase.wait_for(|phase| *phase == Phase::Closed) => return,
        }
    }
}

/// How many connections of clients there are, and may be.
///
/// Those of other instances are not bounded: a flood of clients must not cut the cluster apart.
#[derive(Debug)]
pub struct Connections {
    open: AtomicUsize,
    max: usize,
}

impl Connections {
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), max })
    }

    /// The descriptors of this process, less a quarter for connections to the runtime, to peers and to the
    /// store; at most 16,384.
    #[must_use]
    pub fn most() -> usize {
        let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        usize::try_from(descriptors / 4 * 3).unwrap_or(usize::MAX).clamp(1, 16_384)
    }

    /// Whether those that do nothing should make room.
    #[must_use]
    pub fn are_scarce(&self) -> bool {
        self.open.load(Ordering::Relaxed) * 4 >= self.max * 3
    }

    /// Counts a connection until the returned value is dropped; None if there are enough.
    fn admit(self: &Arc<Self>) -> Option<Admission> {
        let admission = Admission(Arc::clone(self));
        (self.open.fetch_add(1, Ordering::Relaxed) < self.max).then_some(admission)
    }
}

/// One connection's place among those that are permitted.
pub struct Admission(Arc<Connections>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn accept(listener: Listener, workers: Arc<[Handle]>, connections: Arc<Connections>) {
    let Ok(tcp) = tokio::net::TcpListener::from_std(listener.tcp) else { return };
    loop {
        match tcp.accept().await {
            Ok((stream, address)) => {
                let admission = match listener.port {
                    Port::Serving => match connections.admit() {
                        None => continue,
                        admission => admission,
                    },
                    Port::Peer => None,
                };
                let stream = prepare(stream);
                let least = workers.iter().min_by_key(|worker| worker.connections());
                if let (Ok(stream), Some(worker)) = (stream, least) {
                    worker.send(Command::Serve { stream, port: listener.port, address, admission });
                }
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// The socket leaves this thread's runtime for another's.
fn prepare(stream: tokio::net::TcpStream) -> io::Result<std::net::TcpStream> {
    socket::prepare(&stream)?;
    // A client whose machine has gone would hold its streams for ever.
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    stream.into_std()
}
