//! How many connections there may be, in all and of each kind.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::resource::{Resource, getrlimit};
use parking_lot::Mutex;

/// How many connections there are, and may be: of clients, and by themselves those of other instances. A flood of the ones
/// must not shut out the others.
#[derive(Debug)]
pub struct Connections {
    open: AtomicUsize,
    max: usize,
    /// Those of each address. One address leaves some for others.
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

impl Connections {
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), max, by_address: Mutex::default() })
    }

    /// The descriptors of this process, less a quarter for connections to the runtime, to peers and to the
    /// store; at most 16,384.
    #[must_use]
    pub fn most() -> usize {
        (descriptors() / 4 * 3).clamp(1, 16_384)
    }

    /// Half of that quarter.
    #[must_use]
    pub fn most_of_peers() -> usize {
        (descriptors() / 8).clamp(1, 16_384)
    }

    /// What one address may have: a part, unless there are so few that this would be a handful.
    fn most_of_one(&self) -> usize {
        (self.max / 4 * 3).max(64)
    }

    /// Whether those that do nothing should make room.
    #[must_use]
    pub fn are_scarce(&self) -> bool {
        self.open.load(Ordering::Relaxed) * 4 >= self.max * 3
    }

    /// Counts a connection until the returned value is dropped; None if there are enough.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Admission> {
        let mut by_address = self.by_address.lock();
        let of_it = by_address.entry(address).or_default();
        *of_it += 1;
        let few = *of_it <= self.most_of_one();
        drop(by_address);
        let admission = Admission { connections: Arc::clone(self), address };
        (self.open.fetch_add(1, Ordering::Relaxed) < self.max && few).then_some(admission)
    }
}

/// One connection's place among those that are permitted.
pub struct Admission {
    connections: Arc<Connections>,
    address: IpAddr,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
        let mut by_address = self.connections.by_address.lock();
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// Who has an address: with IPv6 a whole network is one machine's.
#[must_use]
pub fn holder_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

/// Descriptors that this process may have.
fn descriptors() -> usize {
    let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(descriptors).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_places_for_others() {
        let connections = Connections::new(100);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let of_one: Vec<Admission> = (0..100).filter_map(|_| connections.admit(one)).collect();
        assert_eq!(of_one.len(), 75);
        let of_other: Vec<Admission> = (0..100).filter_map(|_| connections.admit(other)).collect();
        assert_eq!(of_other.len(), 25);
        drop((of_one, of_other));
        assert!(connections.by_address.lock().is_empty());
        assert_eq!(connections.open.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_network_is_one_holder() {
        let holder = |text: &str| holder_of(text.parse().unwrap());
        assert_eq!(holder("2001:db8::1"), holder("2001:db8::ffff:1"));
        assert_ne!(holder("2001:db8::1"), holder("2001:db8:0:1::1"));
        assert_eq!(holder("::ffff:10.0.0.1"), holder("10.0.0.1"));
        assert_ne!(holder("10.0.0.1"), holder("10.0.0.2"));
    }
}
