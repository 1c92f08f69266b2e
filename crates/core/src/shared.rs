//! What all threads of one core share, and the settings it was made with.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use crate::budget::Budget;
use crate::events::Events;
use crate::held::Held;
use crate::ledger::Ledger;
use crate::listen::{Connections, Port};
use crate::mailbox::Calls;
use crate::memory::share_of_memory;
use crate::metrics::{Counted, Metrics};
use crate::observe::Choice;
use crate::peers::{Destination, Kind, Peers};
use crate::rules::Rules;
use crate::table::{Idle, Table};
use crate::tls;

/// Settings of a core; the native stub documents them.
#[derive(Clone, Debug)]
pub struct Settings {
    pub instance: Arc<str>,
    pub runtime: String,
    pub serving: Option<String>,
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
    pub counted: Counted,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            instance: "instance".into(),
            runtime: "localhost:8085".into(),
            serving: None,
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
            counted: Counted::default(),
        }
    }
}

/// State of one core.
pub struct Shared {
    pub settings: Settings,
    pub table: Table,
    pub peers: Peers,
    pub runtime: RwLock<Arc<Destination>>,
    pub rules: RwLock<Rules>,
    pub events: Events,
    pub held: Arc<Held>,
    pub calls: Calls,
    pub replay: Arc<Budget>,
    /// What is held for whom.
    pub ledger: Ledger,
    /// Copies of payloads that somebody wants.
    pub tapped: Arc<Budget>,
    pub observed: Choice,
    pub metrics: Metrics,
    client_connections: Arc<Connections>,
    peer_connections: Arc<Connections>,
    pub serving_tls: tls::Slot,
    pub peer_tls: tls::Slot,
}

impl Shared {
    /// # Errors
    /// No descriptor is left for the eventfd.
    pub fn new(settings: Settings) -> io::Result<Arc<Self>> {
        let memory = settings.memory_max.unwrap_or_else(share_of_memory);
        let held_bytes = settings.held_bytes_max.min(memory);
        let held = Arc::new(Held::new(settings.held_requests_max, held_bytes));
        Ok(Arc::new(Self {
            table: Table::default(),
            peers: Peers::default(),
            runtime: RwLock::new(Destination::new(&settings.instance, &settings.runtime, Kind::Runtime)),
            rules: RwLock::new(Rules { allow_others: true, ..Rules::default() }),
            events: Events::new(settings.events_max)?,
            held,
            calls: Calls::new(held_bytes),
            replay: Budget::new(settings.replay_bytes_max.min(memory)),
            ledger: Ledger::new(memory, settings.max_message_bytes),
            tapped: Budget::new(settings.tapped_bytes_max),
            observed: Choice::default(),
            metrics: Metrics::new(settings.counted.clone()),
            client_connections: Connections::new(settings.connections_max.unwrap_or_else(Connections::most)),
            peer_connections: Connections::new(Connections::most_of_peers()),
            serving_tls: tls::Slot::new(settings.serving_tls.clone()),
            peer_tls: tls::Slot::new(settings.peer_tls.clone()),
            settings,
        }))
    }

    #[must_use]
    pub fn connections(&self, port: Port) -> &Arc<Connections> {
        match port {
            Port::Serving => &self.client_connections,
            Port::Peer => &self.peer_connections,
        }
    }

    /// Tells Python of copies that have nothing running any more.
    pub fn tell_idle(&self, idle: impl IntoIterator<Item = Idle>) {
        for Idle { model, load_id } in idle {
            self.events.push(crate::events::Event::CopyIdle { model, load_id });
        }
    }
}
