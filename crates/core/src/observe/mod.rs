//! What the outside is told of calls.

pub mod by_vmodel;
pub mod fallbacks;
pub mod histogram;
pub mod metrics;
pub mod notes;
pub mod observing;
pub mod shadows;
pub mod told;
pub mod trace;
pub mod usage;
