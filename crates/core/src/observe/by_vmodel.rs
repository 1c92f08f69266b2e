//! Counts of what happens to calls of vmodels, by the vmodel and the model that gets them.

use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::{Equivalent, HashMap};
use parking_lot::RwLock;

/// Models, each of each vmodel, that are told apart. Operators name them; those beyond the bound are not counted.
const MOST: usize = 4096;

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

/// Since the instance began; `N` kinds of ends are told apart.
pub struct ByVModel<const N: usize> {
    counted: RwLock<HashMap<Key, [AtomicU64; N]>>,
}

impl<const N: usize> Default for ByVModel<N> {
    fn default() -> Self {
        Self { counted: RwLock::default() }
    }
}

impl<const N: usize> ByVModel<N> {
    /// A call of the vmodel that the model got ended so; `end` is below `N`.
    pub fn count(&self, vmodel: &str, model: &str, end: usize) {
        let add = |counters: &[AtomicU64]| counters[end].fetch_add(1, Ordering::Relaxed);
        if let Some(counters) = self.counted.read().get(&Lookup { vmodel, model }) {
            add(counters);
            return;
        }
        let mut counted = self.counted.write();
        if counted.len() < MOST || counted.contains_key(&Lookup { vmodel, model }) {
            let key = Key { vmodel: vmodel.to_owned(), model: model.to_owned() };
            add(counted.entry(key).or_insert_with(|| std::array::from_fn(|_| 0.into())));
        }
    }

    /// The model is not registered any more.
    pub fn forget(&self, model: &str) {
        self.counted.write().retain(|key, _| key.model != model);
    }

    /// By vmodel and model.
    #[must_use]
    pub fn all(&self) -> Vec<(String, String, [u64; N])> {
        let counted = self.counted.read();
        let read = |counters: &[AtomicU64; N]| std::array::from_fn(|end| counters[end].load(Ordering::Relaxed));
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
        let counts = ByVModel::<3>::default();
        for (vmodel, model, end) in [("v", "m", 1), ("v", "m", 1), ("v", "m", 2), ("w", "m", 0), ("v", "n", 0)] {
            counts.count(vmodel, model, end);
        }
        let of = |vmodel: &str, model: &str, ends| (vmodel.to_owned(), model.to_owned(), ends);
        assert_eq!(counts.all(), [of("v", "m", [0, 2, 1]), of("v", "n", [1, 0, 0]), of("w", "m", [1, 0, 0])]);
        counts.forget("m");
        assert_eq!(counts.all(), [of("v", "n", [1, 0, 0])]);
    }

    #[test]
    fn the_table_does_not_grow_without_end() {
        let counts = ByVModel::<1>::default();
        for number in 0..2 * MOST {
            counts.count(&number.to_string(), "m", 0);
        }
        counts.count("0", "m", 0);
        assert_eq!(counts.all().len(), MOST);
        assert_eq!(counts.all()[0].2, [2]);
    }
}
