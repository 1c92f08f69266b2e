//! Sending a body no faster than the other side takes it.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use modelmesh_http2::{Error, SendStream};

/// A first chunk up to this size is sent without asking for window first: most calls end with it, and
/// at most one such chunk a stream waits inside HTTP/2.
const WITHOUT_ASKING: usize = 16 << 10;

/// The stream has ended or its connection has died.
#[derive(Debug)]
pub struct Gone;

/// The sending half of a stream.
pub struct Outflow {
    stream: SendStream,
    first: bool,
}

impl Outflow {
    #[must_use]
    pub fn new(stream: SendStream) -> Self {
        Self { stream, first: true }
    }

    /// Whether a head has been sent.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.stream.has_begun()
    }

    /// Whether the other side takes so many headers.
    ///
    /// # Errors
    /// Why not.
    pub fn fits(&self, headers: &HeaderMap) -> Result<(), Error> {
        self.stream.fits(headers)
    }

    /// Sends the head of an answer.
    ///
    /// # Errors
    /// The client has gone.
    pub fn begin(&mut self, status: StatusCode, headers: &HeaderMap, last: bool) -> Result<(), Gone> {
        self.stream.send_head(status, headers, last).map_err(|_| Gone)
    }

    /// Sends what fits of `chunk` and leaves the rest in it; ready when all of it is sent.
    /// `sent` is told of each part, so that as much can be let in at the other end.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &mut Bytes,
        last: bool,
        mut sent: impl FnMut(usize),
    ) -> Poll<Result<(), Gone>> {
        if self.first && chunk.len() <= WITHOUT_ASKING {
            self.first = false;
            let length = chunk.len();
            self.stream.send_data(std::mem::take(chunk), last).map_err(|_| Gone)?;
            sent(length);
            return Poll::Ready(Ok(()));
        }
        self.first = false;
        while !chunk.is_empty() {
            let room = ready!(self.stream.poll_room(cx)).map_err(|_| Gone)?;
            let part = chunk.split_to(room.min(chunk.len()));
            let length = part.len();
            self.stream.send_data(part, last && chunk.is_empty()).map_err(|_| Gone)?;
            sent(length);
        }
        Poll::Ready(Ok(()))
    }

    /// Half-closes without data.
    pub fn close(&mut self) {
        // If that fails the stream is gone, and its receiving half says so.
        let _ = self.stream.send_data(Bytes::new(), true);
    }

    /// Throws away what waits inside HTTP/2 for the other side to read.
    pub fn discard_unsent(&mut self) {
        self.stream.discard_unsent();
    }

    pub fn end(&mut self, trailers: HeaderMap) -> Result<(), Gone> {
        self.stream.send_trailers(trailers).map_err(|_| Gone)
    }

    /// Ready once the other side has reset the stream or its connection has died.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(cx).map(|_| ())
    }
}
