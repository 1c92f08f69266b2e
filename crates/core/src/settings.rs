//! Settings that a core is made with.

use std::sync::Arc;
use std::time::Duration;

use crate::observe::metrics::Counted;
use crate::transport::tls;

/// Settings of a core; the native stub documents them.
#[derive(Clone, Debug)]
pub struct Settings {
    pub instance: Arc<str>,
    pub runtime: String,
    pub serving: Option<String>,
    /// None: management is answered at `serving`.
    pub management: Option<String>,
    pub peer: Option<String>,
    pub serving_tls: Option<tls::Material>,
    pub peer_tls: Option<tls::Material>,
    pub threads: usize,
    pub max_message_bytes: usize,
    pub max_header_bytes: usize,
    /// Of clients. None: what the process has descriptors for.
    pub connections_max: Option<usize>,
    pub max_connection_age: Option<Duration>,
    pub max_connection_age_grace: Option<Duration>,
    /// What each side (clients, peers, neighbours) may make us hold. None: a part of what this machine has.
    pub memory_max: Option<usize>,
    pub held_requests_max: usize,
    pub held_bytes_max: usize,
    pub replay_bytes_max: usize,
    pub events_max: usize,
    pub multi_parallelism: usize,
    pub tapped_bytes_max: usize,
    /// Bytes that copies of calls for shadows may hold.
    pub shadow_bytes_max: usize,
    pub counted: Counted,
    /// Called about once a second on each thread, so that memory that a busy time has freed goes back to the system. An
    /// allocator may do so only while a thread allocates, and an idle thread does not.
    pub give_back_memory: fn(),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            instance: "instance".into(),
            runtime: "localhost:8085".into(),
            serving: None,
            management: None,
            peer: None,
            serving_tls: None,
            peer_tls: None,
            threads: 0,
            max_message_bytes: 16 << 20,
            max_header_bytes: 64 << 10,
            connections_max: None,
            max_connection_age: None,
            max_connection_age_grace: None,
            memory_max: None,
            held_requests_max: 4096,
            held_bytes_max: 256 << 20,
            replay_bytes_max: 256 << 20,
            events_max: 65_536,
            multi_parallelism: 4,
            tapped_bytes_max: 64 << 20,
            shadow_bytes_max: 64 << 20,
            counted: Counted::default(),
            give_back_memory: || {},
        }
    }
}
