//! The phases of a core's life, which every connection watches.

/// Only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Running,
    /// GOAWAY on every connection, no new ones; open streams go on.
    Draining,
    /// Everything ends.
    Closed,
}
