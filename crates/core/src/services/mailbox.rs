//! What Python and the tasks of the calls that it answers tell each other, by token.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::budget::Budget;
use crate::services::pools::{Kind, Place, Pools};
use crate::wire::framing::framed;
use crate::wire::status::{Code, Status};

/// Answers that the client has not taken yet (beyond one message of any size): a reader this slow is
/// given up.
const MOST_UNSENT_BYTES: usize = 4 << 20;
/// Bytes of all requests that are being collected, read or wait for Python.
const MOST_BYTES: usize = 64 << 20;

/// All open calls, by token.
pub struct Calls {
    open: Mutex<Open>,
    /// Bytes of requests that are being collected or wait in the event queue.
    pub bytes: Arc<Budget>,
}

#[derive(Default)]
struct Open {
    mailboxes: HashMap<u64, Arc<Mutex<Mailbox>>>,
    pools: Pools,
}

/// What Python and the call's task tell each other.
#[derive(Default)]
pub struct Mailbox {
    pub answers: VecDeque<Bytes>,
    pub unsent_bytes: usize,
    pub finish: Option<Status>,
    /// The client takes too little: what is unsent is not worth waiting for.
    pub too_slow: bool,
    /// Its place is somebody else's now.
    pub displaced: bool,
    pub untaken: usize,
    pub untaken_bytes: usize,
    pub taken_bytes: usize,
    pub waker: Option<Waker>,
}

impl Mailbox {
    /// Whether it takes no more answers.
    fn is_over(&self) -> bool {
        self.finish.is_some() || self.too_slow || self.displaced
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Goes with a message to Python; when it is dropped there, the next message may be read.
pub struct Receipt {
    mailbox: Arc<Mutex<Mailbox>>,
    bytes: usize,
}

impl Receipt {
    /// For a message that goes up and took so many bytes of the budget.
    #[must_use]
    pub fn new(mailbox: &Arc<Mutex<Mailbox>>, bytes: usize) -> Self {
        let mut open = mailbox.lock();
        open.untaken += 1;
        open.untaken_bytes += bytes;
        drop(open);
        Self { mailbox: Arc::clone(mailbox), bytes }
    }
}

impl std::fmt::Debug for Receipt {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Receipt").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let mut mailbox = self.mailbox.lock();
        mailbox.untaken -= 1;
        mailbox.untaken_bytes -= self.bytes;
        mailbox.taken_bytes += self.bytes;
        mailbox.wake();
    }
}

impl Calls {
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { open: Mutex::default(), bytes: Budget::new(max_bytes.min(MOST_BYTES)) }
    }

    fn find(&self, token: u64) -> Option<Arc<Mutex<Mailbox>>> {
        self.open.lock().mailboxes.get(&token).cloned()
    }

    /// Sends one answer message; false for a call that has gone or has ended.
    pub fn reply(&self, token: u64, message: &[u8], last: bool) -> bool {
        let Some(mailbox) = self.find(token) else { return false };
        let mut mailbox = mailbox.lock();
        if mailbox.is_over() {
            return false;
        }
        if mailbox.unsent_bytes > MOST_UNSENT_BYTES {
            mailbox.answers.clear();
            mailbox.too_slow = true;
            mailbox.wake();
            return false;
        }
        let frame = framed(message);
        mailbox.unsent_bytes += frame.len();
        mailbox.answers.push_back(frame);
        if last {
            mailbox.finish = Some(Status::new(Code::Ok, ""));
        }
        mailbox.wake();
        true
    }

    /// Ends a call; false if it has gone or has ended.
    pub fn finish(&self, token: u64, status: Status) -> bool {
        let Some(mailbox) = self.find(token) else { return false };
        let mut mailbox = mailbox.lock();
        if mailbox.is_over() {
            return false;
        }
        mailbox.finish = Some(status);
        mailbox.wake();
        true
    }
}

/// Takes the call out of the table, however it ends.
pub struct Registered<'a> {
    calls: &'a Calls,
    kind: Kind,
    connection: u64,
    token: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let mut open = self.calls.open.lock();
        open.mailboxes.remove(&self.token);
        open.pools.leave(self.kind, self.connection, self.token);
    }
}

impl<'a> Registered<'a> {
    /// A place for a call, of its own kind; one who has more may have to give it.
    #[must_use]
    pub fn among(
        calls: &'a Calls,
        kind: Kind,
        connection: u64,
        token: u64,
        mailbox: &Arc<Mutex<Mailbox>>,
    ) -> Option<Self> {
        let mut open = calls.open.lock();
        let other = match open.pools.enter(kind, connection, token) {
            Place::None => return None,
            Place::Free => None,
            Place::Of(other) => open.mailboxes.get(&other).cloned(),
        };
        open.mailboxes.insert(token, Arc::clone(mailbox));
        drop(open);
        if let Some(other) = other {
            let mut other = other.lock();
            other.displaced = true;
            other.wake();
        }
        Some(Self { calls, kind, connection, token })
    }
}
