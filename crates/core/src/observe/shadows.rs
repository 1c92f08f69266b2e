//! Copies of calls for shadows of vmodels: what they may hold, and how they ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::{Equivalent, HashMap};
use parking_lot::RwLock;

use crate::budget::Budget;

/// Shadows, each of each vmodel, that are told apart. Operators set them; those beyond the bound are not counted.
const MOST: usize = 4096;

/// Copies of calls that may run at a time.
const AT_ONCE: usize = 256;

/// What copies of calls may hold.
pub struct ShadowBudgets {
    /// Bytes of requests, and of answers that are compared.
    pub bytes: Arc<Budget>,
    /// Copies that run.
    pub at_once: Arc<Budget>,
}

impl ShadowBudgets {
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { bytes: Budget::new(max_bytes), at_once: Budget::new(AT_ONCE) }
    }
}

/// How a copy of a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShadowEnd {
    /// The shadow answered, and its answer was not to be compared, or could not be.
    Answered,
    /// It answered as the caller was answered.
    Equal,
    Different,
    /// It ended with another status than OK, or not in time.
    Failed,
    /// No copy of the model was ready.
    Cold,
    /// There was no room for it.
    Dropped,
    /// The call was no single message, so that it was not copied.
    Stream,
}

/// In the order of `ShadowEnd`.
pub const SHADOW_ENDS: [&str; 7] = ["answered", "equal", "different", "failed", "cold", "dropped", "stream"];

/// So many copies ended so, in the order of `ShadowEnd`.
pub type ShadowCounts = [u64; SHADOW_ENDS.len()];

#[derive(PartialEq, Eq, Hash)]
struct Key {
    vmodel: String,
    model: String,
}

/// A `Key` to look one up by. Hashes as that does: field by field, in the same order.
#[derive(Hash)]
struct Lookup<'a> {
    vmodel: &'a str,
    model: &'a str,
}

impl Equivalent<Key> for Lookup<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.vmodel == key.vmodel && self.model == key.model
    }
}

/// Since the instance began.
#[derive(Default)]
pub struct Shadows {
    counted: RwLock<HashMap<Key, [AtomicU64; SHADOW_ENDS.len()]>>,
}

impl Shadows {
    /// A copy of a call of the vmodel ended at its shadow.
    pub fn ended(&self, vmodel: &str, model: &str, end: ShadowEnd) {
        let add = |counters: &[AtomicU64]| counters[end as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(counters) = self.counted.read().get(&Lookup { vmodel, model }) {
            add(counters);
            return;
        }
        let mut counted = self.counted.write();
        if counted.len() < MOST || counted.contains_key(&Lookup { vmodel, model }) {
            let key = Key { vmodel: vmodel.to_owned(), model: model.to_owned() };
            add(counted.entry(key).or_default());
        }
    }

    /// The model is not registered any more.
    pub fn forget(&self, model: &str) {
        self.counted.write().retain(|key, _| key.model != model);
    }

    /// By vmodel and model.
    #[must_use]
    pub fn all(&self) -> Vec<(String, String, ShadowCounts)> {
        let counted = self.counted.read();
        let read = |counters: &[AtomicU64; SHADOW_ENDS.len()]| {
            std::array::from_fn(|end| counters[end].load(Ordering::Relaxed))
        };
        let one = |(key, counters): (&Key, _)| (key.vmodel.clone(), key.model.clone(), read(counters));
        let mut all: Vec<_> = counted.iter().map(one).collect();
        drop(counted);
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_counted_by_vmodel_and_model_until_the_model_is_gone() {
        let shadows = Shadows::default();
        for end in [ShadowEnd::Equal, ShadowEnd::Equal, ShadowEnd::Cold] {
            shadows.ended("v", "m", end);
        }
        shadows.ended("w", "m", ShadowEnd::Stream);
        shadows.ended("v", "n", ShadowEnd::Answered);
        let of = |vmodel: &str, model: &str, counts| (vmodel.to_owned(), model.to_owned(), counts);
        let n = of("v", "n", [1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            shadows.all(),
            [of("v", "m", [0, 2, 0, 0, 1, 0, 0]), n.clone(), of("w", "m", [0, 0, 0, 0, 0, 0, 1])]
        );
        shadows.forget("m");
        assert_eq!(shadows.all(), [n]);
    }

    #[test]
    fn the_table_does_not_grow_without_end() {
        let shadows = Shadows::default();
        for number in 0..2 * MOST {
            shadows.ended(&number.to_string(), "m", ShadowEnd::Equal);
        }
        shadows.ended("0", "m", ShadowEnd::Equal);
        assert_eq!(shadows.all().len(), MOST);
        assert_eq!(shadows.all()[0].2[ShadowEnd::Equal as usize], 2);
    }
}
