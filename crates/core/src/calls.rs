//! Services that Python answers: messages go up as events, answers come down by token.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;

use crate::budget::Budget;
use crate::call::{Deadline, deadline_exceeded, poll_stopped, timeout_ms};
use crate::caller::Caller;
use crate::compression::{Encoding, Expansion, Purse};
use crate::events::Event;
use crate::flow::Gone;
use crate::framing::{Deframer, PREFIX, framed};
use crate::ledger::Holder;
use crate::listen::Port;
use crate::pools::{Kind, Place, Pools};
use crate::relay::{End, read_too_slowly};
use crate::replay::Body;
use crate::shared::Shared;
use crate::status::{Code, Status};

/// The largest message that our own services take: the largest of theirs are a fraction of it.
pub const MOST_MESSAGE_BYTES: usize = 1 << 20;
/// Bytes of all requests that are being collected, read or wait for Python.
const MOST_BYTES: usize = 64 << 20;
/// What a call costs beside its stream: its mailbox, its event, what Python keeps of it.
const CALL: usize = 4096;
/// How long a client has for a whole request, unless it is answered before.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request waits for its first answer. Loads take minutes, and events come when they come.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1800);
/// Messages of one call that Python has not taken yet; the client waits beyond that.
const MOST_UNTAKEN: usize = 16;
const MOST_UNTAKEN_BYTES: usize = 1 << 20;
/// Answers that the client has not taken yet (beyond one message of any size): a reader this slow is
/// given up.
const MOST_UNSENT_BYTES: usize = 4 << 20;

/// All open calls, by token.
pub struct Calls {
    open: Mutex<Open>,
    /// Bytes of requests that are being collected or wait in the event queue.
    bytes: Arc<Budget>,
}

#[derive(Default)]
struct Open {
    mailboxes: HashMap<u64, Arc<Mutex<Mailbox>>>,
    pools: Pools,
}

/// What Python and the call's task tell each other.
#[derive(Default)]
struct Mailbox {
    answers: VecDeque<Bytes>,
    unsent_bytes: usize,
    finish: Option<Status>,
    /// The client takes too little: what is unsent is not worth waiting for.
    too_slow: bool,
    /// Its place is somebody else's now.
    displaced: bool,
    untaken: usize,
    untaken_bytes: usize,
    taken_bytes: usize,
    waker: Option<Waker>,
}

impl Mailbox {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Goes with a message to Python; when it is dropped there, the next message may be read.
pub struct Receipt {
    mailbox: Arc<Mutex<Mailbox>>,
    bytes: usize,
}

impl std::fmt::Debug for Receipt {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Receipt").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let mut mailbox = self.mailbox.lock();
        mailbox.untaken -= 1;
        mailbox.untaken_bytes -= self.bytes;
        mailbox.taken_bytes += self.bytes;
        mailbox.wake();
    }
}

impl Calls {
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { open: Mutex::default(), bytes: Budget::new(max_bytes.min(MOST_BYTES)) }
    }

    fn find(&self, token: u64) -> Option<Arc<Mutex<Mailbox>>> {
        self.open.lock().mailboxes.get(&token).cloned()
    }

    /// Sends one answer message; false for a call that has gone or has ended.
    pub fn reply(&self, token: u64, message: &[u8], last: bool) -> bool {
        let Some(mailbox) = self.find(token) else { return false };
        let mut mailbox = mailbox.lock();
        if mailbox.finish.is_some() {
            return false;
        }
        if mailbox.unsent_bytes > MOST_UNSENT_BYTES {
            mailbox.answers.clear();
            mailbox.too_slow = true;
            mailbox.finish = Some(read_too_slowly());
            mailbox.wake();
            return false;
        }
        let frame = framed(message);
        mailbox.unsent_bytes += frame.len();
        mailbox.answers.push_back(frame);
        if last {
            mailbox.finish = Some(Status::new(Code::Ok, ""));
        }
        mailbox.wake();
        true
    }

    /// Ends a call; false if it has gone or has ended.
    pub fn finish(&self, token: u64, status: Status) -> bool {
        let Some(mailbox) = self.find(token) else { return false };
        let mut mailbox = mailbox.lock();
        if mailbox.finish.is_some() {
            return false;
        }
        mailbox.finish = Some(status);
        mailbox.wake();
        true
    }
}

/// What is known of a call when it begins.
pub struct Opening {
    pub port: Port,
    pub peer_address: String,
    pub holder: Arc<Holder>,
    pub method: String,
    pub headers: HeaderMap,
    pub deadline: Option<Deadline>,
}

/// One call that Python answers.
struct Answered<'a> {
    shared: &'a Arc<Shared>,
    token: u64,
    mailbox: Arc<Mutex<Mailbox>>,
    caller: Caller,
    body: Body,
    deframer: Deframer,
    encoding: Encoding,
    growing: Option<Growing>,
    /// Pays for what came, and for what it grows to.
    purse: Purse,
    read_to_end: bool,
    has_begun: bool,
    /// What is left of the time for the request, then for its answer.
    patience: Deadline,
    outgoing: Bytes,
}

/// A message on its way to Python.
struct Growing {
    /// Bytes that came, and that are not needed any more once it is whole; none of a message that is passed on as it came.
    came: usize,
    expansion: Expansion,
}

/// Takes the call out of the table, however it ends.
struct Registered<'a> {
    calls: &'a Calls,
    kind: Kind,
    connection: u64,
    token: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let mut open = self.calls.open.lock();
        open.mailboxes.remove(&self.token);
        open.pools.leave(self.kind, self.connection, self.token);
    }
}

impl<'a> Registered<'a> {
    /// A place for a call, of its own kind; one who has more may have to give it.
    fn among(calls: &'a Calls, kind: Kind, connection: u64, token: u64, mailbox: &Arc<Mutex<Mailbox>>) -> Option<Self> {
        let mut open = calls.open.lock();
        let other = match open.pools.enter(kind, connection, token) {
            Place::None => return None,
            Place::Free => None,
            Place::Of(other) => open.mailboxes.get(&other).cloned(),
        };
        open.mailboxes.insert(token, Arc::clone(mailbox));
        drop(open);
        if let Some(other) = other {
            let mut other = other.lock();
            other.displaced = true;
            other.wake();
        }
        Some(Self { calls, kind, connection, token })
    }
}

/// Serves a call that Python answers, to its end.
/// Answers with the status it ended with.
pub async fn serve(shared: &Arc<Shared>, opening: Opening, mut caller: Caller, body: Body) -> Code {
    let Opening { port, peer_address, holder, method, headers, mut deadline } = opening;
    let token = shared.held.token();
    let mailbox = Arc::new(Mutex::new(Mailbox::default()));
    let kind = Kind::of(port, &method);
    let charge = holder.charge(CALL);
    let registered = Registered::among(&shared.calls, kind, holder.connection(), token, &mailbox);
    if charge.is_none() || registered.is_none() {
        caller.end(too_many_calls());
        return Code::ResourceExhausted;
    }
    let called = Event::Called {
        token,
        port,
        peer_address,
        method,
        metadata: crate::headers::metadata(&headers),
        timeout_ms: timeout_ms(deadline.as_ref()),
    };
    if shared.events.offer(called).is_err() {
        caller.end(Status::new(Code::ResourceExhausted, "the control plane is behind; try again"));
        return Code::ResourceExhausted;
    }
    let mut call = Answered {
        shared,
        token,
        mailbox,
        caller,
        body,
        deframer: Deframer::default(),
        encoding: Encoding::of(&headers),
        growing: None,
        purse: Purse::new(&shared.calls.bytes, &holder, "too many bytes of management calls are waiting"),
        read_to_end: false,
        has_begun: false,
        patience: Deadline::after(REQUEST_TIMEOUT),
        outgoing: Bytes::new(),
    };
    let end = poll_fn(|cx| {
        if let Poll::Ready(end) = call.poll(cx) {
            return Poll::Ready(end);
        }
        poll_stopped(&mut call.caller, &mut deadline, cx)
    })
    .await;
    if !matches!(end, End::Answered) {
        shared.events.push(Event::Cancelled { token });
    }
    match end {
        End::Refused(status) => call.caller.end(status),
        End::Late => call.caller.end(deadline_exceeded()),
        _ => call.caller.abandoned(),
    }
    call.caller.ended.unwrap_or(Code::Cancelled)
}

impl Answered<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Poll::Ready(end) = self.poll_answers(cx) {
            return Poll::Ready(end);
        }
        if let Poll::Ready(end) = self.poll_messages(cx) {
            return Poll::Ready(end);
        }
        if self.has_begun {
            return Poll::Pending;
        }
        let what = if self.read_to_end { "the call was not answered" } else { "the request did not end" };
        self.patience.poll(cx).map(|()| End::Refused(Status::new(Code::DeadlineExceeded, format!("{what} in time"))))
    }

    /// Hands messages up while Python takes them. Ready only if that ends the call.
    fn poll_messages(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        while !self.read_to_end {
            {
                let mut mailbox = self.mailbox.lock();
                self.purse.give_back(mem::take(&mut mailbox.taken_bytes));
                if mailbox.untaken >= MOST_UNTAKEN || mailbox.untaken_bytes >= MOST_UNTAKEN_BYTES {
                    mailbox.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
            if self.growing.is_none()
                && let Some(message) = self.deframer.next_message()
            {
                let most = MOST_MESSAGE_BYTES.min(self.shared.settings.max_message_bytes);
                let (length, compressed) = (message.payload.len(), message.compressed);
                match Expansion::of(message, self.encoding, most) {
                    Ok(expansion) => {
                        self.growing = Some(Growing { came: if compressed { length } else { 0 }, expansion });
                    }
                    Err(status) => return Poll::Ready(End::Refused(status)),
                }
            }
            if let Some(Growing { came, expansion }) = &mut self.growing {
                match ready!(expansion.poll(&mut self.purse, cx)) {
                    Ok(payload) => {
                        self.purse.give_back(*came);
                        self.growing = None;
                        let paid = PREFIX + payload.len();
                        self.hand_up(Some(payload), paid);
                    }
                    Err(status) => return Poll::Ready(End::Refused(status)),
                }
                continue;
            }
            match ready!(self.body.poll_next(cx)) {
                Ok(Some(chunk)) => {
                    if let Err(status) = self.purse.pay(chunk.len()) {
                        return Poll::Ready(End::Refused(status));
                    }
                    self.deframer.push(&chunk);
                    self.body.release(chunk.len());
                }
                Ok(None) => {
                    self.read_to_end = true;
                    self.patience = Deadline::after(ANSWER_TIMEOUT);
                    self.hand_up(None, 0);
                }
                Err(error) => return Poll::Ready(error.into()),
            }
        }
        Poll::Pending
    }

    /// `bytes`: what the message took of the budget.
    fn hand_up(&mut self, message: Option<Bytes>, bytes: usize) {
        let mut mailbox = self.mailbox.lock();
        mailbox.untaken += 1;
        mailbox.untaken_bytes += bytes;
        drop(mailbox);
        let receipt = Receipt { mailbox: Arc::clone(&self.mailbox), bytes };
        self.shared.events.push(Event::CallMessage { token: self.token, message, receipt });
    }

    /// Drops the rest of a message once Python has given its reader up: that reader may never make room.
    fn give_up_on_slow(&mut self, cx: &Context<'_>) {
        let mut mailbox = self.mailbox.lock();
        if mailbox.too_slow {
            self.outgoing.clear();
        } else {
            mailbox.waker = Some(cx.waker().clone());
        }
    }

    /// Sends what Python has answered. Ready at the end, or if the client has gone.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            if !self.outgoing.is_empty() {
                self.give_up_on_slow(cx);
                match ready!(self.caller.poll_send(cx, &mut self.outgoing, |_| ())) {
                    Ok(()) => {}
                    Err(Gone) => return Poll::Ready(End::Gone),
                }
            }
            let mut mailbox = self.mailbox.lock();
            if mailbox.displaced {
                return Poll::Ready(End::Refused(too_many_calls()));
            }
            if let Some(answer) = mailbox.answers.pop_front() {
                mailbox.unsent_bytes -= answer.len();
                drop(mailbox);
                self.outgoing = answer;
                self.has_begun = true;
                if !self.caller.has_begun() && self.caller.begin(response_headers()).is_err() {
                    return Poll::Ready(End::Gone);
                }
                continue;
            }
            if let Some(status) = mailbox.finish.clone() {
                drop(mailbox);
                self.caller.end(status);
                return Poll::Ready(End::Answered);
            }
            mailbox.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
    }
}

fn too_many_calls() -> Status {
    Status::new(Code::ResourceExhausted, "too many calls of the management API are open")
}

fn response_headers() -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(1);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers
}

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;
    use modelmesh_http2::{Client, Server};
    use tokio::io::duplex;

    use super::*;
    use crate::ledger::Side;
    use crate::shared::Settings;

    /// The status of a call of which the client sends so much and that Python does not answer.
    async fn unanswered(request: &[u8], last: bool) -> HeaderMap {
        let shared = Shared::new(Settings::default()).unwrap();
        let (near, far) = duplex(1 << 16);
        let (sender, connection) = Client::new(near, modelmesh_http2::Settings::default());
        tokio::spawn(connection);
        let (mut answer, mut stream) =
            sender.send("x", &PathAndQuery::from_static("/p.S/M"), &HeaderMap::new(), false).unwrap();
        stream.send_data(Bytes::copy_from_slice(request), last).unwrap();
        let mut server = Server::handshake(far, modelmesh_http2::Settings::default()).await.unwrap();
        let (_, body, call) = poll_fn(|cx| server.poll_accept(cx)).await.unwrap().unwrap();
        tokio::spawn(async move { poll_fn(|cx| server.poll_accept(cx).map(|_| ())).await });
        let opening = Opening {
            port: Port::Serving,
            peer_address: String::new(),
            holder: Arc::clone(shared.ledger.open(Side::Clients, "a").holder()),
            method: "p.S/M".to_owned(),
            headers: HeaderMap::new(),
            deadline: None,
        };
        let body = Body::new(body, MOST_MESSAGE_BYTES, shared.replay.share(), false);
        assert_eq!(serve(&shared, opening, Caller::new(call, false), body).await, Code::DeadlineExceeded);
        assert!(shared.calls.open.lock().mailboxes.is_empty());
        poll_fn(|cx| answer.poll_head(cx)).await.unwrap().headers
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_end_is_given_up() {
        let status = unanswered(&[0, 0, 0, 0, 9, 1], false).await;
        assert_eq!(status["grpc-message"], "the request did not end in time");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_never_answered_is_given_up() {
        let status = unanswered(&[0, 0, 0, 0, 0], true).await;
        assert_eq!(status["grpc-message"], "the call was not answered in time");
    }
}
