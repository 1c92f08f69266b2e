//! Services that Python answers: messages go up as events, answers come down by token.

use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;

use crate::access::Listener;
use crate::call::caller::Caller;
use crate::call::deadline::{Deadline, deadline_exceeded, timeout_ms};
use crate::call::end::{End, read_too_slowly};
use crate::call::rejection::Rejection;
use crate::call::replay::Body;
use crate::call::stopped::poll_stopped;
use crate::call::who::Who;
use crate::events::Event;
use crate::ledger::Holder;
use crate::services::mailbox::{Mailbox, Receipt, Registered};
use crate::services::pools::Kind;
use crate::shared::Shared;
use crate::transport::flow::Gone;
use crate::transport::port::Port;
use crate::wire::compression::{Encoding, Expansion, Purse};
use crate::wire::framing::{Deframer, PREFIX};
use crate::wire::status::{Code, Status};

/// The largest message that our own services take: the largest of theirs are a fraction of it.
pub const MOST_MESSAGE_BYTES: usize = 1 << 20;
/// What a call costs beside its stream: its mailbox, its event, what Python keeps of it.
const CALL: usize = 4096;
/// How long a client has for a whole request, unless it is answered before.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request waits for its first answer. Loads take minutes, and events come when they come.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1800);
/// How long a client may take nothing of an answer that waits for it.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Messages of one call that Python has not taken yet; the client waits beyond that.
const MOST_UNTAKEN: usize = 16;
const MOST_UNTAKEN_BYTES: usize = 1 << 20;

/// What is known of a call when it begins.
pub struct Opening {
    pub port: Port,
    pub listener: Listener,
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
    /// What is left of the time for the client to take more of `outgoing`, while it takes none.
    unread: Option<Deadline>,
}

/// A message on its way to Python.
struct Growing {
    /// Bytes that came, and that are not needed any more once it is whole; none of a message that is passed on as it came.
    came: usize,
    expansion: Expansion,
}

/// Serves a call that Python answers, to its end.
/// Answers with the status it ended with.
pub async fn serve(shared: &Arc<Shared>, opening: Opening, who: Who, mut caller: Caller, body: Body) -> Code {
    let Opening { port, listener, peer_address, holder, method, headers, mut deadline } = opening;
    let principal = match who.settle(shared, &mut caller, &mut deadline).await {
        Ok(principal) => principal,
        Err(end) => {
            if matches!(end, End::Refused(_)) {
                shared.metrics.rejected(Rejection::Unauthenticated);
            }
            return ended(caller, end);
        }
    };
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
        listener,
        identity: principal.map(|principal| principal.identity.clone()),
        peer_address,
        method,
        metadata: crate::wire::headers::metadata(&headers),
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
        unread: None,
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
    ended(call.caller, end)
}

/// Tells the client how its call ended, unless it knows.
fn ended(mut caller: Caller, end: End) -> Code {
    match end {
        End::Refused(status) => caller.cut_off(status),
        End::Unread => caller.cut_off(read_too_slowly()),
        End::Late => caller.end(deadline_exceeded()),
        _ => caller.abandoned(),
    }
    caller.ended.unwrap_or(Code::Cancelled)
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
        let receipt = Receipt::new(&self.mailbox, bytes);
        self.shared.events.push(Event::CallMessage { token: self.token, message, receipt });
    }

    /// Sends the rest of an answer. Ready with an end if that ends the call.
    fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        let mut has_moved = false;
        match self.caller.poll_send(cx, &mut self.outgoing, |_| has_moved = true) {
            Poll::Ready(Ok(())) => {
                self.unread = None;
                Poll::Ready(None)
            }
            Poll::Ready(Err(Gone)) => Poll::Ready(Some(End::Gone)),
            Poll::Pending => {
                if has_moved {
                    self.unread = None;
                }
                let unread = self.unread.get_or_insert_with(|| Deadline::after(READ_TIMEOUT));
                unread.poll(cx).map(|()| Some(End::Unread))
            }
        }
    }

    /// Sends what Python has answered. Ready at the end, if the client has gone, or if it is not waited for any more.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let mut mailbox = self.mailbox.lock();
            if mailbox.displaced {
                return Poll::Ready(End::Refused(too_many_calls()));
            }
            if mailbox.too_slow {
                return Poll::Ready(End::Unread);
            }
            mailbox.waker = Some(cx.waker().clone());
            if !self.outgoing.is_empty() {
                drop(mailbox);
                if let Some(end) = ready!(self.poll_outgoing(cx)) {
                    return Poll::Ready(end);
                }
                continue;
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
    use modelmesh_http2::{Client, RecvStream, SendStream, Server};
    use tokio::io::duplex;

    use super::*;
    use crate::ledger::Side;
    use crate::settings::Settings;

    /// Begins a call of which the client sends so much; answers with the client's end of it and the call being served.
    async fn begun(
        request: &[u8],
        last: bool,
        window: u32,
    ) -> (Arc<Shared>, RecvStream, SendStream, tokio::task::JoinHandle<Code>) {
        let shared = Shared::new(Settings::default()).unwrap();
        let (near, far) = duplex(1 << 16);
        let settings = modelmesh_http2::Settings { stream_window: window, ..modelmesh_http2::Settings::default() };
        let (sender, connection) = Client::new(near, settings);
        tokio::spawn(connection);
        let (answer, mut stream) =
            sender.send("x", &PathAndQuery::from_static("/p.S/M"), &HeaderMap::new(), false).unwrap();
        stream.send_data(Bytes::copy_from_slice(request), last).unwrap();
        let mut server = Server::handshake(far, modelmesh_http2::Settings::default()).await.unwrap();
        let (_, body, call) = poll_fn(|cx| server.poll_accept(cx)).await.unwrap().unwrap();
        tokio::spawn(async move { poll_fn(|cx| server.poll_accept(cx).map(|_| ())).await });
        let opening = Opening {
            port: Port::Serving,
            listener: Listener::Grpc,
            peer_address: String::new(),
            holder: Arc::clone(shared.ledger.open(Side::Clients, "a").holder()),
            method: "p.S/M".to_owned(),
            headers: HeaderMap::new(),
            deadline: None,
        };
        let body = Body::new(body, MOST_MESSAGE_BYTES, shared.replay.share(), false);
        let served = {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move { serve(&shared, opening, Who::Unchecked, Caller::new(call, false), body).await })
        };
        (shared, answer, stream, served)
    }

    /// The status of a call of which the client sends so much and that Python does not answer.
    async fn unanswered(request: &[u8], last: bool) -> HeaderMap {
        let (shared, mut answer, _stream, served) = begun(request, last, 1 << 16).await;
        assert_eq!(served.await.unwrap(), Code::DeadlineExceeded);
        assert!((0..10).all(|token| !shared.calls.finish(token, Status::new(Code::Ok, ""))), "it is still open");
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

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_never_read_is_given_up_and_python_hears_of_it() {
        let (shared, mut answer, _stream, served) = begun(&[0, 0, 0, 0, 0], true, 0).await;
        let token = loop {
            tokio::task::yield_now().await;
            let called = shared.events.take(1).pop();
            if let Some(Event::Called { token, .. }) = called {
                break token;
            }
        };
        assert!(shared.calls.reply(token, b"waits inside HTTP/2", false));
        assert!(shared.calls.reply(token, b"waits for room", false));
        assert_eq!(served.await.unwrap(), Code::ResourceExhausted);
        assert!(!shared.calls.reply(token, b"late", false));
        assert!(shared.events.take(100).iter().any(|event| matches!(event, Event::Cancelled { .. })));
        let head = poll_fn(|cx| answer.poll_head(cx)).await.unwrap().headers;
        assert!(!head.contains_key("grpc-status"));
        assert!(poll_fn(|cx| answer.poll_data(cx)).await.is_none(), "it was thrown away");
        assert_eq!(answer.trailers().unwrap()["grpc-message"], "the answer is read too slowly");
    }
}
