//! The request body: what comes from the client, and the copy of it that lets an attempt be repeated.
//!
//! Chunks are kept (by reference count, not copied) up to one message of the largest size a call and a
//! budget for all; when the first part of the answer passes, or a bound is reached, the copy is dropped.

use std::collections::VecDeque;
use std::ops::Range;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use modelmesh_http2::RecvStream;

use crate::budget::Share;
use crate::observe::told::Copied;
use crate::wire::framing::{Follower, PREFIX, TooLong, message_length, prefix_of};

/// Why no more can be read.
#[derive(Debug)]
pub enum BodyError {
    /// The client has reset the stream or its connection has died.
    Gone,
    TooLong(TooLong),
}

/// A request body that may be read more than once.
pub struct Body {
    /// None once everything has been read.
    stream: Option<RecvStream>,
    follower: Follower,
    chunks: VecDeque<Bytes>,
    /// Chunks of `chunks` that the current attempt has had.
    passed: usize,
    kept_bytes: usize,
    /// Chunks stay after they were passed on.
    keep: bool,
    /// Nothing that was read has been dropped.
    intact: bool,
    share: Share,
    bound: usize,
    /// Bytes received whose window the client has not been given back.
    unreleased: usize,
    /// Where everything that is read is copied to, if somebody wants it.
    pub copied: Option<Box<Copied>>,
}

impl Body {
    /// `keep`: whether to keep a copy for a replay at all.
    #[must_use]
    pub fn new(stream: RecvStream, max_message: usize, share: Share, keep: bool) -> Self {
        Self {
            stream: Some(stream),
            follower: Follower::new(max_message),
            chunks: VecDeque::new(),
            passed: 0,
            kept_bytes: 0,
            keep,
            intact: true,
            share,
            bound: max_message + PREFIX,
            unreleased: 0,
            copied: None,
        }
    }

    /// One message that is here already, with its prefix. A copy of it is kept for a replay, within the budget of `share`.
    ///
    /// # Errors
    /// It is longer than `max_message`.
    pub fn of_message(message: Bytes, max_message: usize, mut share: Share) -> Result<Self, TooLong> {
        let mut follower = Follower::new(max_message);
        follower.follow(&message)?;
        let kept_bytes = message.len();
        let keep = share.add(kept_bytes);
        Ok(Self {
            stream: None,
            follower,
            chunks: VecDeque::from([message]),
            passed: 0,
            kept_bytes,
            keep,
            intact: true,
            share,
            bound: kept_bytes,
            unreleased: 0,
            copied: None,
        })
    }

    /// Somebody wants a copy of what is read, and has one of what was.
    pub fn copy_to(&mut self, copied: Option<Box<Copied>>) {
        self.copied = copied;
        if let Some(copied) = &mut self.copied {
            for chunk in &self.chunks {
                copied.push(chunk);
            }
        }
    }

    /// A body that is here already, and was paid for.
    #[must_use]
    pub fn whole(chunks: impl Iterator<Item = Bytes>, share: Share) -> Self {
        Self {
            stream: None,
            follower: Follower::new(usize::MAX),
            chunks: chunks.collect(),
            passed: 0,
            kept_bytes: 0,
            keep: true,
            intact: true,
            share,
            bound: 0,
            unreleased: 0,
            copied: None,
        }
    }

    /// Whether an attempt could start from the beginning.
    #[must_use]
    pub fn can_replay(&self) -> bool {
        self.intact
    }

    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Whole messages that have been read.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.follower.messages
    }

    /// Bytes of the messages that have been read.
    #[must_use]
    pub fn message_bytes(&self) -> u64 {
        self.follower.message_bytes()
    }

    /// Whether everything has been read.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.stream.is_none()
    }

    /// Whether a bound keeps us from reading ahead. At the bound the end may still be read.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.kept_bytes > self.bound || self.share.budget_is_exhausted()
    }

    /// Whether the whole request is known to be one message, at most.
    #[must_use]
    pub fn is_one_message(&self) -> bool {
        self.messages() <= 1 && self.stream.as_ref().is_none_or(RecvStream::is_at_end)
    }

    /// What has been read and is still here.
    pub fn read_so_far(&self) -> impl Iterator<Item = &Bytes> {
        self.chunks.iter()
    }

    /// Takes a part out of the first message, whose length in the prefix says so then. It lies behind the prefix, in what has been
    /// read, of which nothing has been passed on.
    pub fn cut(&mut self, part: Range<usize>) {
        debug_assert!(self.intact && self.passed == 0 && part.start >= PREFIX);
        let mut front = BytesMut::new();
        let mut rest = Bytes::new();
        while front.len() + rest.len() < part.end {
            front.extend_from_slice(&rest);
            let Some(chunk) = self.chunks.pop_front() else { return };
            rest = chunk;
        }
        // Of the last of these chunks only the beginning is copied: it may hold tensors.
        let (before, cut) = (front.len(), part.end - part.start);
        if part.start > before {
            front.extend_from_slice(&rest[..part.start - before]);
        }
        front.truncate(part.start);
        let rest = rest.slice(part.end - before..);
        let length = message_length([front[0], front[1], front[2], front[3], front[4]]) - cut;
        front[1..PREFIX].copy_from_slice(&prefix_of(length)[1..]);
        if !rest.is_empty() {
            self.chunks.push_front(rest);
        }
        self.chunks.push_front(front.freeze());
        self.kept_bytes = self.kept_bytes.saturating_sub(cut);
        self.share.shrink(cut);
    }

    /// Starts over for a new attempt.
    pub fn rewind(&mut self) {
        debug_assert!(self.intact);
        self.passed = 0;
    }

    /// Whether the current attempt has had everything.
    #[must_use]
    pub fn at_end(&self) -> bool {
        self.passed == self.chunks.len() && self.stream.as_ref().is_none_or(RecvStream::is_at_end)
    }

    /// The next chunk for the current attempt; None at the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        if self.passed < self.chunks.len() {
            return Poll::Ready(Ok(Some(self.next_kept())));
        }
        let Some(chunk) = ready!(self.poll_stream(cx))? else { return Poll::Ready(Ok(None)) };
        if self.keep && self.store(&chunk) {
            self.passed += 1;
        } else {
            self.forget();
        }
        Poll::Ready(Ok(Some(chunk)))
    }

    fn next_kept(&mut self) -> Bytes {
        if self.keep {
            self.passed += 1;
            return self.chunks[self.passed - 1].clone();
        }
        // Without a copy, chunks read ahead go as they are passed on.
        self.intact = false;
        let chunk = self.chunks.pop_front().unwrap_or_default();
        self.kept_bytes = self.kept_bytes.saturating_sub(chunk.len());
        self.share.shrink(chunk.len());
        chunk
    }

    /// Reads ahead while the request waits, up to the bound. Ready with bytes read each time, pending
    /// when there is nothing to read now, at the end, or at the bound: there is nothing to wait for then.
    pub fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, BodyError>> {
        let length = ready!(self.poll_look_ahead(cx))?;
        // The copy is paid for, so the client may send on.
        self.release(length);
        Poll::Ready(Ok(length))
    }

    /// As `poll_read_ahead`, but the client may send on only when the other side has taken it: the request goes on at once.
    pub fn poll_look_ahead(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, BodyError>> {
        if self.stream.is_none() || self.is_blocked() {
            return Poll::Pending;
        }
        let Some(chunk) = ready!(self.poll_stream(cx))? else { return Poll::Pending };
        let length = chunk.len();
        // Beyond the budget by at most this chunk: it is here, and must be kept somewhere.
        if !self.share.add(length) {
            self.keep = false;
        }
        self.kept_bytes += length;
        self.chunks.push_back(chunk);
        Poll::Ready(Ok(length))
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(None)) };
        match ready!(stream.poll_data(cx)) {
            Some(Ok(chunk)) => {
                self.unreleased += chunk.len();
                self.follower.follow(&chunk).map_err(BodyError::TooLong)?;
                if let Some(copied) = &mut self.copied {
                    copied.push(&chunk);
                }
                Poll::Ready(Ok(Some(chunk)))
            }
            Some(Err(_)) => Poll::Ready(Err(BodyError::Gone)),
            None => {
                self.release(self.unreleased);
                self.stream = None;
                Poll::Ready(Ok(None))
            }
        }
    }

    fn store(&mut self, chunk: &Bytes) -> bool {
        if self.kept_bytes + chunk.len() > self.bound || !self.share.grow(chunk.len()) {
            return false;
        }
        self.kept_bytes += chunk.len();
        self.chunks.push_back(chunk.clone());
        true
    }

    /// Lets the copy go; what the current attempt has not had yet stays until it is passed on.
    pub fn forget(&mut self) {
        self.keep = false;
        self.intact = false;
        for chunk in self.chunks.drain(..self.passed) {
            self.kept_bytes = self.kept_bytes.saturating_sub(chunk.len());
            self.share.shrink(chunk.len());
        }
        self.passed = 0;
    }

    /// So many bytes have been taken by the other side: the client may send as many.
    pub fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.unreleased);
        self.unreleased -= bytes;
        if let Some(stream) = &mut self.stream
            && bytes > 0
        {
            stream.release(bytes);
        }
    }
}
