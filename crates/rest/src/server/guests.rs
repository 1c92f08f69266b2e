//! Who is here, and whose turn it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use modelmesh_core::{Door, Guest};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::heavy::Heavy;
use super::names::Names;
use crate::origins::Origins;

/// TLS, and the first request after it, each within this.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client may do nothing while it is its turn: to ask something, to send, to read.
pub const IDLE: Duration = Duration::from_secs(30);
/// The same while connections are scarce.
const SHORT_IDLE: Duration = Duration::from_secs(5);

/// What all connections share.
pub struct House {
    pub door: Door,
    pub names: Names,
    pub origins: Origins,
    pub heavy: Heavy,
    /// Places for pages of the console; None: it is not served.
    pub console: Option<Arc<Semaphore>>,
}

/// A client, for its requests.
pub struct Client {
    pub guest: Guest,
    pub house: Arc<House>,
    pub pace: Arc<Pace>,
}

impl Client {
    /// It is our turn until the returned value is dropped.
    pub fn our_turn(&self) -> Turn {
        self.pace.ours.fetch_add(1, Ordering::Relaxed);
        self.pace.requests.fetch_add(1, Ordering::Relaxed);
        Turn(Arc::clone(&self.pace))
    }
}

/// Whose turn it is on a connection, and since when nothing moves.
pub struct Pace {
    began: Instant,
    moved_ms: AtomicU64,
    /// Requests that we work at.
    ours: AtomicUsize,
    requests: AtomicU64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { began: Instant::now(), moved_ms: 0.into(), ours: 0.into(), requests: 0.into() }
    }
}

impl Pace {
    /// Bytes have moved.
    pub fn note(&self) {
        self.moved_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// For how long nothing has moved while it is the client's turn.
    fn quiet(&self) -> Option<Duration> {
        let quiet_ms = self.now_ms().saturating_sub(self.moved_ms.load(Ordering::Relaxed));
        (self.ours.load(Ordering::Relaxed) == 0).then_some(Duration::from_millis(quiet_ms))
    }

    /// Whether nothing seems to be wanted for the time being.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.quiet().is_some_and(|quiet| quiet > SHORT_IDLE)
    }

    /// Whether the client has kept us waiting for too long.
    #[must_use]
    pub fn is_over(&self, crowded: bool) -> bool {
        let idle = match (self.requests.load(Ordering::Relaxed), crowded) {
            (_, true) => SHORT_IDLE,
            (0, false) => PATIENCE,
            (_, false) => IDLE,
        };
        self.quiet().is_some_and(|quiet| quiet > idle)
    }
}

/// One request that we work at.
pub struct Turn(Arc<Pace>);

impl Drop for Turn {
    fn drop(&mut self) {
        // From now on the client has its time to read.
        self.0.note();
        self.0.ours.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn later(time: Duration) {
        tokio::time::advance(time + Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_goes_and_who_waits_for_us_stays() {
        let pace: Arc<Pace> = Arc::default();
        assert!(!pace.is_over(false));
        later(PATIENCE).await;
        assert!(pace.is_over(false), "no request came");
        pace.note();
        pace.ours.fetch_add(1, Ordering::Relaxed);
        pace.requests.fetch_add(1, Ordering::Relaxed);
        let turn = Turn(Arc::clone(&pace));
        later(100 * IDLE).await;
        assert!(!pace.is_over(true), "it is our turn");
        drop(turn);
        later(PATIENCE).await;
        assert!(
            pace.is_quiet() && !pace.is_over(false) && pace.is_over(true),
            "it has the time of one that has asked, or less in a crowd"
        );
        later(IDLE).await;
        assert!(pace.is_over(false));
    }
}
