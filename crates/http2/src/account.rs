//! What a connection holds, and what its other side makes us do: counted, and bounded.

use crate::error::{Fault, Reason};
use crate::frame::DEFAULT_WINDOW;
use crate::state::{Role, State};

/// Streams that we reset and whose late frames are no error: the last one of each place.
const REMEMBERED_RESETS: usize = 1024;
/// What a stream costs beside its headers and bytes: its own state, and the call's of whoever holds it.
pub(crate) const STREAM: usize = 4096;
/// What a header costs beside its text.
const HEADER: usize = 224;
/// Looks at streams that frames may cause for nothing; each byte that was received is good for one more. Who adapts its
/// windows a dozen times while thousands of streams are open needs fewer.
const FREE_LOOKS: u64 = 65_536;
/// Answers to pings, settings and errors that may wait until the other side reads them.
pub(crate) const MOST_REPLIES: usize = 10_000;
/// Bytes of the largest of them, a ping.
const LARGEST_REPLY: u64 = 17;
/// Streams that had to be reset over errors of a client, between two looks of whoever serves the connection.
pub(crate) const MOST_ERRORS: usize = 1000;
/// Resets that a server may be sent in a burst; each call that it has answered is good for one more. Servers end
/// connections over a few hundred, and with them the calls of everybody.
pub(crate) const MOST_RESETS: usize = 64;
/// Streams that wait to be reset. More are not worth the burst that they would be saved from.
const MOST_LINGERING: usize = 4096;
/// Frames that say nothing, between two looks of whoever serves the connection.
const MOST_NOISE: usize = 20_000;

impl State {
    pub fn remember_reset(&mut self, id: u32) {
        self.recent_resets.resize(REMEMBERED_RESETS, 0);
        self.recent_resets[place_of(id)] = id;
    }

    pub fn was_reset(&self, id: u32) -> bool {
        self.recent_resets.get(place_of(id)) == Some(&id)
    }

    /// The stream has so many headers of such a list size, for as long as it is there.
    pub fn charge_headers(&mut self, key: usize, size: usize, count: usize) {
        let cost = size + count * HEADER;
        self.streams[key].cost += cost;
        self.costs += cost;
    }

    /// What the connection holds, in bytes: read buffers and what payloads keep of them,
    /// streams with their headers, bytes received that were not
    /// dealt with, bytes that wait for the other side.
    pub fn held(&self) -> usize {
        let window = self.settings.connection_window.max(DEFAULT_WINDOW);
        let unreturned = self.receive_window.used_of(window).saturating_sub(self.unclaimed as usize);
        self.buffered + self.shared_buffers.beside() + self.costs + unreturned + self.pending + self.out.len()
    }

    /// A stream is not wanted any more: the other side gets a reset, now or when that is no burst.
    pub fn cancel(&mut self, key: usize) {
        let id = self.streams[key].id;
        if self.role == Role::Server || id == 0 || self.lingering.len() >= MOST_LINGERING {
            return self.reset(key, Reason::CANCEL);
        }
        if self.resets_left == 0 {
            return self.lingering.push_back((key, id));
        }
        self.resets_left -= 1;
        self.reset(key, Reason::CANCEL);
    }

    /// Some time has gone by: more resets may be sent.
    pub fn forgive(&mut self, resets: usize) {
        self.resets_left = (self.resets_left + resets).min(MOST_RESETS);
        while self.resets_left > 0
            && let Some((key, id)) = self.lingering.pop_front()
        {
            if self.streams.get(key).is_some_and(|stream| stream.id == id && !stream.is_over()) {
                self.resets_left -= 1;
                self.reset(key, Reason::CANCEL);
            }
        }
    }

    /// Whether something waits for the other side that is not wanted here any more.
    pub fn has_forsaken(&self) -> bool {
        self.pending > 0 && self.streams.iter().any(|(_, stream)| stream.pending_bytes > 0 && !stream.holders.is_held())
    }

    /// So many streams were looked at because of one frame.
    pub fn looked_at(&mut self, streams: usize) -> Result<(), Fault> {
        self.looks += streams as u64;
        if self.looks > FREE_LOOKS + self.received {
            return Err(Fault::new(Reason::ENHANCE_YOUR_CALM, "much work for few bytes"));
        }
        Ok(())
    }

    /// A frame that changes nothing.
    pub fn noise(&mut self) -> Result<(), Fault> {
        self.noise += 1;
        if self.role == Role::Server && self.noise > MOST_NOISE {
            return Err(Fault::new(Reason::ENHANCE_YOUR_CALM, "frames that say nothing, over and over"));
        }
        Ok(())
    }

    /// Something was said to the other side that it caused and that is no answer to a call.
    pub fn replied(&mut self) -> Result<(), Fault> {
        self.replies += 1;
        // A client that does not read is not read either. A server must be read, for its answers.
        if self.role == Role::Client && self.replies > MOST_REPLIES {
            return Err(Fault::new(Reason::ENHANCE_YOUR_CALM, "what is said to it is not read"));
        }
        Ok(())
    }

    /// The socket has taken so many bytes more.
    pub fn was_read(&mut self, bytes: u64) {
        let replies = usize::try_from(bytes / LARGEST_REPLY).unwrap_or(usize::MAX);
        self.replies = if self.out.is_empty() { 0 } else { self.replies.saturating_sub(replies) };
    }
}

fn place_of(id: u32) -> usize {
    // Clients' ids are odd.
    id as usize / 2 % REMEMBERED_RESETS
}
