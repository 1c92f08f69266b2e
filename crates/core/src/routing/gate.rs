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

    fn may_wait(self, line: &Line, of: u64) -> bool {
        let most = self.max_waiting as usize;
        // A tenant leaves room for others.
        most == 0 || (line.length < most && (of == NO_TENANT || line.waiting_of(of) < most.div_ceil(2)))
    }
}

/// Of which tenant a request is that is of none.
pub const NO_TENANT: u64 = 0;

/// Requests at the gate: running ones and waiting ones.
#[derive(Debug, Default)]
pub struct Gate {
    entries: Slab<Entry>,
    line: Line,
}

#[derive(Debug)]
struct Entry {
    waker: Waker,
    running: bool,
    of: u64,
}

/// Who waits: tenants take turns, and of each tenant who came first is served first.
#[derive(Debug, Default)]
struct Line {
    turns: VecDeque<(u64, VecDeque<usize>)>,
    length: usize,
}

impl Line {
    fn waiting_of(&self, tenant: u64) -> usize {
        self.turns.iter().find(|(of, _)| *of == tenant).map_or(0, |(_, keys)| keys.len())
    }

    fn push(&mut self, tenant: u64, key: usize) {
        self.length += 1;
        match self.turns.iter_mut().find(|(of, _)| *of == tenant) {
            Some((_, keys)) => keys.push_back(key),
            None => self.turns.push_back((tenant, VecDeque::from([key]))),
        }
    }

    fn pop(&mut self) -> Option<usize> {
        let (tenant, mut keys) = self.turns.pop_front()?;
        let key = keys.pop_front()?;
        self.length -= 1;
        if !keys.is_empty() {
            self.turns.push_back((tenant, keys));
        }
        Some(key)
    }

    fn remove(&mut self, tenant: u64, key: usize) {
        if let Some((_, keys)) = self.turns.iter_mut().find(|(of, _)| *of == tenant) {
            keys.retain(|waiting| *waiting != key);
            self.length -= 1;
            self.turns.retain(|(_, keys)| !keys.is_empty());
        }
    }
}

/// The line is full.
#[derive(Debug, PartialEq, Eq)]
pub struct Overload;

impl Gate {
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.line.length
    }

    fn running(&self) -> usize {
        self.entries.len() - self.line.length
    }

    /// Comes in; returns the key of this request, running or waiting. `of`: its tenant.
    ///
    /// # Errors
    /// The copy is busy and its line is full.
    pub fn enter(&mut self, bounds: Bounds, of: u64, waker: &Waker) -> Result<usize, Overload> {
        // No call overtakes the line, even if there is room for a moment.
        let running = self.line.length == 0 && bounds.may_run(self.running());
        if !running && !bounds.may_wait(&self.line, of) {
            return Err(Overload);
        }
        let key = self.entries.insert(Entry { waker: waker.clone(), running, of });
        if !running {
            self.line.push(of, key);
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

    /// Goes, whether it ran or gave up waiting; the next in line takes the place.
    pub fn leave(&mut self, bounds: Bounds, key: usize) {
        let entry = self.entries.remove(key);
        if !entry.running {
            self.line.remove(entry.of, key);
        }
        self.admit(bounds);
    }

    /// Lets in whoever the bounds permit.
    pub fn admit(&mut self, bounds: Bounds) {
        while bounds.may_run(self.running())
            && let Some(key) = self.line.pop()
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
        let keys: Vec<_> = (0..3).map(|_| gate.enter(ONE, NO_TENANT, Waker::noop()).unwrap()).collect();
        assert_eq!(gate.enter(ONE, NO_TENANT, Waker::noop()), Err(Overload));
        assert!(may_run(&mut gate, keys[0]) && !may_run(&mut gate, keys[1]));
        gate.leave(ONE, keys[0]);
        assert!(may_run(&mut gate, keys[1]) && !may_run(&mut gate, keys[2]));
    }

    #[test]
    fn tenants_take_turns_and_leave_room_for_others() {
        let bounds = Bounds { max_concurrency: 1, max_waiting: 6 };
        let mut gate = Gate::default();
        let mut enter = |of| gate.enter(bounds, of, Waker::noop());
        let greedy: Vec<_> = (0..4).map(|_| enter(7).unwrap()).collect();
        assert_eq!(enter(7), Err(Overload), "half of the line is taken");
        let modest: Vec<_> = (0..2).map(|_| enter(8).unwrap()).collect();
        let without_tenant = enter(NO_TENANT).unwrap();
        assert_eq!(enter(NO_TENANT), Err(Overload), "all of it is");
        let mut last = greedy[0];
        for next in [greedy[1], modest[0], without_tenant, greedy[2], modest[1], greedy[3]] {
            gate.leave(bounds, last);
            assert!(may_run(&mut gate, next));
            last = next;
        }
        gate.leave(bounds, last);
        assert!(gate.entries.is_empty() && gate.line.length == 0 && gate.line.turns.is_empty());
    }

    #[test]
    fn one_that_gives_up_leaves_the_line() {
        let mut gate = Gate::default();
        let keys: Vec<_> = (0..3).map(|_| gate.enter(ONE, NO_TENANT, Waker::noop()).unwrap()).collect();
        gate.leave(ONE, keys[1]);
        assert_eq!(gate.waiting(), 1);
        gate.leave(ONE, keys[0]);
        assert!(may_run(&mut gate, keys[2]));
    }

    #[test]
    fn wider_bounds_admit_who_waits() {
        let mut gate = Gate::default();
        let keys: Vec<_> = (0..3).map(|_| gate.enter(ONE, NO_TENANT, Waker::noop()).unwrap()).collect();
        gate.admit(Bounds::default());
        assert!(keys.into_iter().all(|key| may_run(&mut gate, key)));
    }
}
