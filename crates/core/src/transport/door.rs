//! Where a listener of another protocol lets its clients in. Each gets a connection of its own, in memory, which a data
//! thread serves as it serves any client's: so everything that holds for calls holds for theirs, and nothing else does.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue};
use modelmesh_http2::{Client, Error, RecvStream, Sender};
use parking_lot::Mutex;
use tokio::io::duplex;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::interval;

use crate::access::{Listener, Origin};
use crate::clock;
use crate::ledger::{Account, Charge, Holder, Side};
use crate::shared::Shared;
use crate::transport::connections::{self, Admission};
use crate::transport::drain::Phase;
use crate::transport::limits;
use crate::transport::listen::{self, HEARTBEAT};
use crate::transport::port::Port;
use crate::transport::socket::Socket;
use crate::transport::thread::{self, Arrived, Command, Handle, least_loaded};
use crate::wire::framing::{Deframer, Follower};
use crate::wire::headers::MM_FALLBACK;
use crate::wire::retry::PUSHBACK;
use crate::wire::status::{Code, code_of, message_of};

/// Bytes that may be on their way between a listener and a data thread, each way. Who has been full once stays as large.
const PIPE: usize = 64 << 10;
/// Beyond the first of them a request pays for its bytes, in steps of this.
const STEP: usize = 32 << 10;
/// A connection that goes away before it has read a call is replaced, so often.
const TRIES: usize = 3;

/// What a listener needs of the core. Clones are the same.
#[derive(Clone)]
pub struct Door {
    shared: Arc<Shared>,
    workers: Arc<[Handle]>,
    phase: watch::Receiver<Phase>,
}

impl Door {
    #[must_use]
    pub fn new(shared: Arc<Shared>, workers: Arc<[Handle]>, phase: watch::Receiver<Phase>) -> Self {
        Self { shared, workers, phase }
    }

    /// Binds `host:port`; `name` is that of the port.
    ///
    /// # Errors
    /// The address is in use, not ours or no address; the message names it.
    pub fn bind(&self, address: &str, name: &str) -> io::Result<TcpListener> {
        listen::bind(address, name)
    }

    /// Starts a thread with a runtime of its own. Whether it turns is looked at as it is of data threads.
    ///
    /// # Errors
    /// The system gives none.
    pub fn spawn(&self, name: String, work: impl Future<Output = ()> + Send + 'static) -> io::Result<JoinHandle<()>> {
        let turned_ms = Arc::new(AtomicU64::new(clock::monotonic_ms()));
        self.shared.turned_ms.lock().push(Arc::clone(&turned_ms));
        thread::spawn(name, self.shared.settings.give_back_memory, async move {
            let mut beat = interval(HEARTBEAT);
            let mut work = pin!(work);
            loop {
                tokio::select! {
                    () = work.as_mut() => return,
                    _ = beat.tick() => turned_ms.store(clock::monotonic_ms(), Ordering::Relaxed),
                }
            }
        })
    }

    /// How many threads share the work: as many as there are data threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len()
    }

    /// Counts a request that was answered with a status that is no success.
    pub fn count_fault(&self, status: u16) {
        self.shared.metrics.rest_fault(status);
    }

    /// What a message may have, in bytes.
    #[must_use]
    pub fn max_message_bytes(&self) -> usize {
        self.shared.settings.max_message_bytes
    }

    /// What a list of headers may have, in bytes.
    #[must_use]
    pub fn max_header_bytes(&self) -> usize {
        self.shared.settings.max_header_bytes
    }

    /// When a client that comes now is asked to connect again, and how long its requests then have. Clients that came together
    /// do not leave together.
    #[must_use]
    pub fn age(&self) -> (Option<Duration>, Option<Duration>) {
        let settings = &self.shared.settings;
        let age = settings.max_connection_age.map(|age| age.mul_f64(0.9 + fastrand::f64() / 5.0));
        (age, settings.max_connection_age_grace)
    }

    /// How long to rest after an error of `accept`.
    #[must_use]
    pub fn pause() -> Duration {
        listen::PAUSE
    }

    /// Lets in the client at `address`, until the guest is dropped; None if there are too many.
    #[must_use]
    pub fn enter(&self, address: SocketAddr) -> Option<Guest> {
        let holder = connections::holder_of(address.ip());
        let admission = self.shared.connections(Port::Serving).admit(holder)?;
        let account = self.shared.ledger.open(Side::Clients, &holder.to_string());
        Some(Guest {
            holder: Arc::clone(account.holder()),
            account: Mutex::new(account),
            door: self.clone(),
            address,
            origin: Origin { listener: Listener::Rest, certificate: None },
            sender: Mutex::default(),
            _admission: admission,
        })
    }

    /// Puts TLS over a connection that was accepted, if there is material.
    ///
    /// # Errors
    /// The client has gone, or the handshake failed.
    pub async fn secure(&self, stream: TcpStream) -> io::Result<Socket> {
        listen::prepare(&stream)?;
        self.shared.serving_tls.accept_web(stream).await
    }

    /// Whether connections that do nothing should make room.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.shared.connections(Port::Serving).are_scarce()
    }

    /// Whether calls of this vmodel have come lately. Others are not known here.
    #[must_use]
    pub fn knows_vmodel(&self, vmodel: &str) -> bool {
        self.shared.table.has_vmodel(vmodel)
    }

    /// Whether a call of a vmodel that is known here can choose this version.
    #[must_use]
    pub fn knows_version(&self, vmodel: &str, version: &str) -> bool {
        matches!(self.shared.table.version_of(vmodel, version), Ok(Some(_)))
    }

    /// Whether the model is loaded somewhere.
    #[must_use]
    pub fn knows_model(&self, model: &str) -> bool {
        self.shared.table.get(model).is_some()
    }

    /// Waits until no new connections should come.
    pub async fn drained(&mut self) {
        // An error: the core has gone.
        let _ = self.phase.wait_for(|phase| *phase != Phase::Running).await;
    }

    /// Waits until everything ends.
    pub async fn closed(&mut self) {
        let _ = self.phase.wait_for(|phase| *phase == Phase::Closed).await;
    }
}

/// One client of another protocol.
pub struct Guest {
    door: Door,
    address: SocketAddr,
    origin: Origin,
    holder: Arc<Holder>,
    account: Mutex<Account>,
    /// Its connection to a data thread, once it has made a call.
    sender: Mutex<Option<Sender>>,
    _admission: Admission,
}

/// How a call ended that was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub code: Code,
    pub message: String,
    /// When it may be worth another try, if whoever refused said so.
    pub pushback: Option<Duration>,
}

impl Refused {
    fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), pushback: None }
    }

    fn of_stream(error: &Error) -> Self {
        let code = match error {
            Error::Reset { reason, .. } => Code::from_reset(*reason).unwrap_or(Code::Unavailable),
            Error::TooLarge { .. } => Code::ResourceExhausted,
            _ => Code::Unavailable,
        };
        Self::new(code, error.to_string())
    }

    fn of_trailers(trailers: &HeaderMap) -> Self {
        let code = code_of(trailers).unwrap_or(Code::Unknown);
        let ms = trailers.get(PUSHBACK).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        Self { code, message: message_of(trailers), pushback: ms.map(Duration::from_millis) }
    }
}

impl Guest {
    #[must_use]
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// It has come by this connection, whose certificate, if there is one, counts for its calls.
    pub fn comes_by(&mut self, socket: &Socket) {
        self.origin.certificate = socket.certificate();
    }

    /// Whether it must end: more is held for it than for any other client.
    #[must_use]
    pub fn is_expelled(&self) -> bool {
        self.account.lock().note(0, Waker::noop()).is_err()
    }

    /// Nothing is asked for the time being: its connection, with what that keeps for the next call, ends when its calls have.
    pub fn rest(&self) {
        drop(self.sender.lock().take());
    }

    /// What one of its requests holds.
    #[must_use]
    pub fn purse(&self) -> Purse {
        Purse { holder: Arc::clone(&self.holder), charges: Vec::new(), paid: STEP, held: 0 }
    }

    /// Makes a unary call; `message` with its prefix. Dropped before its end, it is cancelled.
    ///
    /// # Errors
    /// It ended with another status than OK.
    pub async fn call(
        &self,
        path: &PathAndQuery,
        headers: &HeaderMap,
        message: &Bytes,
        purse: &mut Purse,
    ) -> Result<Bytes, Refused> {
        let (first, rest) = self.call_stream(path, headers, message, purse).await?;
        rest.only(first, purse).await
    }

    /// Makes a call whose answer may be many messages; `message` with its prefix is the whole request. Returns with the first
    /// message of the answer; None: it has none.
    ///
    /// # Errors
    /// It ended with another status than OK before that.
    pub async fn call_stream(
        &self,
        path: &PathAndQuery,
        headers: &HeaderMap,
        message: &Bytes,
        purse: &mut Purse,
    ) -> Result<(Option<Bytes>, AnswerStream), Refused> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_call(path, headers, message.clone()).await {
                Ok(Ok(mut answer)) => return Ok((answer.next(purse).await.transpose()?, answer)),
                Ok(Err(refused)) => return Err(refused),
                Err(error) if tries == TRIES => return Err(Refused::of_stream(&error)),
                // Its connection went away as the call came: the next one reads it.
                Err(_) => drop(self.sender.lock().take()),
            }
        }
    }

    /// A connection to a data thread.
    fn sender(&self) -> Option<Sender> {
        let mut sender = self.sender.lock();
        if let Some(sender) = sender.as_ref().filter(|sender| sender.check().is_ok()) {
            return Some(sender.clone());
        }
        let worker = least_loaded(&self.door.workers)?;
        let (near, far) = duplex(PIPE);
        let (opened, connection) = Client::new(near, limits::client(&self.door.shared.settings));
        tokio::spawn(connection);
        let arrived = Arrived::Inside(far, self.origin.clone());
        worker.send(Command::Serve { arrived, port: Port::Serving, address: self.address, admission: None });
        *sender = Some(opened.clone());
        Some(opened)
    }

    /// The error means that nothing of the call was processed.
    async fn try_call(
        &self,
        path: &PathAndQuery,
        headers: &HeaderMap,
        message: Bytes,
    ) -> Result<Result<AnswerStream, Refused>, Error> {
        let Some(sender) = self.sender() else {
            return Ok(Err(Refused::new(Code::Unavailable, "the instance stops")));
        };
        let (mut answer, mut request) = sender.send("modelmesh", path, headers, false)?;
        let head = match request.send_data(message, true) {
            Ok(()) => poll_fn(|cx| answer.poll_head(cx)).await,
            Err(error) => Err(error),
        };
        let head = match head {
            Ok(head) => head,
            Err(error) if error.is_unprocessed() => return Err(error),
            Err(error) => return Ok(Err(Refused::of_stream(&error))),
        };
        let is_head_only = answer.is_head_only();
        if is_head_only && code_of(&head.headers) != Some(Code::Ok) {
            return Ok(Err(Refused::of_trailers(&head.headers)));
        }
        let fallback = head.headers.get(MM_FALLBACK).cloned();
        let follower = Follower::new(self.door.max_message_bytes());
        Ok(Ok(AnswerStream { answer, is_head_only, fallback, follower, deframer: Deframer::default() }))
    }
}

/// The messages of an answer. Dropped before their end, the call is cancelled.
pub struct AnswerStream {
    answer: RecvStream,
    /// Nothing follows its head, which has been looked at.
    is_head_only: bool,
    /// The model that answers in place of the wanted one.
    fallback: Option<HeaderValue>,
    follower: Follower,
    deframer: Deframer,
}

impl AnswerStream {
    /// The model that answers in place of the wanted one, if it does.
    #[must_use]
    pub fn fallback(&self) -> Option<&HeaderValue> {
        self.fallback.as_ref()
    }

    /// The first message of an answer that has no other.
    ///
    /// # Errors
    /// It has none or others, or the call ended with another status than OK.
    pub async fn only(mut self, first: Option<Bytes>, purse: &mut Purse) -> Result<Bytes, Refused> {
        match (first, self.next(purse).await) {
            (_, Some(Err(refused))) => Err(refused),
            (Some(message), None) => Ok(message),
            _ => Err(Refused::new(Code::Internal, "the answer is not one message")),
        }
    }

    /// The next message, which `purse` pays for; None: the call ended with OK. No more is received before it is asked for.
    pub async fn next(&mut self, purse: &mut Purse) -> Option<Result<Bytes, Refused>> {
        loop {
            match self.deframer.next_message() {
                Some(message) if message.compressed => {
                    return Some(Err(Refused::new(Code::Internal, "a message of the answer is compressed")));
                }
                Some(message) => return Some(Ok(message.payload)),
                None => {}
            }
            match poll_fn(|cx| self.answer.poll_data(cx)).await {
                Some(Ok(piece)) => {
                    self.answer.release(piece.len());
                    if let Err(too_long) = self.follower.follow(&piece) {
                        return Some(Err(Refused::new(Code::ResourceExhausted, too_long.message())));
                    }
                    if !purse.hold(piece.len()) {
                        return Some(Err(Purse::empty()));
                    }
                    self.deframer.push(&piece);
                }
                Some(Err(error)) => return Some(Err(Refused::of_stream(&error))),
                None => break,
            }
        }
        let trailers = self.answer.trailers().unwrap_or_default();
        if !self.is_head_only && code_of(&trailers) != Some(Code::Ok) {
            return Some(Err(Refused::of_trailers(&trailers)));
        }
        if self.deframer.is_empty() {
            None
        } else {
            Some(Err(Refused::new(Code::Internal, "the answer ends within a message")))
        }
    }
}

/// What one request holds, on the account of its client. Given back when dropped.
pub struct Purse {
    holder: Arc<Holder>,
    charges: Vec<Charge>,
    paid: usize,
    held: usize,
}

impl Purse {
    /// So many more bytes are held; false: they may not be.
    #[must_use]
    pub fn hold(&mut self, bytes: usize) -> bool {
        self.held += bytes;
        if self.held <= self.paid {
            return true;
        }
        let more = (self.held - self.paid).next_multiple_of(STEP);
        let charge = self.holder.charge(more);
        self.paid += more;
        let paid = charge.is_some();
        self.charges.extend(charge);
        paid
    }

    /// What a client is told whose requests hold too much.
    #[must_use]
    pub fn empty() -> Refused {
        Refused::new(Code::ResourceExhausted, "too much is held for this connection; try again")
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::ledger::Ledger;

    #[tokio::test]
    async fn a_guest_that_rests_keeps_no_connection_and_gets_another_for_its_next_call() {
        let shared = Shared::new(crate::settings::Settings::default()).unwrap();
        let (handle, mut commands) = Handle::new();
        let (_phase, receiver) = watch::channel(Phase::Running);
        let door = Door::new(shared, vec![handle].into(), receiver);
        let guest = door.enter(SocketAddr::from(([10, 0, 0, 1], 9))).unwrap();
        for _ in 0..2 {
            let sender = guest.sender().unwrap();
            let Some(Command::Serve { arrived: Arrived::Inside(mut far, _), admission: None, .. }) =
                commands.recv().await
            else {
                panic!("no connection was opened")
            };
            assert!(guest.sender().is_some() && commands.try_recv().is_err(), "one is enough");
            guest.rest();
            drop(sender);
            let mut said = Vec::new();
            far.read_to_end(&mut said).await.unwrap();
            assert!(said.starts_with(b"PRI * HTTP/2.0"));
        }
    }

    #[test]
    fn a_request_pays_for_what_is_beyond_little_and_gets_it_back() {
        let ledger = Ledger::new(64 << 20, 16 << 20);
        let account = ledger.open(Side::Clients, "a");
        let purse = || Purse { holder: Arc::clone(account.holder()), charges: Vec::new(), paid: STEP, held: 0 };
        let mut small = purse();
        assert!(small.hold(STEP));
        assert_eq!(ledger.held(Side::Clients), 0);
        let mut large = purse();
        for _ in 0..20 {
            assert!(large.hold(1 << 20));
        }
        let held = ledger.held(Side::Clients);
        assert!(held.abs_diff(20 << 20) <= 2 * STEP, "{held}");
        assert!(!large.hold(20 << 20));
        drop(large);
        assert_eq!(ledger.held(Side::Clients), 0);
    }
}
