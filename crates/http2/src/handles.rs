//! What those who serve and send streams hold.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;

use crate::error::{Error, Reason};
use crate::fields::ResponseHead;
use crate::head::Headers;
use crate::state::State;
use crate::stream::{Receiving, remember};

/// The receiving half of a stream. Dropped before its end, its bytes are thrown away; once both halves are dropped,
/// the stream is reset unless it has ended.
pub struct RecvStream {
    state: Arc<Mutex<State>>,
    key: usize,
}

/// The sending half of a stream.
pub struct SendStream {
    state: Arc<Mutex<State>>,
    key: usize,
    head_is_sent: bool,
}

/// Both halves of a stream, which must be marked as held.
pub(crate) fn halves(state: &Arc<Mutex<State>>, key: usize, head_is_sent: bool) -> (RecvStream, SendStream) {
    let receiver = RecvStream { state: Arc::clone(state), key };
    (receiver, SendStream { state: Arc::clone(state), key, head_is_sent })
}

impl RecvStream {
    /// The head of an answer, once.
    ///
    /// # Errors
    /// The stream has ended without one.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Error>> {
        let mut state = self.state.lock();
        let stream = &mut state.streams[self.key];
        if let Some(head) = stream.head.take() {
            return Poll::Ready(Ok(head));
        }
        if let Some(error) = stream.error() {
            return Poll::Ready(Err(error.clone()));
        }
        remember(&mut stream.reading, cx.waker());
        Poll::Pending
    }

    /// The next bytes of the body; None at its end.
    ///
    /// # Errors
    /// The stream has ended before its body.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        let mut state = self.state.lock();
        let stream = &mut state.streams[self.key];
        if let Some(piece) = stream.pieces.pop() {
            return Poll::Ready(Some(Ok(piece)));
        }
        if stream.receiving == Receiving::Ended {
            return Poll::Ready(None);
        }
        if let Some(error) = stream.error() {
            return Poll::Ready(Some(Err(error.clone())));
        }
        remember(&mut stream.reading, cx.waker());
        Poll::Pending
    }

    /// The trailers, after the body has ended; None if there are none.
    #[must_use]
    pub fn trailers(&mut self) -> Option<HeaderMap> {
        self.state.lock().streams[self.key].trailers.take()
    }

    /// Whether everything was read, trailers aside.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.state.lock().streams[self.key].is_at_end()
    }

    /// Whether the head is all there is: no body, and no trailers.
    #[must_use]
    pub fn is_head_only(&self) -> bool {
        let state = self.state.lock();
        let stream = &state.streams[self.key];
        stream.is_at_end() && stream.trailers.is_none()
    }

    /// So many bytes have been dealt with: the other side may send as many.
    pub fn release(&mut self, bytes: usize) {
        self.state.lock().on_behalf(|state| state.give_back_on(self.key, bytes));
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        self.state.lock().on_behalf(|state| state.let_go(self.key, |holders| holders.receiver = false));
    }
}

impl SendStream {
    /// Whether the other side takes a head or trailers with these headers. It is for the caller to send something else.
    ///
    /// # Errors
    /// They are too large.
    pub fn fits(&self, headers: &HeaderMap) -> Result<(), Error> {
        self.state.lock().answer_fits(headers)
    }

    /// Sends the head of an answer.
    ///
    /// # Errors
    /// The stream has ended.
    pub fn send_head(&mut self, status: StatusCode, headers: &HeaderMap, last: bool) -> Result<(), Error> {
        debug_assert!(!self.head_is_sent);
        let mut state = self.state.lock();
        if let Some(error) = state.streams[self.key].error() {
            return Err(error.clone());
        }
        self.head_is_sent = true;
        state.on_behalf(|state| state.send_head(self.key, Some(status), headers, last));
        Ok(())
    }

    /// Whether the head has been sent: an answer's with `send_head`, a request's from the start.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.head_is_sent
    }

    /// Sends bytes. What windows do not permit now waits here: ask with `poll_room` first if it is much.
    ///
    /// # Errors
    /// The stream has ended.
    pub fn send_data(&mut self, payload: Bytes, last: bool) -> Result<(), Error> {
        debug_assert!(self.head_is_sent);
        self.state.lock().on_behalf(|state| state.send_data(self.key, payload, last))
    }

    /// Throws away what was sent and waits for windows: whoever does not read must not keep what comes last from being said.
    pub fn discard_unsent(&mut self) {
        self.state.lock().discard_unsent(self.key);
    }

    /// Ends the stream with trailers.
    ///
    /// # Errors
    /// The stream has ended.
    pub fn send_trailers(&mut self, trailers: HeaderMap) -> Result<(), Error> {
        debug_assert!(self.head_is_sent);
        self.state.lock().on_behalf(|state| state.send_trailers(self.key, trailers))
    }

    /// How many bytes may be sent now, once that is not none.
    ///
    /// # Errors
    /// The stream has ended.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        self.state.lock().poll_room(self.key, cx)
    }

    /// Ready once the stream has been reset or its connection has ended.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.state.lock().poll_reset(self.key, cx)
    }

    /// Ends the stream now.
    pub fn reset(&mut self, reason: Reason) {
        self.state.lock().on_behalf(|state| state.reset(self.key, reason));
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        self.state.lock().on_behalf(|state| state.let_go(self.key, |holders| holders.sender = false));
    }
}

/// Opens streams on a connection. The connection ends when the last one has been dropped, and its streams have.
pub struct Sender {
    state: Arc<Mutex<State>>,
}

impl Clone for Sender {
    fn clone(&self) -> Self {
        Self::new(&self.state)
    }
}

impl Sender {
    pub(crate) fn new(state: &Arc<Mutex<State>>) -> Self {
        state.lock().handles += 1;
        Self { state: Arc::clone(state) }
    }

    /// Whether requests can be sent.
    ///
    /// # Errors
    /// Why not: the connection has ended, or the other side goes away.
    pub fn check(&self) -> Result<(), Error> {
        self.state.lock().check()
    }

    /// Streams that the other side permits at a time, but for those that are not wanted any more.
    #[must_use]
    pub fn max_streams(&self) -> usize {
        let state = self.state.lock();
        state.max_send_streams.saturating_sub(state.lingering.len())
    }

    /// Sends the head of a POST request. Beyond the streams that the other side permits it waits for its turn.
    ///
    /// # Errors
    /// The connection has ended, the other side goes away, or it does not take so many headers.
    pub fn send(
        &self,
        authority: &str,
        path: &PathAndQuery,
        headers: &impl Headers,
        last: bool,
    ) -> Result<(RecvStream, SendStream), Error> {
        let key = self.state.lock().on_behalf(|state| state.send_request(authority, path.as_str(), headers, last))?;
        Ok(halves(&self.state, key, true))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.state.lock().on_behalf(|state| state.handles -= 1);
    }
}

/// Asks the other side whether it is there.
pub struct Pinger {
    state: Arc<Mutex<State>>,
}

impl Pinger {
    pub(crate) fn new(state: &Arc<Mutex<State>>) -> Self {
        Self { state: Arc::clone(state) }
    }

    /// Sends a ping; false if the last one has not been answered, or the connection has ended.
    pub fn ping(&self) -> bool {
        self.state.lock().on_behalf(State::ping)
    }

    /// To be called from time to time: so many more resets may be sent to the other side.
    pub fn forgive(&self, resets: usize) {
        self.state.lock().on_behalf(|state| state.forgive(resets));
    }

    /// Frames of answers that have come. While it stands still the other side serves nothing, whatever else it says.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.state.lock().answered
    }

    /// Ready once the ping has been answered.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn poll_pong(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.pinged.answered) {
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = &state.failure {
            return Poll::Ready(Err(error.clone()));
        }
        remember(&mut state.pinged.waker, cx.waker());
        Poll::Pending
    }
}
