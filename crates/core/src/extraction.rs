//! Methods whose messages carry the model id: it is read from the first message before anything is routed,
//! and written into each message on its way to the runtime.

use std::future::poll_fn;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use crate::call::{Deadline, poll_stopped};
use crate::caller::Caller;
use crate::compression::{self, Encoding};
use crate::framing::{Deframer, PREFIX, prefix_of};
use crate::identify::{Ids, empty_id};
use crate::relay::End;
use crate::replay::{Body, BodyError};
use crate::rules::MethodRule;
use crate::splice::{self, Malformed};
use crate::status::{Code, Status};

fn refuse(error: Malformed) -> Status {
    Status::new(Code::InvalidArgument, error.0)
}

/// Waits until the first message is here, without passing anything on; None if there is none.
///
/// # Errors
/// The client has gone, is too slow, or its message cannot be taken.
pub async fn first_message(
    caller: &mut Caller,
    deadline: &mut Option<Deadline>,
    body: &mut Body,
    headers: &HeaderMap,
    max_message: usize,
) -> Result<Option<Bytes>, End> {
    read_until(caller, deadline, body, |body| body.messages() > 0).await?;
    let mut deframer = Deframer::default();
    for chunk in body.read_so_far() {
        deframer.push(chunk);
        if let Some(message) = deframer.next_message() {
            return compression::expand(message, Encoding::of(headers), max_message).map(Some).map_err(End::Refused);
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
                Poll::Ready(Err(BodyError::Gone)) => return Poll::Ready(Err(End::Gone)),
                Poll::Ready(Err(BodyError::TooLong(error))) => {
                    return Poll::Ready(Err(End::Refused(Status::new(Code::ResourceExhausted, error.message()))));
                }
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
    match (id.is_empty(), rule.extracts_vmodel) {
        (true, vmodel) => Err(empty_id(vmodel)),
        (false, true) => Ok(Some(Ids::VModel(id.to_owned()))),
        (false, false) => Ok(Some(Ids::Model(id.to_owned()))),
    }
}

/// # Errors
/// INVALID_ARGUMENT: the runtime would get a message in which no id can be written.
pub fn check_injection(message: &[u8], rule: &MethodRule) -> Result<(), Status> {
    splice::extract(message, &rule.injection_path).map(|_| ()).map_err(refuse)
}

/// Writes the id into the messages of one attempt.
pub struct Injector {
    deframer: Deframer,
    encoding: Encoding,
    path: Vec<u32>,
    id: String,
    max_message: usize,
}

impl Injector {
    /// None if the method's messages carry no id.
    #[must_use]
    pub fn new(rule: &MethodRule, headers: &HeaderMap, model: &str, max_message: usize) -> Option<Self> {
        (!rule.injection_path.is_empty()).then(|| Self {
            deframer: Deframer::default(),
            encoding: Encoding::of(headers),
            path: rule.injection_path.clone(),
            id: model.to_owned(),
            max_message,
        })
    }

    /// Takes bytes from the client; returns those for the runtime, which are whole messages, uncompressed.
    ///
    /// # Errors
    /// A message cannot be read or changed.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Bytes, Status> {
        self.deframer.push(chunk);
        let mut changed = BytesMut::new();
        while let Some(message) = self.deframer.next_message() {
            let message = compression::expand(message, self.encoding, self.max_message)?;
            let message = splice::inject(&message, &self.path, self.id.as_bytes()).map_err(refuse)?;
            changed.reserve(PREFIX + message.len());
            changed.extend_from_slice(&prefix_of(message.len()));
            changed.extend_from_slice(&message);
        }
        Ok(changed.freeze())
    }

    /// # Errors
    /// The body ended inside a message.
    pub fn finish(&self) -> Result<(), Status> {
        if self.deframer.is_empty() {
            return Ok(());
        }
        Err(Status::new(Code::InvalidArgument, "the request ended inside a message"))
    }
}
