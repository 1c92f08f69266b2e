//! The copies a route names: the one at this instance, with its counters, and those elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::routing::gate::{Bounds, Gate};
use crate::routing::line::{Overload, Waiter};
use crate::transport::peers::Peer;

/// Why calls on a copy should stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ending {
    Runs,
    /// The runtime does not answer.
    Hung,
    /// The copy has been taken away.
    Ended,
}

/// The copy at this instance. Kept small: an instance may know a million of them.
#[derive(Debug)]
pub struct LocalCopy {
    pub load_id: u64,
    ready: AtomicBool,
    ending: AtomicU8,
    /// Somebody waits to hear that the copy is idle.
    idle_owed: AtomicBool,
    /// Requests counted in: running, waiting at the gate, or about to find out that it is not ready.
    inside: AtomicU32,
    /// Requests of clients of this instance, so that this copy and remote ones compare fairly: of
    /// those, too, only the requests sent from here are known.
    pub from_here: AtomicU32,
    pub requests: AtomicU64,
    pub service_us: AtomicU64,
    bounds: Mutex<Bounds>,
    gate: Mutex<Option<Box<Gate>>>,
}

impl LocalCopy {
    #[must_use]
    pub fn new(load_id: u64, ready: bool, bounds: Bounds) -> Self {
        Self {
            load_id,
            ready: AtomicBool::new(ready),
            ending: AtomicU8::new(Ending::Runs as u8),
            idle_owed: AtomicBool::new(false),
            inside: AtomicU32::new(0),
            from_here: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            service_us: AtomicU64::new(0),
            bounds: Mutex::new(bounds),
            gate: Mutex::new(None),
        }
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
    }

    /// Whether what runs must stop.
    #[must_use]
    pub fn ending(&self) -> Ending {
        match self.ending.load(Ordering::Relaxed) {
            0 => Ending::Runs,
            1 => Ending::Hung,
            _ => Ending::Ended,
        }
    }

    #[must_use]
    pub fn inside(&self) -> u32 {
        self.inside.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn waiting(&self) -> usize {
        self.gate.lock().as_ref().map_or(0, |gate| gate.waiting())
    }

    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.bounds.lock().max_concurrency > 0
    }

    /// Counts a request in, and only then looks whether the copy is ready: so after it was seen idle
    /// none starts. False: not ready; count out with `leave`.
    pub fn enter(&self) -> bool {
        self.inside.fetch_add(1, Ordering::SeqCst);
        self.is_ready()
    }

    /// Counts a request out. True if that made the copy idle and somebody waits to hear it.
    #[must_use]
    pub fn leave(&self) -> bool {
        self.inside.fetch_sub(1, Ordering::SeqCst) == 1 && self.became_idle()
    }

    /// Sets bounds and readiness. True if the copy is idle and that must be told.
    #[must_use]
    pub fn set(&self, ready: bool, bounds: Bounds) -> bool {
        *self.bounds.lock() = bounds;
        if let Some(gate) = self.gate.lock().as_mut() {
            gate.admit(bounds);
        }
        let was_ready = self.ready.swap(ready, Ordering::SeqCst);
        if ready {
            self.idle_owed.store(false, Ordering::SeqCst);
            // The runtime answers again. Who has not seen yet that it did not stays.
            let (hung, runs) = (Ending::Hung as u8, Ending::Runs as u8);
            let _ = self.ending.compare_exchange(hung, runs, Ordering::SeqCst, Ordering::Relaxed);
            return false;
        }
        if was_ready || self.inside() > 0 {
            self.idle_owed.store(true, Ordering::SeqCst);
        }
        self.inside.load(Ordering::SeqCst) == 0 && self.became_idle()
    }

    /// The route is dropped or names another load: as `set` to not ready.
    #[must_use]
    pub fn retire(&self) -> bool {
        let bounds = *self.bounds.lock();
        self.set(false, bounds)
    }

    /// Whether the copy is closed and nothing runs on it. If something still runs, its end is told.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        if self.is_ready() {
            return false;
        }
        self.idle_owed.store(true, Ordering::SeqCst);
        self.inside.load(Ordering::SeqCst) == 0 && self.became_idle()
    }

    /// Told once: several requests may leave at the same time.
    fn became_idle(&self) -> bool {
        !self.is_ready() && self.idle_owed.swap(false, Ordering::SeqCst)
    }

    /// Ends what runs: each call sees it when it is next woken, which is now.
    pub fn end(&self) {
        self.stop(Ending::Ended);
    }

    /// The runtime does not answer: calls that may be made elsewhere go there. The others stay, for it may only be slow.
    pub fn hangs(&self) {
        self.stop(Ending::Hung);
    }

    fn stop(&self, how: Ending) {
        self.ending.fetch_max(how as u8, Ordering::SeqCst);
        if let Some(gate) = self.gate.lock().as_ref() {
            gate.wake_all();
        }
    }

    /// # Errors
    /// As `Gate::enter`.
    pub fn enter_gate(&self, waiter: Waiter, waker: &Waker) -> Result<usize, Overload> {
        let bounds = *self.bounds.lock();
        self.gate.lock().get_or_insert_default().enter(bounds, waiter, waker)
    }

    /// # Errors
    /// As `Gate::poll_turn`.
    pub fn poll_turn(&self, key: usize, cx: &Context<'_>) -> Poll<Result<(), Overload>> {
        self.gate.lock().as_mut().map_or(Poll::Ready(Ok(())), |gate| gate.poll_turn(key, cx))
    }

    pub fn leave_gate(&self, key: usize) {
        let bounds = *self.bounds.lock();
        if let Some(gate) = self.gate.lock().as_mut() {
            gate.leave(bounds, key);
        }
    }
}

/// A ready copy elsewhere.
#[derive(Debug)]
pub struct RemoteCopy {
    pub peer: Arc<Peer>,
    pub load_id: u64,
    /// Requests sent there from here.
    pub in_flight: AtomicU32,
}

/// Index of the copy that gets a request: the less loaded of two drawn ones.
///
/// First = `draws.0 % n`; second = `draws.1 % (n - 1)`, one more if it is not below the first. On equal
/// load the first wins. `policy/route.py` is the readable reference.
pub fn choose_copy(copies: usize, load: impl Fn(usize) -> u32, draws: (u32, u32)) -> usize {
    if copies <= 1 {
        return 0;
    }
    let first = draws.0 as usize % copies;
    let mut second = draws.1 as usize % (copies - 1);
    if second >= first {
        second += 1;
    }
    if load(second) < load(first) { second } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_is_told_once_and_only_when_not_ready() {
        let copy = LocalCopy::new(1, true, Bounds::default());
        assert!(copy.enter() && copy.enter());
        assert!(!copy.leave());
        assert!(!copy.set(false, Bounds::default()));
        assert!(!copy.enter(), "counted in, but not ready");
        assert!(!copy.leave());
        assert!(copy.leave(), "the last one out tells");
        assert!(!copy.enter() && !copy.leave(), "told already");
    }

    #[test]
    fn a_ready_copy_without_requests_is_idle_at_once() {
        let copy = LocalCopy::new(1, true, Bounds::default());
        assert!(copy.set(false, Bounds::default()));
        assert!(!copy.set(false, Bounds::default()), "never ready since");
        assert!(!copy.set(true, Bounds::default()));
        assert!(copy.retire());
    }

    #[test]
    fn the_less_loaded_of_two_is_chosen() {
        let loads = [5_u32, 1, 9];
        let choose = |draws| choose_copy(3, |index| loads[index], draws);
        assert_eq!(choose((0, 0)), 1);
        assert_eq!(choose((0, 1)), 0);
        assert_eq!(choose((1, 1)), 1);
        assert_eq!(choose((2, 1)), 1);
        assert_eq!(choose_copy(2, |_| 3, (1, 0)), 1, "the first wins on equal load");
        assert_eq!(choose_copy(1, |_| 3, (7, 7)), 0);
    }

    #[test]
    fn both_draws_reach_every_pair() {
        let mut pairs = std::collections::HashSet::new();
        for first in 0..4 {
            for second in 0..3 {
                let seen = std::cell::RefCell::new(Vec::new());
                choose_copy(
                    4,
                    |index| {
                        seen.borrow_mut().push(index);
                        0
                    },
                    (first, second),
                );
                let seen = seen.into_inner();
                assert_ne!(seen[0], seen[1]);
                pairs.insert((seen[1], seen[0]));
            }
        }
        assert_eq!(pairs.len(), 12);
    }
}
