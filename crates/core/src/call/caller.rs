//! The client's half of a call: what it gets to see, and whether it is still there.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use modelmesh_http2::SendStream;

use crate::call::part::Part;
use crate::call::whole::Whole;
use crate::observe::told::Copied;
use crate::transport::flow::{Gone, Outflow};
use crate::wire::headers::{GRPC_MESSAGE, MM_FALLBACK, strip_mesh_headers};
use crate::wire::status::{self, Code, Status};

/// Where the answer goes.
pub struct Caller {
    side: Side,
    /// How the call ended, for metrics.
    pub ended: Option<Code>,
    /// Why, if it did not end well, as it is on the wire: few want to read it.
    pub message: Option<HeaderValue>,
    /// Bytes of the messages of the answer.
    pub message_bytes: u64,
    /// Where the answer is copied to, if somebody wants it.
    pub copied: Option<Box<Copied>>,
    /// Another instance of ours: it is told what clients must not see.
    is_instance: bool,
    /// The model that answers in place of the wanted one.
    pub fallback: Option<Box<HeaderValue>>,
}

enum Side {
    Stream(Outflow),
    /// One id of a call with several: its answer is collected.
    Part(Box<Part>),
    /// Whoever runs the call takes its answer as a whole.
    Whole(Box<Whole>),
    /// The call is a copy of another one: its answer goes nowhere.
    Unheard {
        has_begun: bool,
    },
}

impl Caller {
    #[must_use]
    pub fn new(answer: SendStream, is_instance: bool) -> Self {
        Self::on(Side::Stream(Outflow::new(answer)), is_instance)
    }

    #[must_use]
    pub fn of_part(part: Part) -> Self {
        Self::on(Side::Part(Box::new(part)), false)
    }

    #[must_use]
    pub fn of_whole(whole: Whole) -> Self {
        Self::on(Side::Whole(Box::new(whole)), false)
    }

    /// Of a call that is a copy of another one.
    #[must_use]
    pub fn of_copy() -> Self {
        Self::on(Side::Unheard { has_begun: false }, false)
    }

    fn on(side: Side, is_instance: bool) -> Self {
        Self { side, ended: None, message: None, message_bytes: 0, copied: None, is_instance, fallback: None }
    }

    /// The collected answer of one id.
    #[must_use]
    pub fn into_part(self) -> Option<Part> {
        match self.side {
            Side::Part(part) => Some(*part),
            Side::Stream(_) | Side::Whole(_) | Side::Unheard { .. } => None,
        }
    }

    /// The answer, for whoever takes it as a whole.
    #[must_use]
    pub fn into_whole(self) -> Option<Whole> {
        match self.side {
            Side::Whole(whole) => Some(*whole),
            Side::Stream(_) | Side::Part(_) | Side::Unheard { .. } => None,
        }
    }

    /// Whether another instance of ours calls.
    #[must_use]
    pub fn is_instance(&self) -> bool {
        self.is_instance
    }

    /// Whether the call is a copy of another one.
    #[must_use]
    pub fn is_copy(&self) -> bool {
        matches!(self.side, Side::Unheard { .. })
    }

    /// Whether anything of an answer, headers included, has gone out.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.ended.is_some()
            || match &self.side {
                Side::Stream(answer) => answer.has_begun(),
                Side::Part(part) => part.head.is_some(),
                Side::Whole(whole) => whole.head.is_some(),
                Side::Unheard { has_begun } => *has_begun,
            }
    }

    /// Ready once the client has reset the call or its connection has died.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.side {
            Side::Stream(answer) => answer.poll_gone(cx),
            // Whoever runs the call watches its client, and drops it.
            Side::Part(_) | Side::Whole(_) | Side::Unheard { .. } => Poll::Pending,
        }
    }

    /// Sends response headers.
    ///
    /// # Errors
    /// The client has gone, or does not take so many headers and was told so.
    pub fn begin(&mut self, mut headers: HeaderMap) -> Result<(), Gone> {
        if !self.is_instance {
            strip_mesh_headers(&mut headers);
        }
        if let Some(model) = &self.fallback {
            headers.insert(MM_FALLBACK, HeaderValue::clone(model));
        }
        if let Some(copied) = &mut self.copied {
            copied.headers = headers.clone();
        }
        if let Some(status) = self.too_many(&headers) {
            self.end(status);
            return Err(Gone);
        }
        match &mut self.side {
            Side::Stream(answer) => answer.begin(StatusCode::OK, &headers, false),
            Side::Part(part) => {
                part.head = Some(headers);
                Ok(())
            }
            Side::Whole(whole) => {
                whole.head = Some(headers);
                Ok(())
            }
            Side::Unheard { has_begun } => {
                *has_begun = true;
                Ok(())
            }
        }
    }

    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &mut Bytes,
        mut sent: impl FnMut(usize),
    ) -> Poll<Result<(), Gone>> {
        match &mut self.side {
            Side::Stream(answer) => answer.poll_send(cx, chunk, false, sent),
            Side::Part(part) => {
                let chunk = std::mem::take(chunk);
                sent(chunk.len());
                Poll::Ready(part.collect(&chunk))
            }
            Side::Whole(whole) => {
                let chunk = std::mem::take(chunk);
                sent(chunk.len());
                Poll::Ready(whole.collect(&chunk))
            }
            Side::Unheard { .. } => {
                sent(std::mem::take(chunk).len());
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Ends the answer; trailers-only if it has not begun.
    pub fn end(&mut self, status: Status) {
        let code = status.code;
        self.end_with(self.last_block(status), code);
    }

    /// As `end`, without waiting until the client has read what was sent before: it may never do so.
    pub fn cut_off(&mut self, status: Status) {
        if self.ended.is_none()
            && let Side::Stream(answer) = &mut self.side
        {
            answer.discard_unsent();
        }
        self.end(status);
    }

    /// A status as the header block that ends the answer.
    #[must_use]
    pub fn last_block(&self, status: Status) -> HeaderMap {
        if self.has_begun() { status.into_trailers() } else { status.into_trailers_only() }
    }

    /// Ends the answer with trailers as they came (a trailers-only block if it has not begun).
    pub fn end_with(&mut self, mut trailers: HeaderMap, mut code: Code) {
        if self.ended.is_some() {
            return;
        }
        if !self.is_instance {
            strip_mesh_headers(&mut trailers);
        }
        if let Some(model) = self.fallback.as_deref().filter(|_| !self.has_begun()) {
            trailers.insert(MM_FALLBACK, model.clone());
        }
        if let Some(status) = self.too_many(&trailers) {
            code = status.code;
            trailers = self.last_block(status);
        }
        self.ended = Some(code);
        if code != Code::Ok && !self.is_instance {
            self.message = trailers.get(GRPC_MESSAGE).cloned();
        }
        // A client that has gone needs no answer.
        match &mut self.side {
            Side::Stream(answer) if answer.has_begun() => drop(answer.end(trailers)),
            Side::Stream(answer) => drop(answer.begin(StatusCode::OK, &trailers, true)),
            Side::Part(part) => part.trailers = trailers,
            Side::Whole(whole) => whole.trailers = trailers,
            Side::Unheard { .. } => {}
        }
    }

    /// What a client is told instead of headers that it does not take. Many end the connection, and with it all their
    /// calls, if they get them all the same.
    fn too_many(&self, headers: &HeaderMap) -> Option<Status> {
        let Side::Stream(answer) = &self.side else { return None };
        let error = answer.fits(headers).err()?;
        Some(Status::new(Code::ResourceExhausted, format!("the answer has {error}")))
    }

    /// As `end_with`; the code is read from the trailers.
    pub fn end_as_received(&mut self, trailers: HeaderMap) {
        let code = status::code_of(&trailers).unwrap_or(Code::Unknown);
        self.end_with(trailers, code);
    }

    /// The client does not wait for an answer any more.
    pub fn abandoned(&mut self) {
        self.ended.get_or_insert(Code::Cancelled);
    }

    /// Answers in plain HTTP, to what is no gRPC call.
    pub fn end_http(&mut self, code: StatusCode) {
        self.ended = Some(Code::Internal);
        if let Side::Stream(answer) = &mut self.side {
            drop(answer.begin(code, &HeaderMap::new(), true));
        }
    }
}
