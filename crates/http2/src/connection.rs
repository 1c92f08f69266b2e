//! A connection's socket: reads frames, hands them to the state, writes what the state has for the other side.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use crate::error::{Error, Fault, Reason};
use crate::fields::Fields;
use crate::frame::{self, HEAD, Head, PREFACE, flag, kind};
use crate::hpack::Decoder;
use crate::state::{Role, State};
use crate::stream::remember;

/// What is read at a time; more while it comes faster than that, because a frame that is cut off by the end of a read is
/// copied once.
const READ: usize = 64 << 10;
const MOST_READ: usize = 256 << 10;
/// After so many reads another connection gets its turn.
const READS: usize = 16;
/// After so many header blocks others get their turn: those whose calls came first, above all. Without that all calls that
/// came together travel together, and each process waits while the next one has them.
const BLOCKS: usize = 32;
/// Payloads up to this are copied out, so that they do not hold the buffer that they came in.
const COPIED: usize = 1024;
/// Answers to pings, settings and errors that may wait until the other side reads them.
const MOST_REPLIES: usize = 10_000;
/// Frames that one header block may come in.
const MOST_PARTS: usize = 64;

/// A header block whose end has not come yet.
struct Partial {
    stream: u32,
    last: bool,
    block: Vec<u8>,
    parts: usize,
}

/// Reads what the other side sends, frame by frame.
struct Reader {
    buffer: BytesMut,
    decoder: Decoder,
    partial: Option<Partial>,
    /// Of a server: the preface has come. Of either: the first frame was SETTINGS.
    has_preface: bool,
    has_settings: bool,
    max_frame: usize,
    max_header_list: usize,
    /// Frames that have come may be left for the next turn.
    is_behind: bool,
}

/// What drives a connection.
pub(crate) struct Driver<T> {
    io: T,
    pub state: Arc<Mutex<State>>,
    reader: Reader,
    reads: usize,
    /// Bytes of the next read.
    room: usize,
    /// Nothing more is read or written.
    done: Option<Result<(), Error>>,
    /// The other side has closed its half.
    at_end: bool,
}

/// What one turn came to.
pub(crate) enum Turn {
    /// Something was read.
    More,
    Pending,
    Over(Result<(), Error>),
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    pub fn new(io: T, state: State) -> Self {
        let reader = Reader {
            buffer: BytesMut::new(),
            decoder: Decoder::new(),
            partial: None,
            has_preface: state.role == Role::Client,
            has_settings: false,
            max_frame: state.settings.max_frame as usize,
            max_header_list: state.settings.max_header_list as usize,
            is_behind: false,
        };
        Self { io, state: Arc::new(Mutex::new(state)), reader, reads: 0, room: READ, done: None, at_end: false }
    }

    pub fn has_preface(&self) -> bool {
        self.reader.has_preface
    }

    pub fn has_settings(&self) -> bool {
        self.reader.has_settings
    }

    /// Reads once, or writes and waits.
    pub fn turn(&mut self, cx: &mut Context<'_>) -> Turn {
        if let Some(done) = &self.done {
            return Turn::Over(done.clone());
        }
        let reads = {
            let mut state = self.state.lock();
            remember(&mut state.waker, cx.waker());
            state.notified = false;
            state.replies < MOST_REPLIES && !self.at_end
        };
        if reads {
            match self.read(cx) {
                Ok(Poll::Ready(())) => return Turn::More,
                Ok(Poll::Pending) => {}
                Err(error) => return self.end(cx, error),
            }
        }
        match self.write(cx) {
            Ok(Poll::Ready(())) if self.at_end || self.state.lock().is_over() => self.close(cx),
            Ok(Poll::Ready(()) | Poll::Pending) => Turn::Pending,
            // It has closed, so it does not hear what we say.
            Err(_) if self.at_end => self.close(cx),
            Err(error) => self.end(cx, error),
        }
    }

    /// Ready if something was read.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Error> {
        if self.reads == READS {
            self.reads = 0;
            cx.waker().wake_by_ref();
            return Ok(Poll::Pending);
        }
        if self.reader.is_behind {
            return self.deal();
        }
        let buffer = &mut self.reader.buffer;
        if buffer.capacity() - buffer.len() < self.room {
            buffer.reserve(self.room);
        }
        let room = buffer.capacity() - buffer.len();
        let read = match poll_read_buf(Pin::new(&mut self.io), cx, buffer) {
            Poll::Ready(Ok(read)) => read,
            Poll::Ready(Err(error)) => return Err(Error::Broken(error.kind())),
            Poll::Pending => {
                self.reads = 0;
                if buffer.is_empty() {
                    // Of thousands of connections most are idle.
                    *buffer = BytesMut::new();
                }
                return Ok(Poll::Pending);
            }
        };
        if read == 0 {
            self.at_end = true;
            let mut state = self.state.lock();
            state.fail(&Error::Broken(io::ErrorKind::ConnectionReset));
            return Ok(Poll::Pending);
        }
        self.reads += 1;
        self.room = if read == room { (self.room * 2).min(MOST_READ) } else { READ };
        self.deal()
    }

    /// Deals with what was read, or with a part of it: then this was the turn.
    fn deal(&mut self) -> Result<Poll<()>, Error> {
        let mut state = self.state.lock();
        match self.reader.frames(&mut state) {
            Ok(()) => {
                if self.reader.is_behind {
                    self.reads = READS;
                }
                Ok(Poll::Ready(()))
            }
            Err(Fault { reason, why }) => {
                let last = state.last_id;
                state.out.go_away(last, reason, why);
                Err(Error::Protocol { reason, why })
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Error> {
        let mut state = self.state.lock();
        loop {
            let written = state.out.poll_write(Pin::new(&mut self.io), cx);
            if state.has_room_for_waiting() {
                state.serve_waiting();
                if written.is_ready() && !state.out.is_empty() {
                    continue;
                }
            }
            return match written {
                Poll::Pending => Ok(Poll::Pending),
                Poll::Ready(Ok(())) => {
                    if std::mem::take(&mut state.replies) >= MOST_REPLIES {
                        // Reading goes on.
                        cx.waker().wake_by_ref();
                    }
                    Ok(Poll::Ready(()))
                }
                Poll::Ready(Err(error)) => Err(Error::Broken(error.kind())),
            };
        }
    }

    /// The connection ends over an error. What can be said at once is said; nobody waits for that.
    fn end(&mut self, cx: &mut Context<'_>, error: Error) -> Turn {
        let mut state = self.state.lock();
        state.fail(&error);
        drop(state);
        if matches!(error, Error::Protocol { .. }) {
            self.say_last(cx);
        }
        self.done = Some(Err(error.clone()));
        Turn::Over(Err(error))
    }

    /// The connection ends because nothing is left to do.
    fn close(&mut self, cx: &mut Context<'_>) -> Turn {
        let mut state = self.state.lock();
        if state.role == Role::Client && state.failure.is_none() {
            state.out.go_away(0, Reason::NO_ERROR, "");
        }
        state.fail(&Error::Broken(io::ErrorKind::NotConnected));
        drop(state);
        self.say_last(cx);
        self.done = Some(Ok(()));
        Turn::Over(Ok(()))
    }

    /// Writes what the socket takes at once, and closes it if that is all.
    fn say_last(&mut self, cx: &mut Context<'_>) {
        if self.state.lock().out.poll_write(Pin::new(&mut self.io), cx).is_ready() {
            let _ = Pin::new(&mut self.io).poll_shutdown(cx);
        }
    }
}

impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        // Whoever still holds a stream must not wait for a connection that nobody drives.
        self.state.lock().fail(&Error::Broken(io::ErrorKind::ConnectionAborted));
    }
}

impl Reader {
    /// All frames that are complete, or as many as have [`BLOCKS`] header blocks.
    fn frames(&mut self, state: &mut State) -> Result<(), Fault> {
        let mut at = 0;
        if !self.has_preface {
            let known = PREFACE.len().min(self.buffer.len());
            if self.buffer[..known] != PREFACE[..known] {
                return Err(Fault::protocol("this is not HTTP/2"));
            }
            if known < PREFACE.len() {
                return Ok(());
            }
            self.has_preface = true;
            at = known;
        }
        self.is_behind = false;
        let mut blocks = 0;
        while let Some(bytes) = self.buffer[at..].first_chunk::<HEAD>() {
            if blocks == BLOCKS {
                self.is_behind = true;
                break;
            }
            let head = Head::read(bytes);
            if head.length > self.max_frame {
                return Err(Fault::new(Reason::FRAME_SIZE_ERROR, "a frame larger than we take"));
            }
            let end = at + HEAD + head.length;
            if self.buffer.len() < end {
                let missing = end - self.buffer.len();
                self.buffer.advance(at);
                self.buffer.reserve(missing);
                return Ok(());
            }
            if !self.has_settings && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
                return Err(Fault::protocol("the first frame is not SETTINGS"));
            }
            self.has_settings = true;
            if head.kind == kind::DATA && self.partial.is_none() {
                let (from, to) = unpadded(head, &self.buffer[at + HEAD..end])?;
                if head.stream == 0 {
                    return Err(Fault::protocol("DATA on no stream"));
                }
                let payload = if to - from <= COPIED {
                    let payload = Bytes::copy_from_slice(&self.buffer[at + HEAD + from..at + HEAD + to]);
                    at = end;
                    payload
                } else {
                    self.buffer.advance(at);
                    at = 0;
                    self.buffer.split_to(HEAD + head.length).freeze().slice(HEAD + from..HEAD + to)
                };
                state.data(head.stream, payload, head.length, head.has(flag::END_STREAM))?;
                continue;
            }
            let payload = &self.buffer[at + HEAD..end];
            match head.kind {
                kind::HEADERS | kind::CONTINUATION => {
                    blocks += 1;
                    block(&mut self.partial, &mut self.decoder, self.max_header_list, head, payload, state)?;
                }
                _ if self.partial.is_some() => return Err(Fault::protocol("a frame inside a header block")),
                _ => other(head, payload, state)?,
            }
            at = end;
        }
        if at == self.buffer.len() {
            self.buffer.clear();
        } else {
            self.buffer.advance(at);
        }
        Ok(())
    }
}

/// Where the payload is between its padding.
fn unpadded(head: Head, payload: &[u8]) -> Result<(usize, usize), Fault> {
    if !head.has(flag::PADDED) {
        return Ok((0, payload.len()));
    }
    let Some(padding) = payload.first().copied().map(usize::from) else {
        return Err(Fault::new(Reason::FRAME_SIZE_ERROR, "a padded frame without padding"));
    };
    match payload.len().checked_sub(padding) {
        Some(to) if to >= 1 => Ok((1, to)),
        _ => Err(Fault::protocol("more padding than payload")),
    }
}

/// HEADERS or CONTINUATION.
fn block(
    partial: &mut Option<Partial>,
    decoder: &mut Decoder,
    max_list: usize,
    head: Head,
    payload: &[u8],
    state: &mut State,
) -> Result<(), Fault> {
    let begun = partial.take();
    if head.kind == kind::CONTINUATION {
        let Some(mut begun) = begun.filter(|begun| begun.stream == head.stream) else {
            return Err(Fault::protocol("CONTINUATION of nothing"));
        };
        begun.parts += 1;
        if begun.parts > MOST_PARTS || begun.block.len() + payload.len() > max_list {
            return Err(Fault::new(Reason::ENHANCE_YOUR_CALM, "a header block without end"));
        }
        begun.block.extend_from_slice(payload);
        if !head.has(flag::END_HEADERS) {
            *partial = Some(begun);
            return Ok(());
        }
        return decoded(decoder, max_list, (begun.stream, begun.last), &begun.block, state);
    }
    if begun.is_some() {
        return Err(Fault::protocol("HEADERS inside a header block"));
    }
    if head.stream == 0 {
        return Err(Fault::protocol("HEADERS on no stream"));
    }
    let (from, to) = unpadded(head, payload)?;
    let mut payload = &payload[from..to];
    if head.has(flag::PRIORITY) {
        let (priority, rest) = payload
            .split_at_checked(5)
            .ok_or_else(|| Fault::new(Reason::FRAME_SIZE_ERROR, "HEADERS too short for a priority"))?;
        if frame::number(priority) == Some(head.stream) {
            return Err(Fault::protocol("a stream that depends on itself"));
        }
        payload = rest;
    }
    let last = head.has(flag::END_STREAM);
    if head.has(flag::END_HEADERS) {
        return decoded(decoder, max_list, (head.stream, last), payload, state);
    }
    *partial = Some(Partial { stream: head.stream, last, block: payload.to_vec(), parts: 1 });
    Ok(())
}

fn decoded(
    decoder: &mut Decoder,
    max_list: usize,
    (stream, last): (u32, bool),
    block: &[u8],
    state: &mut State,
) -> Result<(), Fault> {
    let mut fields = Fields::new(max_list, block.len());
    decoder.decode(block, |name, value, size| fields.take(name, value, size))?;
    state.headers(stream, fields, last)
}

/// All frames that are neither DATA nor of a header block.
fn other(head: Head, payload: &[u8], state: &mut State) -> Result<(), Fault> {
    let on_connection = matches!(head.kind, kind::SETTINGS | kind::PING | kind::GOAWAY);
    let on_stream = matches!(head.kind, kind::PRIORITY | kind::RST_STREAM);
    if (on_connection && head.stream != 0) || (on_stream && head.stream == 0) {
        return Err(Fault::protocol("a frame on a stream that it cannot be on"));
    }
    let size = |why| Err(Fault::new(Reason::FRAME_SIZE_ERROR, why));
    match head.kind {
        kind::SETTINGS if head.has(flag::ACK) => {
            if payload.is_empty() {
                Ok(())
            } else {
                size("an acknowledgement with a payload")
            }
        }
        kind::SETTINGS => state.settings(payload),
        kind::PING => state.ping_received(payload, head.has(flag::ACK)),
        kind::GOAWAY => state.go_away_received(payload),
        kind::WINDOW_UPDATE => state.window_update(head.stream, payload),
        kind::RST_STREAM => match payload {
            [a, b, c, d] => state.reset_received(head.stream, Reason(u32::from_be_bytes([*a, *b, *c, *d]))),
            _ => size("RST_STREAM of a wrong length"),
        },
        kind::PRIORITY if payload.len() != 5 => state.stream_error(head.stream, Reason::FRAME_SIZE_ERROR),
        kind::PRIORITY if frame::number(payload) == Some(head.stream) => {
            state.stream_error(head.stream, Reason::PROTOCOL_ERROR)
        }
        kind::PUSH_PROMISE => Err(Fault::protocol("nobody may push")),
        // Priorities are advice, and kinds that we do not know are to be ignored.
        _ => Ok(()),
    }
}
