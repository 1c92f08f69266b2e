//! Requests that wait for a decision, and the bounds that keep a flood of misses from hurting hits.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::budget::{Budget, Share};
use crate::call::subject::Hop;
use crate::wire::status::{Code, Status};

/// What happens next to a held request.
#[derive(Debug)]
pub enum Resolution {
    /// The local copy serves, as if it had been a hit there.
    Serve,
    /// Look in the routing table again, as if the request had just come.
    Route,
    Forward {
        instance: String,
        hop: Hop,
        tried: Vec<String>,
        view: Option<u64>,
    },
    /// The client gets the failed attempt's own answer, whole.
    Return,
    Fail(Status),
}

/// All held requests.
pub struct Held {
    waiting: Mutex<Waiting>,
    bytes: Arc<Budget>,
    max: usize,
    max_per_model: usize,
    tokens: AtomicU64,
    refused: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    by_token: HashMap<u64, oneshot::Sender<Resolution>>,
    by_model: HashMap<String, usize>,
}

impl Held {
    #[must_use]
    pub fn new(max: usize, max_bytes: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            bytes: Budget::new(max_bytes),
            max,
            // One model that cannot be loaded must not keep every other model from being loaded.
            max_per_model: (max / 4).max(1),
            tokens: AtomicU64::new(1),
            refused: AtomicU64::new(0),
        }
    }

    /// A new token.
    pub fn token(&self) -> u64 {
        self.tokens.fetch_add(1, Ordering::Relaxed)
    }

    /// Held requests and their bytes.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        (self.waiting.lock().by_token.len(), self.bytes.used())
    }

    /// Requests refused because a bound was reached.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Makes room for the request `token` of `model` (or of a vmodel) with so many bytes.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if a bound is reached.
    pub fn hold(self: &Arc<Self>, token: u64, model: &str, bytes: usize) -> Result<Hold, Status> {
        let refuse = |what: &'static str| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            Err(Status::new(Code::ResourceExhausted, what))
        };
        let mut share = self.bytes.share();
        if self.bytes.exhausted() || !share.grow(bytes) {
            return refuse("too many bytes of requests wait for models to be loaded");
        }
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if waiting.by_token.len() >= self.max {
            return refuse("too many requests wait for models to be loaded");
        }
        let of_model = waiting.by_model.get(model).copied().unwrap_or(0);
        if of_model >= self.max_per_model {
            return refuse("too many requests wait for this model to be loaded");
        }
        waiting.by_model.insert(model.to_owned(), of_model + 1);
        waiting.by_token.insert(token, sender);
        drop(waiting);
        Ok(Hold { token, resolution: receiver, bytes: share, model: model.to_owned(), held: Arc::clone(self) })
    }

    /// Tells a held request what is next; false for a token that has gone.
    pub fn resolve(&self, token: u64, resolution: Resolution) -> bool {
        // Sent outside the lock: waking the task takes locks of its own.
        let sender = self.waiting.lock().by_token.remove(&token);
        sender.is_some_and(|sender| sender.send(resolution).is_ok())
    }
}

/// One request's place among the held ones, given back when dropped.
pub struct Hold {
    pub token: u64,
    pub resolution: oneshot::Receiver<Resolution>,
    pub bytes: Share,
    model: String,
    held: Arc<Held>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut waiting = self.held.waiting.lock();
        waiting.by_token.remove(&self.token);
        if let Some(count) = waiting.by_model.get_mut(&self.model) {
            *count -= 1;
            if *count == 0 {
                waiting.by_model.remove(&self.model);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_model_takes_at_most_a_quarter() {
        let held = Arc::new(Held::new(8, 1000));
        let places: Vec<_> = (0..2).map(|_| held.hold(held.token(), "m", 1).unwrap()).collect();
        assert!(held.hold(held.token(), "m", 1).is_err());
        let others: Vec<_> = (0..6).map(|n| held.hold(held.token(), &format!("o{n}"), 1).unwrap()).collect();
        assert!(held.hold(held.token(), "last", 1).is_err());
        assert_eq!(held.count(), (8, 8));
        drop((places, others));
        assert_eq!(held.count(), (0, 0));
        assert!(held.waiting.lock().by_model.is_empty());
        assert_eq!(held.refused(), 2);
    }

    #[test]
    fn bytes_are_bounded() {
        let held = Arc::new(Held::new(8, 10));
        let place = held.hold(held.token(), "m", 10).unwrap();
        assert!(held.hold(held.token(), "n", 0).is_err());
        drop(place);
        held.hold(held.token(), "n", 0).unwrap();
    }

    #[test]
    fn a_token_is_resolved_once() {
        let held = Arc::new(Held::new(8, 10));
        let mut place = held.hold(held.token(), "m", 0).unwrap();
        assert!(held.resolve(place.token, Resolution::Serve));
        assert!(!held.resolve(place.token, Resolution::Route));
        assert!(matches!(place.resolution.try_recv(), Ok(Resolution::Serve)));
        assert!(!held.resolve(999, Resolution::Route));
    }
}
