//! What is told of a call to the control plane: payloads, lines for the log.

use bytes::Bytes;
use http::HeaderMap;

use crate::budget::Share;
use crate::call::subject::Subject;
use crate::wire::framing::{Deframer, Message};
use crate::wire::status::Code;

/// One direction of a call, copied by reference count.
pub struct Copied {
    pub headers: HeaderMap,
    chunks: Vec<Bytes>,
    share: Share,
    /// Bytes that may still come.
    left: usize,
    whole: bool,
}

impl Copied {
    /// `share`: of the budget for such copies.
    #[must_use]
    pub fn new(share: Share) -> Box<Self> {
        Self::up_to(usize::MAX, share)
    }

    /// As `new`, of at most `max` bytes.
    #[must_use]
    pub fn up_to(max: usize, share: Share) -> Box<Self> {
        Box::new(Self { headers: HeaderMap::new(), chunks: Vec::new(), share, left: max, whole: true })
    }

    /// Another copy of the same, of at most `max` bytes.
    #[must_use]
    pub fn again(&self, max: usize, share: Share) -> Box<Self> {
        let mut again = Self::up_to(max, share);
        again.headers = self.headers.clone();
        again.whole = self.whole;
        for chunk in &self.chunks {
            again.push(chunk);
        }
        again
    }

    pub fn chunks(&self) -> impl Iterator<Item = &Bytes> {
        self.chunks.iter()
    }

    /// Cut into messages.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        let mut deframer = Deframer::default();
        for chunk in &self.chunks {
            deframer.push(chunk);
        }
        std::iter::from_fn(|| deframer.next_message()).collect()
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    pub fn push(&mut self, chunk: &Bytes) {
        if self.whole && chunk.len() <= self.left && self.share.grow(chunk.len()) {
            self.left -= chunk.len();
            self.chunks.push(chunk.clone());
        } else {
            self.whole = false;
            self.chunks.clear();
            self.share.clear();
        }
    }
}

/// Payloads of one call on their way to the control plane.
pub struct Tapped {
    pub id: u128,
    /// Bit n: the n-th tap wants it.
    pub taps: u64,
    pub subject: Subject,
    pub method: String,
    pub code: Code,
    pub began_ms: u64,
    pub duration_us: u64,
    pub request_headers: Vec<(String, Vec<u8>)>,
    pub response_headers: Vec<(String, Vec<u8>)>,
    pub request_encoding: String,
    pub response_encoding: String,
    pub request: Box<Copied>,
    pub response: Box<Copied>,
}

impl std::fmt::Debug for Tapped {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tapped").field("subject", &self.subject).finish_non_exhaustive()
    }
}

/// (compressed, bytes) of each message.
pub type Messages = Vec<(bool, Bytes)>;

impl Tapped {
    /// Cuts the copies into messages: those of the request, those of the answer.
    #[must_use]
    pub fn messages(&self) -> (Messages, Messages) {
        (messages(&self.request), messages(&self.response))
    }
}

fn messages(copied: &Copied) -> Messages {
    copied.messages().into_iter().map(|message| (message.compressed, message.payload)).collect()
}

/// A call that is told for the log.
#[derive(Debug)]
pub struct Logged {
    /// The runtime is about to be called; else the call has ended.
    pub invocation: bool,
    pub id: String,
    pub subject: Subject,
    pub method: String,
    pub code: Code,
    pub message: String,
    pub duration_us: u64,
    pub attempts: u32,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub headers: Vec<(String, Vec<u8>)>,
}
