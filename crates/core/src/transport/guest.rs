//! One client of another protocol, and the calls that it makes.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue};
use modelmesh_http2::{Client, Error, RecvStream, Sender};
use parking_lot::Mutex;
use tokio::io::duplex;

use crate::access::{Listener, Origin};
use crate::call::direct;
use crate::call::entry::Arrival;
use crate::ledger::{Account, Holder};
use crate::transport::connections::Admission;
use crate::transport::door::{Desk, Door};
use crate::transport::limits;
use crate::transport::port::Port;
use crate::transport::purse::Purse;
use crate::transport::refused::Refused;
use crate::transport::socket::Socket;
use crate::transport::thread::Arrived;
use crate::wire::framing::{Deframer, Follower};
use crate::wire::headers::MM_FALLBACK;
use crate::wire::status::{Code, code_of};

/// Bytes that may be on their way on a connection in memory, each way. Who has been full once stays as large.
const PIPE: usize = 64 << 10;
/// A connection that goes away before it has read a call is replaced, so often.
const TRIES: usize = 3;
/// Every so many looks some of the calls that a client gave up are forgotten.
const LOOKS_OF_CALM: usize = 5;

/// One client of another protocol, on a thread of its door.
pub struct Guest {
    door: Door,
    desk: Desk,
    address: SocketAddr,
    origin: Origin,
    holder: Arc<Holder>,
    account: Mutex<Account>,
    /// Its connection to the thread that it is on, once it has made a call that needs one.
    sender: Mutex<Option<Sender>>,
    /// How often it was looked at.
    looks: AtomicUsize,
    _admission: Admission,
}

impl Guest {
    /// A client at `address`.
    #[must_use]
    pub fn new(door: Door, desk: Desk, address: SocketAddr, account: Account, admission: Admission) -> Self {
        Self {
            holder: Arc::clone(account.holder()),
            account: Mutex::new(account),
            door,
            desk,
            address,
            origin: Origin { listener: Listener::Rest, certificate: None },
            sender: Mutex::default(),
            looks: AtomicUsize::new(0),
            _admission: admission,
        }
    }

    #[must_use]
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// It has come by this connection, whose certificate, if there is one, counts for its calls.
    pub fn comes_by(&mut self, socket: &Socket) {
        self.origin.certificate = socket.certificate();
    }

    /// Whether it must end: more is held for it than for any other client. To be asked about once a second.
    #[must_use]
    pub fn is_expelled(&self) -> bool {
        if self.looks.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOKS_OF_CALM) {
            self.holder.calm();
        }
        self.account.lock().note(0, Waker::noop()).is_err()
    }

    /// Nothing is asked for the time being: its connection, with what that keeps for the next call, ends when its calls have.
    pub fn rest(&self) {
        drop(self.sender.lock().take());
    }

    /// What one of its requests holds.
    #[must_use]
    pub fn purse(&self) -> Purse {
        Purse::of(&self.holder)
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

    /// Makes a unary call of a model; `message` with its prefix. The answer, and the model that answered in place of the wanted one, if
    /// it did. The call runs where it is awaited, without a connection. Dropped before its end, it is cancelled.
    ///
    /// # Errors
    /// It ended with another status than OK.
    pub async fn call_model(
        &self,
        path: &PathAndQuery,
        headers: &HeaderMap,
        message: &Bytes,
        purse: &mut Purse,
    ) -> Result<(Bytes, Option<HeaderValue>), Refused> {
        if !direct::is_for_models(&self.door.shared, path) {
            let (first, rest) = self.call_stream(path, headers, message, purse).await?;
            let fallback = rest.fallback().cloned();
            return Ok((rest.only(first, purse).await?, fallback));
        }
        let request = direct::Request {
            path,
            headers: headers.clone(),
            message: message.clone(),
            purse: std::mem::replace(purse, self.purse()),
        };
        let arrival = Arrival { port: Port::Serving, address: self.address, origin: &self.origin };
        let call = direct::begin(self.desk.worker(), &arrival, &self.account.lock(), request);
        let Some(whole) = call.await else {
            return Err(Refused::new(Code::Internal, "the call has no answer"));
        };
        let (answer, paid) = whole.into_message();
        *purse = paid;
        answer
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

    /// Its connection to the thread that it is on.
    fn sender(&self) -> Sender {
        let mut sender = self.sender.lock();
        if let Some(sender) = sender.as_ref().filter(|sender| sender.check().is_ok()) {
            return sender.clone();
        }
        let (near, far) = duplex(PIPE);
        let (opened, connection) = Client::new(near, limits::client(&self.door.shared.settings));
        tokio::spawn(connection);
        let arrived = Arrived::Inside(far, self.origin.clone());
        self.desk.worker().serve(arrived, Port::Serving, self.address, None);
        *sender = Some(opened.clone());
        opened
    }

    /// The error means that nothing of the call was processed.
    async fn try_call(
        &self,
        path: &PathAndQuery,
        headers: &HeaderMap,
        message: Bytes,
    ) -> Result<Result<AnswerStream, Refused>, Error> {
        let (mut answer, mut request) = self.sender().send("modelmesh", path, headers, false)?;
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
        let next = self.receive(purse).await?;
        Some(next.map_err(|refused| refused.by(self.fallback.as_ref())))
    }

    async fn receive(&mut self, purse: &mut Purse) -> Option<Result<Bytes, Refused>> {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::watch;
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::settings::Settings;
    use crate::shared::Shared;
    use crate::transport::door::Desks;
    use crate::transport::drain::Phase;

    #[tokio::test]
    async fn a_guest_that_rests_keeps_no_connection_and_gets_another_for_its_next_call() {
        let (_phase, phase) = watch::channel(Phase::Running);
        let door = Door::new(Shared::new(Settings::default()).unwrap(), Desks::default(), 1, phase);
        let desk = door.desk();
        let guest = door.enter(SocketAddr::from(([10, 0, 0, 1], 9)), &desk).unwrap();
        let open = || desk.worker().load.connections.load(Ordering::Relaxed);
        let becomes = async |wanted| {
            while open() != wanted {
                sleep(Duration::from_millis(1)).await;
            }
        };
        for _ in 0..2 {
            assert_eq!(open(), 0);
            let sender = guest.sender();
            drop(guest.sender());
            assert_eq!(open(), 1, "one is enough");
            guest.rest();
            drop(sender);
            timeout(Duration::from_secs(30), becomes(0)).await.expect("the connection ends");
        }
    }
}
