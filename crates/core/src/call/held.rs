//! Requests that wait for a decision, and the bounds that keep a flood of misses from hurting hits.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::budget::{Budget, Share};
use crate::call::priority::Priority;
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

/// What a held request is told; an error: a request of a higher class has its place.
type Told = Result<Resolution, Status>;

#[derive(Default)]
struct Waiting {
    by_token: HashMap<u64, Waiter>,
    places: BTreeSet<Place>,
    by_model: HashMap<String, OfModel>,
}

struct Waiter {
    sender: oneshot::Sender<Told>,
    model: String,
    place: Place,
}

/// The order in which requests lose their places: the lowest class first, and of that the newest.
type Place = (Priority, Reverse<u64>);

/// Requests of one model.
#[derive(Default)]
struct OfModel {
    /// Those that are resolved and have not gone yet included.
    held: usize,
    unresolved: BTreeSet<Place>,
}

impl Waiting {
    /// Takes out who waits by this token.
    fn take(&mut self, token: u64) -> Option<oneshot::Sender<Told>> {
        let Waiter { sender, model, place } = self.by_token.remove(&token)?;
        self.places.remove(&place);
        if let Some(of_model) = self.by_model.get_mut(&model) {
            of_model.unresolved.remove(&place);
        }
        Some(sender)
    }

    /// The request that one of this class displaces where no more may wait: it is of a lower class, and of this model where that
    /// has too many.
    ///
    /// # Errors
    /// Why it is refused: the others are not of a lower class.
    fn displaced(
        &mut self,
        bounds: (usize, usize),
        model: &str,
        by: Priority,
    ) -> Result<Option<oneshot::Sender<Told>>, &'static str> {
        let (max, max_per_model) = bounds;
        let of_model = self.by_model.get(model).filter(|of_model| of_model.held >= max_per_model);
        let (places, what) = match of_model {
            Some(of_model) => (&of_model.unresolved, "too many requests wait for this model to be loaded"),
            None if self.by_token.len() >= max => (&self.places, "too many requests wait for models to be loaded"),
            None => return Ok(None),
        };
        let (_, Reverse(token)) = *places.first().filter(|(priority, _)| *priority < by).ok_or(what)?;
        Ok(self.take(token))
    }
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

    /// Makes room for the request `token` of `model` (or of a vmodel) with so many bytes. Where no more may wait, the newest one
    /// of the lowest class loses its place to one of a higher class.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if a bound is reached.
    pub fn hold(self: &Arc<Self>, token: u64, model: &str, priority: Priority, bytes: usize) -> Result<Hold, Status> {
        let refusal = |what: &'static str| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            Status::new(Code::ResourceExhausted, what)
        };
        let mut share = self.bytes.share();
        if self.bytes.exhausted() || !share.grow(bytes) {
            return Err(refusal("too many bytes of requests wait for models to be loaded"));
        }
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        let displaced = waiting.displaced((self.max, self.max_per_model), model, priority).map_err(refusal)?;
        let place = (priority, Reverse(token));
        let of_model = waiting.by_model.entry(model.to_owned()).or_default();
        of_model.held += 1;
        of_model.unresolved.insert(place);
        waiting.places.insert(place);
        waiting.by_token.insert(token, Waiter { sender, model: model.to_owned(), place });
        drop(waiting);
        if let Some(displaced) = displaced {
            let what =
                "too many requests wait for models to be loaded, and this one lost its place to one of a higher class";
            // One that has just gone needs no place.
            let _ = displaced.send(Err(refusal(what)));
        }
        Ok(Hold { token, resolution: receiver, bytes: share, model: model.to_owned(), held: Arc::clone(self) })
    }

    /// Tells a held request what is next; false for a token that has gone.
    pub fn resolve(&self, token: u64, resolution: Resolution) -> bool {
        // Sent outside the lock: waking the task takes locks of its own.
        let sender = self.waiting.lock().take(token);
        sender.is_some_and(|sender| sender.send(Ok(resolution)).is_ok())
    }
}

/// One request's place among the held ones, given back when dropped.
pub struct Hold {
    pub token: u64,
    pub resolution: oneshot::Receiver<Told>,
    pub bytes: Share,
    model: String,
    held: Arc<Held>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut waiting = self.held.waiting.lock();
        drop(waiting.take(self.token));
        if let Some(of_model) = waiting.by_model.get_mut(&self.model) {
            of_model.held -= 1;
            if of_model.held == 0 {
                waiting.by_model.remove(&self.model);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(held: &Arc<Held>, model: &str, bytes: usize) -> Result<Hold, Status> {
        of_class(held, model, Priority::Normal, bytes)
    }

    fn of_class(held: &Arc<Held>, model: &str, priority: Priority, bytes: usize) -> Result<Hold, Status> {
        held.hold(held.token(), model, priority, bytes)
    }

    fn is_displaced(hold: &mut Hold) -> bool {
        matches!(hold.resolution.try_recv(), Ok(Err(Status { code: Code::ResourceExhausted, .. })))
    }

    #[test]
    fn one_model_takes_at_most_a_quarter() {
        let held = Arc::new(Held::new(8, 1000));
        let places: Vec<_> = (0..2).map(|_| hold(&held, "m", 1).unwrap()).collect();
        assert!(hold(&held, "m", 1).is_err());
        let others: Vec<_> = (0..6).map(|n| hold(&held, &format!("o{n}"), 1).unwrap()).collect();
        assert!(hold(&held, "last", 1).is_err());
        assert_eq!(held.count(), (8, 8));
        drop((places, others));
        assert_eq!(held.count(), (0, 0));
        assert!(held.waiting.lock().by_model.is_empty() && held.waiting.lock().places.is_empty());
        assert_eq!(held.refused(), 2);
    }

    #[test]
    fn bytes_are_bounded() {
        let held = Arc::new(Held::new(8, 10));
        let place = hold(&held, "m", 10).unwrap();
        assert!(hold(&held, "n", 0).is_err());
        drop(place);
        hold(&held, "n", 0).unwrap();
    }

    #[test]
    fn a_token_is_resolved_once() {
        let held = Arc::new(Held::new(8, 10));
        let mut place = hold(&held, "m", 0).unwrap();
        assert!(held.resolve(place.token, Resolution::Serve));
        assert!(!held.resolve(place.token, Resolution::Route));
        assert!(matches!(place.resolution.try_recv(), Ok(Ok(Resolution::Serve))));
        assert!(!held.resolve(999, Resolution::Route));
    }

    #[test]
    fn where_no_more_may_wait_the_newest_of_the_lowest_class_loses_its_place() {
        let held = Arc::new(Held::new(4, 1000));
        let mut low: Vec<_> = ["a", "b"].map(|model| of_class(&held, model, Priority::Low, 1).unwrap()).into();
        let mut normal: Vec<_> = ["c", "d"].map(|model| hold(&held, model, 1).unwrap()).into();
        assert!(of_class(&held, "e", Priority::Low, 1).is_err());
        let _e = hold(&held, "e", 1).unwrap();
        assert!(is_displaced(&mut low[1]) && !is_displaced(&mut low[0]));
        assert_eq!(held.count().0, 4, "whoever is displaced has no place from that moment on");
        let _f = of_class(&held, "f", Priority::High, 1).unwrap();
        assert!(is_displaced(&mut low[0]));
        assert!(hold(&held, "g", 1).is_err(), "of its own class it displaces none");
        let _g = of_class(&held, "g", Priority::High, 1).unwrap();
        assert!(!is_displaced(&mut normal[0]) && !is_displaced(&mut normal[1]), "e came last of its class");
        assert_eq!(held.refused(), 5);
    }

    #[test]
    fn where_a_model_has_its_quarter_one_of_its_own_is_displaced() {
        let held = Arc::new(Held::new(8, 1000));
        let mut other = of_class(&held, "o", Priority::Low, 1).unwrap();
        let mut first = of_class(&held, "m", Priority::Low, 1).unwrap();
        let mut resolved = of_class(&held, "m", Priority::Low, 1).unwrap();
        assert!(held.resolve(resolved.token, Resolution::Serve));
        let _high = of_class(&held, "m", Priority::High, 1).unwrap();
        assert!(is_displaced(&mut first) && !is_displaced(&mut other));
        assert!(matches!(resolved.resolution.try_recv(), Ok(Ok(Resolution::Serve))), "it waits no longer");
        assert!(of_class(&held, "m", Priority::High, 1).is_err());
    }
}
