//! What a connection without a socket has to tell whoever moves its bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Wake, Waker};

use parking_lot::Mutex;

/// Names one call of a connection.
pub type CallId = u64;

/// Bits of a call's id that say on which connection of its server it is.
const SLOT_BITS: u32 = 16;

/// Ids of the calls of one connection. No two calls of a server have the same, whatever connections come and go.
#[derive(Clone, Default)]
pub struct CallIds {
    slot: u64,
    last: Arc<AtomicU64>,
}

impl CallIds {
    /// Ids for the connection in this slot, which is below 65,536.
    pub fn of_slot(&self, slot: usize) -> Self {
        debug_assert!(slot < 1 << SLOT_BITS);
        Self { slot: slot as u64, last: Arc::clone(&self.last) }
    }

    pub fn next(&self) -> CallId {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        number << SLOT_BITS | self.slot
    }
}

/// The slot of the connection that a call is on.
pub fn slot_of(call: CallId) -> usize {
    usize::try_from(call & ((1 << SLOT_BITS) - 1)).unwrap_or(usize::MAX)
}

/// Calls about which there is news.
#[derive(Default)]
pub struct News(Arc<Mutex<Vec<CallId>>>);

impl News {
    /// A waker that puts this call among them.
    pub fn waker(&self, call: CallId) -> Waker {
        Waker::from(Arc::new(Herald { call, news: Arc::clone(&self.0) }))
    }

    pub fn add(&self, call: CallId) {
        self.0.lock().push(call);
    }

    /// Takes them out, each once, in the order in which the calls began.
    pub fn take(&self) -> Vec<CallId> {
        let mut news = std::mem::take(&mut *self.0.lock());
        news.sort_unstable();
        news.dedup();
        news
    }
}

struct Herald {
    call: CallId,
    news: Arc<Mutex<Vec<CallId>>>,
}

impl Wake for Herald {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.news.lock().push(self.call);
    }
}

/// Whether the connection wants another turn.
#[derive(Default)]
pub struct Again(AtomicBool);

impl Again {
    /// A turn begins.
    pub fn begin(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    pub fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}
