//! What those who hold streams send.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::error::{Error, Reason};
use crate::frame::LARGEST_ID;
use crate::head::{Headers, Kept};
use crate::hpack::ENTRY;
use crate::state::State;
use crate::stream::{Holders, Life, SendEnd, Sending, Stream, Unopened, remember};
use crate::window::Window;

/// From so many unsent bytes on no sender is woken because there is room.
const FULL: usize = 512 << 10;
/// What one stream may take of the room at a time.
const TURN: usize = 64 << 10;
/// Entries of the queue of those that wait that may be of streams that have gone.
const SPARE: usize = 64;
/// `:status` and its value.
const STATUS: usize = 10 + ENTRY;
/// `:method POST`, `:scheme http`, and what `:path` and `:authority` count without their values.
const REQUEST: usize = 11 + 11 + 5 + 10 + 4 * ENTRY;

impl State {
    /// A new request. It waits if the other side permits no more streams now.
    pub fn send_request(
        &mut self,
        authority: &str,
        path: &str,
        headers: &impl Headers,
        last: bool,
    ) -> Result<usize, Error> {
        self.check()?;
        self.fits(REQUEST + path.len() + authority.len(), headers)?;
        let holders = Holders { receiver: true, sender: true, acceptor: false };
        if self.active >= self.max_send_streams {
            let key = self.open(0, holders);
            let stream = &mut self.streams[key];
            let (authority, path) = (authority.to_owned(), path.to_owned());
            stream.life = Life::Waiting(Box::new(Unopened { authority, path, headers: Kept::of(headers) }));
            if last {
                stream.sending = Sending::Ending(SendEnd::Data);
            }
            self.unopened.push_back(key);
            return Ok(key);
        }
        let id = self.next_id()?;
        let key = self.open(id, holders);
        if last {
            self.streams[key].sending = Sending::Ended;
        }
        self.write_request(id, authority, path, headers, last);
        Ok(key)
    }

    /// Whether the other side takes an answer's head, or trailers, with these headers.
    pub fn answer_fits(&self, headers: &HeaderMap) -> Result<(), Error> {
        self.fits(STATUS, headers)
    }

    fn fits(&self, others: usize, headers: &impl Headers) -> Result<(), Error> {
        let most = self.max_send_list;
        if most == usize::MAX {
            return Ok(());
        }
        if others + headers.list_size_bound() <= most {
            return Ok(());
        }
        let bytes = others + headers.list_size();
        if bytes > most { Err(Error::TooLarge { bytes, most }) } else { Ok(()) }
    }

    fn next_id(&mut self) -> Result<u32, Error> {
        let id = if self.last_id == 0 { 1 } else { self.last_id + 2 };
        if id > LARGEST_ID {
            self.failure.get_or_insert(Error::UsedUp);
            return Err(Error::UsedUp);
        }
        self.last_id = id;
        Ok(id)
    }

    fn write_request(&mut self, id: u32, authority: &str, path: &str, headers: &impl Headers, last: bool) {
        let encoder = &mut self.encoder;
        self.out.headers(id, last, self.max_send_frame, |out| {
            encoder.begin(out);
            encoder.field(out, b":method", b"POST", false);
            encoder.field(out, b":scheme", b"http", false);
            encoder.field(out, b":path", path.as_bytes(), false);
            encoder.field(out, b":authority", authority.as_bytes(), false);
            headers.each(|name, value, sensitive| encoder.field(out, name, value, sensitive));
        });
    }

    /// Opens streams that waited, as far as the other side permits now.
    pub fn open_waiting(&mut self) {
        while self.active < self.max_send_streams
            && let Some(key) = self.unopened.pop_front()
        {
            let Some(request) = self.streams.get_mut(key).and_then(Stream::take_request) else { continue };
            let id = match self.next_id() {
                Ok(id) => id,
                Err(error) => {
                    self.ended(key, error);
                    continue;
                }
            };
            let stream = &mut self.streams[key];
            stream.id = id;
            stream.send_window = Window::of(self.initial_send_window);
            stream.wake_writer();
            self.ids.insert(id, key);
            self.active += 1;
            let last = stream.pending.is_empty() && matches!(stream.sending, Sending::Ending(SendEnd::Data));
            if last {
                stream.sending = Sending::Ended;
            }
            let Unopened { authority, path, headers } = *request;
            self.write_request(id, &authority, &path, &headers, last);
            self.advance(key);
        }
    }

    /// A head (with a status, if it is an answer's) or trailers.
    pub fn send_head(&mut self, key: usize, status: Option<StatusCode>, headers: &HeaderMap, last: bool) {
        let stream = &mut self.streams[key];
        if last {
            stream.sending = Sending::Ended;
        }
        let (id, encoder) = (stream.id, &mut self.encoder);
        self.out.headers(id, last, self.max_send_frame, |out| {
            encoder.begin(out);
            if let Some(status) = status {
                encoder.field(out, b":status", status.as_str().as_bytes(), false);
            }
            headers.each(|name, value, sensitive| encoder.field(out, name, value, sensitive));
        });
        if last {
            self.settle(key);
        }
    }

    pub fn send_data(&mut self, key: usize, payload: Bytes, last: bool) -> Result<(), Error> {
        let room = self.send_window.room().min(self.max_send_frame);
        let stream = self.sendable(key)?;
        let length = payload.len();
        if stream.pending.is_empty() && stream.id != 0 && length <= stream.send_window.room().min(room) {
            // Most payloads: nothing is kept.
            if length > 0 || last {
                self.send_frame(key, payload, last);
            }
            if last {
                self.settle(key);
            }
            return Ok(());
        }
        if !payload.is_empty() {
            stream.pending_bytes += payload.len();
            self.pending += payload.len();
            let stream = &mut self.streams[key];
            stream.pending.push_back(payload);
        }
        let stream = &mut self.streams[key];
        if last {
            stream.sending = Sending::Ending(SendEnd::Data);
        }
        self.advance(key);
        Ok(())
    }

    pub fn send_trailers(&mut self, key: usize, trailers: HeaderMap) -> Result<(), Error> {
        let stream = self.sendable(key)?;
        if stream.pending.is_empty() && stream.id != 0 {
            self.send_head(key, None, &trailers, true);
        } else {
            let bytes = trailers.list_size();
            stream.pending_bytes += bytes;
            stream.sending = Sending::Ending(SendEnd::Trailers(Box::new(trailers)));
            self.pending += bytes;
        }
        Ok(())
    }

    /// Throws away what a stream may not send yet, and has not been told to end with.
    pub fn discard_unsent(&mut self, key: usize) {
        let stream = &mut self.streams[key];
        if matches!(stream.sending, Sending::Open) {
            stream.pending.clear();
            self.pending -= std::mem::take(&mut stream.pending_bytes);
        }
    }

    fn sendable(&mut self, key: usize) -> Result<&mut Stream, Error> {
        let stream = &mut self.streams[key];
        if let Life::Broken(error) = &stream.life {
            return Err(error.clone());
        }
        if !matches!(stream.sending, Sending::Open) {
            return Err(Error::Reset { reason: Reason::STREAM_CLOSED, by_peer: false });
        }
        Ok(stream)
    }

    /// Writes bytes that the windows permit.
    fn send_frame(&mut self, key: usize, payload: Bytes, last: bool) {
        let stream = &mut self.streams[key];
        stream.send_window.send(payload.len());
        self.send_window.send(payload.len());
        if last {
            stream.sending = Sending::Ended;
        }
        self.out.data(stream.id, payload, last);
    }

    /// Writes what a stream has kept, as far as windows permit.
    pub fn advance(&mut self, key: usize) {
        loop {
            let stream = &mut self.streams[key];
            if stream.id == 0 || stream.is_over() {
                return;
            }
            let Some(chunk) = stream.pending.front_mut() else { break };
            let room = stream.send_window.room().min(self.send_window.room());
            if room == 0 {
                return self.wait(key);
            }
            let part = chunk.split_to(room.min(self.max_send_frame).min(chunk.len()));
            if chunk.is_empty() {
                stream.pending.pop_front();
            }
            stream.pending_bytes -= part.len();
            self.pending -= part.len();
            let last = stream.pending.is_empty() && matches!(stream.sending, Sending::Ending(SendEnd::Data));
            self.send_frame(key, part, last);
        }
        let stream = &mut self.streams[key];
        match std::mem::take(&mut stream.sending) {
            Sending::Ending(SendEnd::Trailers(trailers)) => {
                self.pending -= std::mem::take(&mut stream.pending_bytes);
                return self.send_head(key, None, &trailers, true);
            }
            Sending::Ending(SendEnd::Data) => self.send_frame(key, Bytes::new(), true),
            as_before => stream.sending = as_before,
        }
        if matches!(self.streams[key].sending, Sending::Ended) {
            self.settle(key);
        }
    }

    /// Queues a stream that waits for the connection. One that waits for its own window, or to be opened, is told then.
    fn wait(&mut self, key: usize) {
        let stream = &mut self.streams[key];
        if stream.id != 0 && stream.send_window.is_open() && !stream.waits {
            stream.waits = true;
            self.waiting.push_back((key, stream.id));
            if self.waiting.len() > 2 * self.streams.len() + SPARE {
                // Streams that ended while they waited.
                let streams = &self.streams;
                self.waiting.retain(|(key, id)| streams.get(*key).is_some_and(|stream| stream.id == *id));
            }
        }
    }

    /// The connection has room again: as many go on as the room is for, in the order in which they came.
    pub fn serve_waiting(&mut self) {
        // What those may take who are told now, and take it when it is their turn.
        let mut promised = 0;
        while self.room() > promised
            && let Some((key, id)) = self.waiting.pop_front()
        {
            let Some(stream) = self.streams.get_mut(key).filter(|stream| stream.id == id) else { continue };
            stream.waits = false;
            if stream.pending.is_empty() && stream.writing.is_some() {
                promised += stream.send_window.room().clamp(1, TURN);
            }
            stream.wake_writer();
            self.advance(key);
        }
    }

    /// What may be sent now on all streams together.
    fn room(&self) -> usize {
        self.send_window.room().min(FULL.saturating_sub(self.out.len()))
    }

    /// Whether streams wait that could go on.
    pub fn has_room_for_waiting(&self) -> bool {
        !self.waiting.is_empty() && self.room() > 0
    }

    /// How much may be sent on a stream now; ready when that is not nothing.
    pub fn poll_room(&mut self, key: usize, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        let stream = &mut self.streams[key];
        if let Some(error) = stream.error() {
            return Poll::Ready(Err(error.clone()));
        }
        let windows = stream.send_window.room().min(self.send_window.room());
        let room = windows.min(FULL.saturating_sub(self.out.len())).min(TURN);
        if room > 0 && stream.pending.is_empty() && stream.id != 0 {
            return Poll::Ready(Ok(room));
        }
        remember(&mut stream.writing, cx.waker());
        self.wait(key);
        Poll::Pending
    }

    /// Ready when the stream has been reset, or its connection has ended.
    pub fn poll_reset(&mut self, key: usize, cx: &mut Context<'_>) -> Poll<Error> {
        let stream = &mut self.streams[key];
        if let Some(error) = stream.error() {
            return Poll::Ready(error.clone());
        }
        remember(&mut stream.writing, cx.waker());
        Poll::Pending
    }

    /// Whether another request could be sent, at once or in its turn.
    pub fn check(&self) -> Result<(), Error> {
        match &self.failure {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use crate::state::Role;

    #[test]
    fn a_connection_whose_ids_are_used_up_says_so_and_finishes_what_is_open() {
        let mut state = State::new(Role::Client, Settings::default());
        state.last_id = LARGEST_ID - 2;
        let mut send = || state.send_request("x", "/p.S/M", &HeaderMap::new(), false);
        let last = send().unwrap();
        let refused = send().unwrap_err();
        assert_eq!(refused, Error::UsedUp);
        assert!(refused.is_unprocessed(), "it may be sent on another connection");
        assert_eq!(state.check(), Err(Error::UsedUp));
        assert_eq!(state.streams[last].error(), None);
        state.send_data(last, Bytes::from_static(b"still"), true).unwrap();
    }
}
