//! Who has used which model how much at this instance.
//!
//! Counted are inference calls of clients of this instance, under the tenant that calls, and loads here, under the tenant that
//! registered the model. Without tenants there is one without a name.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hashbrown::{Equivalent, HashMap};
use parking_lot::RwLock;

/// Models, each of each tenant, that are told apart. What comes later is counted for its tenant alone.
const MOST: usize = 4096;
/// Stands for those. No id of a registered model is this by accident.
pub const OTHERS: &str = "(other)";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    tenant: String,
    model: String,
}

/// A `Key` to look one up by. Hashes as that does: field by field, in the same order.
#[derive(Clone, Copy, Hash)]
struct Lookup<'a> {
    tenant: &'a str,
    model: &'a str,
}

impl Equivalent<Key> for Lookup<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.model == key.model && self.tenant == key.tenant
    }
}

/// What a tenant has used of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consumed {
    /// Calls that have ended.
    pub calls: u64,
    /// Those of them that ended with another status than OK.
    pub failed: u64,
    /// How long the calls took together.
    pub time_us: u64,
    /// Of the messages of requests and answers.
    pub bytes: u64,
    /// Loads that ended well.
    pub loads: u64,
}

#[derive(Default)]
struct Counters {
    calls: AtomicU64,
    failed: AtomicU64,
    time_us: AtomicU64,
    bytes: AtomicU64,
    loads: AtomicU64,
}

impl Counters {
    fn add(&self, more: Consumed) {
        for (counter, more) in [
            (&self.calls, more.calls),
            (&self.failed, more.failed),
            (&self.time_us, more.time_us),
            (&self.bytes, more.bytes),
            (&self.loads, more.loads),
        ] {
            if more > 0 {
                counter.fetch_add(more, Ordering::Relaxed);
            }
        }
    }

    fn read(&self) -> Consumed {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Consumed {
            calls: read(&self.calls),
            failed: read(&self.failed),
            time_us: read(&self.time_us),
            bytes: read(&self.bytes),
            loads: read(&self.loads),
        }
    }
}

/// What was used since the instance began.
#[derive(Default)]
pub struct Usage {
    used: RwLock<HashMap<Key, Counters>>,
}

impl Usage {
    /// A call of a client has ended. `answered`: a copy of the model has answered it, so it is no model that a client has made up.
    pub fn called(&self, tenant: &str, model: &str, answered: bool, ok: bool, time: Duration, bytes: u64) {
        let time_us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let consumed = Consumed { calls: 1, failed: u64::from(!ok), time_us, bytes, loads: 0 };
        let known = if answered { self.add(tenant, model, consumed) } else { self.add_known(tenant, model, consumed) };
        if !known {
            self.add(tenant, OTHERS, consumed);
        }
    }

    /// A model has been loaded here that a tenant registered.
    pub fn loaded(&self, tenant: &str, model: &str) {
        let consumed = Consumed { loads: 1, ..Consumed::default() };
        if !self.add(tenant, model, consumed) {
            self.add(tenant, OTHERS, consumed);
        }
    }

    /// The model is not registered any more: what was used of it stays with its tenants.
    pub fn forget(&self, model: &str) {
        if model == OTHERS {
            return;
        }
        let mut used = self.used.write();
        let gone: Vec<Key> = used.keys().filter(|key| key.model == model).cloned().collect();
        for Key { tenant, model } in gone {
            let consumed = used.remove(&Lookup { tenant: &tenant, model: &model }).unwrap_or_default().read();
            used.entry(Key { tenant, model: OTHERS.to_owned() }).or_default().add(consumed);
        }
    }

    /// By tenant and model.
    #[must_use]
    pub fn all(&self) -> Vec<(String, String, Consumed)> {
        let used = self.used.read();
        let mut all: Vec<_> =
            used.iter().map(|(key, counters)| (key.tenant.clone(), key.model.clone(), counters.read())).collect();
        drop(used);
        all.sort_unstable_by(|one, other| (&one.0, &one.1).cmp(&(&other.0, &other.1)));
        all
    }

    /// The counters are written under the lock that reads the table: cheaper than counting references.
    fn add_known(&self, tenant: &str, model: &str, consumed: Consumed) -> bool {
        let used = self.used.read();
        let counters = used.get(&Lookup { tenant, model });
        counters.inspect(|counters| counters.add(consumed)).is_some()
    }

    /// False: there is no room. There is always some for the others of a tenant: operators list tenants.
    fn add(&self, tenant: &str, model: &str, consumed: Consumed) -> bool {
        if self.add_known(tenant, model, consumed) {
            return true;
        }
        let mut used = self.used.write();
        if used.len() >= MOST && model != OTHERS {
            return false;
        }
        used.entry(Key { tenant: tenant.to_owned(), model: model.to_owned() }).or_default().add(consumed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(usage: &Usage, tenant: &str, model: &str, answered: bool) {
        usage.called(tenant, model, answered, answered, Duration::from_micros(7), 11);
    }

    fn of(usage: &Usage, tenant: &str, model: &str) -> Option<Consumed> {
        usage.all().into_iter().find(|one| one.0 == tenant && one.1 == model).map(|one| one.2)
    }

    #[test]
    fn calls_and_loads_are_counted_by_tenant_and_model() {
        let usage = Usage::default();
        call(&usage, "t", "m", true);
        call(&usage, "t", "m", false);
        call(&usage, "u", "m", true);
        usage.loaded("t", "m");
        assert_eq!(of(&usage, "t", "m"), Some(Consumed { calls: 2, failed: 1, time_us: 14, bytes: 22, loads: 1 }));
        assert_eq!(of(&usage, "u", "m"), Some(Consumed { calls: 1, failed: 0, time_us: 7, bytes: 11, loads: 0 }));
        assert_eq!(usage.all().len(), 2);
    }

    #[test]
    fn models_that_clients_make_up_and_those_beyond_the_bound_are_counted_for_their_tenant() {
        let usage = Usage::default();
        for number in 0..2 * MOST {
            call(&usage, "t", &format!("made-up-{number}"), false);
        }
        assert_eq!(usage.all().len(), 1);
        for number in 0..2 * MOST {
            call(&usage, "u", &number.to_string(), true);
        }
        assert_eq!(usage.all().len(), MOST + 1);
        let sum: u64 = usage.all().iter().filter(|one| one.0 == "u").map(|one| one.2.calls).sum();
        assert_eq!(sum, 2 * MOST as u64, "none is lost");
    }

    #[test]
    fn what_was_used_of_a_model_that_has_gone_stays_with_its_tenant() {
        let usage = Usage::default();
        for (tenant, model) in [("t", "m"), ("t", "n"), ("u", "m")] {
            call(&usage, tenant, model, true);
        }
        usage.forget("m");
        usage.forget("n");
        usage.forget(OTHERS);
        let names: Vec<_> = usage.all().into_iter().map(|one| (one.0, one.1, one.2.calls)).collect();
        assert_eq!(names, [("t".into(), OTHERS.into(), 2), ("u".into(), OTHERS.into(), 1)]);
    }
}
