//! The listeners: bound before anything runs, so that a port in use is an error of `start`; then one
//! acceptor that hands connections to the least loaded data thread.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::clock;
use crate::drain::Phase;
use crate::shared::Shared;
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

/// How many connections there are, and may be: of clients, and by themselves those of other instances. A flood of the ones
/// must not shut out the others.
#[derive(Debug)]
pub struct Connections {
    open: AtomicUsize,
    max: usize,
    /// Those of each address. One address leaves some for others.
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

impl Connections {
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), max, by_address: Mutex::default() })
    }

    /// The descriptors of this process, less a quarter for connections to the runtime, to peers and to the
    /// store; at most 16,384.
    #[must_use]
    pub fn most() -> usize {
        (descriptors() / 4 * 3).clamp(1, 16_384)
    }

    /// Half of that quarter.
    #[must_use]
    pub fn most_of_peers() -> usize {
        (descriptors() / 8).clamp(1, 16_384)
    }

    /// What one address may have: a part, unless there are so few that this would be a handful.
    fn most_of_one(&self) -> usize {
        (self.max / 4 * 3).max(64)
    }

    /// Whether those that do nothing should make room.
    #[must_use]
    pub fn are_scarce(&self) -> bool {
        self.open.load(Ordering::Relaxed) * 4 >= self.max * 3
    }

    /// Counts a connection until the returned value is dropped; None if there are enough.
    fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Admission> {
        let mut by_address = self.by_address.lock();
        let of_it = by_address.entry(address).or_default();
        *of_it += 1;
        let few = *of_it <= self.most_of_one();
        drop(by_address);
        let admission = Admission { connections: Arc::clone(self), address };
        (self.open.fetch_add(1, Ordering::Relaxed) < self.max && few).then_some(admission)
    }
}

/// One connection's place among those that are permitted.
pub struct Admission {
    connections: Arc<Connections>,
    address: IpAddr,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
        let mut by_address = self.connections.by_address.lock();
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// Who has an address: with IPv6 a whole network is one machine's.
#[must_use]
pub fn holder_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

/// Descriptors that this process may have.
fn descriptors() -> usize {
    let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(descriptors).unwrap_or(usize::MAX)
}

async fn accept(listener: Listener, workers: Arc<[Handle]>, shared: Arc<Shared>) {
    let Ok(tcp) = tokio::net::TcpListener::from_std(listener.tcp) else { return };
    loop {
        match tcp.accept().await {
            Ok((stream, address)) => {
                let Some(admission) = shared.connections(listener.port).admit(holder_of(address.ip())) else {
                    continue;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_places_for_others() {
        let connections = Connections::new(100);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let of_one: Vec<Admission> = (0..100).filter_map(|_| connections.admit(one)).collect();
        assert_eq!(of_one.len(), 75);
        let of_other: Vec<Admission> = (0..100).filter_map(|_| connections.admit(other)).collect();
        assert_eq!(of_other.len(), 25);
        drop((of_one, of_other));
        assert!(connections.by_address.lock().is_empty());
        assert_eq!(connections.open.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_network_is_one_holder() {
        let holder = |text: &str| holder_of(text.parse().unwrap());
        assert_eq!(holder("2001:db8::1"), holder("2001:db8::ffff:1"));
        assert_ne!(holder("2001:db8::1"), holder("2001:db8:0:1::1"));
        assert_eq!(holder("::ffff:10.0.0.1"), holder("10.0.0.1"));
        assert_ne!(holder("10.0.0.1"), holder("10.0.0.2"));
    }
}
