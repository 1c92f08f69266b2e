//! What the other side sends, frame by frame: RFC 9113, sections 5 and 6.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::error::{Error, Fault, Reason};
use crate::fields::{Fields, content_length};
use crate::frame::{self, LARGEST_FRAME, LARGEST_WINDOW, setting};
use crate::state::{ALIVE, FAREWELL, Leaving, Role, State};
use crate::stream::{Holders, Receiving};
use crate::window::Beyond;

/// Changes of the windows of all streams, in the life of a connection.
const MOST_RESIZED: usize = 1000;

fn too_large(_: Beyond) -> Fault {
    Fault::new(Reason::FLOW_CONTROL_ERROR, "a window that is too large")
}

impl State {
    /// Bytes of a stream. `length`: with padding, as windows count.
    pub fn data(&mut self, id: u32, payload: Bytes, length: usize, last: bool) -> Result<(), Fault> {
        if self.receive_window.receive(length) == Err(Beyond) {
            return Err(Fault::new(Reason::FLOW_CONTROL_ERROR, "more than the window of the connection"));
        }
        let Some(key) = self.ids.get(&id).copied() else {
            self.give_back(length);
            return self.late(id);
        };
        let stream = &mut self.streams[key];
        if stream.receiving == Receiving::Ended {
            self.give_back(length);
            return self.stream_error(id, Reason::STREAM_CLOSED);
        }
        if stream.receive_window.receive(length) == Err(Beyond) {
            self.give_back(length);
            return self.stream_error(id, Reason::FLOW_CONTROL_ERROR);
        }
        let in_order = self.role == Role::Server || stream.receiving != Receiving::Head;
        let fits = match &mut stream.announced {
            None => true,
            Some(left) => match left.checked_sub(payload.len() as u64) {
                Some(rest) => {
                    *left = rest;
                    !last || rest == 0
                }
                None => false,
            },
        };
        if !in_order || !fits {
            self.give_back(length);
            return self.stream_error(id, Reason::PROTOCOL_ERROR);
        }
        stream.unreturned += length;
        self.answered += 1;
        if length == 0 && !last {
            return self.noise();
        }
        if last {
            stream.receiving = Receiving::Ended;
        }
        if stream.holders.receiver || stream.holders.acceptor {
            let padding = length - payload.len();
            stream.pieces.push(payload);
            stream.wake_reader();
            if padding > 0 {
                self.give_back_on(key, padding);
            }
        } else {
            self.give_back_on(key, length);
        }
        if last {
            self.settle(key);
        }
        Ok(())
    }

    /// A frame for a stream that is not there.
    fn late(&mut self, id: u32) -> Result<(), Fault> {
        self.must_have_been_open(id)?;
        // What we reset may still send for a while; and a server's late answers are not worth a reset each.
        if self.role == Role::Client || self.was_reset(id) || self.leaving == Leaving::Final {
            return self.noise();
        }
        self.stream_error(id, Reason::STREAM_CLOSED)
    }

    fn must_have_been_open(&self, id: u32) -> Result<(), Fault> {
        if self.is_idle(id) { Err(Fault::protocol("a frame for a stream that was never opened")) } else { Ok(()) }
    }

    fn is_idle(&self, id: u32) -> bool {
        // Those of clients are odd; there are no pushes. What is not served any more was told of.
        id.is_multiple_of(2) || (id > self.last_id && self.leaving != Leaving::Final)
    }

    /// A complete header block.
    pub fn headers(&mut self, id: u32, fields: Fields, last: bool) -> Result<(), Fault> {
        if let Some(key) = self.ids.get(&id).copied() {
            let stream = &self.streams[key];
            if stream.receiving == Receiving::Ended {
                return self.stream_error(id, Reason::STREAM_CLOSED);
            }
            self.answered += 1;
            if self.role == Role::Client && stream.receiving == Receiving::Head {
                return self.answer(id, key, fields, last);
            }
            return self.trailers(id, key, fields, last);
        }
        if self.role == Role::Server && !id.is_multiple_of(2) && id > self.last_id {
            return self.request(id, fields, last);
        }
        if self.role == Role::Server && !self.is_idle(id) && !self.was_reset(id) {
            return Err(Fault::new(Reason::STREAM_CLOSED, "headers of a stream that has ended"));
        }
        self.late(id)
    }

    fn request(&mut self, id: u32, fields: Fields, last: bool) -> Result<(), Fault> {
        if self.leaving == Leaving::Final {
            // It was told that this one is not served.
            return Ok(());
        }
        self.last_id = id;
        if self.active >= self.settings.max_streams as usize {
            return self.stream_error(id, Reason::REFUSED_STREAM);
        }
        if fields.is_too_large() {
            let key = self.open(id, Holders::default());
            if last {
                self.streams[key].receiving = Receiving::Ended;
            }
            self.send_head(key, Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE), &HeaderMap::new(), true);
            return Ok(());
        }
        let size = fields.size();
        let Ok(head) = fields.into_request() else { return self.stream_error(id, Reason::PROTOCOL_ERROR) };
        let Ok(announced) = content_length(&head.headers, last) else {
            return self.stream_error(id, Reason::PROTOCOL_ERROR);
        };
        let key = self.open(id, Holders { acceptor: true, ..Holders::default() });
        let stream = &mut self.streams[key];
        stream.announced = announced;
        if last {
            stream.receiving = Receiving::Ended;
        }
        self.charge_headers(key, size, head.headers.len());
        self.accepted.push_back((head, key));
        Ok(())
    }

    fn answer(&mut self, id: u32, key: usize, fields: Fields, last: bool) -> Result<(), Fault> {
        if fields.is_too_large() {
            return self.stream_error(id, Reason::PROTOCOL_ERROR);
        }
        let size = fields.size();
        let Ok(head) = fields.into_response() else { return self.stream_error(id, Reason::PROTOCOL_ERROR) };
        if head.status.is_informational() {
            // The answer itself follows.
            return if last { self.stream_error(id, Reason::PROTOCOL_ERROR) } else { Ok(()) };
        }
        let Ok(announced) = content_length(&head.headers, last) else {
            return self.stream_error(id, Reason::PROTOCOL_ERROR);
        };
        let stream = &mut self.streams[key];
        stream.announced = announced;
        stream.receiving = Receiving::Body;
        if stream.holders.receiver {
            self.charge_headers(key, size, head.headers.len());
            self.streams[key].head = Some(head);
        }
        self.received(key, last);
        Ok(())
    }

    fn trailers(&mut self, id: u32, key: usize, fields: Fields, last: bool) -> Result<(), Fault> {
        let complete = self.streams[key].announced.is_none_or(|left| left == 0);
        if !last || !complete || fields.is_too_large() {
            return self.stream_error(id, Reason::PROTOCOL_ERROR);
        }
        let size = fields.size();
        let Ok(trailers) = fields.into_trailers() else { return self.stream_error(id, Reason::PROTOCOL_ERROR) };
        self.charge_headers(key, size, trailers.len());
        self.streams[key].trailers = Some(trailers);
        self.received(key, true);
        Ok(())
    }

    fn received(&mut self, key: usize, last: bool) {
        let stream = &mut self.streams[key];
        if last {
            stream.receiving = Receiving::Ended;
        }
        stream.wake_reader();
        if last {
            self.settle(key);
        }
    }

    pub fn reset_received(&mut self, id: u32, reason: Reason) -> Result<(), Fault> {
        let Some(key) = self.ids.get(&id).copied() else {
            self.must_have_been_open(id)?;
            return self.noise();
        };
        if self.streams[key].holders.acceptor {
            self.unaccepted_resets += 1;
            if self.unaccepted_resets > self.settings.max_unseen_resets {
                return Err(Fault::new(Reason::ENHANCE_YOUR_CALM, "streams are reset as soon as they are opened"));
            }
        }
        self.ended(key, Error::Reset { reason, by_peer: true });
        Ok(())
    }

    pub fn window_update(&mut self, id: u32, payload: &[u8]) -> Result<(), Fault> {
        let bytes = match frame::number(payload) {
            Some(bytes) if payload.len() == 4 => bytes,
            _ => return Err(Fault::new(Reason::FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong length")),
        };
        if id == 0 {
            if bytes == 0 {
                return Err(Fault::protocol("a window that grows by nothing"));
            }
            self.send_window.grow(bytes).map_err(too_large)?;
            self.serve_waiting();
            return Ok(());
        }
        let Some(key) = self.ids.get(&id).copied() else {
            self.must_have_been_open(id)?;
            return self.noise();
        };
        if bytes == 0 {
            return self.stream_error(id, Reason::PROTOCOL_ERROR);
        }
        let stream = &mut self.streams[key];
        if stream.send_window.grow(bytes) == Err(Beyond) {
            return self.stream_error(id, Reason::FLOW_CONTROL_ERROR);
        }
        stream.wake_writer();
        self.advance(key);
        Ok(())
    }

    pub fn settings(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let (values, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Fault::new(Reason::FRAME_SIZE_ERROR, "SETTINGS of a wrong length"));
        }
        // What the new windows let out comes after it.
        self.out.settings_ack();
        self.replied()?;
        self.noise()?;
        for [a, b, value @ ..] in values {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*a, *b]) {
                setting::HEADER_TABLE_SIZE => self.encoder.set_max(value as usize),
                setting::ENABLE_PUSH if value > 1 => return Err(Fault::protocol("ENABLE_PUSH is 0 or 1")),
                setting::MAX_CONCURRENT_STREAMS => {
                    self.max_send_streams = value as usize;
                    self.open_waiting();
                }
                setting::INITIAL_WINDOW_SIZE => self.resize_windows(value)?,
                setting::MAX_FRAME_SIZE if !(frame::DEFAULT_FRAME..=LARGEST_FRAME).contains(&value) => {
                    return Err(Fault::protocol("a frame size that is not permitted"));
                }
                setting::MAX_FRAME_SIZE => self.max_send_frame = value as usize,
                setting::MAX_HEADER_LIST_SIZE => self.max_send_list = value as usize,
                _ => {}
            }
        }
        Ok(())
    }

    fn resize_windows(&mut self, value: u32) -> Result<(), Fault> {
        if value > LARGEST_WINDOW {
            return Err(too_large(Beyond));
        }
        let before = std::mem::replace(&mut self.initial_send_window, value);
        if value == before {
            return Ok(());
        }
        // Each costs a look at every stream. Who adapts its windows to the line does so a dozen times.
        self.resized += 1;
        if self.resized > MOST_RESIZED {
            return Err(Fault::new(Reason::ENHANCE_YOUR_CALM, "the windows of all streams are changed over and over"));
        }
        self.looked_at(self.streams.len())?;
        let keys: Vec<usize> = self.streams.iter().map(|(key, _)| key).collect();
        for key in keys {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            let was_shut = !stream.send_window.is_open();
            stream.send_window.resize(before, value).map_err(too_large)?;
            if was_shut && stream.send_window.is_open() {
                stream.wake_writer();
                self.advance(key);
            }
        }
        Ok(())
    }

    pub fn ping_received(&mut self, payload: &[u8], is_answer: bool) -> Result<(), Fault> {
        let Ok(payload) = <[u8; 8]>::try_from(payload) else {
            return Err(Fault::new(Reason::FRAME_SIZE_ERROR, "PING of a wrong length"));
        };
        if !is_answer {
            self.out.ping(payload, true);
            self.replied()?;
            self.noise()?;
        } else if payload == FAREWELL && self.leaving == Leaving::Asked {
            // It has heard that we go: what it opened before is here.
            self.leaving = Leaving::Final;
            self.out.go_away(self.last_id, Reason::NO_ERROR, "");
        } else if payload == ALIVE && self.pinged.unanswered {
            self.pinged.unanswered = false;
            self.pinged.answered = true;
            if let Some(waker) = self.pinged.waker.take() {
                waker.wake();
            }
        }
        Ok(())
    }

    /// The other side goes away.
    pub fn go_away_received(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let (Some(last), Some(reason)) = (frame::number(payload), payload.get(4..).and_then(frame::number)) else {
            return Err(Fault::new(Reason::FRAME_SIZE_ERROR, "GOAWAY of a wrong length"));
        };
        if self.role == Role::Server {
            // It opens no more streams; it is its own affair to close.
            return Ok(());
        }
        let error = Error::Refused { reason: Reason(reason) };
        self.failure.get_or_insert_with(|| error.clone());
        self.looked_at(self.ids.len())?;
        let unopened = std::mem::take(&mut self.unopened);
        let late: Vec<usize> = self.ids.iter().filter(|(id, _)| **id > last).map(|(_, key)| *key).collect();
        for key in unopened.into_iter().chain(late) {
            if self.streams.contains(key) {
                self.ended(key, error.clone());
            }
        }
        Ok(())
    }
}
