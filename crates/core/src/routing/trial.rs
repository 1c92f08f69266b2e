//! What is counted while two models of a vmodel are compared.

use std::array;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::wire::status::Code;

/// Times below this are one bucket; each power of two above it has four. In µs.
const FINEST: u64 = 64;
const PER_POWER: u64 = 4;
/// Up to nine minutes; what takes longer is in the last one.
pub const BUCKETS: usize = 93;

/// A comparison, which goes on as long as its id is the same.
#[derive(Debug)]
pub struct Trial {
    pub id: u64,
    arms: Box<[(Arc<str>, Arm)]>,
}

#[derive(Debug)]
struct Arm {
    calls: AtomicU64,
    failed: AtomicU64,
    /// Of those that did not fail.
    times: [AtomicU64; BUCKETS],
}

/// What was counted of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    pub model: String,
    pub calls: u64,
    pub failed: u64,
    /// How many of the others took how long.
    pub times: Vec<u64>,
}

impl Trial {
    #[must_use]
    pub fn new(id: u64, models: impl Iterator<Item = Arc<str>>) -> Self {
        let arm = || Arm { calls: 0.into(), failed: 0.into(), times: array::from_fn(|_| 0.into()) };
        Self { id, arms: models.map(|model| (model, arm())).collect() }
    }

    /// Whether what this one has counted is what the other is to count.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let models = |trial: &'_ Self| trial.arms.iter().map(|(model, _)| Arc::clone(model)).collect::<Vec<_>>();
        self.id == other.id && models(self) == models(other)
    }

    /// A client's call has ended that a model answered. One that the client gave up says nothing about the model.
    pub fn ended(&self, model: &str, code: Code, time: Duration) {
        if code == Code::Cancelled {
            return;
        }
        let Some((_, arm)) = self.arms.iter().find(|(known, _)| **known == *model) else { return };
        if code == Code::Ok {
            arm.times[bucket(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))].fetch_add(1, Ordering::Relaxed);
        } else {
            arm.failed.fetch_add(1, Ordering::Relaxed);
        }
        arm.calls.fetch_add(1, Ordering::Relaxed);
    }

    #[must_use]
    pub fn tallies(&self) -> Vec<Tally> {
        let read = |(model, arm): &(Arc<str>, Arm)| Tally {
            model: model.to_string(),
            calls: arm.calls.load(Ordering::Relaxed),
            failed: arm.failed.load(Ordering::Relaxed),
            times: arm.times.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
        };
        self.arms.iter().map(read).collect()
    }
}

/// Where a time in µs is counted; `modelmesh.values.rollout` has the bounds.
fn bucket(time_us: u64) -> usize {
    if time_us < FINEST {
        return 0;
    }
    let power = u64::from(time_us.ilog2());
    let part = (time_us >> (power - 2)) & (PER_POWER - 1);
    let bucket = 1 + (power - u64::from(FINEST.ilog2())) * PER_POWER + part;
    usize::try_from(bucket).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(id: u64) -> Trial {
        Trial::new(id, ["a", "b"].into_iter().map(Into::into))
    }

    #[test]
    fn calls_are_counted_by_the_model_that_answered() {
        let trial = trial(1);
        let ms = Duration::from_millis(1);
        for (model, code) in [
            ("a", Code::Ok),
            ("b", Code::Ok),
            ("b", Code::Internal),
            ("b", Code::InvalidArgument),
            ("b", Code::Cancelled),
            ("other", Code::Ok),
        ] {
            trial.ended(model, code, ms);
        }
        let [a, b] = &trial.tallies()[..] else { panic!("two models") };
        assert_eq!((&*a.model, a.calls, a.failed), ("a", 1, 0));
        assert_eq!((&*b.model, b.calls, b.failed), ("b", 3, 2));
        assert_eq!((b.times[bucket(1000)], b.times.iter().sum::<u64>()), (1, 1));
    }

    #[test]
    fn each_power_of_two_has_four_buckets() {
        for (time_us, expected) in
            [(0, 0), (63, 0), (64, 1), (79, 1), (80, 2), (96, 3), (112, 4), (127, 4), (128, 5), (u64::MAX, BUCKETS - 1)]
        {
            assert_eq!(bucket(time_us), expected, "{time_us}");
        }
        let buckets: Vec<_> = (0..1 << 16).map(bucket).collect();
        assert!(buckets.is_sorted());
        assert_eq!(bucket((1 << 29) - 1), BUCKETS - 1);
    }

    #[test]
    fn a_trial_goes_on_with_the_same_id_and_models() {
        assert!(trial(1).is_same(&trial(1)));
        assert!(!trial(1).is_same(&trial(2)));
        assert!(!trial(1).is_same(&Trial::new(1, ["a", "c"].into_iter().map(Into::into))));
    }
}
