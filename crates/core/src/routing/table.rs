//! The routing table: which copies of a model a request may go to.
//!
//! Sharded, so that a batch of changes blocks a sixty-fourth of the lookups at a time. A lookup takes
//! one shared lock and one counter, and allocates nothing.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use parking_lot::{Mutex, RwLock};

use crate::routing::copy::{LocalCopy, RemoteCopy};
use crate::routing::gate::Bounds;
use crate::routing::naming::{Naming, Shadow};
use crate::routing::trial::{Tally, Trial};
use crate::transport::peers::Peers;

/// Slot of a dropped route.
pub const NO_SLOT: u32 = u32::MAX;

const SHARDS: usize = 64;

/// Where calls for one model may go.
#[derive(Debug)]
pub struct Route {
    pub model: Box<str>,
    pub slot: u32,
    /// Used since the last look at usage.
    pub touched: AtomicBool,
    pub last_use_ms: AtomicU64,
    pub copies: RwLock<Copies>,
}

#[derive(Debug, Default)]
pub struct Copies {
    pub local: Option<Arc<LocalCopy>>,
    pub remote: Box<[Arc<RemoteCopy>]>,
}

impl Route {
    /// Notes that the route was used.
    pub fn touch(&self, now_ms: u64) {
        self.last_use_ms.store(now_ms, Ordering::Relaxed);
        self.touched.store(true, Ordering::Relaxed);
    }
}

/// A route as Python sets it.
#[derive(Clone, Debug, Default)]
pub struct NewRoute {
    pub local: Option<NewLocal>,
    pub remote: Vec<(String, u64)>,
}

#[derive(Clone, Copy, Debug)]
pub struct NewLocal {
    pub ready: bool,
    pub load_id: u64,
    pub bounds: Bounds,
}

/// A local copy that has nothing running and was waited for.
#[derive(Debug, PartialEq, Eq)]
pub struct Idle {
    pub model: String,
    pub load_id: u64,
}

/// The model of a call of a vmodel, and what else is done with it.
#[derive(Debug)]
pub struct Named {
    pub model: Arc<str>,
    pub shadow: Option<Arc<Shadow>>,
    pub trial: Option<Arc<Trial>>,
}

/// A vmodel has no version of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchVersion;

/// All routes, and the vmodels that name them.
pub struct Table {
    shards: [RwLock<HashTable<Arc<Route>>>; SHARDS],
    hasher: RandomState,
    slots: Mutex<Slots>,
    vmodels: RwLock<HashMap<String, Naming>>,
}

/// Slot numbers; those of dropped routes are given out again, so that they stay dense.
#[derive(Default)]
struct Slots {
    free: Vec<u32>,
    next: u32,
}

impl Slots {
    fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }
}

impl Default for Table {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            hasher: RandomState::new(),
            slots: Mutex::default(),
            vmodels: RwLock::default(),
        }
    }
}

impl Table {
    fn hash(&self, model: &str) -> u64 {
        self.hasher.hash_one(model)
    }

    fn shard(&self, hash: u64) -> &RwLock<HashTable<Arc<Route>>> {
        // The table uses the high bits for its tags and the low bits for its buckets.
        &self.shards[usize::try_from(hash >> 32).unwrap_or(0) % SHARDS]
    }

    #[must_use]
    pub fn get(&self, model: &str) -> Option<Arc<Route>> {
        let hash = self.hash(model);
        self.shard(hash).read().find(hash, |route| *route.model == *model).cloned()
    }

    /// The model that a vmodel stands for in a call; as `Naming::model`.
    pub fn model_of(&self, vmodel: &str, draw: impl FnOnce() -> u8) -> Option<Named> {
        let vmodels = self.vmodels.read();
        let naming = vmodels.get(vmodel)?;
        let (shadow, trial) = (naming.shadow().cloned(), naming.trial().cloned());
        Some(Named { model: Arc::clone(naming.model(draw)), shadow, trial })
    }

    /// What is counted of the models of a vmodel, and under which id; None: nothing is.
    #[must_use]
    pub fn tallies_of(&self, vmodel: &str) -> Option<(u64, Vec<Tally>)> {
        let trial = self.vmodels.read().get(vmodel)?.trial().cloned()?;
        Some((trial.id, trial.tallies()))
    }

    /// The model that a call of a vmodel chooses, as `Naming::version`; None: nothing is known of the vmodel.
    ///
    /// # Errors
    /// It has no such version.
    pub fn version_of(&self, vmodel: &str, version: &str) -> Result<Option<Arc<str>>, NoSuchVersion> {
        match self.vmodels.read().get(vmodel) {
            None => Ok(None),
            Some(naming) => naming.version(version).cloned().map(Some).ok_or(NoSuchVersion),
        }
    }

    /// The model that answers calls of a vmodel while the wanted one is cold or fails.
    #[must_use]
    pub fn fallback_of(&self, vmodel: &str) -> Option<Arc<str>> {
        self.vmodels.read().get(vmodel)?.fallback().cloned()
    }

    /// Whether the control plane should hear now that the fallback of a vmodel answers; `now_ms` is monotonic and above 0.
    #[must_use]
    pub fn is_fallback_to_be_told(&self, vmodel: &str, now_ms: u64) -> bool {
        self.vmodels.read().get(vmodel).is_some_and(|naming| naming.is_to_be_told(now_ms))
    }

    #[must_use]
    pub fn has_vmodel(&self, vmodel: &str) -> bool {
        self.vmodels.read().contains_key(vmodel)
    }

    pub fn set_vmodels(&self, changes: Vec<(String, Option<Naming>)>) {
        let mut vmodels = self.vmodels.write();
        for (vmodel, naming) in changes {
            match naming {
                Some(mut naming) => {
                    if let Some(before) = vmodels.get(&vmodel) {
                        naming.go_on(before);
                    }
                    vmodels.insert(vmodel, naming)
                }
                None => vmodels.remove(&vmodel),
            };
        }
    }

    /// Sets or drops a route. Returns its slot; copies that became idle by it are added to `idle`.
    pub fn set(&self, peers: &Peers, model: &str, new: Option<NewRoute>, idle: &mut Vec<Idle>) -> u32 {
        match new {
            Some(new) => self.put(peers, model, new, idle),
            None => {
                self.drop_route(model, idle);
                NO_SLOT
            }
        }
    }

    fn put(&self, peers: &Peers, model: &str, new: NewRoute, idle: &mut Vec<Idle>) -> u32 {
        let route = self.get_or_insert(model);
        let mut copies = route.copies.write();
        let old = mem::take(&mut copies.remote);
        copies.remote = new
            .remote
            .into_iter()
            .map(|(instance, load_id)| {
                let kept = old.iter().find(|copy| copy.load_id == load_id && *copy.peer.instance == *instance);
                kept.map_or_else(
                    || Arc::new(RemoteCopy { peer: peers.get(&instance), load_id, in_flight: 0.into() }),
                    Arc::clone,
                )
            })
            .collect();
        let mut told = |copy: &LocalCopy, is_idle: bool| {
            if is_idle {
                idle.push(Idle { model: model.to_owned(), load_id: copy.load_id });
            }
        };
        match (copies.local.take(), new.local) {
            (Some(copy), Some(new)) if copy.load_id == new.load_id => {
                told(&copy, copy.set(new.ready, new.bounds));
                copies.local = Some(copy);
            }
            (old, new) => {
                copies.local = new.map(|new| Arc::new(LocalCopy::new(new.load_id, new.ready, new.bounds)));
                if let Some(copy) = old {
                    told(&copy, copy.retire());
                }
            }
        }
        route.slot
    }

    fn get_or_insert(&self, model: &str) -> Arc<Route> {
        let hash = self.hash(model);
        let mut shard = self.shard(hash).write();
        let entry = shard.entry(hash, |route| *route.model == *model, |route| self.hasher.hash_one(&*route.model));
        match entry {
            Entry::Occupied(route) => Arc::clone(route.get()),
            Entry::Vacant(place) => {
                let route = Arc::new(Route {
                    model: model.into(),
                    slot: self.slots.lock().take(),
                    touched: AtomicBool::new(false),
                    last_use_ms: AtomicU64::new(0),
                    copies: RwLock::default(),
                });
                place.insert(Arc::clone(&route));
                route
            }
        }
    }

    fn drop_route(&self, model: &str, idle: &mut Vec<Idle>) {
        let hash = self.hash(model);
        let mut shard = self.shard(hash).write();
        let Ok(entry) = shard.find_entry(hash, |route| *route.model == *model) else { return };
        let (route, _) = entry.remove();
        drop(shard);
        self.slots.lock().free.push(route.slot);
        let copies = mem::take(&mut *route.copies.write());
        if let Some(copy) = copies.local
            && copy.retire()
        {
            idle.push(Idle { model: model.to_owned(), load_id: copy.load_id });
        }
    }

    /// Visits every route, one shard at a time.
    pub fn visit(&self, mut visit: impl FnMut(&Route)) {
        for shard in &self.shards {
            for route in shard.read().iter() {
                visit(route);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(ready: bool, load_id: u64) -> NewRoute {
        NewRoute { local: Some(NewLocal { ready, load_id, bounds: Bounds::default() }), remote: Vec::new() }
    }

    #[test]
    fn counters_of_a_copy_that_stays_go_on() {
        let (table, peers, mut idle) = (Table::default(), Peers::default(), Vec::new());
        let remote = |copies: &[(&str, u64)]| NewRoute {
            local: None,
            remote: copies.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect(),
        };
        table.set(&peers, "m", Some(remote(&[("a", 1), ("b", 2)])), &mut idle);
        let route = table.get("m").unwrap();
        route.copies.read().remote[1].in_flight.store(7, Ordering::Relaxed);
        table.set(&peers, "m", Some(remote(&[("b", 2), ("a", 3)])), &mut idle);
        let copies = route.copies.read();
        assert_eq!(copies.remote[0].in_flight.load(Ordering::Relaxed), 7);
        assert_eq!(copies.remote[1].load_id, 3);
    }

    #[test]
    fn a_local_copy_that_goes_is_told_when_idle() {
        let (table, peers, mut idle) = (Table::default(), Peers::default(), Vec::new());
        table.set(&peers, "m", Some(local(true, 1)), &mut idle);
        table.set(&peers, "m", Some(local(false, 1)), &mut idle);
        assert_eq!(mem::take(&mut idle), [Idle { model: "m".into(), load_id: 1 }]);
        table.set(&peers, "m", Some(local(true, 2)), &mut idle);
        table.set(&peers, "m", Some(local(true, 3)), &mut idle);
        assert_eq!(mem::take(&mut idle), [Idle { model: "m".into(), load_id: 2 }]);
        table.set(&peers, "m", None, &mut idle);
        assert_eq!(mem::take(&mut idle), [Idle { model: "m".into(), load_id: 3 }]);
        assert!(table.get("m").is_none());
    }

    #[test]
    fn slots_are_dense() {
        let (table, peers, mut idle) = (Table::default(), Peers::default(), Vec::new());
        let mut set = |model: &str, new| table.set(&peers, model, new, &mut idle);
        assert_eq!(set("a", Some(local(false, 1))), 0);
        assert_eq!(set("b", Some(local(false, 1))), 1);
        assert_eq!(set("a", Some(local(true, 1))), 0);
        assert_eq!(set("a", None), NO_SLOT);
        assert_eq!(set("c", Some(local(false, 1))), 0);
    }

    #[test]
    fn a_route_stays_small() {
        // The allocator's rounding, the id (23 bytes) and the table's own slot come on top: below 250 in all.
        assert!(size_of::<Route>() + 16 <= 80, "{}", size_of::<Route>());
        assert!(size_of::<LocalCopy>() + 16 <= 96, "{}", size_of::<LocalCopy>());
    }
}
