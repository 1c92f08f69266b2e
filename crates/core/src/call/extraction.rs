//! Methods whose messages carry the model id: it is read from the first message before anything is routed,
//! and written into each message on its way to the runtime.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;

use crate::call::caller::Caller;
use crate::call::deadline::Deadline;
use crate::call::end::End;
use crate::call::identify::{Ids, check_id};
use crate::call::replay::Body;
use crate::call::rules::MethodRule;
use crate::call::stopped::{poll_stopped, unless_stopped};
use crate::call::subject::Subject;
use crate::wire::compression::{self, Encoding, Expansion, Purse, Turn};
use crate::wire::framing::{Deframer, Message, PREFIX, prefix_of};
use crate::wire::splice::{self, Malformed};
use crate::wire::status::{Code, Status};

fn refuse(error: Malformed) -> Status {
    Status::new(Code::InvalidArgument, error.0)
}

/// Waits until the first message is here, without passing anything on; None if there is none.
///
/// # Errors
/// The client has gone, is too slow, or its message cannot be taken, or not be paid for.
pub async fn first_message(
    caller: &mut Caller,
    deadline: &mut Option<Deadline>,
    body: &mut Body,
    headers: &HeaderMap,
    (max_message, purse): (usize, &mut Purse),
) -> Result<Option<Bytes>, End> {
    read_until(caller, deadline, body, |body| body.messages() > 0).await?;
    let mut deframer = Deframer::default();
    for chunk in body.read_so_far() {
        deframer.push(chunk);
        if let Some(message) = deframer.next_message() {
            let expanded = compression::expand(message, Encoding::of(headers), max_message, purse);
            return unless_stopped(caller, deadline, expanded).await?.map(Some).map_err(End::Refused);
        }
    }
    Ok(None)
}

/// Waits for a request that is one message.
///
/// # Errors
/// The client has gone, is too slow, or sends none or several.
pub async fn whole_request(caller: &mut Caller, deadline: &mut Option<Deadline>, body: &mut Body) -> Result<(), End> {
    read_until(caller, deadline, body, |body| body.messages() > 1).await?;
    match body.messages() {
        0 => Err(End::Refused(Status::new(Code::Internal, "Half-closed without a request"))),
        1 => Ok(()),
        _ => Err(End::Refused(Status::new(Code::Unimplemented, "Streaming not supported yet"))),
    }
}

/// Reads ahead until something is so, or everything has been read.
async fn read_until(
    caller: &mut Caller,
    deadline: &mut Option<Deadline>,
    body: &mut Body,
    enough: impl Fn(&Body) -> bool,
) -> Result<(), End> {
    poll_fn(|cx| {
        while !enough(body) && !body.is_read() {
            if body.is_blocked() {
                let message = "too many bytes of requests are kept; try again";
                return Poll::Ready(Err(End::Refused(Status::new(Code::ResourceExhausted, message))));
            }
            match body.poll_read_ahead(cx) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending if body.is_read() => {}
                Poll::Pending => return poll_stopped(caller, deadline, cx).map(Err),
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}

/// The id in a message, if the method's messages carry one and this one does.
///
/// # Errors
/// INVALID_ARGUMENT: the message cannot be parsed, or the id is empty or no text.
pub fn ids_in(message: &[u8], rule: &MethodRule) -> Result<Option<Ids>, Status> {
    if rule.extraction_path.is_empty() {
        return Ok(None);
    }
    let Some(id) = splice::extract(message, &rule.extraction_path).map_err(refuse)? else { return Ok(None) };
    let id = std::str::from_utf8(id).map_err(|_| Status::new(Code::InvalidArgument, "model id is not valid UTF-8"))?;
    check_id(id, rule.extracts_vmodel)?;
    Ok(Some(if rule.extracts_vmodel { Ids::VModel(id.to_owned()) } else { Ids::Model(id.to_owned()) }))
}

/// # Errors
/// INVALID_ARGUMENT: the runtime would get a message in which no id can be written.
pub fn check_injection(message: &[u8], rule: &MethodRule) -> Result<(), Status> {
    splice::extract(message, &rule.injection_path).map(|_| ()).map_err(refuse)
}

/// Looks at the messages of one attempt on their way: none may name another model than the one that was
/// routed, and where the runtime wants the id in them it is written there.
pub struct Injector {
    deframer: Deframer,
    encoding: Encoding,
    extraction_path: Vec<u32>,
    /// The id that a message may name, of the kind that the method's messages carry.
    routed: String,
    injection_path: Vec<u32>,
    id: String,
    max_message: usize,
    /// Whole messages may wait in the deframer.
    is_at_work: bool,
    /// The message that is being expanded, as it came and as it grows.
    growing: Option<(Message, Expansion)>,
    /// What is ready for the other side.
    passed: BytesMut,
    /// Pays for what compressed messages grow to, until they have been sent.
    purse: Purse,
}

impl Injector {
    /// For what goes to the runtime (`injects`) or to another instance, which injects itself. None if there
    /// is nothing to do: only the ingress checks ids, and it has read the first message already.
    #[must_use]
    pub fn new(
        rule: &MethodRule,
        headers: &HeaderMap,
        subject: &Subject,
        (injects, checks): (bool, bool),
        max_message: usize,
        purse: impl FnOnce() -> Purse,
    ) -> Option<Self> {
        let injection_path = if injects { rule.injection_path.as_slice() } else { &[] };
        let extraction_path = if checks { rule.extraction_path.as_slice() } else { &[] };
        let routed = if rule.extracts_vmodel { subject.vmodel.as_ref() } else { Some(&subject.model) };
        (!injection_path.is_empty() || !extraction_path.is_empty()).then(|| Self {
            deframer: Deframer::default(),
            encoding: Encoding::of(headers),
            extraction_path: extraction_path.to_vec(),
            routed: routed.cloned().unwrap_or_default(),
            injection_path: injection_path.to_vec(),
            id: subject.model.clone(),
            max_message,
            is_at_work: false,
            growing: None,
            passed: BytesMut::new(),
            purse: purse(),
        })
    }

    /// The next bytes for the other side, which are whole messages, uncompressed if they were changed; None at the end. To
    /// be asked again once they have been sent.
    ///
    /// # Errors
    /// The client has gone; a message cannot be read, paid for or changed, or names another model.
    pub fn poll_next(&mut self, body: &mut Body, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, End>> {
        if self.growing.is_none() {
            self.purse.clear();
        }
        let mut turn = Turn::default();
        loop {
            if self.is_at_work {
                match self.pass(&mut turn) {
                    Ok(true) => self.is_at_work = false,
                    Ok(false) => {
                        // That was work: others have their turn.
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Err(status) => return Poll::Ready(Err(End::Refused(status))),
                }
                if !self.passed.is_empty() {
                    return Poll::Ready(Ok(Some(self.passed.split().freeze())));
                }
            }
            let Some(chunk) = ready!(body.poll_next(cx))? else {
                return Poll::Ready(self.finish().map(|()| None).map_err(End::Refused));
            };
            self.deframer.push(&chunk);
            // What is kept back is bounded by one message.
            body.release(chunk.len());
            self.is_at_work = true;
        }
    }

    /// Passes whole messages on; false if a turn is not enough for all that have come.
    fn pass(&mut self, turn: &mut Turn) -> Result<bool, Status> {
        loop {
            if self.growing.is_none() {
                let Some(message) = self.deframer.next_message() else { return Ok(true) };
                let Message { compressed, payload } = &message;
                let copy = Message { compressed: *compressed, payload: payload.clone() };
                let expansion = Expansion::of(copy, self.encoding, self.max_message)?;
                self.growing = Some((message, expansion));
            }
            let Some((_, expansion)) = &mut self.growing else { return Ok(true) };
            let Some(plain) = expansion.go_on(turn, &mut self.purse)? else { return Ok(false) };
            if let Some((message, _)) = self.growing.take() {
                self.pass_one(&message, &plain)?;
                if self.injection_path.is_empty() {
                    self.purse.clear();
                }
            }
        }
    }

    /// Passes a message on. `plain`: as it was before compression.
    fn pass_one(&mut self, message: &Message, plain: &[u8]) -> Result<(), Status> {
        if !self.extraction_path.is_empty()
            && let Some(id) = splice::extract(plain, &self.extraction_path).map_err(refuse)?
            && id != self.routed.as_bytes()
        {
            return Err(Status::new(Code::InvalidArgument, "a message of the stream names another model"));
        }
        let passed = &mut self.passed;
        if self.injection_path.is_empty() {
            let payload = &message.payload;
            passed.reserve(PREFIX + payload.len());
            passed.put_u8(u8::from(message.compressed));
            passed.put_slice(&prefix_of(payload.len())[1..]);
            passed.put_slice(payload);
            return Ok(());
        }
        let changed = splice::inject(plain, &self.injection_path, self.id.as_bytes()).map_err(refuse)?;
        passed.reserve(PREFIX + changed.len());
        passed.put_slice(&prefix_of(changed.len()));
        passed.put_slice(&changed);
        Ok(())
    }

    /// # Errors
    /// The body ended inside a message.
    fn finish(&self) -> Result<(), Status> {
        if self.deframer.is_empty() {
            return Ok(());
        }
        Err(Status::new(Code::InvalidArgument, "the request ended inside a message"))
    }
}
