//! A gRPC connection that a client opened to a server in Python. Whoever has the socket moves its bytes.
//!
//! There is no socket here and no thread, as in `client`. What the socket gave is put in, and the calls that it concerns come
//! out: a call whose whole request is there is one event, so that a unary call enters Python once. Answers go in, and the bytes
//! to send come out.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use modelmesh_http2::{Accepted, Error, RequestHead, SendStream, Server, Settings};
use parking_lot::Mutex;

use crate::transport::news::{Again, CallId, CallIds, News};
use crate::transport::pipe::{End, Pipe};
use crate::transport::request::{Part, Request, Unfinished};
use crate::wire::framing::{Message, framed};
use crate::wire::headers::{GRPC_TIMEOUT, decode_bin};
use crate::wire::status::{Code, Status};
use crate::wire::timeout;

/// Streams of one connection. The process bounds the calls that it works on by itself.
const STREAMS: u32 = 4096;
const MODEL_ID: HeaderName = HeaderName::from_static("mm-model-id");
const MODEL_ID_BIN: HeaderName = HeaderName::from_static("mm-model-id-bin");
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPTED_ENCODINGS: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// What is known of a call when it begins.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    pub call: CallId,
    pub path: String,
    /// The model that its metadata names: `mm-model-id-bin`, else `mm-model-id`.
    pub model: Option<Vec<u8>>,
    pub timeout_ms: Option<u64>,
    /// How its messages are compressed, where they say that they are.
    pub encoding: Option<String>,
    /// The request, if it was one message and came at once. Otherwise `next` has its parts.
    pub message: Option<Message>,
}

/// What has happened on a connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Came {
    /// Calls that began.
    pub calls: Vec<Opened>,
    /// Calls of which `next` has something, or for whose answer there is room.
    pub news: Vec<CallId>,
    /// Calls that their clients gave up. They are forgotten.
    pub cancelled: Vec<CallId>,
}

impl Came {
    /// Whether nothing has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.news.is_empty() && self.cancelled.is_empty()
    }

    /// Adds what happened later.
    pub fn add(&mut self, mut later: Self) {
        self.calls.append(&mut later.calls);
        self.news.append(&mut later.news);
        self.cancelled.append(&mut later.cancelled);
    }
}

struct Call {
    request: Request,
    sender: SendStream,
    waker: Waker,
}

impl Call {
    fn is_reset(&mut self) -> bool {
        let waker = self.waker.clone();
        self.sender.poll_reset(&mut Context::from_waker(&waker)).is_ready()
    }

    fn begin(&mut self) -> bool {
        self.sender.has_begun() || self.sender.send_head(StatusCode::OK, &answer_head(), false).is_ok()
    }
}

type Handshake = Pin<Box<dyn Future<Output = Result<Server<End>, Error>> + Send>>;

enum Driver {
    /// The client has not said yet that it speaks HTTP/2.
    New(Handshake),
    Open(Box<Server<End>>),
    Ended,
}

/// The server's side of one connection.
pub struct ServerConnection {
    pipe: Arc<Mutex<Pipe>>,
    driver: Driver,
    again: Arc<Again>,
    news: News,
    calls: HashMap<CallId, Call>,
    ids: CallIds,
    max_message: usize,
    unfinished: Arc<Unfinished>,
}

impl ServerConnection {
    /// Waits for the client's first bytes; `take` has ours. `max_message`: bytes of one message.
    #[must_use]
    pub fn new(max_message: usize, unfinished: Arc<Unfinished>, ids: CallIds) -> Self {
        let pipe = Arc::new(Mutex::new(Pipe::plain()));
        let settings = Settings { max_streams: STREAMS, max_errors: Some(1_000_000), ..Settings::default() };
        Self {
            driver: Driver::New(Box::pin(Server::handshake(End(Arc::clone(&pipe)), settings))),
            pipe,
            again: Arc::default(),
            news: News::default(),
            calls: HashMap::new(),
            ids,
            max_message,
            unfinished,
        }
    }

    /// Takes in what came, and tells what came of it.
    pub fn receive(&mut self, bytes: &[u8]) -> Came {
        self.pipe.lock().put(bytes);
        self.turn()
    }

    /// The socket has been closed or broke: all calls are cancelled.
    pub fn lost(&mut self) -> Vec<CallId> {
        self.pipe.lock().end();
        // What came before the end is of no use any more.
        let mut cancelled = self.turn().cancelled;
        self.driver = Driver::Ended;
        cancelled.extend(self.calls.drain().map(|(call, _)| call));
        cancelled
    }

    /// What comes next of a request.
    pub fn next(&mut self, call: CallId) -> Part {
        let Some(call) = self.calls.get_mut(&call) else { return Part::Pending };
        let waker = call.waker.clone();
        call.request.next(&mut Context::from_waker(&waker))
    }

    /// Answers with one message, which has its prefix, and OK.
    pub fn answer(&mut self, call: CallId, framed: Bytes) {
        if let Some(mut call) = self.calls.remove(&call)
            && call.begin()
            && call.sender.send_data(framed, false).is_ok()
        {
            // Fails only if the client has gone.
            let _ = call.sender.send_trailers(Status::new(Code::Ok, "").into_trailers());
        }
    }

    /// Sends one message of several. False if the client has gone.
    pub fn send(&mut self, call: CallId, message: &[u8]) -> bool {
        self.calls
            .get_mut(&call)
            .is_some_and(|call| call.begin() && call.sender.send_data(framed(message), false).is_ok())
    }

    /// Whether more of the answer may be sent now; if not, there will be news of the call when it may.
    pub fn has_room(&mut self, call: CallId) -> bool {
        let Some(call) = self.calls.get_mut(&call) else { return true };
        if !call.begin() {
            return true;
        }
        let waker = call.waker.clone();
        call.sender.poll_room(&mut Context::from_waker(&waker)).is_ready()
    }

    /// Ends a call.
    pub fn end(&mut self, call: CallId, status: Status) {
        let Some(mut call) = self.calls.remove(&call) else { return };
        // Fails only if the client has gone.
        let _ = if call.sender.has_begun() {
            call.sender.send_trailers(status.into_trailers())
        } else {
            call.sender.send_head(StatusCode::OK, &status.into_trailers_only(), true)
        };
    }

    /// Asks the client to open no more calls. Those that are open are answered; then the connection ends.
    pub fn leave(&mut self) {
        if let Driver::Open(server) = &mut self.driver {
            server.leave();
        }
    }

    /// To be called every few seconds: expels a client that leaves off in the middle, or does not read. False if it has not even
    /// said that it speaks HTTP/2.
    pub fn look(&mut self) -> bool {
        if let Driver::Open(server) = &mut self.driver
            && let Some(why) = server.look()
        {
            server.expel(why);
        }
        !matches!(self.driver, Driver::New(_))
    }

    /// What is to be sent; more may be when that has been.
    pub fn take(&mut self) -> (Vec<u8>, Came) {
        let came = self.turn();
        (self.pipe.lock().take(), came)
    }

    /// Whether nothing more is to be read or written.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.driver, Driver::Ended)
    }

    /// Moves bytes between the pipe and the calls until there are none left to move.
    fn turn(&mut self) -> Came {
        let waker = Waker::from(Arc::clone(&self.again));
        let cx = &mut Context::from_waker(&waker);
        let mut came = Came::default();
        loop {
            self.again.begin();
            let has_ended = match &mut self.driver {
                Driver::Ended => break,
                Driver::New(handshake) => match handshake.as_mut().poll(cx) {
                    Poll::Pending => false,
                    Poll::Ready(Ok(server)) => {
                        self.driver = Driver::Open(Box::new(server));
                        continue;
                    }
                    Poll::Ready(Err(_)) => true,
                },
                Driver::Open(server) => match server.poll_accept(cx) {
                    Poll::Pending => false,
                    Poll::Ready(Some(Ok(accepted))) => {
                        came.calls.extend(self.begin(accepted));
                        continue;
                    }
                    // The client broke the protocol, or has closed the connection.
                    Poll::Ready(Some(Err(_)) | None) => true,
                },
            };
            if has_ended {
                self.driver = Driver::Ended;
            } else if !self.again.is_wanted() {
                break;
            }
        }
        self.add_news(&mut came);
        came
    }

    fn begin(&mut self, (head, receiver, mut sender): Accepted) -> Option<Opened> {
        let RequestHead { method, path, headers } = head;
        let is_grpc = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if method != Method::POST || !is_grpc {
            let status = if is_grpc { StatusCode::METHOD_NOT_ALLOWED } else { StatusCode::UNSUPPORTED_MEDIA_TYPE };
            // Fails only if the client has gone.
            let _ = sender.send_head(status, &HeaderMap::new(), true);
            return None;
        }
        let id = self.ids.next();
        let waker = self.news.waker(id);
        let mut opened = opened(id, path.path().to_owned(), &headers);
        let mut request = Request::new(receiver, self.max_message, Arc::clone(&self.unfinished));
        opened.message = request.whole(&mut Context::from_waker(&waker));
        if request.has_news() {
            self.news.add(id);
        }
        let mut call = Call { request, sender, waker };
        if call.is_reset() {
            return None;
        }
        self.calls.insert(id, call);
        Some(opened)
    }

    fn add_news(&mut self, came: &mut Came) {
        for id in self.news.take() {
            let Some(call) = self.calls.get_mut(&id) else { continue };
            if call.is_reset() {
                self.calls.remove(&id);
                came.cancelled.push(id);
            } else {
                came.news.push(id);
            }
        }
    }
}

fn answer_head() -> HeaderMap {
    let mut head = HeaderMap::with_capacity(2);
    head.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    head.insert(ACCEPTED_ENCODINGS, HeaderValue::from_static("identity,gzip"));
    head
}

fn opened(call: CallId, path: String, headers: &HeaderMap) -> Opened {
    let binary = headers.get(MODEL_ID_BIN).and_then(|value| decode_bin(value.as_bytes()));
    let plain = || headers.get(MODEL_ID).map(|value| value.as_bytes().to_vec());
    let timeout = headers.get(GRPC_TIMEOUT).and_then(timeout::parse);
    Opened {
        call,
        path,
        model: binary.or_else(plain),
        timeout_ms: timeout.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        encoding: headers.get(ENCODING).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned),
        message: None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::transport::client::{ClientConnection, Next};

    /// Both sides of one connection.
    struct Pair {
        client: ClientConnection,
        server: ServerConnection,
    }

    impl Pair {
        fn new(max_message: usize, max_unfinished: usize) -> Self {
            let client = ClientConnection::new("server", None, 1 << 20).unwrap();
            let unfinished = Arc::new(Unfinished::new(max_unfinished));
            let server = ServerConnection::new(max_message, unfinished, CallIds::default());
            let mut pair = Self { client, server };
            pair.run();
            pair
        }

        /// Moves bytes until both sides have no more to say; what came to the server meanwhile.
        fn run(&mut self) -> Came {
            let mut all = Came::default();
            loop {
                let asked = self.client.take();
                let mut came = self.server.receive(&asked);
                let (answered, more) = self.server.take();
                came.add(more);
                all.add(came);
                self.client.receive(&answered);
                if asked.is_empty() && answered.is_empty() {
                    return all;
                }
            }
        }

        fn open(&mut self) -> CallId {
            let path = http::uri::PathAndQuery::from_static("/p.S/M");
            let model = (MODEL_ID_BIN, crate::wire::headers::encode_bin(b"m/1"));
            self.client.open(&path, &[model], Some(std::time::Duration::from_secs(2))).unwrap()
        }
    }

    fn message(payload: &'static [u8]) -> Message {
        Message { compressed: false, payload: payload.into() }
    }

    #[test]
    fn a_whole_request_is_one_event_and_its_answer_ends_the_call() {
        let mut pair = Pair::new(100, 1000);
        let asked = pair.open();
        pair.client.send(asked, b"request", true);
        let came = pair.run();
        let [opened] = &came.calls[..] else { panic!("{came:?}") };
        assert_eq!(opened.path, "/p.S/M");
        assert_eq!(opened.model.as_deref(), Some(&b"m/1"[..]));
        assert_eq!(opened.message, Some(message(b"request")));
        assert!((1900..=2000).contains(&opened.timeout_ms.unwrap()));
        assert!(came.news.is_empty() && came.cancelled.is_empty());
        pair.server.answer(opened.call, framed(b"answer"));
        pair.run();
        assert_eq!(pair.client.next(asked), Next::Message((&b"answer"[..]).into()));
        let ended = Next::Ended { code: Code::Ok, message: String::new(), unprocessed: false };
        assert_eq!(pair.client.next(asked), ended);
        assert_eq!(pair.server.next(opened.call), Part::Pending, "it is forgotten");
    }

    #[test]
    fn a_request_in_parts_is_read_part_by_part() {
        let mut pair = Pair::new(100, 1000);
        let asked = pair.open();
        pair.client.send(asked, b"one", false);
        pair.client.send(asked, b"two", false);
        let came = pair.run();
        let call = came.calls[0].call;
        assert_eq!(came.calls[0].message, None);
        assert_eq!(came.news, [call]);
        assert_eq!(pair.server.next(call), Part::Message(message(b"one")));
        assert_eq!(pair.server.next(call), Part::Message(message(b"two")));
        assert_eq!(pair.server.next(call), Part::Pending);
        pair.client.send(asked, b"three", true);
        assert_eq!(pair.run().news, [call]);
        assert_eq!(pair.server.next(call), Part::Message(message(b"three")));
        assert_eq!(pair.server.next(call), Part::End);
        pair.server.end(call, Status::new(Code::NotFound, "no"));
        pair.run();
        let ended = Next::Ended { code: Code::NotFound, message: "no".into(), unprocessed: false };
        assert_eq!(pair.client.next(asked), ended);
    }

    #[test]
    fn a_call_that_its_client_gives_up_is_told_once_and_forgotten() {
        let mut pair = Pair::new(100, 1000);
        let asked = pair.open();
        pair.client.send(asked, b"request", true);
        let call = pair.run().calls[0].call;
        pair.client.cancel(asked);
        assert_eq!(pair.run().cancelled, [call]);
        pair.server.answer(call, framed(b"too late"));
        assert_eq!(pair.run(), Came::default());
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let mut pair = Pair::new(10, 1000);
        let asked = pair.open();
        pair.client.send(asked, b"more than ten bytes", true);
        let came = pair.run();
        let said = "Received message larger than max (19 vs. 10)".to_owned();
        assert_eq!(pair.server.next(came.calls[0].call), Part::Bad(Code::ResourceExhausted, said));
    }

    #[test]
    fn unfinished_requests_are_counted_together_and_forgotten_with_their_calls() {
        let mut pair = Pair::new(1000, 30);
        let (first, second) = (pair.open(), pair.open());
        // A message in two frames: the first is not whole.
        let begun = pair.run().calls;
        pair.server.unfinished.add(25);
        pair.client.send(first, b"request", true);
        pair.run();
        let refused = Part::Bad(Code::ResourceExhausted, "too many bytes of requests are waiting".to_owned());
        assert_eq!(pair.server.next(begun[0].call), refused);
        pair.server.unfinished.remove(25);
        pair.client.send(second, b"request", true);
        pair.run();
        assert_eq!(pair.server.next(begun[1].call), Part::Message(message(b"request")));
        pair.server.lost();
        assert_eq!(pair.server.unfinished.bytes(), 0);
    }

    proptest! {
        /// Whatever comes, in whatever pieces: nothing panics, and once the socket is gone nothing is left.
        #[test]
        fn nothing_that_comes_leaves_anything_behind(
            speaks: bool,
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..20),
        ) {
            let mut server = ServerConnection::new(100, Arc::new(Unfinished::new(1000)), CallIds::default());
            if speaks {
                server.receive(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
            }
            for piece in pieces {
                server.receive(&piece);
                server.take();
            }
            server.lost();
            prop_assert!(server.has_ended());
            prop_assert!(server.calls.is_empty());
            prop_assert_eq!(server.unfinished.bytes(), 0);
        }
    }
}
