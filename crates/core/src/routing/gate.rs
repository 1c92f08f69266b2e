//! The gate of a local copy: how many requests run on it, who waits in line, and who must be woken
//! when the copy is taken away.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use slab::Slab;

/// What one copy permits. 0 means no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    pub max_concurrency: u32,
    pub max_waiting: u32,
}

impl Bounds {
    fn may_run(self, running: usize) -> bool {
        self.max_concurrency == 0 || running < self.max_concurrency as usize
    }

    fn may_wait(self, waiting: usize) -> bool {
        self.max_waiting == 0 || waiting < self.max_waiting as usize
    }
}

/// Requests at the gate: running ones and, first come first served, waiting ones.
#[derive(Debug, Default)]
pub struct Gate {
    entries: Slab<Entry>,
    line: VecDeque<usize>,
}

#[derive(Debug)]
struct Entry {
    waker: Waker,
    running: bool,
}

/// The line is full.
#[derive(Debug, PartialEq, Eq)]
pub struct Overload;

impl Gate {
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.line.len()
    }

    fn running(&self) -> usize {
        self.entries.len() - self.line.len()
    }

    /// Comes in; returns the key of this request, running or waiting.
    ///
    /// # Errors
    /// The copy is busy and its line is full.
    pub fn enter(&mut self, bounds: Bounds, waker: &Waker) -> Result<usize, Overload> {
        // Nobody overtakes the line, even if there is room for a moment.
        let running = self.line.is_empty() && bounds.may_run(self.running());
        if !running && !bounds.may_wait(self.line.len()) {
            return Err(Overload);
        }
        let key = self.entries.insert(Entry { waker: waker.clone(), running });
        if !running {
            self.line.push_back(key);
        }
        Ok(key)
    }

    /// Ready once the request may run.
    pub fn poll_turn(&mut self, key: usize, cx: &Context<'_>) -> Poll<()> {
        let entry = &mut self.entries[key];
        if entry.running {
            return Poll::Ready(());
        }
        entry.waker.clone_from(cx.waker());
        Poll::Pending
    }

    /// Goes, whether it ran or gave up waiting; the first in line takes the place.
    pub fn leave(&mut self, bounds: Bounds, key: usize) {
        if !self.entries.remove(key).running {
            self.line.retain(|waiting| *waiting != key);
        }
        self.admit(bounds);
    }

    /// Lets in whoever the bounds permit.
    pub fn admit(&mut self, bounds: Bounds) {
        while bounds.may_run(self.running())
            && let Some(key) = self.line.pop_front()
        {
            let entry = &mut self.entries[key];
            entry.running = true;
            entry.waker.wake_by_ref();
        }
    }

    /// Wakes everybody, so that they see that the copy has ended.
    pub fn wake_all(&self) {
        for (_, entry) in &self.entries {
            entry.waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Bounds = Bounds { max_concurrency: 1, max_waiting: 2 };

    fn may_run(gate: &mut Gate, key: usize) -> bool {
        gate.poll_turn(key, &Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn first_come_first_served() {
        let mut gate = Gate::default();
        let keys: Vec<_> = (0..3).map(|_| gate.enter(ONE, Waker::noop()).unwrap()).collect();
        assert_eq!(gate.enter(ONE, Waker::noop()), Err(Overload));
        assert!(may_run(&mut gate, keys[0]) && !may_run(&mut gate, keys[1]));
        gate.leave(ONE, keys[0]);
        assert!(may_run(&mut gate, keys[1]) && !may_run(&mut gate, keys[2]));
    }

    #[test]
    fn one_that_gives_up_leaves_the_line() {
        let mut gate = Gate::default();
        let keys: Vec<_> = (0..3).map(|_| gate.enter(ONE, Waker::noop()).unwrap()).collect();
        gate.leave(ONE, keys[1]);
        assert_eq!(gate.waiting(), 1);
        gate.leave(ONE, keys[0]);
        assert!(may_run(&mut gate, keys[2]));
    }

    #[test]
    fn wider_bounds_admit_who_waits() {
        let mut gate = Gate::default();
        let keys: Vec<_> = (0..3).map(|_| gate.enter(ONE, Waker::noop()).unwrap()).collect();
        gate.admit(Bounds::default());
        assert!(keys.into_iter().all(|key| may_run(&mut gate, key)));
    }
}
