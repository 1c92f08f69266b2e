//! Frames out of bytes: what was read is cut up and handed to the state.

use bytes::{Buf, Bytes};

use crate::buffer::ReadBuffer;
use crate::error::{Fault, Reason};
use crate::fields::Fields;
use crate::frame::{self, HEAD, Head, PREFACE, flag, kind};
use crate::hpack::Decoder;
use crate::state::{Role, State};

/// After so many header blocks others get their turn: those whose calls came first, above all. Without that all calls that
/// came together travel together, and each process waits while the next one has them.
const BLOCKS: usize = 32;
/// After so many frames likewise: small ones are work, and few bytes.
const FRAMES: usize = 1024;
/// Bytes of a header block, or of the list in it, that count as another one: a list of many small fields is work, and few
/// bytes.
const BLOCK: usize = 1024;
const LIST: usize = 1024;
/// Frames that one header block may come in.
const MOST_PARTS: usize = 64;
/// So many times the permitted size a header list is read to its end, and answered. After that it is no list.
const MOST_LISTS: usize = 4;

/// A header block whose end has not come yet.
struct Partial {
    stream: u32,
    last: bool,
    block: Vec<u8>,
    parts: usize,
}

/// Reads what the other side sends, frame by frame.
pub(crate) struct Reader {
    pub buffer: ReadBuffer,
    decoder: Decoder,
    partial: Option<Partial>,
    /// Of a server: the preface has come. Of either: the first frame was SETTINGS.
    pub has_preface: bool,
    pub has_settings: bool,
    max_frame: usize,
    max_header_list: usize,
    /// Frames that have come may be left for the next turn.
    pub is_behind: bool,
    /// Header blocks that have begun.
    blocks: u64,
    /// The largest payload of those that came last.
    pub largest: usize,
}

impl Reader {
    pub fn new(state: &State) -> Self {
        Self {
            buffer: ReadBuffer::new(&state.shared_buffers),
            decoder: Decoder::new(),
            partial: None,
            has_preface: state.role == Role::Client,
            has_settings: false,
            max_frame: state.settings.max_frame as usize,
            max_header_list: state.settings.max_header_list as usize,
            is_behind: false,
            blocks: 0,
            largest: 0,
        }
    }

    /// Sees to it that so many bytes can be read.
    pub fn make_room(&mut self, room: usize) {
        let (have, capacity) = (self.buffer.bytes.len(), self.buffer.bytes.capacity());
        // What was begun counts: buffers of a fixed size are shared by frames of which each is a good part.
        if capacity < room || capacity - have < room / 2 {
            self.buffer.reserve(room.saturating_sub(have).max(room / 2));
        }
    }

    /// The header block that has begun and not ended, by its number.
    pub fn open_block(&self) -> Option<u64> {
        self.partial.as_ref().map(|_| self.blocks)
    }

    /// Bytes that are held for what has not been dealt with.
    pub fn held(&self) -> usize {
        self.buffer.held() + self.partial.as_ref().map_or(0, |partial| partial.block.capacity())
    }

    /// All frames that are complete, or as many as make a turn.
    pub fn frames(&mut self, state: &mut State) -> Result<(), Fault> {
        let mut at = 0;
        if !self.has_preface {
            let known = PREFACE.len().min(self.buffer.bytes.len());
            if self.buffer.bytes[..known] != PREFACE[..known] {
                return Err(Fault::protocol("this is not HTTP/2"));
            }
            if known < PREFACE.len() {
                return Ok(());
            }
            self.has_preface = true;
            at = known;
        }
        self.is_behind = false;
        self.largest = 0;
        let (mut blocks, mut frames) = (0, 0);
        while let Some(bytes) = self.buffer.bytes[at..].first_chunk::<HEAD>() {
            if blocks >= BLOCKS || frames == FRAMES {
                self.is_behind = true;
                break;
            }
            frames += 1;
            let head = Head::read(bytes);
            if head.length > self.max_frame {
                return Err(Fault::new(Reason::FRAME_SIZE_ERROR, "a frame larger than we take"));
            }
            let end = at + HEAD + head.length;
            if head.kind == kind::DATA {
                self.largest = self.largest.max(head.length);
            }
            if self.buffer.bytes.len() < end {
                let missing = end - self.buffer.bytes.len();
                self.buffer.bytes.advance(at);
                if self.buffer.room() < missing {
                    self.buffer.reserve(missing);
                }
                return Ok(());
            }
            if !self.has_settings && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
                return Err(Fault::protocol("the first frame is not SETTINGS"));
            }
            self.has_settings = true;
            if head.kind == kind::DATA && self.partial.is_none() {
                let (from, to) = unpadded(head, &self.buffer.bytes[at + HEAD..end])?;
                if head.stream == 0 {
                    return Err(Fault::protocol("DATA on no stream"));
                }
                let payload = if self.buffer.copies(to - from) {
                    let payload = Bytes::copy_from_slice(&self.buffer.bytes[at + HEAD + from..at + HEAD + to]);
                    at = end;
                    payload
                } else {
                    self.buffer.bytes.advance(at);
                    at = 0;
                    self.buffer.share(HEAD + head.length, (HEAD + from, HEAD + to))
                };
                state.data(head.stream, payload, head.length, head.has(flag::END_STREAM))?;
                continue;
            }
            let payload = &self.buffer.bytes[at + HEAD..end];
            match head.kind {
                kind::HEADERS | kind::CONTINUATION => {
                    blocks += 1 + head.length / BLOCK;
                    self.blocks += u64::from(head.kind == kind::HEADERS);
                    blocks +=
                        block(&mut self.partial, &mut self.decoder, self.max_header_list, head, payload, state)? / LIST;
                }
                _ if self.partial.is_some() => return Err(Fault::protocol("a frame inside a header block")),
                _ => other(head, payload, state)?,
            }
            at = end;
        }
        if at == self.buffer.bytes.len() {
            self.buffer.bytes.clear();
        } else {
            self.buffer.bytes.advance(at);
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

/// HEADERS or CONTINUATION. Returns the size of the list, once it is whole.
fn block(
    partial: &mut Option<Partial>,
    decoder: &mut Decoder,
    max_list: usize,
    head: Head,
    payload: &[u8],
    state: &mut State,
) -> Result<usize, Fault> {
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
            return Ok(0);
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
    Ok(0)
}

fn decoded(
    decoder: &mut Decoder,
    max_list: usize,
    (stream, last): (u32, bool),
    block: &[u8],
    state: &mut State,
) -> Result<usize, Fault> {
    let mut fields = Fields::new(max_list, block.len());
    decoder.decode(block, max_list.saturating_mul(MOST_LISTS), |name, value, size| fields.take(name, value, size))?;
    let size = fields.size();
    state.headers(stream, fields, last)?;
    Ok(size)
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
        kind::PUSH_PROMISE => Err(Fault::protocol("pushes are not allowed")),
        // Priorities are advice, and kinds that we do not know are to be ignored.
        _ => state.noise(),
    }
}
