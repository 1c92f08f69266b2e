//! Clients that do not read their answers. What waits for them holds a part of the window of an upstream
//! connection, which others need; so a few are waited for, and a crowd is not.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::transport::limits::MOST_STALLED;

/// What a client in a crowd has to take one frame.
const PATIENCE: Duration = Duration::from_secs(2);

/// The stalled answers of one upstream connection.
#[derive(Debug, Default)]
pub struct Crowd(AtomicUsize);

impl Crowd {
    /// Whether so much of the window is held that others are in danger.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= MOST_STALLED
    }
}

/// One answer that its client does not take.
pub struct Stall {
    crowd: Arc<Crowd>,
    look: Pin<Box<Sleep>>,
}

impl Stall {
    #[must_use]
    pub fn among(crowd: &Arc<Crowd>) -> Self {
        crowd.0.fetch_add(1, Ordering::Relaxed);
        Self { crowd: Arc::clone(crowd), look: Box::pin(sleep(PATIENCE)) }
    }

    /// Ready when the client is not waited for any more.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.look.as_mut().poll(cx));
            if self.crowd.is_large() {
                return Poll::Ready(());
            }
            self.look.as_mut().reset(Instant::now() + PATIENCE);
        }
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        self.crowd.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_crowd_is_not_waited_for() {
        let crowd = Arc::new(Crowd::default());
        let mut stalled: Vec<_> = (1..MOST_STALLED).map(|_| Stall::among(&crowd)).collect();
        let patient = tokio::time::timeout(PATIENCE * 10, poll_fn(|cx| stalled[0].poll(cx))).await;
        assert!(patient.is_err() && !crowd.is_large());
        stalled.push(Stall::among(&crowd));
        tokio::time::timeout(PATIENCE * 2, poll_fn(|cx| stalled[0].poll(cx))).await.unwrap();
        drop(stalled);
        assert_eq!(crowd.0.load(Ordering::Relaxed), 0);
    }
}
