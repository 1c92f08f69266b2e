//! Serving by a copy elsewhere: one hop.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::clock;
use crate::routing::copy::RemoteCopy;
use crate::routing::table::Route;
use crate::shared::Shared;
use crate::transport::peers::Peer;

/// One request sent to another instance. Dropping it counts the request out.
pub struct RemoteUse {
    pub peer: Arc<Peer>,
    copy: Option<Arc<RemoteCopy>>,
}

impl RemoteUse {
    /// A request to a copy that the routing table names.
    #[must_use]
    pub fn of_copy(route: &Route, copy: &Arc<RemoteCopy>) -> Self {
        copy.in_flight.fetch_add(1, Ordering::Relaxed);
        route.touch(clock::epoch_ms());
        Self { peer: Arc::clone(&copy.peer), copy: Some(Arc::clone(copy)) }
    }

    /// A request to an instance that Python chose.
    #[must_use]
    pub fn of_instance(shared: &Shared, model: &str, instance: &str) -> Self {
        let known = shared.table.get(model).and_then(|route| {
            let copies = route.copies.read();
            let copy = copies.remote.iter().find(|copy| *copy.peer.instance == *instance)?;
            Some(Self::of_copy(&route, copy))
        });
        known.unwrap_or_else(|| Self { peer: shared.peers.get(instance), copy: None })
    }

    /// Identity of the load that the copy is of; 0 if the table does not know it.
    #[must_use]
    pub fn load_id(&self) -> u64 {
        self.copy.as_ref().map_or(0, |copy| copy.load_id)
    }
}

impl Drop for RemoteUse {
    fn drop(&mut self) {
        if let Some(copy) = &self.copy {
            copy.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
