//! A connection's socket: reads frames, hands them to the state, writes what the state has for the other side.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use crate::account::MOST_REPLIES;
use crate::buffer::PART;
use crate::error::{Error, Fault, Reason};
use crate::reader::Reader;
use crate::state::{Role, State};
use crate::stream::remember;

/// What is read at a time; more while it comes faster than that, because a frame that is cut off by the end of a read is
/// copied once.
const READ: usize = 64 << 10;
const MOST_READ: usize = 256 << 10;
/// After so many reads another connection gets its turn.
const READS: usize = 16;
/// Bytes for a client that wait to be read; while there are more, nothing more is read of what it asks.
const MOST_UNREAD: usize = 2 << 20;
/// Looks in a row at which nothing of what waits had been read.
const MOST_STUCK: usize = 6;

/// Streams that hear in one turn that their connection has ended.
const ENDED: usize = 32;

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
    /// It is not read, because it does not read.
    has_paused: bool,
    /// Bytes that were read and not counted yet.
    unseen: u64,
    /// Why somebody ends the connection.
    expelled: Option<&'static str>,
    /// What was found at the last look, and looks since when nothing has gone on.
    seen: Seen,
    stuck: usize,
}

/// How far a connection had come.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// The header block that had begun and not ended.
    block: Option<u64>,
    written: u64,
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
        let reader = Reader::new(&state);
        Self {
            io,
            state: Arc::new(Mutex::new(state)),
            reader,
            reads: 0,
            room: READ,
            done: None,
            at_end: false,
            has_paused: false,
            unseen: 0,
            expelled: None,
            seen: Seen::default(),
            stuck: 0,
        }
    }

    pub fn has_preface(&self) -> bool {
        self.reader.has_preface
    }

    pub fn has_settings(&self) -> bool {
        self.reader.has_settings
    }

    /// Reads once, or writes and waits.
    pub fn turn(&mut self, cx: &mut Context<'_>) -> Turn {
        if self.done.is_some() {
            return self.over(cx);
        }
        if let Some(why) = self.expelled {
            return self.end(cx, Error::Protocol { reason: Reason::ENHANCE_YOUR_CALM, why });
        }
        let reads = {
            let mut state = self.state.lock();
            if !state.end_some(ENDED) {
                cx.waker().wake_by_ref();
                return Turn::Pending;
            }
            remember(&mut state.waker, cx.waker());
            state.notified = false;
            let unread =
                state.role == Role::Server && (state.replies >= MOST_REPLIES || state.out.len() >= MOST_UNREAD);
            self.has_paused = unread;
            !unread && !self.at_end
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
        self.reader.make_room(self.room);
        let room = self.reader.buffer.room();
        let read = match poll_read_buf(Pin::new(&mut self.io), cx, &mut self.reader.buffer.bytes) {
            Poll::Ready(Ok(read)) => read,
            Poll::Ready(Err(error)) => return Err(Error::Broken(error.kind())),
            Poll::Pending => {
                self.reads = 0;
                self.reader.buffer.rest();
                self.state.lock().buffered = self.reader.held();
                return Ok(Poll::Pending);
            }
        };
        if read == 0 {
            self.at_end = true;
            let mut state = self.state.lock();
            state.fail(&Error::Broken(io::ErrorKind::ConnectionReset));
            cx.waker().wake_by_ref();
            return Ok(Poll::Pending);
        }
        self.reads += 1;
        self.unseen = read as u64;
        // Larger ones only for frames that may share them.
        let fits = self.reader.largest * PART >= self.room * 2;
        self.room = if read == room && fits { (self.room * 2).min(MOST_READ) } else { READ };
        self.deal()
    }

    /// Deals with what was read, or with a part of it: then this was the turn.
    fn deal(&mut self) -> Result<Poll<()>, Error> {
        let mut state = self.state.lock();
        state.received += self.unseen;
        self.unseen = 0;
        let outcome = self.reader.frames(&mut state);
        state.buffered = self.reader.held();
        match outcome {
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
            let before = state.out.written();
            let written = state.out.poll_write(Pin::new(&mut self.io), cx);
            let taken = state.out.written() - before;
            state.was_read(taken);
            if state.has_room_for_waiting() {
                state.serve_waiting();
                if written.is_ready() && !state.out.is_empty() {
                    continue;
                }
            }
            return match written {
                Poll::Ready(Err(error)) => Err(Error::Broken(error.kind())),
                other => {
                    let reads = state.replies < MOST_REPLIES && state.out.len() < MOST_UNREAD;
                    if reads && std::mem::take(&mut self.has_paused) {
                        // Reading goes on.
                        cx.waker().wake_by_ref();
                    }
                    Ok(other.map(|_| ()))
                }
            };
        }
    }

    /// Ends the connection at its next turn; the other side is told why.
    pub fn expel(&mut self, why: &'static str) {
        let mut state = self.state.lock();
        let last = state.last_id;
        state.out.go_away(last, Reason::ENHANCE_YOUR_CALM, why);
        self.expelled = Some(why);
    }

    /// Looks at the connection from time to time; Some if it does not go on: why.
    pub fn look(&mut self) -> Option<&'static str> {
        let mut state = self.state.lock();
        state.noise = 0;
        state.recent_errors = 0;
        let seen = Seen { block: self.reader.open_block(), written: state.out.written() };
        let before = std::mem::replace(&mut self.seen, seen);
        if before.block.is_some() && before.block == seen.block {
            return Some("a header block without end");
        }
        let waits = !state.out.is_empty() || state.has_forsaken();
        self.stuck = if waits && before.written == seen.written { self.stuck + 1 } else { 0 };
        (self.stuck >= MOST_STUCK).then_some("what is said to it is not read")
    }

    /// Nothing is left to do but to tell the streams.
    fn over(&mut self, cx: &Context<'_>) -> Turn {
        if !self.state.lock().end_some(ENDED) {
            cx.waker().wake_by_ref();
            return Turn::Pending;
        }
        self.done.clone().map_or(Turn::Pending, Turn::Over)
    }

    /// The connection ends over an error. What can be sent at once is sent, without waiting.
    fn end(&mut self, cx: &mut Context<'_>, error: Error) -> Turn {
        let mut state = self.state.lock();
        state.fail(&error);
        drop(state);
        if matches!(error, Error::Protocol { .. }) {
            self.say_last(cx);
        }
        self.done = Some(Err(error));
        self.over(cx)
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
        self.over(cx)
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
        // A holder of a stream must not wait for a connection that is not driven any more.
        let mut state = self.state.lock();
        state.fail(&Error::Broken(io::ErrorKind::ConnectionAborted));
        state.end_some(usize::MAX);
    }
}
