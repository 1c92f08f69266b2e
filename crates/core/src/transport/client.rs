//! A gRPC connection that the control plane opens and moves the bytes of: to its store, to its runtime.
//!
//! There is no socket here and no thread. Whoever has the socket hands in what it read, asks which calls that concerns,
//! and sends what there is to send. So a call is two system calls of its own thread and wakes no other thread.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE, USER_AGENT};
use http::uri::PathAndQuery;
use modelmesh_http2::{Client, Error, Pinger, Reason, RecvStream, SendStream, Sender, Settings};
use parking_lot::Mutex;

use crate::transport::news::{Again, CallId, News};
use crate::transport::pipe::{End, Pipe};
use crate::transport::tls::ClientTls;
use crate::wire::framing::{Deframer, Follower, framed};
use crate::wire::headers::GRPC_TIMEOUT;
use crate::wire::status::{Code, code_of, message_of};
use crate::wire::timeout;

/// A whole table may come as one answer.
const WINDOWS: Settings = Settings {
    stream_window: 4 << 20,
    connection_window: 16 << 20,
    max_frame: 64 << 10,
    max_streams: 0,
    max_header_list: 64 << 10,
    max_unseen_resets: 1024,
    max_errors: None,
};

/// What comes next on a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Message(Bytes),
    /// The call has ended and is forgotten. `unprocessed`: the server has done nothing of it.
    Ended {
        code: Code,
        message: String,
        unprocessed: bool,
    },
    /// Nothing yet; `receive` tells when to ask again.
    Pending,
}

impl Next {
    fn ended(code: Code, message: impl Into<String>) -> Self {
        Self::Ended { code, message: message.into(), unprocessed: false }
    }

    /// `failure`: of the whole connection, which says more.
    fn broken(error: &Error, failure: Option<&str>) -> Self {
        if let Some(failure) = failure {
            return Self::Ended {
                code: Code::Unavailable,
                message: failure.to_owned(),
                unprocessed: error.is_unprocessed(),
            };
        }
        let code = match error {
            Error::Reset { reason: Reason::CANCEL, .. } => Code::Cancelled,
            Error::Reset { reason, .. } => Code::from_reset(*reason).unwrap_or(Code::Unavailable),
            Error::TooLarge { .. } => Code::ResourceExhausted,
            _ => Code::Unavailable,
        };
        Self::Ended { code, message: error.to_string(), unprocessed: error.is_unprocessed() }
    }

    fn of_trailers(trailers: &HeaderMap) -> Self {
        match code_of(trailers) {
            Some(code) => Self::ended(code, message_of(trailers)),
            None => Self::ended(Code::Unknown, "the answer has no grpc-status"),
        }
    }
}

struct Call {
    receiver: RecvStream,
    sender: SendStream,
    waker: Waker,
    has_head: bool,
    follower: Follower,
    deframer: Deframer,
}

impl Call {
    fn next(&mut self, failure: Option<&str>) -> Next {
        let waker = self.waker.clone();
        let cx = &mut Context::from_waker(&waker);
        loop {
            if let Some(message) = self.deframer.next_message() {
                if message.compressed {
                    return Next::ended(Code::Internal, "a compressed message, and none was asked for");
                }
                return Next::Message(message.payload);
            }
            if !self.has_head {
                match self.receiver.poll_head(cx) {
                    Poll::Pending => return Next::Pending,
                    Poll::Ready(Err(error)) => return Next::broken(&error, failure),
                    Poll::Ready(Ok(head)) => {
                        self.has_head = true;
                        if head.status != http::StatusCode::OK {
                            let code = code_of(&head.headers).unwrap_or_else(|| Code::from_http(head.status));
                            return Next::ended(code, format!("HTTP status {}", head.status));
                        }
                        if self.receiver.is_head_only() {
                            return Next::of_trailers(&head.headers);
                        }
                    }
                }
            }
            match self.receiver.poll_data(cx) {
                Poll::Pending => return Next::Pending,
                Poll::Ready(Some(Err(error))) => return Next::broken(&error, failure),
                Poll::Ready(Some(Ok(piece))) => {
                    self.receiver.release(piece.len());
                    if let Err(too_long) = self.follower.follow(&piece) {
                        return Next::ended(Code::ResourceExhausted, too_long.message());
                    }
                    self.deframer.push(&piece);
                }
                Poll::Ready(None) => {
                    return match self.receiver.trailers() {
                        Some(trailers) if self.follower.is_inside() && code_of(&trailers) == Some(Code::Ok) => {
                            Next::ended(Code::Internal, "the answer ends within a message")
                        }
                        Some(trailers) => Next::of_trailers(&trailers),
                        None => Next::ended(Code::Unknown, "the answer has no grpc-status"),
                    };
                }
            }
        }
    }
}

/// The client's side of one connection.
pub struct ClientConnection {
    pipe: Arc<Mutex<Pipe>>,
    /// None: it has ended.
    driver: Option<Client<End>>,
    pinger: Pinger,
    sender: Sender,
    again: Arc<Again>,
    news: News,
    calls: HashMap<CallId, Call>,
    last_call: CallId,
    authority: String,
    max_message: usize,
    is_settled: bool,
    failure: Option<String>,
}

impl ClientConnection {
    /// Begins to speak; `take` has the first bytes. `tls`: with the name in the server's certificate.
    ///
    /// # Errors
    /// A sentence for people: `authority` or the name cannot be one.
    pub fn new(authority: &str, tls: Option<(&ClientTls, &str)>, max_message: usize) -> Result<Self, String> {
        if HeaderValue::from_str(authority).is_err() || authority.is_empty() {
            return Err(format!("{authority:?} cannot be an authority"));
        }
        let pipe = Arc::new(Mutex::new(Pipe::new(tls)?));
        let (sender, driver) = Client::new(End(Arc::clone(&pipe)), WINDOWS);
        Ok(Self {
            pipe,
            pinger: driver.pinger(),
            driver: Some(driver),
            sender,
            again: Arc::default(),
            news: News::default(),
            calls: HashMap::new(),
            last_call: 0,
            authority: authority.to_owned(),
            max_message,
            is_settled: false,
            failure: None,
        })
    }

    /// Begins a call. `metadata` in wire form (`-bin` values in base64).
    ///
    /// # Errors
    /// Nothing was sent: the connection has ended, or the server goes away.
    pub fn open(
        &mut self,
        path: &PathAndQuery,
        metadata: &[(HeaderName, HeaderValue)],
        timeout: Option<Duration>,
    ) -> Result<CallId, String> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let mut headers = HeaderMap::with_capacity(4 + metadata.len());
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("modelmesh/", env!("CARGO_PKG_VERSION"))));
        if let Some(timeout) = timeout {
            headers.insert(GRPC_TIMEOUT, timeout::format(timeout));
        }
        for (name, value) in metadata {
            headers.append(name, value.clone());
        }
        let opened = self.sender.send(&self.authority, path, &headers, false);
        let (receiver, sender) = opened.map_err(|error| error.to_string())?;
        self.last_call += 1;
        let waker = self.news.waker(self.last_call);
        let (follower, deframer) = (Follower::new(self.max_message), Deframer::default());
        let call = Call { receiver, sender, waker, has_head: false, follower, deframer };
        self.calls.insert(self.last_call, call);
        // The server's first word must find somebody who waits for it.
        self.news.add(self.last_call);
        Ok(self.last_call)
    }

    /// Sends a message; `last` ends the request. Nothing happens if the call has ended: `next` tells how.
    pub fn send(&mut self, call: CallId, message: &[u8], last: bool) {
        if let Some(call) = self.calls.get_mut(&call) {
            let _ = call.sender.send_data(framed(message), last);
        }
    }

    /// What comes next on a call.
    pub fn next(&mut self, id: CallId) -> Next {
        let Some(call) = self.calls.get_mut(&id) else { return Next::ended(Code::Cancelled, "the call has ended") };
        let next = call.next(self.failure.as_deref());
        if matches!(next, Next::Ended { .. }) {
            self.cancel(id);
        }
        next
    }

    /// Ends a call.
    pub fn cancel(&mut self, id: CallId) {
        if let Some(mut call) = self.calls.remove(&id) {
            // Nothing is said of a stream that has ended.
            call.sender.reset(Reason::CANCEL);
        }
    }

    /// Takes in what came; returns the calls about which there is news.
    pub fn receive(&mut self, bytes: &[u8]) -> Vec<CallId> {
        self.pipe.lock().put(bytes);
        self.turn();
        self.news()
    }

    /// The socket has been closed or broke. What came before is still there for `next`.
    pub fn lost(&mut self, why: &str) -> Vec<CallId> {
        self.failure.get_or_insert_with(|| why.to_owned());
        self.pipe.lock().end();
        self.turn();
        self.news()
    }

    /// Ends the connection and all calls on it. `take` has the last bytes.
    pub fn close(&mut self, why: &str) -> Vec<CallId> {
        self.failure.get_or_insert_with(|| why.to_owned());
        for call in self.calls.values_mut() {
            call.sender.reset(Reason::CANCEL);
        }
        self.turn();
        self.driver = None;
        self.news()
    }

    fn news(&mut self) -> Vec<CallId> {
        let mut news = self.news.take();
        news.retain(|call| self.calls.contains_key(call));
        news
    }

    /// What is to be sent; more may be when that has been.
    pub fn take(&mut self) -> Vec<u8> {
        self.turn();
        self.pipe.lock().take()
    }

    /// Frames of answers that have come. While it stands still the server serves nothing.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.pinger.answered()
    }

    /// What the connection holds, in bytes.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.driver.as_ref().map_or(0, Client::held_bytes)
    }

    /// Asks the server whether it is there. Any bytes that come are a sign of it.
    pub fn ping(&mut self) {
        self.pinger.ping();
    }

    /// Whether the server has said that it speaks HTTP/2.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Whether calls can be begun.
    #[must_use]
    pub fn takes_calls(&self) -> bool {
        self.failure.is_none() && self.sender.check().is_ok()
    }

    /// Why the connection has ended; None: it has not.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Moves bytes between the pipe and the calls until there are none left to move.
    fn turn(&mut self) {
        let waker = Waker::from(Arc::clone(&self.again));
        let cx = &mut Context::from_waker(&waker);
        while let Some(driver) = &mut self.driver {
            self.again.begin();
            let polled = Pin::new(&mut *driver).poll(cx);
            self.is_settled = driver.has_settings();
            match polled {
                Poll::Pending if self.again.is_wanted() => {}
                Poll::Pending => return,
                Poll::Ready(outcome) => {
                    let of_tls = self.pipe.lock().failure().map(ToOwned::to_owned);
                    let text =
                        || outcome.map_or_else(|error| error.to_string(), |()| "the connection was closed".into());
                    self.failure.get_or_insert_with(|| of_tls.unwrap_or_else(text));
                    self.driver = None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

    fn connection(tls: Option<&ClientTls>) -> ClientConnection {
        ClientConnection::new("server", tls.map(|tls| (tls, "server")), 1000).unwrap()
    }

    fn call(connection: &mut ClientConnection) -> CallId {
        let call = connection.open(&PathAndQuery::from_static("/p.S/M"), &[], None).unwrap();
        connection.send(call, b"request", true);
        call
    }

    #[test]
    fn a_lost_connection_ends_calls_with_its_reason() {
        let mut connection = connection(None);
        let first = call(&mut connection);
        assert_eq!(connection.next(first), Next::Pending);
        assert_eq!(connection.receive(SETTINGS), [first]);
        assert!(connection.is_settled());
        assert_eq!(connection.lost("gone"), [first]);
        let ended = Next::Ended { code: Code::Unavailable, message: "gone".into(), unprocessed: false };
        assert_eq!(connection.next(first), ended);
        assert!(!connection.takes_calls());
        assert_eq!(connection.open(&PathAndQuery::from_static("/p.S/M"), &[], None), Err("gone".into()));
    }

    #[test]
    fn a_closed_connection_tells_the_server_which_calls_end() {
        let mut connection = connection(None);
        let first = call(&mut connection);
        connection.receive(SETTINGS);
        connection.take();
        connection.close("closed");
        assert_eq!(connection.take(), b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08", "RST_STREAM, CANCEL");
        assert!(matches!(connection.next(first), Next::Ended { code: Code::Unavailable, .. }));
    }

    #[test]
    fn a_call_that_is_forgotten_is_not_told_of() {
        let mut connection = connection(None);
        let first = call(&mut connection);
        connection.cancel(first);
        assert_eq!(connection.receive(SETTINGS), []);
        assert!(matches!(connection.next(first), Next::Ended { code: Code::Cancelled, .. }));
    }

    proptest! {
        /// Whatever comes, in whatever pieces: nothing panics, and once the socket is gone no call waits.
        #[test]
        fn nothing_that_comes_leaves_a_call_waiting(
            is_tls: bool,
            speaks: bool,
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
        ) {
            let tls = is_tls.then(|| ClientTls::new(None, None).unwrap());
            let mut connection = connection(tls.as_ref());
            let calls = [call(&mut connection), call(&mut connection)];
            if speaks {
                connection.receive(SETTINGS);
            }
            for piece in pieces {
                connection.receive(&piece);
                connection.take();
            }
            connection.lost("gone");
            for call in calls {
                while let Next::Message(_) = connection.next(call) {}
                prop_assert_eq!(connection.next(call), Next::ended(Code::Cancelled, "the call has ended"));
            }
        }
    }
}
