//! Serving by the copy at this instance: counted in, through the gate, accounted when it ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::clock;
use crate::routing::copy::{Ending, LocalCopy};
use crate::routing::line::{Overload, Waiter};
use crate::routing::table::{Idle, Route};
use crate::shared::Shared;

/// One request on the local copy. Dropping it counts the request out, however it ended.
pub struct LocalUse {
    shared: Arc<Shared>,
    route: Arc<Route>,
    copy: Arc<LocalCopy>,
    from_here: bool,
    key: Option<usize>,
    running_since: Option<Instant>,
    ran: Option<Duration>,
}

impl LocalUse {
    /// Counts a request in; None if the copy is not ready (it is counted out again then).
    ///
    /// `from_here`: the request is of a client of this instance.
    #[must_use]
    pub fn enter(shared: &Arc<Shared>, route: &Arc<Route>, copy: &Arc<LocalCopy>, from_here: bool) -> Option<Self> {
        let ready = copy.enter();
        if from_here {
            copy.from_here.fetch_add(1, Ordering::Relaxed);
        }
        let used = Self {
            shared: Arc::clone(shared),
            route: Arc::clone(route),
            copy: Arc::clone(copy),
            from_here,
            key: None,
            running_since: None,
            ran: None,
        };
        ready.then_some(used)
    }

    #[must_use]
    pub fn copy(&self) -> &LocalCopy {
        &self.copy
    }

    /// Whether the copy serves only so many at a time.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.copy.is_limited()
    }

    /// Waits in line at the gate; ready when the request may run (or the copy has ended).
    ///
    /// # Errors
    /// The line is full, or a request of a higher class has taken its place in it.
    pub fn poll_turn(&mut self, waiter: Waiter, cx: &mut Context<'_>) -> Poll<Result<(), Overload>> {
        let key = match self.key {
            Some(key) => key,
            None => *self.key.insert(self.copy.enter_gate(waiter, cx.waker())?),
        };
        if self.copy.ending() == Ending::Runs {
            ready!(self.copy.poll_turn(key, cx))?;
        }
        self.running_since = Some(Instant::now());
        Poll::Ready(Ok(()))
    }

    /// The request has ended; returns how long it ran.
    pub fn ended(&mut self) -> Duration {
        let ran = self.running_since.map(|since| since.elapsed()).unwrap_or_default();
        *self.ran.get_or_insert(ran)
    }
}

impl Drop for LocalUse {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.copy.leave_gate(key);
        }
        if self.running_since.is_some() {
            let ran = self.ran.unwrap_or_else(|| self.ended());
            let service_us = u64::try_from(ran.as_micros()).unwrap_or(u64::MAX);
            self.copy.service_us.fetch_add(service_us, Ordering::Relaxed);
            self.copy.requests.fetch_add(1, Ordering::Relaxed);
            self.route.touch(clock::epoch_ms());
        }
        if self.from_here {
            self.copy.from_here.fetch_sub(1, Ordering::Relaxed);
        }
        if self.copy.leave() {
            self.shared.tell_idle([Idle { model: self.route.model.to_string(), load_id: self.copy.load_id }]);
        }
    }
}
