//! A connection's streams and windows, without its socket. Whoever holds a stream writes frames into the output at
//! once; the task of the connection is woken to send them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use hashbrown::HashMap;
use slab::Slab;

use crate::account::{MOST_ERRORS, MOST_RESETS, STREAM};
use crate::buffer::Shared;
use crate::error::{Error, Fault, Reason};
use crate::fields::RequestHead;
use crate::frame::{DEFAULT_FRAME, DEFAULT_WINDOW, LARGEST_ID, PREFACE, setting};
use crate::hpack::Encoder;
use crate::output::Output;
use crate::settings::Settings;
use crate::stream::{Holders, Life, Pieces, Receiving, Sending, Stream};
use crate::window::Window;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Server,
    Client,
}

/// How far a farewell has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    No,
    /// The other side was asked to open no more streams, and pinged: its answer tells that it has heard.
    Asked,
    /// Streams after the last one are not served any more.
    Final,
}

/// A ping that we sent.
#[derive(Default)]
pub(crate) struct Pinged {
    pub unanswered: bool,
    pub answered: bool,
    pub waker: Option<Waker>,
}

pub(crate) struct State {
    pub role: Role,
    pub settings: Settings,
    pub out: Output,
    pub encoder: Encoder,
    pub streams: Slab<Stream>,
    pub ids: HashMap<u32, usize>,
    /// Streams that are open, in one direction at least.
    pub active: usize,
    /// The highest id that the other side (of a client: that we) opened.
    pub last_id: u32,
    /// Why the connection ended, or takes no new streams.
    pub failure: Option<Error>,
    /// Of a connection that has ended: why, and the streams that do not know it yet.
    ending: Option<(Error, Vec<usize>)>,

    // of a client
    pub handles: usize,
    pub unopened: VecDeque<usize>,
    pub max_send_streams: usize,
    /// Resets that the other side may be sent now without taking us for an attacker.
    pub resets_left: usize,
    /// Streams without a handle that wait to be reset, and some that have ended meanwhile.
    pub lingering: VecDeque<(usize, u32)>,
    /// Frames of answers that have come.
    pub answered: u64,
    pub pinged: Pinged,

    // of a server
    pub accepted: VecDeque<(RequestHead, usize)>,
    pub unaccepted_resets: usize,
    pub leaving: Leaving,

    // windows: theirs, then ours
    pub send_window: Window,
    pub initial_send_window: u32,
    pub max_send_frame: usize,
    /// Of a header list, as RFC 9113, section 6.5.2, counts it.
    pub max_send_list: usize,
    /// Streams that wait for the connection, and some that have gone meanwhile.
    pub waiting: VecDeque<(usize, u32)>,
    pub receive_window: Window,
    pub unclaimed: u32,

    /// Answers to what the other side sent without need; none are given when it does not read them.
    pub replies: usize,
    pub errors: usize,
    /// Of these, since somebody last looked, those that no honest client makes.
    pub recent_errors: usize,
    /// How often the other side changed the windows of all streams.
    pub resized: usize,
    /// By the low bits of the id; empty before the first one.
    pub recent_resets: Vec<u32>,

    // what it holds, in bytes, and what it makes us do
    /// The read buffer, and header blocks whose end has not come.
    pub buffered: usize,
    /// Read buffers of which payloads are parts.
    pub shared_buffers: Arc<Shared>,
    /// Costs of all streams.
    pub costs: usize,
    /// What streams may not send yet.
    pub pending: usize,
    /// Bytes received so far.
    pub received: u64,
    pub looks: u64,
    pub noise: usize,
    pub waker: Option<Waker>,
    pub notified: bool,
}

impl State {
    pub fn new(role: Role, settings: Settings) -> Self {
        let mut state = Self {
            role,
            settings,
            out: Output::default(),
            encoder: Encoder::new(),
            streams: Slab::new(),
            ids: HashMap::new(),
            active: 0,
            last_id: 0,
            failure: None,
            ending: None,
            handles: 0,
            unopened: VecDeque::new(),
            max_send_streams: usize::MAX,
            resets_left: MOST_RESETS,
            lingering: VecDeque::new(),
            answered: 0,
            pinged: Pinged::default(),
            accepted: VecDeque::new(),
            unaccepted_resets: 0,
            leaving: Leaving::No,
            send_window: Window::of(DEFAULT_WINDOW),
            initial_send_window: DEFAULT_WINDOW,
            max_send_frame: DEFAULT_FRAME as usize,
            max_send_list: usize::MAX,
            waiting: VecDeque::new(),
            receive_window: Window::of(settings.connection_window.max(DEFAULT_WINDOW)),
            unclaimed: 0,
            replies: 0,
            errors: 0,
            recent_errors: 0,
            resized: 0,
            recent_resets: Vec::new(),
            buffered: 0,
            shared_buffers: Arc::default(),
            costs: 0,
            pending: 0,
            received: 0,
            looks: 0,
            noise: 0,
            waker: None,
            notified: false,
        };
        state.begin();
        state
    }

    /// What each side says first.
    fn begin(&mut self) {
        if self.role == Role::Client {
            self.out.preface(PREFACE);
        }
        let settings = &self.settings;
        let mut values = vec![
            (setting::INITIAL_WINDOW_SIZE, settings.stream_window),
            (setting::MAX_FRAME_SIZE, settings.max_frame),
            (setting::MAX_HEADER_LIST_SIZE, settings.max_header_list),
        ];
        match self.role {
            Role::Client => values.push((setting::ENABLE_PUSH, 0)),
            Role::Server => values.push((setting::MAX_CONCURRENT_STREAMS, settings.max_streams)),
        }
        self.out.settings(&values);
        let more = settings.connection_window.saturating_sub(DEFAULT_WINDOW);
        if more > 0 {
            self.out.window_update(0, more);
        }
    }

    /// Does something for whoever holds a stream or the connection, and has the connection's task send what that wrote.
    pub fn on_behalf<R>(&mut self, act: impl FnOnce(&mut Self) -> R) -> R {
        let before = self.out.len();
        let outcome = act(self);
        if self.out.len() > before || self.is_over() {
            self.notify();
        }
        outcome
    }

    fn notify(&mut self) {
        if !self.notified
            && let Some(waker) = &self.waker
        {
            self.notified = true;
            waker.wake_by_ref();
        }
    }

    /// A new stream, which counts as open.
    pub fn open(&mut self, id: u32, holders: Holders) -> usize {
        let stream = Stream {
            id,
            holders,
            receiving: if self.role == Role::Client { Receiving::Head } else { Receiving::Body },
            receive_window: Window::of(self.settings.stream_window),
            send_window: Window::of(self.initial_send_window),
            // Our own calls are paid for where they come from.
            cost: if self.role == Role::Server { STREAM } else { 0 },
            ..Stream::default()
        };
        self.costs += stream.cost;
        let key = self.streams.insert(stream);
        if id != 0 {
            self.ids.insert(id, key);
            self.active += 1;
        }
        key
    }

    /// Both halves may have ended now.
    pub fn settle(&mut self, key: usize) {
        let stream = &mut self.streams[key];
        if !matches!(stream.sending, Sending::Ended) || stream.is_over() {
            return;
        }
        if stream.receiving != Receiving::Ended {
            // A server that has answered and does not read the rest says so.
            if self.role == Role::Server && !stream.holders.is_held() {
                self.reset(key, Reason::NO_ERROR);
            }
            return;
        }
        self.close(key, Life::Closed);
    }

    fn close(&mut self, key: usize, life: Life) {
        let stream = &mut self.streams[key];
        let is_answered = matches!(life, Life::Closed);
        stream.life = life;
        if stream.id != 0 {
            self.ids.remove(&stream.id);
            self.active -= 1;
        }
        self.free(key);
        if is_answered {
            self.forgive(1);
        }
        self.open_waiting();
    }

    /// Forgets a stream that has ended and has no handle.
    fn free(&mut self, key: usize) {
        let stream = &self.streams[key];
        if stream.is_over() && !stream.holders.is_held() {
            let stream = self.streams.remove(key);
            self.costs -= stream.cost;
            self.give_back(stream.unreturned);
        }
    }

    /// Ends a stream from our side.
    pub fn reset(&mut self, key: usize, reason: Reason) {
        let stream = &self.streams[key];
        if stream.is_over() {
            return;
        }
        if stream.id != 0 {
            let id = stream.id;
            self.out.reset(id, reason);
            self.remember_reset(id);
        }
        self.ended(key, Error::Reset { reason, by_peer: false });
    }

    /// A stream has ended before its time.
    pub fn ended(&mut self, key: usize, error: Error) {
        let stream = &mut self.streams[key];
        if stream.is_over() {
            return;
        }
        stream.pending.clear();
        self.pending -= std::mem::take(&mut stream.pending_bytes);
        stream.sending = Sending::Ended;
        stream.wake_all();
        self.close(key, Life::Broken(error));
    }

    /// Resets a stream over an error of the other side.
    pub fn stream_error(&mut self, id: u32, reason: Reason) -> Result<(), Fault> {
        self.errors += 1;
        self.recent_errors += usize::from(reason != Reason::REFUSED_STREAM);
        let too_many = self.role == Role::Server && self.recent_errors > MOST_ERRORS;
        if too_many || self.settings.max_errors.is_some_and(|max| self.errors > max) {
            return Err(Fault::new(Reason::ENHANCE_YOUR_CALM, "too many streams had to be reset"));
        }
        match self.ids.get(&id) {
            Some(key) => self.reset(*key, reason),
            None => {
                self.out.reset(id, reason);
                self.remember_reset(id);
            }
        }
        self.replied()
    }

    /// Ends the connection: every stream learns why, each in its turn (`end_some`).
    pub fn fail(&mut self, error: &Error) {
        if self.failure.is_none() {
            self.failure = Some(error.clone());
        }
        self.accepted.clear();
        self.unopened.clear();
        self.lingering.clear();
        if self.ending.is_none() {
            self.ending = Some((error.clone(), self.streams.iter().map(|(key, _)| key).collect()));
        }
        if let Some(waker) = self.pinged.waker.take() {
            waker.wake();
        }
    }

    /// Ends so many streams of a connection that has ended; false if there are more. Whoever served them has work to do
    /// then, before which others should have theirs.
    pub fn end_some(&mut self, most: usize) -> bool {
        let Some((error, mut keys)) = self.ending.take() else { return true };
        let rest = keys.len().saturating_sub(most);
        for key in keys.drain(rest..).rev() {
            if let Some(stream) = self.streams.get_mut(key) {
                stream.holders.acceptor = false;
                self.ended(key, error.clone());
            }
        }
        self.ending = Some((error, keys));
        rest == 0
    }

    /// Releases one half of a stream, or both.
    pub fn let_go(&mut self, key: usize, which: impl FnOnce(&mut Holders)) {
        let stream = &mut self.streams[key];
        which(&mut stream.holders);
        if !stream.holders.receiver {
            // It will not be read: its bytes must hold up neither the connection nor the other side.
            stream.reading = None;
            stream.pieces = Pieces::default();
            let unreturned = stream.unreturned;
            self.give_back_on(key, unreturned);
        }
        let stream = &self.streams[key];
        if stream.holders.is_held() {
            return;
        }
        if stream.is_over() {
            return self.free(key);
        }
        let unread = stream.receiving != Receiving::Ended && self.role == Role::Client;
        if matches!(stream.sending, Sending::Open) || unread {
            self.cancel(key);
        } else {
            self.settle(key);
        }
    }

    /// Bytes that have been read, or never will be: the other side may send as many on the connection.
    pub fn give_back(&mut self, bytes: usize) {
        self.unclaimed += u32::try_from(bytes).unwrap_or(0);
        if self.unclaimed >= (self.settings.connection_window / 2).max(1) {
            self.out.window_update(0, self.unclaimed);
            give(&mut self.receive_window, self.unclaimed);
            self.unclaimed = 0;
        }
    }

    /// As `give_back`, and as many on the stream.
    pub fn give_back_on(&mut self, key: usize, bytes: usize) {
        let half = (self.settings.stream_window / 2).max(1);
        let stream = &mut self.streams[key];
        let bytes = bytes.min(stream.unreturned);
        stream.unreturned -= bytes;
        stream.unclaimed += u32::try_from(bytes).unwrap_or(0);
        if stream.unclaimed >= half && stream.receiving != Receiving::Ended && !stream.is_over() {
            let unclaimed = std::mem::take(&mut stream.unclaimed);
            give(&mut stream.receive_window, unclaimed);
            self.out.window_update(stream.id, unclaimed);
        }
        self.give_back(bytes);
    }

    /// The next stream to serve.
    pub fn next_accepted(&mut self) -> Option<(RequestHead, usize)> {
        loop {
            let (head, key) = self.accepted.pop_front()?;
            let holders = &mut self.streams[key].holders;
            holders.acceptor = false;
            if self.streams[key].is_over() {
                // Reset meanwhile.
                self.free(key);
                continue;
            }
            // Each that is meant makes up for one that was not.
            self.unaccepted_resets = self.unaccepted_resets.saturating_sub(1);
            self.streams[key].holders = Holders { receiver: true, sender: true, acceptor: false };
            return Some((head, key));
        }
    }

    /// Asks the other side to open no more streams.
    pub fn leave(&mut self) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Asked;
            self.out.go_away(LARGEST_ID, Reason::NO_ERROR, "");
            self.out.ping(FAREWELL, false);
        }
    }

    /// Whether nothing more can happen on the connection.
    pub fn is_over(&self) -> bool {
        match self.role {
            Role::Server => self.leaving == Leaving::Final && self.active == 0 && self.accepted.is_empty(),
            Role::Client => self.streams.is_empty() && (self.handles == 0 || self.failure.is_some()),
        }
    }

    /// Sends a ping; false if one is on its way.
    pub fn ping(&mut self) -> bool {
        if self.pinged.unanswered || self.failure.is_some() {
            return false;
        }
        self.pinged.unanswered = true;
        self.out.ping(ALIVE, false);
        true
    }
}

/// What was received and dealt with: no more than the window was at first.
fn give(window: &mut Window, bytes: u32) {
    let given = window.grow(bytes);
    debug_assert_eq!(given, Ok(()));
}

/// What our pings carry.
pub(crate) const FAREWELL: [u8; 8] = *b"farewell";
pub(crate) const ALIVE: [u8; 8] = *b"areyouup";
