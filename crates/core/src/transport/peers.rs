//! Where other instances and the runtime are, and whether they can be reached.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::uri::Authority;
use parking_lot::{Mutex, RwLock};

/// An address to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `host:port`.
    Tcp(String),
    Unix(PathBuf),
}

impl Address {
    /// Reads `host:port` or `unix:///path` (also `unix:path`, as gRPC libraries write it).
    #[must_use]
    pub fn parse(text: &str) -> Self {
        text.strip_prefix("unix:").map_or_else(
            || Self::Tcp(text.to_owned()),
            |path| Self::Unix(path.strip_prefix("//").unwrap_or(path).into()),
        )
    }

    fn authority(&self) -> Authority {
        let localhost = Authority::from_static("localhost");
        match self {
            Self::Tcp(address) => Authority::try_from(address.as_str()).unwrap_or(localhost),
            Self::Unix(_) => localhost,
        }
    }
}

/// What is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Runtime,
    Peer { tls_name: Option<String> },
}

/// One address of one instance (or of the runtime), as long as it is valid.
#[derive(Debug)]
pub struct Destination {
    /// Key of this destination in the threads' connection pools.
    pub id: u64,
    pub instance: Box<str>,
    pub address: Address,
    pub authority: Authority,
    pub kind: Kind,
    lost: AtomicBool,
    forgotten: AtomicBool,
}

impl Destination {
    #[must_use]
    pub fn new(instance: &str, address: &str, kind: Kind) -> Arc<Self> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let address = Address::parse(address);
        Arc::new(Self {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            instance: instance.into(),
            authority: address.authority(),
            address,
            kind,
            lost: AtomicBool::new(false),
            forgotten: AtomicBool::new(false),
        })
    }

    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Sets the link's state; true if that is a change.
    #[must_use]
    pub fn set_lost(&self, lost: bool) -> bool {
        self.lost.swap(lost, Ordering::SeqCst) != lost
    }

    #[must_use]
    pub fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Relaxed)
    }

    pub fn forget(&self) {
        self.forgotten.store(true, Ordering::SeqCst);
    }

    #[must_use]
    pub fn is_runtime(&self) -> bool {
        self.kind == Kind::Runtime
    }
}

/// Another instance. Routes name it before and after its address is known.
#[derive(Debug)]
pub struct Peer {
    pub instance: Arc<str>,
    destination: RwLock<Option<Arc<Destination>>>,
}

impl Peer {
    #[must_use]
    pub fn destination(&self) -> Option<Arc<Destination>> {
        self.destination.read().clone()
    }

    /// Whether requests may be sent there: its address is known and its link is not lost.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.destination.read().as_ref().is_some_and(|destination| !destination.is_lost())
    }
}

/// All instances that were ever named and still matter to somebody.
#[derive(Debug, Default)]
pub struct Peers {
    by_instance: Mutex<HashMap<Box<str>, Arc<Peer>>>,
}

impl Peers {
    /// The peer of that name; made if it was not named before.
    pub fn get(&self, instance: &str) -> Arc<Peer> {
        let mut peers = self.by_instance.lock();
        if let Some(peer) = peers.get(instance) {
            return Arc::clone(peer);
        }
        let peer = Arc::new(Peer { instance: instance.into(), destination: RwLock::default() });
        peers.insert(instance.into(), Arc::clone(&peer));
        peer
    }

    /// Sets or drops an address; returns the destination that is no longer valid.
    pub fn set(&self, instance: &str, address: Option<(&str, Option<&str>)>) -> Option<Arc<Destination>> {
        let peer = self.get(instance);
        let mut current = peer.destination.write();
        let new = address.map(|(address, tls_name)| {
            let kind = Kind::Peer { tls_name: tls_name.map(str::to_owned) };
            let same = current.as_ref().filter(|old| old.kind == kind && old.address == Address::parse(address));
            // The same address again keeps its connections and its link's state.
            same.map_or_else(|| Destination::new(instance, address, kind), Arc::clone)
        });
        let kept = matches!((&*current, &new), (Some(old), Some(new)) if Arc::ptr_eq(old, new));
        let old = std::mem::replace(&mut *current, new);
        drop(current);
        drop(peer);
        self.sweep();
        old.filter(|_| !kept)
    }

    /// Drops peers without an address that no route names.
    fn sweep(&self) {
        self.by_instance.lock().retain(|_, peer| Arc::strong_count(peer) > 1 || peer.destination.read().is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_both_forms() {
        assert_eq!(Address::parse("localhost:1"), Address::Tcp("localhost:1".into()));
        assert_eq!(Address::parse("unix:///run/x.sock"), Address::Unix("/run/x.sock".into()));
        assert_eq!(Address::parse("unix:x.sock"), Address::Unix("x.sock".into()));
    }

    #[test]
    fn the_same_address_keeps_its_destination() {
        let peers = Peers::default();
        let peer = peers.get("i1");
        assert!(!peer.is_reachable());
        assert!(peers.set("i1", Some(("a:1", None))).is_none());
        let first = peer.destination().unwrap();
        assert!(peers.set("i1", Some(("a:1", None))).is_none());
        assert!(Arc::ptr_eq(&first, &peer.destination().unwrap()));
        assert!(Arc::ptr_eq(&first, &peers.set("i1", Some(("a:2", None))).unwrap()));
        assert!(peers.set("i1", None).is_some());
        drop(peer);
        peers.set("i2", None);
        assert!(peers.by_instance.lock().is_empty());
    }
}
