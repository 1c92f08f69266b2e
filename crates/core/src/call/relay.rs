//! Moving the bytes of one attempt, in both directions at the same time, until it is answered or fails.
//!
//! A unary call is just a short stream. Nothing is parsed but message lengths.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use modelmesh_http2::{Error, Reason, RecvStream, ResponseHead};
use tokio::time::Instant;

use crate::call::caller::Caller;
use crate::call::end::End;
use crate::call::extraction::Injector;
use crate::call::outcome::{self, Answer, Failure, Outcome};
use crate::call::replay::Body;
use crate::routing::copy::{Ending, LocalCopy};
use crate::transport::flow::{Gone, Outflow};
use crate::transport::link::Place;
use crate::transport::stall::Stall;
use crate::wire::framing::Follower;
use crate::wire::headers::strip_mesh_headers;
use crate::wire::status::{self, Code, Status};

/// A runtime that keeps the deadline as well may cancel the call so much earlier: our timer rounds up.
const EARLY: Duration = Duration::from_millis(10);

/// One attempt under way.
pub struct Relay<'a> {
    pub caller: &'a mut Caller,
    pub body: &'a mut Body,
    pub upstream: Upstream,
    /// The local copy that serves; None over a hop.
    pub copy: Option<&'a LocalCopy>,
    /// Whether it goes elsewhere if the runtime does not answer, and whether it is repeated from here then, or by the
    /// instance from which it came.
    pub may_move: bool,
    pub is_ingress: bool,
    /// Whether another model may answer if this one cannot.
    pub is_of_vmodel: bool,
    pub place: &'a Place,
    pub deadline: Option<Instant>,
    /// Rare and large, so not a part of every task.
    pub injector: Option<Box<Injector>>,
}

/// The stream to the runtime or to a peer.
pub struct Upstream {
    request: Option<Outflow>,
    /// Taken from the client and not yet taken by the other side.
    outgoing: Bytes,
    outgoing_last: bool,
    answer: RecvStream,
    reading: Reading,
    /// Taken from the other side and not yet taken by the client.
    incoming: Bytes,
    /// While the client takes nothing of it.
    stall: Option<Stall>,
    follower: Follower,
}

enum Reading {
    Head,
    /// With headers that are not passed on yet: if trailers follow at once, the attempt may still fail.
    Body(Option<HeaderMap>),
}

impl Upstream {
    #[must_use]
    pub fn new(request: Outflow, answer: RecvStream, max_message: usize) -> Self {
        Self {
            request: Some(request),
            outgoing: Bytes::new(),
            outgoing_last: false,
            answer,
            reading: Reading::Head,
            incoming: Bytes::new(),
            stall: None,
            follower: Follower::new(max_message),
        }
    }
}

impl Relay<'_> {
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match self.copy.map_or(Ending::Runs, LocalCopy::ending) {
            Ending::Runs => {}
            Ending::Hung if !self.moves() => {}
            Ending::Hung => {
                let message = "the runtime does not answer";
                return Poll::Ready(Failure::new(Outcome::Hung, Code::Unavailable, message).into());
            }
            Ending::Ended => {
                let message = "the copy was taken away while the call was open";
                return Poll::Ready(Failure::new(Outcome::Ended, Code::Unavailable, message).into());
            }
        }
        if let Poll::Ready(end) = self.poll_request(cx) {
            return Poll::Ready(end);
        }
        if let Poll::Ready(end) = self.poll_answer(cx) {
            return Poll::Ready(end);
        }
        self.caller.poll_gone(cx).map(|()| End::Gone)
    }

    /// Whether the call goes elsewhere, now that the runtime does not answer.
    fn moves(&self) -> bool {
        self.may_move && !self.caller.has_begun() && (!self.is_ingress || self.body.can_replay())
    }

    /// Moves request bytes as far as they go. Ready only if that ends the call; that the other side
    /// takes no more is for its answer to explain.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let upstream = &mut self.upstream;
        while let Some(request) = &mut upstream.request {
            if !upstream.outgoing.is_empty() {
                let body = &mut *self.body;
                match request.poll_send(cx, &mut upstream.outgoing, upstream.outgoing_last, |sent| body.release(sent)) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(Gone)) => {
                        upstream.request = None;
                        continue;
                    }
                }
            }
            if upstream.outgoing_last {
                upstream.request = None;
                continue;
            }
            let next = match &mut self.injector {
                None => self.body.poll_next(cx).map_err(End::from),
                Some(injector) => injector.poll_next(self.body, cx),
            };
            let chunk = match next {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(chunk)) => chunk,
                Poll::Ready(Err(end)) => return Poll::Ready(end),
            };
            match chunk {
                Some(chunk) => {
                    upstream.outgoing_last = self.injector.is_none() && self.body.at_end();
                    if chunk.is_empty() && upstream.outgoing_last {
                        request.close();
                    }
                    upstream.outgoing = chunk;
                }
                None => {
                    request.close();
                    upstream.outgoing_last = true;
                }
            }
        }
        Poll::Pending
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let upstream = &mut self.upstream;
            let stream = &mut upstream.answer;
            match &mut upstream.reading {
                Reading::Head => match stream.poll_head(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => return Poll::Ready(self.lost(&error)),
                    Poll::Ready(Ok(head)) => {
                        if let Some(end) = self.take_headers(head) {
                            return Poll::Ready(end);
                        }
                    }
                },
                Reading::Body(head) => {
                    if !upstream.incoming.is_empty() {
                        match self.caller.poll_send(cx, &mut upstream.incoming, |bytes| stream.release(bytes)) {
                            Poll::Pending => {
                                let crowd = self.place.crowd();
                                let stall = upstream.stall.get_or_insert_with(|| Stall::among(crowd));
                                return stall.poll(cx).map(|()| End::Unread);
                            }
                            Poll::Ready(Err(Gone)) => return Poll::Ready(End::Gone),
                            Poll::Ready(Ok(())) => upstream.stall = None,
                        }
                    }
                    let data = stream.poll_data(cx);
                    if let Poll::Ready(None) = data {
                        let (trailers, head) = (stream.trailers(), head.take());
                        return Poll::Ready(self.end_with_trailers(head, trailers));
                    }
                    if let Poll::Ready(Some(Err(error))) = data {
                        return Poll::Ready(self.lost(&error));
                    }
                    // Passed on even without data: clients of open streams wait for headers.
                    if let Some(head) = head.take() {
                        // The client has a part of the answer now: no other attempt may be made.
                        self.body.forget();
                        if self.caller.begin(head).is_err() {
                            return Poll::Ready(End::Gone);
                        }
                    }
                    let Poll::Ready(Some(Ok(chunk))) = data else { return Poll::Pending };
                    if let Err(error) = upstream.follower.follow(&chunk) {
                        return Poll::Ready(End::Refused(Status::new(Code::ResourceExhausted, error.message())));
                    }
                    if let Some(copied) = &mut self.caller.copied {
                        copied.push(&chunk);
                    }
                    upstream.incoming = chunk;
                }
            }
        }
    }

    /// Takes response headers; Some if they are the whole answer.
    fn take_headers(&mut self, head: ResponseHead) -> Option<End> {
        let ResponseHead { status, mut headers } = head;
        if status != StatusCode::OK || !is_grpc(&headers) {
            return Some(self.end_with_trailers(None, Some(not_grpc(status, &headers))));
        }
        self.strip(&mut headers);
        if self.upstream.answer.is_head_only() {
            return Some(self.end_with_trailers(None, Some(headers)));
        }
        self.upstream.reading = Reading::Body(Some(headers));
        None
    }

    /// What instances say to each other is not believed of a runtime. Clients are given none of it in any case.
    fn strip(&self, headers: &mut HeaderMap) {
        if self.copy.is_some() && self.caller.is_instance() {
            strip_mesh_headers(headers);
        }
    }

    /// The end of an answer. If nothing of it has been passed on it may fail the attempt.
    fn end_with_trailers(&mut self, head: Option<HeaderMap>, trailers: Option<HeaderMap>) -> End {
        let (mut trailers, code) = whole(trailers);
        self.strip(&mut trailers);
        let failure = || {
            let failure = outcome::of_trailers(&trailers, code, self.copy.is_none());
            failure.or_else(|| outcome::of_internal(&trailers, code).filter(|_| self.is_of_vmodel && self.is_ingress))
        };
        if !self.caller.has_begun()
            && let Some(mut failure) = failure()
        {
            failure.answer = Some(Answer { head, trailers });
            return failure.into();
        }
        if let Some(head) = head
            && self.caller.begin(head).is_err()
        {
            return End::Gone;
        }
        self.caller.message_bytes = self.upstream.follower.message_bytes();
        if code == Code::Ok && self.upstream.follower.is_inside() {
            // Some libraries take half a message for none, and the call for a success.
            return End::Refused(Status::new(Code::Internal, "the answer ended inside a message"));
        }
        self.caller.end_with(trailers, code);
        End::Answered
    }

    /// The stream broke.
    fn lost(&mut self, error: &Error) -> End {
        if self.copy.is_some()
            && let Error::Reset { reason, by_peer: true } = error
            && let Some(code) = Code::from_reset(*reason)
        {
            // The runtime is there and has ended this call: another copy would do the same.
            let status = Status::new(code, format!("the runtime reset the call: {reason}"));
            return self.end_with_trailers(None, Some(self.caller.last_block(status)));
        }
        let cancelled = matches!(error, Error::Reset { reason: Reason::CANCEL, by_peer: true });
        if cancelled && self.deadline.is_some_and(|deadline| deadline <= Instant::now() + EARLY) {
            return End::Late;
        }
        let what = if self.copy.is_some() { "runtime" } else { "instance" };
        let mut failure = if self.place.hangs() {
            Failure::new(Outcome::Hung, Code::Unavailable, format!("the {what} does not answer"))
        } else {
            Failure::new(Outcome::Lost, Code::Unavailable, format!("connection to the {what} lost: {error}"))
        };
        failure.unprocessed = error.is_unprocessed();
        failure.into()
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The trailers of an answer that is no gRPC (a proxy's, or another server's on that port).
fn not_grpc(status: StatusCode, headers: &HeaderMap) -> HeaderMap {
    if status != StatusCode::OK && headers.contains_key(crate::wire::headers::GRPC_STATUS) {
        return headers.clone();
    }
    let code = Code::from_http(status);
    Status::new(code, format!("the answer is not gRPC: HTTP status {}", status.as_u16())).into_trailers_only()
}

/// Trailers as they came, or what their absence means; and the code that they have.
fn whole(trailers: Option<HeaderMap>) -> (HeaderMap, Code) {
    if let Some(trailers) = trailers
        && let Some(code) = status::code_of(&trailers)
    {
        return (trailers, code);
    }
    (Status::new(Code::Unknown, "the answer ended without a gRPC status").into_trailers(), Code::Unknown)
}
