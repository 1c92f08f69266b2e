//! The gate of a local copy: how many requests run on it, who waits in line, and who must be woken
//! when the copy is taken away.

use std::task::{Context, Poll, Waker};

use slab::Slab;

use crate::routing::line::{Line, Overload, Waiter};

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
}

/// Requests at the gate: running ones and waiting ones.
#[derive(Debug, Default)]
pub struct Gate {
    entries: Slab<Entry>,
    running: usize,
    line: Line,
}

#[derive(Debug)]
struct Entry {
    waker: Waker,
    stage: Stage,
    of: Waiter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waits,
    Runs,
    /// A request of a higher class has its place in the line.
    Displaced,
}

impl Gate {
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.line.waiting()
    }

    /// Comes in; returns the key of this request, running or waiting.
    ///
    /// # Errors
    /// The copy is busy, and its line is full of requests that are not of a lower class.
    pub fn enter(&mut self, bounds: Bounds, of: Waiter, waker: &Waker) -> Result<usize, Overload> {
        // No call overtakes the line, even if there is room for a moment.
        if self.line.waiting() == 0 && bounds.may_run(self.running) {
            self.running += 1;
            return Ok(self.entries.insert(Entry { waker: waker.clone(), stage: Stage::Runs, of }));
        }
        if let Some(displaced) = self.line.make_room(bounds.max_waiting as usize, of)? {
            let entry = &mut self.entries[displaced];
            entry.stage = Stage::Displaced;
            entry.waker.wake_by_ref();
        }
        let key = self.entries.insert(Entry { waker: waker.clone(), stage: Stage::Waits, of });
        self.line.push(of, key);
        Ok(key)
    }

    /// Ready once the request may run.
    ///
    /// # Errors
    /// It lost its place in the line.
    pub fn poll_turn(&mut self, key: usize, cx: &Context<'_>) -> Poll<Result<(), Overload>> {
        let entry = &mut self.entries[key];
        match entry.stage {
            Stage::Runs => Poll::Ready(Ok(())),
            Stage::Displaced => Poll::Ready(Err(Overload)),
            Stage::Waits => {
                entry.waker.clone_from(cx.waker());
                Poll::Pending
            }
        }
    }

    /// Goes, whether it ran or gave up waiting; the next in line takes the place.
    pub fn leave(&mut self, bounds: Bounds, key: usize) {
        let entry = self.entries.remove(key);
        match entry.stage {
            Stage::Runs => self.running -= 1,
            Stage::Waits => self.line.remove(entry.of, key),
            Stage::Displaced => {}
        }
        self.admit(bounds);
    }

    /// Lets in whoever the bounds permit.
    pub fn admit(&mut self, bounds: Bounds) {
        while bounds.may_run(self.running)
            && let Some(key) = self.line.pop()
        {
            self.running += 1;
            let entry = &mut self.entries[key];
            entry.stage = Stage::Runs;
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
    use crate::call::priority::Priority;
    use crate::routing::line::NO_TENANT;

    const ONE: Bounds = Bounds { max_concurrency: 1, max_waiting: 2 };
    const USUAL: Waiter = Waiter::USUAL;

    fn turn(gate: &mut Gate, key: usize) -> Poll<Result<(), Overload>> {
        gate.poll_turn(key, &Context::from_waker(Waker::noop()))
    }

    fn may_run(gate: &mut Gate, key: usize) -> bool {
        turn(gate, key) == Poll::Ready(Ok(()))
    }

    #[test]
    fn first_come_first_served() {
        let mut gate = Gate::default();
        let keys: Vec<_> = (0..3).map(|_| gate.enter(ONE, USUAL, Waker::noop()).unwrap()).collect();
        assert_eq!(gate.enter(ONE, USUAL, Waker::noop()), Err(Overload));
        assert!(may_run(&mut gate, keys[0]) && !may_run(&mut gate, keys[1]));
        gate.leave(ONE, keys[0]);
        assert!(may_run(&mut gate, keys[1]) && !may_run(&mut gate, keys[2]));
    }

    #[test]
    fn tenants_take_turns_and_leave_room_for_others() {
        let bounds = Bounds { max_concurrency: 1, max_waiting: 6 };
        let mut gate = Gate::default();
        let mut enter = |tenant| gate.enter(bounds, Waiter { tenant, ..USUAL }, Waker::noop());
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
        assert!(gate.entries.is_empty() && gate.running == 0 && gate.waiting() == 0);
    }

    #[test]
    fn a_higher_class_goes_first_and_takes_the_place_of_a_lower_one() {
        let mut gate = Gate::default();
        let mut enter = |priority| gate.enter(ONE, Waiter { priority, ..USUAL }, Waker::noop());
        let runs = enter(Priority::Low).unwrap();
        let low = enter(Priority::Low).unwrap();
        let normal = enter(Priority::Normal).unwrap();
        assert_eq!(enter(Priority::Low), Err(Overload));
        let high = enter(Priority::High).unwrap();
        assert_eq!(turn(&mut gate, low), Poll::Ready(Err(Overload)), "it lost its place");
        assert!(may_run(&mut gate, runs), "what runs goes on");
        gate.leave(ONE, low);
        assert_eq!((gate.running, gate.waiting()), (1, 2));
        gate.leave(ONE, runs);
        assert!(may_run(&mut gate, high) && !may_run(&mut gate, normal));
        gate.leave(ONE, high);
        assert!(may_run(&mut gate, normal));
    }

    #[test]
    fn one_that_gives_up_leaves_the_line() {
        let mut gate = Gate::default();
        let keys: Vec<_> = (0..3).map(|_| gate.enter(ONE, USUAL, Waker::noop()).unwrap()).collect();
        gate.leave(ONE, keys[1]);
        assert_eq!(gate.waiting(), 1);
        gate.leave(ONE, keys[0]);
        assert!(may_run(&mut gate, keys[2]));
    }

    #[test]
    fn wider_bounds_admit_who_waits() {
        let mut gate = Gate::default();
        let keys: Vec<_> = (0..3).map(|_| gate.enter(ONE, USUAL, Waker::noop()).unwrap()).collect();
        gate.admit(Bounds::default());
        assert!(keys.into_iter().all(|key| may_run(&mut gate, key)));
    }
}
