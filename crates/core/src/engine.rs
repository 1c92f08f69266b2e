//! The composition root: one object that owns the threads and takes what Python tells.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::access::{self, Limits, Verdict};
use crate::call::held::Resolution;
use crate::call::rules::Rules;
use crate::clock;
use crate::events::Event;
use crate::ledger::Side;
use crate::observe::metrics::{Counts, Series};
use crate::observe::observing::Observing;
use crate::observe::shadows::ShadowCounts;
use crate::observe::usage::Consumed;
use crate::routing::accounting;
use crate::routing::naming::Naming;
use crate::routing::table::NewRoute;
use crate::routing::trial::Tally;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::transport::door::{Desks, Door};
use crate::transport::drain::Phase;
use crate::transport::link::Links;
use crate::transport::listen::{self, Listener};
use crate::transport::peers::{Destination, Kind};
use crate::transport::port::Port;
use crate::transport::thread::{Command, Handle, Load, Worker, spawn};
use crate::transport::tls;
use crate::wire::status::Status;

/// The data plane of one instance. Every method returns at once and may be called from any thread.
pub struct Engine {
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
    running: Mutex<Running>,
    desks: Desks,
}

#[derive(Default)]
struct Running {
    started: bool,
    threads: Vec<JoinHandle<()>>,
    workers: Option<Arc<[Handle]>>,
    acceptor_turned_ms: Arc<AtomicU64>,
    serving: Option<SocketAddr>,
    management: Option<SocketAddr>,
    peer: Option<SocketAddr>,
}

impl Engine {
    /// Nothing is bound or connected before `start`.
    ///
    /// # Errors
    /// No descriptor is left for the eventfd.
    pub fn new(settings: Settings) -> io::Result<Self> {
        Ok(Self {
            shared: Shared::new(settings)?,
            phase: watch::Sender::new(Phase::Running),
            running: Mutex::default(),
            desks: Desks::default(),
        })
    }

    /// Binds the listeners and starts the threads.
    ///
    /// # Errors
    /// An address is in use or not ours (the message names it), or the core was started before.
    pub fn start(&self) -> io::Result<()> {
        let mut running = self.running.lock();
        if running.started {
            return Err(io::Error::other("the data plane was started before"));
        }
        let settings = &self.shared.settings;
        let mut listeners = Vec::new();
        let mut bind = |port, name, address: &Option<String>| -> io::Result<Option<SocketAddr>> {
            let Some(address) = address else { return Ok(None) };
            let listener = Listener::bind(port, name, address)?;
            let bound = listener.address;
            listeners.push(listener);
            Ok(Some(bound))
        };
        running.serving = bind(Port::Serving, access::Listener::Grpc, &settings.serving)?;
        running.management = bind(Port::Serving, access::Listener::Management, &settings.management)?;
        running.peer = bind(Port::Peer, access::Listener::Grpc, &settings.peer)?;
        running.started = true;

        self.start_threads(&mut running, listeners)
    }

    fn start_threads(&self, running: &mut Running, listeners: Vec<Listener>) -> io::Result<()> {
        let give_back_memory = self.shared.settings.give_back_memory;
        let mut handles = Vec::new();
        for index in 0..thread_count(self.shared.settings.threads) {
            let (handle, commands) = Handle::new();
            let worker = Worker {
                shared: Arc::clone(&self.shared),
                links: Links::default(),
                phase: self.phase.subscribe(),
                load: Arc::clone(&handle.load),
            };
            handle.load.turned_ms.store(clock::monotonic_ms(), Ordering::Relaxed);
            handles.push(handle);
            running.threads.push(spawn(format!("mm-data-{index}"), give_back_memory, worker.run(commands))?);
        }
        let workers: Arc<[Handle]> = handles.into();
        running.workers = Some(Arc::clone(&workers));
        running.acceptor_turned_ms.store(clock::monotonic_ms(), Ordering::Relaxed);
        let turned_ms = Arc::clone(&running.acceptor_turned_ms);
        let accepting =
            listen::accept_all(listeners, workers, Arc::clone(&self.shared), self.phase.subscribe(), turned_ms);
        running.threads.push(spawn("mm-accept".to_owned(), give_back_memory, accepting)?);
        Ok(())
    }

    /// Where a listener of another protocol lets its clients in; None before the start.
    #[must_use]
    pub fn door(&self) -> Option<Door> {
        let threads = self.running.lock().workers.as_ref()?.len();
        Some(Door::new(Arc::clone(&self.shared), self.desks.clone(), threads, self.phase.subscribe()))
    }

    #[must_use]
    pub fn event_descriptor(&self) -> RawFd {
        self.shared.events.descriptor()
    }

    #[must_use]
    pub fn serving_port(&self) -> Option<u16> {
        self.running.lock().serving.map(|address| address.port())
    }

    #[must_use]
    pub fn management_port(&self) -> Option<u16> {
        self.running.lock().management.map(|address| address.port())
    }

    #[must_use]
    pub fn peer_port(&self) -> Option<u16> {
        self.running.lock().peer.map(|address| address.port())
    }

    #[must_use]
    pub fn events(&self, most: usize) -> Vec<Event> {
        self.shared.events.take(most)
    }

    /// Returns each model's slot.
    pub fn set_routes(&self, routes: Vec<(String, Option<NewRoute>)>) -> Vec<u32> {
        let mut idle = Vec::new();
        let slots = routes
            .into_iter()
            .map(|(model, route)| self.shared.table.set(&self.shared.peers, &model, route, &mut idle))
            .collect();
        self.shared.tell_idle(idle);
        slots
    }

    pub fn set_vmodels(&self, vmodels: Vec<(String, Option<Naming>)>) {
        self.shared.table.set_vmodels(vmodels);
    }

    /// (instance, (address, TLS name)); None forgets an instance and closes its connections.
    pub fn set_peers(&self, peers: Vec<(String, Option<(String, Option<String>)>)>) {
        for (instance, address) in peers {
            let address = address.as_ref().map(|(address, name)| (address.as_str(), name.as_deref()));
            if let Some(old) = self.shared.peers.set(&instance, address) {
                self.forget(&old);
            }
        }
    }

    pub fn set_runtime(&self, runtime: &str) {
        let new = Destination::new(&self.shared.settings.instance, runtime, Kind::Runtime);
        let old = std::mem::replace(&mut *self.shared.runtime.write(), new);
        self.forget(&old);
        self.tell_workers(|| Command::WarmRuntime);
    }

    fn forget(&self, destination: &Destination) {
        destination.forget();
        self.tell_workers(|| Command::Forget(destination.id));
        for desk in self.desks.all() {
            desk.worker().links.forget(destination.id);
        }
    }

    fn tell_workers(&self, command: impl Fn() -> Command) {
        if let Some(workers) = &self.running.lock().workers {
            for worker in workers.iter() {
                worker.send(command());
            }
        }
    }

    /// New handshakes use the new certificates; None leaves a listener's as they are.
    pub fn set_tls(&self, serving: Option<tls::Material>, peer: Option<tls::Material>) {
        if let Some(material) = serving {
            self.shared.serving_tls.swap(material);
        }
        if let Some(material) = peer {
            self.shared.peer_tls.swap(material);
        }
    }

    pub fn set_rules(&self, rules: Rules) {
        *self.shared.rules.write() = rules;
    }

    /// What tenants may use, or None: there are no access rules. Known credentials are forgotten.
    pub fn set_access(&self, tenants: Option<Vec<(String, Limits)>>) {
        self.shared.access.set(tenants);
    }

    /// Says whose credential it is; false for a question that was not asked.
    #[must_use]
    pub fn answer(&self, token: u64, verdict: Verdict) -> bool {
        self.shared.access.answer(token, verdict)
    }

    /// False for each token that has gone.
    pub fn resolve(&self, resolutions: Vec<(u64, Resolution)>) -> Vec<bool> {
        resolutions.into_iter().map(|(token, resolution)| self.shared.held.resolve(token, resolution)).collect()
    }

    /// False for a call that has gone.
    #[must_use]
    pub fn reply(&self, token: u64, message: &[u8], last: bool) -> bool {
        self.shared.calls.reply(token, message, last)
    }

    /// False for a call that has gone.
    #[must_use]
    pub fn finish(&self, token: u64, status: Status) -> bool {
        self.shared.calls.finish(token, status)
    }

    /// Ends what still runs on a local copy of that load.
    pub fn end_copy(&self, model: &str, load_id: u64) {
        let Some(route) = self.shared.table.get(model) else { return };
        let copy = route.copies.read().local.clone();
        if let Some(copy) = copy.filter(|copy| copy.load_id == load_id) {
            copy.end();
        }
    }

    /// Whether nothing runs on a local copy of that load and nothing more can; if something does, its end is told.
    #[must_use]
    pub fn is_idle(&self, model: &str, load_id: u64) -> bool {
        let Some(route) = self.shared.table.get(model) else { return true };
        let copy = route.copies.read().local.clone();
        copy.filter(|copy| copy.load_id == load_id).is_none_or(|copy| copy.is_idle())
    }

    /// The runtime does not answer: calls on its copies that may be made elsewhere fail as hung, once each.
    pub fn runtime_hangs(&self) {
        let mut copies = Vec::new();
        self.shared.table.visit(|route| {
            if let Some(copy) = &route.copies.read().local
                && copy.inside() > 0
            {
                copies.push(Arc::clone(copy));
            }
        });
        for copy in copies {
            copy.hangs();
        }
    }

    #[must_use]
    pub fn usage(&self) -> Vec<u8> {
        accounting::usage(&self.shared.table)
    }

    /// (held requests, held bytes).
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        self.shared.held.count()
    }

    /// Calls that are open: running, held, or being answered by Python.
    #[must_use]
    pub fn open_calls(&self) -> usize {
        self.loads().iter().map(|load| load.open_calls()).sum()
    }

    /// Connections of clients and of other instances that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.loads().iter().map(|load| load.connections.load(Ordering::Relaxed)).sum()
    }

    /// Of data threads, then of those of doors.
    fn loads(&self) -> Vec<Arc<Load>> {
        let running = self.running.lock();
        let workers = running.workers.iter().flat_map(|workers| workers.iter()).map(|worker| Arc::clone(&worker.load));
        workers.chain(self.desks.all().iter().map(|desk| Arc::clone(&desk.worker().load))).collect()
    }

    /// What is noted down of calls beyond counters, from the next call on.
    pub fn observe(&self, observing: Observing) {
        self.shared.observed.set(observing);
    }

    /// Prometheus text format, or OpenMetrics without its end mark; `names`: only these families, if any.
    #[must_use]
    pub fn metrics(&self, open_metrics: bool, names: &[String]) -> String {
        self.shared.metrics.render(&self.counts(), open_metrics, names)
    }

    fn counts(&self) -> Counts {
        let (held_requests, held_bytes) = self.held();
        let shared = &self.shared;
        Counts {
            held_requests,
            held_bytes,
            refused_requests: shared.held.refused(),
            waiting_events: shared.events.waiting(),
            refused_events: shared.events.refused(),
            dropped_events: shared.events.dropped(),
            replay_bytes: shared.replay.used(),
            tapped_bytes: shared.tapped.used(),
            connections: self.connections(),
            open_calls: self.open_calls(),
            sides: Side::ALL.map(|side| (shared.ledger.held(side), shared.ledger.expelled(side))),
            tenants: shared.access.used(),
            usage: if shared.settings.counted.per_model { shared.usage.all() } else { Vec::new() },
            shadow_bytes: shared.shadow_budgets.bytes.used(),
            shadows: shared.shadows.all(),
            fallbacks: shared.fallbacks.all(),
        }
    }

    /// What every series has observed since the last call.
    #[must_use]
    pub fn take_metrics(&self) -> Vec<Series> {
        self.shared.metrics.take()
    }

    /// The model is no longer registered: its series go.
    pub fn forget_series(&self, model: &str) {
        self.shared.metrics.forget(model);
        self.shared.usage.forget(model);
        self.shared.shadows.forget(model);
        self.shared.fallbacks.forget(model);
    }

    /// A model has been loaded here that a tenant registered; empty: none.
    pub fn count_load(&self, tenant: &str, model: &str) {
        self.shared.usage.loaded(tenant, model);
    }

    /// What was used here since the core began, by tenant and model.
    #[must_use]
    pub fn consumption(&self) -> Vec<(String, String, Consumed)> {
        self.shared.usage.all()
    }

    /// How copies of calls ended since the core began, by vmodel and model that got them.
    #[must_use]
    pub fn shadows(&self) -> Vec<(String, String, ShadowCounts)> {
        self.shared.shadows.all()
    }

    /// What is counted of the models of a vmodel, and under which id; None: nothing is.
    #[must_use]
    pub fn tallies_of(&self, vmodel: &str) -> Option<(u64, Vec<Tally>)> {
        self.shared.table.tallies_of(vmodel)
    }

    /// Milliseconds since each thread last turned: data threads, those of doors, and the acceptor as the last one.
    #[must_use]
    pub fn thread_ages_ms(&self) -> Vec<u64> {
        let acceptor_turned_ms = {
            let running = self.running.lock();
            if running.workers.is_none() {
                return Vec::new();
            }
            Arc::clone(&running.acceptor_turned_ms)
        };
        let now_ms = clock::monotonic_ms();
        let loads = self.loads();
        loads
            .iter()
            .map(|load| &load.turned_ms)
            .chain([&*acceptor_turned_ms])
            .map(|turned_ms| now_ms.saturating_sub(turned_ms.load(Ordering::Relaxed)))
            .collect()
    }

    /// GOAWAY on every connection, and no new ones; running calls go on.
    pub fn drain(&self) {
        self.advance(Phase::Draining);
    }

    /// Cancels what runs and joins the threads.
    pub fn close(&self) {
        self.advance(Phase::Closed);
        // Joined outside the lock: others may still ask for the ports meanwhile.
        let mut running = self.running.lock();
        running.started = true;
        let threads = std::mem::take(&mut running.threads);
        drop(running);
        for thread in threads {
            // A thread that panicked has printed why; it is over either way.
            let _ = thread.join();
        }
    }

    fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let forward = phase > *current;
            if forward {
                *current = phase;
            }
            forward
        });
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

pub fn thread_count(wanted: usize) -> usize {
    if wanted > 0 {
        return wanted;
    }
    // The other half is for the runtime and Python; past 4 the network is the bound.
    let cores = thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).clamp(1, 4)
}
