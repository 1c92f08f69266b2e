//! Places for calls that Python answers. Each kind of caller has its own, so that none shuts out another; where all are
//! taken, whoever has most gives one back.

use std::collections::{BTreeSet, HashMap};

use crate::transport::port::Port;

/// Kinds of calls, each with places of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Clients that register models and ask about them.
    Management,
    /// Whoever looks whether the instance is well.
    Health,
    /// Other instances.
    Peer,
}

impl Kind {
    const COUNT: usize = 3;

    #[must_use]
    pub fn of(port: Port, method: &str) -> Self {
        match port {
            Port::Peer => Self::Peer,
            Port::Serving if method.starts_with("grpc.health.v1.") => Self::Health,
            Port::Serving => Self::Management,
        }
    }

    /// Calls that may be open at a time: of all, and of one connection.
    fn most(self) -> (usize, usize) {
        match self {
            Self::Management => (4096, 512),
            Self::Health => (1024, 128),
            Self::Peer => (4096, 4096),
        }
    }
}

/// What is done with a new call.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    Free,
    /// It takes the place of another, which has to end.
    Of(u64),
    /// There is none.
    None,
}

/// All places.
#[derive(Debug, Default)]
pub struct Pools([Pool; Kind::COUNT]);

#[derive(Debug, Default)]
struct Pool {
    open: usize,
    /// Calls by connection, the oldest first.
    by_connection: HashMap<u64, BTreeSet<u64>>,
    /// Connections by how many calls they have.
    ranks: BTreeSet<(usize, u64)>,
}

impl Pools {
    /// A place for the call `token` of a connection. It is its own until `leave`.
    pub fn enter(&mut self, kind: Kind, connection: u64, token: u64) -> Place {
        let (most, of_one) = kind.most();
        let pool = &mut self.0[kind as usize];
        let own = pool.by_connection.get(&connection).map_or(0, BTreeSet::len);
        if own >= of_one {
            return Place::None;
        }
        let mut place = Place::Free;
        if pool.open >= most {
            let Some((count, greediest)) = pool.ranks.last().copied().filter(|(count, _)| *count > own + 1) else {
                return Place::None;
            };
            debug_assert!(count > 0);
            let Some(newest) = pool.by_connection.get(&greediest).and_then(|calls| calls.last().copied()) else {
                return Place::None;
            };
            pool.remove(greediest, newest);
            place = Place::Of(newest);
        }
        pool.insert(connection, token);
        place
    }

    /// Gives a place back, if it is still the call's.
    pub fn leave(&mut self, kind: Kind, connection: u64, token: u64) {
        self.0[kind as usize].remove(connection, token);
    }
}

impl Pool {
    fn insert(&mut self, connection: u64, token: u64) {
        let calls = self.by_connection.entry(connection).or_default();
        self.ranks.remove(&(calls.len(), connection));
        calls.insert(token);
        self.ranks.insert((calls.len(), connection));
        self.open += 1;
    }

    fn remove(&mut self, connection: u64, token: u64) {
        let Some(calls) = self.by_connection.get_mut(&connection) else { return };
        let before = calls.len();
        if !calls.remove(&token) {
            return;
        }
        self.ranks.remove(&(before, connection));
        if calls.is_empty() {
            self.by_connection.remove(&connection);
        } else {
            self.ranks.insert((before - 1, connection));
        }
        self.open -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(kind: Kind, connections: u64) -> Pools {
        let mut pools = Pools::default();
        let (most, _) = kind.most();
        for token in 0..most as u64 {
            assert_eq!(pools.enter(kind, token % connections, token), Place::Free);
        }
        pools
    }

    #[test]
    fn one_connection_takes_no_more_than_its_part() {
        for kind in [Kind::Management, Kind::Health] {
            let mut pools = Pools::default();
            let (most, of_one) = kind.most();
            let free = (0..most as u64).filter(|token| pools.enter(kind, 1, *token) == Place::Free).count();
            assert_eq!(free, of_one);
            assert_eq!(pools.enter(kind, 2, 9999), Place::Free);
        }
    }

    #[test]
    fn kinds_have_places_of_their_own() {
        let mut pools = full(Kind::Management, 8);
        assert_eq!(pools.enter(Kind::Health, 1, 10_000), Place::Free);
        assert_eq!(pools.enter(Kind::Peer, 1, 10_001), Place::Free);
    }

    #[test]
    fn whoever_has_most_gives_its_newest_place_to_one_who_has_none() {
        let mut pools = full(Kind::Management, 8);
        assert_eq!(pools.enter(Kind::Management, 99, 10_000), Place::Of(4095), "connection 7 came last");
        assert_eq!(pools.enter(Kind::Management, 3, 10_001), Place::None, "it has its part");
        pools.leave(Kind::Management, 7, 4095);
        assert_eq!(pools.0[0].open, 4096, "its place was given away before");
    }

    #[test]
    fn nothing_is_left_of_calls_that_have_ended() {
        let mut pools = full(Kind::Peer, 5);
        for token in 0..4096 {
            pools.leave(Kind::Peer, token % 5, token);
        }
        let pool = &pools.0[Kind::Peer as usize];
        assert_eq!((pool.open, pool.by_connection.len(), pool.ranks.len()), (0, 0, 0));
    }

    #[test]
    fn who_asks_after_our_health_is_no_manager() {
        assert_eq!(Kind::of(Port::Serving, "grpc.health.v1.Health/Check"), Kind::Health);
        assert_eq!(Kind::of(Port::Serving, "mmesh.ModelMesh/registerModel"), Kind::Management);
        assert_eq!(Kind::of(Port::Peer, "grpc.health.v1.Health/Check"), Kind::Peer);
    }
}
