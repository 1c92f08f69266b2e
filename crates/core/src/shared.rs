//! What all threads of one core share, and the settings it was made with.

use std::io;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::access::Access;
use crate::budget::Budget;
use crate::call::held::Held;
use crate::call::rules::Rules;
use crate::events::Events;
use crate::ledger::Ledger;
use crate::memory::share_of_memory;
use crate::observe::fallbacks::Fallbacks;
use crate::observe::metrics::Metrics;
use crate::observe::observing::Choice;
use crate::observe::shadows::{ShadowBudgets, Shadows};
use crate::observe::usage::Usage;
use crate::routing::table::{Idle, Table};
use crate::services::mailbox::Calls;
use crate::settings::Settings;
use crate::transport::connections::Connections;
use crate::transport::peers::{Destination, Kind, Peers};
use crate::transport::port::Port;
use crate::transport::tls;

/// State of one core.
pub struct Shared {
    pub settings: Settings,
    pub table: Table,
    pub peers: Peers,
    pub runtime: RwLock<Arc<Destination>>,
    pub rules: RwLock<Rules>,
    /// Who calls, and what they may.
    pub access: Access,
    pub events: Events,
    pub held: Arc<Held>,
    pub calls: Calls,
    pub replay: Arc<Budget>,
    /// What is held for each client.
    pub ledger: Ledger,
    /// Copies of payloads that somebody wants.
    pub tapped: Arc<Budget>,
    pub observed: Choice,
    pub metrics: Metrics,
    /// Who has used which model how much.
    pub usage: Usage,
    /// How copies of calls ended.
    pub shadows: Shadows,
    pub fallbacks: Fallbacks,
    pub shadow_budgets: ShadowBudgets,
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
            access: Access::default(),
            events: Events::new(settings.events_max)?,
            held,
            calls: Calls::new(held_bytes),
            replay: Budget::new(settings.replay_bytes_max.min(memory)),
            ledger: Ledger::new(memory, settings.max_message_bytes),
            tapped: Budget::new(settings.tapped_bytes_max),
            observed: Choice::default(),
            metrics: Metrics::new(settings.counted.clone()),
            usage: Usage::default(),
            shadows: Shadows::default(),
            fallbacks: Fallbacks::default(),
            shadow_budgets: ShadowBudgets::new(settings.shadow_bytes_max.min(memory)),
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
