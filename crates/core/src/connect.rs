//! Opening one HTTP/2 connection to a peer or to the runtime, and keeping it alive.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use modelmesh_http2::{Client, Pinger, Sender};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{interval, timeout};

use crate::clock;
use crate::ledger::{Account, Side, TooMuch};
use crate::limits;
use crate::peers::{Address, Destination, Kind};
use crate::race::race;
use crate::shared::Shared;
use crate::socket::{self, Socket, Watched};

/// From the first packet to the answer to our first ping.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A peer with open streams that is silent this long is pinged …
const PING_AFTER_MS: u64 = 2000;
/// … and lost when silent this long: 5 s in all.
const LOST_AFTER_MS: u64 = 5000;
/// A connection whose calls have had nothing of an answer for this long gets no more of them. Slow runtimes are no harm:
/// their calls go on where they are.
const STALE_AFTER_MS: u64 = 10_000;
/// Resets that a neighbour may be sent more with each look: a hundred a second.
const RESETS_A_LOOK: usize = 50;
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A peer connection without streams is closed after this; the next call opens another.
const IDLE_AFTER_MS: u64 = 300_000;

/// A connection that has answered.
pub struct Opened {
    pub sender: Sender,
    connection: Client<Watched>,
    account: Account,
    pinger: Pinger,
    last_read_ms: Arc<AtomicU64>,
    is_peer: bool,
}

/// How a connection ended.
pub struct Ended {
    /// Closed for idleness; nothing is wrong with the other side.
    pub by_us: bool,
}

/// Connects, shakes hands, and waits for the answer to a ping: only then are the other side's settings
/// known (its limit of concurrent streams above all), and only then does somebody answer at all.
pub async fn open(shared: &Shared, destination: &Destination) -> io::Result<Opened> {
    match timeout(CONNECT_TIMEOUT, open_untimed(shared, destination)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer to connect")),
    }
}

/// A name may have an address that swallows packets, or one that accepts and says nothing: each is tried, and the first
/// that speaks HTTP/2 is taken.
async fn open_untimed(shared: &Shared, destination: &Destination) -> io::Result<Opened> {
    match &destination.address {
        Address::Unix(path) => shake_hands(shared, destination, Socket::Unix(UnixStream::connect(path).await?)).await,
        Address::Tcp(address) => {
            race(lookup_host(address).await?, async |found| {
                let socket = dial(shared, destination, address, found).await?;
                shake_hands(shared, destination, socket).await
            })
            .await
        }
    }
}

async fn shake_hands(shared: &Shared, destination: &Destination, socket: Socket) -> io::Result<Opened> {
    let last_read_ms = Arc::new(AtomicU64::new(clock::monotonic_ms()));
    let socket = Watched { socket, last_read_ms: Arc::clone(&last_read_ms) };
    let (sender, mut connection) = Client::new(socket, limits::client(&shared.settings));
    let pinger = connection.pinger();
    pinger.ping();
    tokio::select! {
        ended = &mut connection => {
            return Err(ended.err().map_or_else(|| io::ErrorKind::ConnectionReset.into(), Into::into));
        }
        pong = poll_fn(|cx| pinger.poll_pong(cx)) => pong?,
    };
    let account = shared.ledger.open(Side::Neighbours, &destination.instance);
    Ok(Opened { sender, connection, account, pinger, last_read_ms, is_peer: !destination.is_runtime() })
}

/// Connects to one of the addresses that `name` has.
async fn dial(shared: &Shared, destination: &Destination, name: &str, found: SocketAddr) -> io::Result<Socket> {
    let stream = TcpStream::connect(found).await?;
    socket::prepare(&stream)?;
    match &destination.kind {
        Kind::Runtime => Ok(Socket::Tcp(stream)),
        Kind::Peer { tls_name } => {
            let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']');
            shared.peer_tls.connect(stream, tls_name.as_deref().unwrap_or(host)).await
        }
    }
}

/// Whether the other side serves calls.
struct Serving {
    answered: u64,
    since_ms: u64,
}

impl Serving {
    fn new() -> Self {
        Self { answered: 0, since_ms: clock::monotonic_ms() }
    }

    /// Whether calls have waited for long and none has had anything of an answer.
    fn look(&mut self, busy: bool, answered: u64, now_ms: u64) -> bool {
        if !busy || answered != self.answered {
            *self = Self { answered, since_ms: now_ms };
        }
        now_ms.saturating_sub(self.since_ms) >= STALE_AFTER_MS
    }
}

impl Opened {
    /// Moves the connection's bytes until it ends.
    ///
    /// `is_stale` is set while calls are in flight and none of them has had anything of an answer for a while: new ones are
    /// for another connection.
    pub async fn drive(self, in_flight: &AtomicUsize, is_stale: &AtomicBool) -> Ended {
        let Self { mut connection, mut account, pinger, last_read_ms, is_peer, sender } = self;
        // Held here it would keep a forgotten connection open.
        drop(sender);
        let connection = poll_fn(|cx| {
            let ended = Pin::new(&mut connection).poll(cx).map(|_| ());
            match account.note(connection.held_bytes(), cx.waker()) {
                Ok(()) => ended,
                Err(TooMuch) => Poll::Ready(()),
            }
        });
        tokio::pin!(connection);
        let mut serving = Serving::new();
        let mut look = interval(LOOK_EVERY);
        let mut busy_since_ms = None;
        let mut idle_since_ms = clock::monotonic_ms();
        let mut pinged = false;
        loop {
            tokio::select! {
                () = &mut connection => return Ended { by_us: false },
                _ = poll_fn(|cx| pinger.poll_pong(cx)), if pinged => pinged = false,
                _ = look.tick() => {
                    let now_ms = clock::monotonic_ms();
                    pinger.forgive(RESETS_A_LOOK);
                    let busy = in_flight.load(Ordering::Relaxed) > 0;
                    is_stale.store(serving.look(busy, pinger.answered(), now_ms), Ordering::Relaxed);
                    if !is_peer {
                        // A runtime is on this machine: its death is a closed socket, and gRPC servers punish pings.
                        continue;
                    }
                    if in_flight.load(Ordering::Relaxed) == 0 {
                        busy_since_ms = None;
                        if now_ms - idle_since_ms > IDLE_AFTER_MS {
                            return Ended { by_us: true };
                        }
                        continue;
                    }
                    idle_since_ms = now_ms;
                    let since_ms = *busy_since_ms.get_or_insert(now_ms);
                    let silent_ms = now_ms.saturating_sub(last_read_ms.load(Ordering::Relaxed).max(since_ms));
                    if silent_ms >= LOST_AFTER_MS {
                        return Ended { by_us: false };
                    }
                    if silent_ms >= PING_AFTER_MS && !pinged {
                        pinged = pinger.ping();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_answers_no_calls_gets_no_more() {
        let mut serving = Serving { answered: 0, since_ms: 0 };
        assert!(!serving.look(true, 0, 9_000));
        assert!(serving.look(true, 0, 10_000), "ten seconds without an answer");
        assert!(!serving.look(true, 1, 10_500), "it serves again");
        assert!(!serving.look(false, 1, 90_000), "nobody waits");
        assert!(!serving.look(true, 1, 90_500));
        assert!(serving.look(true, 1, 100_500));
    }
}
