//! The listeners: bound before anything runs, so that a port in use is an error of `start`; then one
//! acceptor that hands connections to the least loaded data thread.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::access;
use crate::clock;
use crate::shared::Shared;
use crate::transport::connections::holder_of;
use crate::transport::drain::Phase;
use crate::transport::port::Port;
use crate::transport::socket;
use crate::transport::thread::{Arrived, Command, Handle, least_loaded};

const BACKLOG: i32 = 1024;
/// After an error of `accept` (no descriptors left, mostly): trying at once would only spin.
pub const PAUSE: Duration = Duration::from_millis(50);
pub const HEARTBEAT: Duration = Duration::from_millis(250);

/// A bound listener.
pub struct Listener {
    pub port: Port,
    /// How its calls are told apart from those of the port's other listeners.
    pub name: access::Listener,
    pub address: SocketAddr,
    tcp: TcpListener,
}

impl Listener {
    /// Binds `host:port`.
    ///
    /// # Errors
    /// The address is in use, not ours or no address; the message names it.
    pub fn bind(port: Port, name: access::Listener, address: &str) -> io::Result<Self> {
        let text = if name == access::Listener::Management { name.text() } else { port.text() };
        let tcp = bind(address, text)?;
        Ok(Self { port, name, address: tcp.local_addr()?, tcp })
    }
}

/// Binds `host:port`; `name` is that of the port.
///
/// # Errors
/// As `Listener::bind`.
pub fn bind(address: &str, name: &str) -> io::Result<TcpListener> {
    try_bind(address)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address} ({name} port): {error}")))
}

fn try_bind(address: &str) -> io::Result<TcpListener> {
    let resolved = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let socket = Socket::new(Domain::for_address(resolved), Type::STREAM, Some(Protocol::TCP))?;
    // Without it a restart fails while connections of the old process linger. Not SO_REUSEPORT:
    // with that two processes take the same port and neither is told.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&resolved.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// Accepts connections until the core drains or stops; then the listeners are closed.
pub async fn accept_all(
    listeners: Vec<Listener>,
    workers: Arc<[Handle]>,
    shared: Arc<Shared>,
    mut phase: watch::Receiver<Phase>,
    turned_ms: Arc<AtomicU64>,
) {
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, Arc::clone(&workers), Arc::clone(&shared)));
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

async fn accept(listener: Listener, workers: Arc<[Handle]>, shared: Arc<Shared>) {
    let Ok(tcp) = tokio::net::TcpListener::from_std(listener.tcp) else { return };
    loop {
        match tcp.accept().await {
            Ok((stream, address)) => {
                let Some(admission) = shared.connections(listener.port).admit(holder_of(address.ip())) else {
                    continue;
                };
                let stream = prepare(&stream).and_then(|()| stream.into_std());
                if let (Ok(stream), Some(worker)) = (stream, least_loaded(&workers)) {
                    let (arrived, admission) = (Arrived::Tcp(stream, listener.name), Some(admission));
                    worker.send(Command::Serve { arrived, port: listener.port, address, admission });
                }
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Prepares a connection that was accepted.
///
/// # Errors
/// The other side has gone already.
pub fn prepare(stream: &tokio::net::TcpStream) -> io::Result<()> {
    socket::prepare(stream)?;
    // A client whose machine has gone would hold its streams forever.
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
