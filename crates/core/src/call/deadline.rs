//! When a call must be over.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::wire::status::{Code, Status};

/// When a call must be over.
pub struct Deadline {
    pub at: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Deadline {
    #[must_use]
    pub fn after(timeout: Duration) -> Self {
        // A deadline in years is none; the timer cannot hold it.
        let at = Instant::now() + timeout.min(Duration::from_secs(365 * 86_400));
        Self { at, sleep: Box::pin(sleep_until(at)) }
    }

    #[must_use]
    pub fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().poll(cx)
    }
}

/// Whole milliseconds left, for Python.
#[must_use]
pub fn timeout_ms(deadline: Option<&Deadline>) -> Option<u64> {
    deadline.map(|deadline| u64::try_from(deadline.left().as_millis()).unwrap_or(u64::MAX))
}

/// The status of a call whose deadline has passed.
#[must_use]
pub fn deadline_exceeded() -> Status {
    Status::new(Code::DeadlineExceeded, "Deadline Exceeded")
}
