//! What is to be written: small things side by side in one buffer, large payloads as they are.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use crate::error::Reason;
use crate::frame::{HEAD, Head, flag, kind};

/// Payloads up to this are copied: a slice of their own costs more than that.
const COPIED: usize = 2048;
/// Slices of one system call.
const SLICES: usize = 64;
/// A buffer up to this stays for what is written next.
const KEPT: usize = 4096;

/// Frames that are encoded and not yet written.
#[derive(Default)]
pub(crate) struct Output {
    sealed: VecDeque<Bytes>,
    tail: BytesMut,
    length: usize,
    /// Empty: where header blocks are made, because a byte at a time is cheaper to add here than to `tail`.
    block: Vec<u8>,
    /// Bytes that were ever written.
    written: u64,
}

impl Output {
    /// Bytes that wait to be written.
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes that the socket has taken so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    fn put(&mut self, bytes: &[u8]) {
        self.tail.put_slice(bytes);
        self.length += bytes.len();
    }

    fn head(&mut self, kind: u8, flags: u8, stream: u32, length: usize) {
        if self.tail.capacity() < HEAD {
            self.tail.reserve(KEPT);
        }
        self.put(&Head { length, kind, flags, stream }.write());
    }

    pub fn preface(&mut self, bytes: &[u8]) {
        self.put(bytes);
    }

    pub fn data(&mut self, stream: u32, payload: Bytes, last: bool) {
        let flags = if last { flag::END_STREAM } else { 0 };
        self.head(kind::DATA, flags, stream, payload.len());
        if payload.len() <= COPIED {
            self.put(&payload);
            return;
        }
        let before = self.tail.split().freeze();
        self.sealed.push_back(before);
        self.length += payload.len();
        self.sealed.push_back(payload);
    }

    /// A header block that `encode` makes, in as many frames as it needs.
    pub fn headers(&mut self, stream: u32, last: bool, max_frame: usize, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut block = std::mem::take(&mut self.block);
        encode(&mut block);
        let (mut sort, mut flags) = (kind::HEADERS, if last { flag::END_STREAM } else { 0 });
        let mut rest = &block[..];
        while rest.len() > max_frame {
            let (part, after) = rest.split_at(max_frame);
            self.head(sort, flags, stream, part.len());
            self.put(part);
            (sort, flags, rest) = (kind::CONTINUATION, 0, after);
        }
        self.head(sort, flags | flag::END_HEADERS, stream, rest.len());
        self.put(rest);
        if block.capacity() <= KEPT {
            block.clear();
            self.block = block;
        }
    }

    pub fn reset(&mut self, stream: u32, reason: Reason) {
        self.head(kind::RST_STREAM, 0, stream, 4);
        self.put(&reason.0.to_be_bytes());
    }

    pub fn settings(&mut self, values: &[(u16, u32)]) {
        self.head(kind::SETTINGS, 0, 0, values.len() * 6);
        for (name, value) in values {
            self.put(&name.to_be_bytes());
            self.put(&value.to_be_bytes());
        }
    }

    pub fn settings_ack(&mut self) {
        self.head(kind::SETTINGS, flag::ACK, 0, 0);
    }

    pub fn ping(&mut self, payload: [u8; 8], ack: bool) {
        self.head(kind::PING, if ack { flag::ACK } else { 0 }, 0, 8);
        self.put(&payload);
    }

    pub fn window_update(&mut self, stream: u32, bytes: u32) {
        self.head(kind::WINDOW_UPDATE, 0, stream, 4);
        self.put(&bytes.to_be_bytes());
    }

    pub fn go_away(&mut self, last_stream: u32, reason: Reason, why: &str) {
        self.head(kind::GOAWAY, 0, 0, 8 + why.len());
        self.put(&last_stream.to_be_bytes());
        self.put(&reason.0.to_be_bytes());
        self.put(why.as_bytes());
    }

    /// Writes as much as the socket takes; ready when all is written and flushed.
    pub fn poll_write(&mut self, mut io: Pin<&mut impl AsyncWrite>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.length > 0 {
            let written = if self.sealed.is_empty() {
                ready!(io.as_mut().poll_write(cx, &self.tail))?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let parts = self.sealed.iter().map(|bytes| &bytes[..]).chain([&self.tail[..]]);
                let mut count = 0;
                for (slice, part) in slices.iter_mut().zip(parts) {
                    *slice = IoSlice::new(part);
                    count += 1;
                }
                ready!(io.as_mut().poll_write_vectored(cx, &slices[..count]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        io.poll_flush(cx)
    }

    fn advance(&mut self, mut written: usize) {
        self.length -= written;
        self.written += written as u64;
        while let Some(front) = self.sealed.front_mut() {
            if front.len() > written {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.sealed.pop_front();
        }
        if written < self.tail.len() {
            self.tail.advance(written);
        } else if self.tail.capacity() > KEPT {
            // Of thousands of connections most are idle.
            self.tail = BytesMut::new();
        } else {
            self.tail.clear();
        }
    }
}
