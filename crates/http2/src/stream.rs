//! One stream: what was received and not yet read, what is to be sent and may not yet be.

use std::collections::VecDeque;
use std::mem;
use std::task::Waker;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use crate::error::Error;
use crate::fields::ResponseHead;
use crate::head::Kept;
use crate::window::Window;

/// Pieces below this that are not read at once are put together: a reader who is behind must not be sent a million
/// pieces of a byte.
const SMALL: usize = 4096;

/// Received bytes in order.
#[derive(Default)]
pub(crate) struct Pieces {
    /// Most streams never have more than this one. Empty: there is none.
    front: Bytes,
    rest: VecDeque<Bytes>,
    /// After `rest`, still growing.
    small: BytesMut,
}

impl Pieces {
    pub fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        if self.front.is_empty() {
            self.front = piece;
        } else if piece.len() < SMALL {
            self.small.extend_from_slice(&piece);
        } else {
            if !self.small.is_empty() {
                self.rest.push_back(self.small.split().freeze());
            }
            self.rest.push_back(piece);
        }
    }

    pub fn pop(&mut self) -> Option<Bytes> {
        let next = match self.rest.pop_front() {
            Some(next) => next,
            None => mem::take(&mut self.small).freeze(),
        };
        Some(mem::replace(&mut self.front, next)).filter(|front| !front.is_empty())
    }

    pub fn is_empty(&self) -> bool {
        self.front.is_empty()
    }
}

/// How far the receiving half has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Receiving {
    /// The head of the answer has not come.
    Head,
    #[default]
    Body,
    Ended,
}

/// How far the sending half has come.
#[derive(Default)]
pub(crate) enum Sending {
    #[default]
    Open,
    /// The end has been asked for, and waits behind bytes.
    Ending(SendEnd),
    Ended,
}

/// What ends the sending half.
pub(crate) enum SendEnd {
    /// With the last byte.
    Data,
    Trailers(Box<HeaderMap>),
}

/// How far a stream has come: RFC 9113, section 5.1. While it is open each half is by itself: `Receiving`, `Sending`.
#[derive(Default)]
pub(crate) enum Life {
    /// The other side permits no more streams now, so the request waits.
    Waiting(Box<Unopened>),
    #[default]
    Open,
    /// Both halves have ended; it is only here for those who hold it.
    Closed,
    /// It was reset, or its connection has ended, before both halves had; it is only here for those who hold it.
    Broken(Error),
}

/// The request of a stream that waits for the other side to permit it.
pub(crate) struct Unopened {
    pub authority: String,
    pub path: String,
    pub headers: Kept,
}

/// Which halves somebody here holds.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Holders {
    pub receiver: bool,
    pub sender: bool,
    /// It waits to be accepted.
    pub acceptor: bool,
}

impl Holders {
    pub fn is_held(self) -> bool {
        self.receiver || self.sender || self.acceptor
    }
}

#[derive(Default)]
pub(crate) struct Stream {
    /// 0: not opened yet.
    pub id: u32,
    pub holders: Holders,
    pub life: Life,

    /// The head of the answer, until it is read.
    pub head: Option<ResponseHead>,
    pub pieces: Pieces,
    pub trailers: Option<HeaderMap>,
    pub receiving: Receiving,
    /// What the other side may still send.
    pub receive_window: Window,
    /// Received, and not given back by the reader.
    pub unreturned: usize,
    /// Given back by the reader, and not yet told to the other side.
    pub unclaimed: u32,
    /// Bytes that must still come, if the headers said how many.
    pub announced: Option<u64>,

    /// What it costs to have it, header lists included, in bytes.
    pub cost: usize,

    pub send_window: Window,
    pub pending: VecDeque<Bytes>,
    /// Bytes of `pending`, and of trailers behind them.
    pub pending_bytes: usize,
    pub sending: Sending,
    /// In the queue of those that wait for the connection.
    pub waits: bool,

    /// Whoever waits for something to read …
    pub reading: Option<Waker>,
    /// … and for room to write, or for the end of the stream.
    pub writing: Option<Waker>,
}

impl Stream {
    /// Whether neither side may send any more.
    pub fn is_over(&self) -> bool {
        matches!(self.life, Life::Closed | Life::Broken(_))
    }

    /// Takes the request of a stream that waits: it is opened.
    pub fn take_request(&mut self) -> Option<Box<Unopened>> {
        match std::mem::take(&mut self.life) {
            Life::Waiting(request) => Some(request),
            as_before => {
                self.life = as_before;
                None
            }
        }
    }

    /// Why it ended before both halves had.
    pub fn error(&self) -> Option<&Error> {
        match &self.life {
            Life::Broken(error) => Some(error),
            _ => None,
        }
    }

    /// Whether everything was read, trailers aside.
    pub fn is_at_end(&self) -> bool {
        self.receiving == Receiving::Ended && self.pieces.is_empty()
    }

    pub fn wake_reader(&mut self) {
        if let Some(waker) = self.reading.take() {
            waker.wake();
        }
    }

    pub fn wake_writer(&mut self) {
        if let Some(waker) = self.writing.take() {
            waker.wake();
        }
    }

    pub fn wake_all(&mut self) {
        self.wake_reader();
        self.wake_writer();
    }
}

/// Remembers the waker, without a new reference if it is known already.
pub(crate) fn remember(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(known) if known.will_wake(waker) => {}
        other => *other = Some(waker.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_out_in_order_and_small_ones_together() {
        let mut pieces = Pieces::default();
        let mut all = Vec::new();
        for length in [3, 0, 1, 1, 5000, 2, 2, 9000, 4096, 1] {
            let piece: Vec<u8> = (0..length).map(|at: usize| (at + length).to_le_bytes()[0]).collect();
            all.extend_from_slice(&piece);
            pieces.push(piece.into());
        }
        let lengths: Vec<usize> = std::iter::from_fn(|| pieces.pop())
            .map(|piece| {
                assert_eq!(piece, all[..piece.len()]);
                all.drain(..piece.len());
                piece.len()
            })
            .collect();
        assert_eq!(lengths, [3, 2, 5000, 4, 9000, 4096, 1]);
        assert!(pieces.is_empty() && all.is_empty());
    }
}
