//! What goes up to the control plane: a bounded queue and one descriptor that says "look".

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;

use crate::access::{Asked, Identity, Listener};
use crate::call::outcome::Outcome;
use crate::call::priority::Priority;
use crate::call::subject::{Hop, Subject};
use crate::observe::told::{Logged, Tapped};
use crate::observe::trace::Span;
use crate::services::mailbox::Receipt;
use crate::transport::port::Port;
use crate::wire::status::Code;

/// Past tense: what has happened. The native stub documents each field.
#[derive(Debug)]
pub enum Event {
    Missed {
        token: u64,
        subject: Subject,
        method: String,
        timeout_ms: Option<u64>,
        hop: Option<Hop>,
        tried: Vec<String>,
        view: Option<u64>,
        balanced: bool,
        priority: Priority,
    },
    /// The client of a call waits no longer for its load, because it said so or (`until_deadline`) its deadline is near. It is held
    /// until resolved.
    Overdue {
        token: u64,
        subject: Subject,
        until_deadline: bool,
    },
    /// No copy of a model is ready, or it failed (`failure`: the code and the message), and the fallback of a vmodel answers its
    /// calls meanwhile. Without a fallback: the model is the shadow of the vmodel, and copies of calls are dropped.
    Wanted {
        subject: Subject,
        fallback: Option<String>,
        failure: Option<String>,
    },
    AttemptFailed {
        token: u64,
        subject: Subject,
        instance: String,
        load_id: u64,
        outcome: Outcome,
        replayable: bool,
        begun: bool,
        code: Code,
        message: String,
        view: Option<u64>,
        priority: Priority,
    },
    Called {
        token: u64,
        port: Port,
        listener: Listener,
        /// Who calls; None: there are no access rules.
        identity: Option<Identity>,
        peer_address: String,
        method: String,
        metadata: Vec<(String, Vec<u8>)>,
        timeout_ms: Option<u64>,
    },
    /// Somebody shows a credential that nothing is known of.
    Asked(Asked),
    CallMessage {
        token: u64,
        /// None: the caller half-closed.
        message: Option<Bytes>,
        /// Lets the next message be read once this one has been taken.
        receipt: Receipt,
    },
    Cancelled {
        token: u64,
    },
    CopyIdle {
        model: String,
        load_id: u64,
    },
    LinkLost {
        instance: String,
    },
    LinkBack {
        instance: String,
    },
    Tapped(Box<Tapped>),
    Logged(Box<Logged>),
    Traced {
        trace: u128,
        subject: Subject,
        method: String,
        spans: Vec<Span>,
    },
}

/// Events that only tell find room in one part of so many: 1024 of them with the usual bound.
const TELLING_SHARE: usize = 64;

/// The queue. Only events that a client can cause at will are bounded by `max`; the others are bounded
/// by what they are about (held requests, copies, links) and must not be lost.
pub struct Events {
    queue: Mutex<Queue>,
    wake: EventFd,
    max: usize,
    refused: AtomicU64,
    dropped: AtomicU64,
}

struct Queue {
    events: VecDeque<Event>,
    signalled: bool,
}

/// The queue is full.
#[derive(Debug)]
pub struct Full;

impl Events {
    /// # Errors
    /// No descriptor is left for the eventfd.
    pub fn new(max: usize) -> io::Result<Self> {
        Ok(Self {
            queue: Mutex::new(Queue { events: VecDeque::new(), signalled: false }),
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            max,
            refused: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        })
    }

    /// The descriptor that is readable while events wait.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// Events refused because the queue was full.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Events that only tell, and were dropped because the queue was not nearly empty.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Events that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.lock().events.len()
    }

    /// Adds an event that only tells. Few of them may wait, so that those that somebody waits for come soon;
    /// and Python is not woken for each: many share one `flush`, at the next heartbeat.
    ///
    /// False: dropped, and counted.
    pub fn spare(&self, event: Event) -> bool {
        let most = self.max.div_ceil(TELLING_SHARE).max(2);
        let waiting = self.waiting();
        if waiting >= most {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        self.add_to_queue(event, true, waiting >= most / 2).is_ok()
    }

    /// Wakes Python if anything waits.
    pub fn flush(&self) {
        let mut queue = self.queue.lock();
        if !queue.events.is_empty() && !queue.signalled {
            queue.signalled = true;
            let _ = self.wake.write(1);
        }
    }

    /// Adds an event that must not be lost.
    pub fn push(&self, event: Event) {
        self.add(event, false).ok();
    }

    /// Adds an event a client caused.
    ///
    /// # Errors
    /// The queue is full; the event is counted and dropped.
    pub fn offer(&self, event: Event) -> Result<(), Full> {
        self.add(event, true)
    }

    fn add(&self, event: Event, bounded: bool) -> Result<(), Full> {
        self.add_to_queue(event, bounded, true)
    }

    fn add_to_queue(&self, event: Event, bounded: bool, wakes: bool) -> Result<(), Full> {
        let mut queue = self.queue.lock();
        if bounded && queue.events.len() >= self.max {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Full);
        }
        queue.events.push_back(event);
        if wakes && !queue.signalled {
            queue.signalled = true;
            // Cannot block: the counter is 0 here, and a full counter would be readable anyway.
            let _ = self.wake.write(1);
        }
        Ok(())
    }

    /// Takes up to `most` events; the descriptor stays readable if more are waiting.
    #[must_use]
    pub fn take(&self, most: usize) -> Vec<Event> {
        let mut queue = self.queue.lock();
        let count = most.min(queue.events.len());
        let taken = queue.events.drain(..count).collect();
        if queue.events.is_empty() && queue.signalled {
            queue.signalled = false;
            let _ = self.wake.read();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;

    use super::*;

    fn readable(events: &Events) -> bool {
        let mut set = [PollFd::new(events.wake.as_fd(), PollFlags::POLLIN)];
        poll(&mut set, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn the_descriptor_is_readable_exactly_while_events_wait() {
        let events = Events::new(8).unwrap();
        assert!(!readable(&events));
        for token in 0..3 {
            events.push(Event::Cancelled { token });
        }
        assert!(readable(&events));
        assert_eq!(events.take(2).len(), 2);
        assert!(readable(&events));
        assert_eq!(events.take(2).len(), 1);
        assert!(!readable(&events));
        assert!(events.take(2).is_empty());
    }

    #[test]
    fn what_only_tells_leaves_room_for_the_rest() {
        let events = Events::new(8).unwrap();
        assert!(events.spare(Event::Cancelled { token: 0 }));
        assert!(!readable(&events), "no call waits for it");
        let told = (1..5).filter(|token| events.spare(Event::Cancelled { token: *token })).count();
        assert_eq!((told, events.dropped(), events.refused()), (1, 3, 0));
        events.flush();
        assert!(readable(&events));
        for token in 0..6 {
            events.offer(Event::Cancelled { token }).unwrap();
        }
        assert!(events.offer(Event::Cancelled { token: 9 }).is_err());
    }

    #[test]
    fn only_what_clients_cause_is_refused() {
        let events = Events::new(1).unwrap();
        events.offer(Event::Cancelled { token: 1 }).unwrap();
        assert!(events.offer(Event::Cancelled { token: 2 }).is_err());
        events.push(Event::Cancelled { token: 3 });
        assert_eq!(events.take(9).len(), 2);
        assert_eq!(events.refused(), 1);
    }
}
