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
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::clock;
use crate::ledger::{Account, Side, TooMuch};
use crate::shared::Shared;
use crate::transport::limits;
use crate::transport::peers::{Address, Destination, Kind};
use crate::transport::race::race;
use crate::transport::socket::{self, Socket, Watched};

/// From the first packet to the answer to our first ping.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A neighbour with open streams that is silent this long is pinged …
const PING_AFTER_MS: u64 = 2000;
/// … and hangs if it is silent for this much longer: 5 s in all.
const PONG_AFTER_MS: u64 = 3000;
/// A connection whose calls have had nothing of an answer for this long gets no more of them. Slow runtimes are no harm:
/// their calls go on where they are.
const STALE_AFTER_MS: u64 = 10_000;
/// Resets that a neighbour may be sent more with each look: a hundred a second.
const RESETS_A_LOOK: usize = 50;
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A peer connection without streams is closed after this; the next call opens another.
const IDLE_AFTER_MS: u64 = 300_000;
/// As `IDLE_AFTER_MS`, of one that was opened beside the first for clients that give up many calls.
const SPARE_IDLE_AFTER_MS: u64 = 30_000;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Closed for idleness; nothing is wrong with the other side.
    Idle,
    /// It broke.
    Lost,
}

/// What those who use a connection are told of it.
#[derive(Default)]
pub struct Signs {
    /// Calls on it.
    pub in_flight: AtomicUsize,
    /// Calls are in flight, and none of them has had anything of an answer for a while: new ones are for another connection.
    pub is_stale: AtomicBool,
    /// The other side stands still: not even a ping is answered. The connection ends over it.
    pub is_hung: AtomicBool,
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

/// When to ask the other side for a sign of life, and when to give it up.
struct Listening {
    /// A server may end a connection on which it gets pings while it sends nothing of an answer: gRPC's own take three.
    may_repeat: bool,
    busy_since_ms: Option<u64>,
    pinged: Option<Pinged>,
}

struct Pinged {
    at_ms: u64,
    answered: u64,
    is_open: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Sign {
    Fine,
    Ping,
    Hangs,
}

impl Listening {
    fn new(may_repeat: bool) -> Self {
        Self { may_repeat, busy_since_ms: None, pinged: None }
    }

    /// What to do now. `answered`: frames of answers that have come; `heard_ms`: when anything came.
    fn look(&mut self, busy: bool, answered: u64, heard_ms: u64, now_ms: u64) -> Sign {
        if !busy {
            self.busy_since_ms = None;
            return Sign::Fine;
        }
        let since_ms = *self.busy_since_ms.get_or_insert(now_ms);
        let silent_ms = now_ms.saturating_sub(heard_ms.max(since_ms));
        match &self.pinged {
            // Asked, and given time: our own process may have stood still meanwhile.
            Some(ping) if ping.is_open => {
                let late = silent_ms >= PONG_AFTER_MS && now_ms.saturating_sub(ping.at_ms) >= PONG_AFTER_MS;
                if late { Sign::Hangs } else { Sign::Fine }
            }
            Some(ping) if !self.may_repeat && ping.answered == answered => Sign::Fine,
            _ if silent_ms >= PING_AFTER_MS => {
                self.pinged = Some(Pinged { at_ms: now_ms, answered, is_open: true });
                Sign::Ping
            }
            _ => Sign::Fine,
        }
    }

    fn ponged(&mut self) {
        if let Some(ping) = &mut self.pinged {
            ping.is_open = false;
        }
    }

    fn waits(&self) -> bool {
        self.pinged.as_ref().is_some_and(|ping| ping.is_open)
    }
}

impl Opened {
    /// Moves the connection's bytes until it ends, and keeps `signs` true. `is_spare`: there is another one beside it.
    pub async fn drive(self, signs: &Signs, is_spare: bool) -> Ended {
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
        // A peer is ours and may be pinged as often as we like.
        let mut listening = Listening::new(is_peer);
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The runtime's first one is kept without traffic, so that its loss is noticed.
        let idle_after_ms = if is_spare { Some(SPARE_IDLE_AFTER_MS) } else { is_peer.then_some(IDLE_AFTER_MS) };
        let mut idle_since_ms = clock::monotonic_ms();
        loop {
            let waits = listening.waits();
            tokio::select! {
                () = &mut connection => return Ended::Lost,
                _ = poll_fn(|cx| pinger.poll_pong(cx)), if waits => listening.ponged(),
                _ = look.tick() => {
                    let now_ms = clock::monotonic_ms();
                    pinger.forgive(RESETS_A_LOOK);
                    let busy = signs.in_flight.load(Ordering::Relaxed) > 0;
                    let answered = pinger.answered();
                    signs.is_stale.store(serving.look(busy, answered, now_ms), Ordering::Relaxed);
                    match listening.look(busy, answered, last_read_ms.load(Ordering::Relaxed), now_ms) {
                        Sign::Fine => {}
                        Sign::Ping => {
                            pinger.ping();
                        }
                        Sign::Hangs => {
                            signs.is_hung.store(true, Ordering::Relaxed);
                            return Ended::Lost;
                        }
                    }
                    if busy {
                        idle_since_ms = now_ms;
                    } else if idle_after_ms.is_some_and(|most| now_ms - idle_since_ms > most) {
                        return Ended::Idle;
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
        assert!(!serving.look(false, 1, 90_000), "no call waits");
        assert!(!serving.look(true, 1, 90_500));
        assert!(serving.look(true, 1, 100_500));
    }

    #[test]
    fn who_is_silent_is_asked_and_given_up_only_if_that_is_not_answered() {
        let mut listening = Listening::new(true);
        assert_eq!(listening.look(true, 0, 0, 10_000), Sign::Fine, "busy since now");
        assert_eq!(listening.look(true, 0, 0, 11_999), Sign::Fine);
        assert_eq!(listening.look(true, 0, 0, 12_000), Sign::Ping);
        assert_eq!(listening.look(true, 0, 0, 14_999), Sign::Fine);
        assert_eq!(listening.look(true, 0, 0, 15_000), Sign::Hangs);
        listening.ponged();
        assert_eq!(listening.look(true, 0, 14_000, 15_999), Sign::Fine);
        assert_eq!(listening.look(true, 0, 14_000, 16_000), Sign::Ping, "a peer is asked again");
        assert_eq!(listening.look(false, 0, 14_000, 90_000), Sign::Fine, "no call waits");
    }

    #[test]
    fn a_runtime_under_a_long_call_is_asked_once_until_it_sends_something_of_an_answer() {
        let mut listening = Listening::new(false);
        assert_eq!(listening.look(true, 5, 0, 0), Sign::Fine);
        assert_eq!(listening.look(true, 5, 0, 2_000), Sign::Ping);
        listening.ponged();
        for now_ms in (2_500..120_000).step_by(500) {
            assert_eq!(listening.look(true, 5, 2_001, now_ms), Sign::Fine, "its server would end the connection");
        }
        assert_eq!(listening.look(true, 6, 120_000, 122_000), Sign::Ping);
    }

    #[test]
    fn our_own_standstill_is_not_taken_for_that_of_the_other_side() {
        let mut listening = Listening::new(true);
        assert_eq!(listening.look(true, 0, 0, 1_000), Sign::Fine);
        assert_eq!(listening.look(true, 0, 1_000, 61_000), Sign::Ping, "first asked");
    }
}
