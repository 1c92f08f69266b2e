//! The request of one call, as it comes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use modelmesh_http2::RecvStream;

use crate::wire::framing::{Deframer, Follower, Message, PREFIX};
use crate::wire::status::Code;

/// What comes next of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    Message(Message),
    /// The request is whole.
    End,
    /// It cannot be read: how the call should end.
    Bad(Code, String),
    /// Nothing yet.
    Pending,
}

/// Bytes of requests that are not whole yet, on all connections of a server.
pub struct Unfinished {
    bytes: AtomicUsize,
    max: usize,
}

impl Unfinished {
    /// `max`: in bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), max }
    }

    /// Takes note of so many bytes more. False: they are too many, and were not added.
    pub fn add(&self, bytes: usize) -> bool {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.max {
            self.remove(bytes);
            return false;
        }
        true
    }

    /// How many there are now.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// So many bytes went.
    pub fn remove(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Cuts a request into messages.
pub struct Request {
    receiver: RecvStream,
    follower: Follower,
    deframer: Deframer,
    /// What was read in advance.
    ahead: VecDeque<Part>,
    unfinished: Arc<Unfinished>,
    /// Bytes that are counted there.
    counted: usize,
}

impl Drop for Request {
    fn drop(&mut self) {
        self.unfinished.remove(self.counted);
    }
}

impl Request {
    /// `max_message`: bytes of one message.
    pub fn new(receiver: RecvStream, max_message: usize, unfinished: Arc<Unfinished>) -> Self {
        let (follower, deframer) = (Follower::new(max_message), Deframer::default());
        Self { receiver, follower, deframer, ahead: VecDeque::new(), unfinished, counted: 0 }
    }

    /// The only message, if the request is whole. Otherwise it is there for `next`, and so is what came after it.
    pub fn whole(&mut self, cx: &mut Context<'_>) -> Option<Message> {
        match self.read(cx) {
            Part::Message(message) => match self.read(cx) {
                Part::End => return Some(message),
                more => {
                    self.ahead.push_back(Part::Message(message));
                    if more != Part::Pending {
                        self.ahead.push_back(more);
                    }
                }
            },
            Part::Pending => {}
            other => self.ahead.push_back(other),
        }
        None
    }

    /// Whether `next` has something that was read already.
    pub fn has_news(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// What comes next.
    pub fn next(&mut self, cx: &mut Context<'_>) -> Part {
        self.ahead.pop_front().unwrap_or_else(|| self.read(cx))
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Part {
        loop {
            if let Some(message) = self.deframer.next_message() {
                let bytes = (PREFIX + message.payload.len()).min(self.counted);
                self.counted -= bytes;
                self.unfinished.remove(bytes);
                return Part::Message(message);
            }
            match self.receiver.poll_data(cx) {
                Poll::Pending => return Part::Pending,
                Poll::Ready(Some(Err(error))) => return Part::Bad(Code::Cancelled, error.to_string()),
                Poll::Ready(Some(Ok(piece))) => {
                    self.receiver.release(piece.len());
                    if let Err(too_long) = self.follower.follow(&piece) {
                        return Part::Bad(Code::ResourceExhausted, too_long.message());
                    }
                    if !self.unfinished.add(piece.len()) {
                        return Part::Bad(Code::ResourceExhausted, "too many bytes of requests are waiting".to_owned());
                    }
                    self.counted += piece.len();
                    self.deframer.push(&piece);
                }
                Poll::Ready(None) if self.follower.is_inside() => {
                    return Part::Bad(Code::Internal, "the request ends within a message".to_owned());
                }
                Poll::Ready(None) => return Part::End,
            }
        }
    }
}
