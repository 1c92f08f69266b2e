//! Where a listener of another protocol lets its clients in. It has threads of its own, on which its clients are served and their
//! calls are made, as data threads serve and make those of others: so everything that holds for calls holds for theirs, and no
//! data thread works for them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::interval;

use crate::clock;
use crate::ledger::Side;
use crate::shared::Shared;
use crate::transport::connections;
use crate::transport::drain::Phase;
use crate::transport::guest::Guest;
use crate::transport::link::Links;
use crate::transport::listen::{self, HEARTBEAT};
use crate::transport::port::Port;
use crate::transport::socket::Socket;
use crate::transport::thread::{self, Load, Worker};

/// The threads of doors, for those who look after all threads.
#[derive(Clone, Default)]
pub struct Desks(Arc<Mutex<Vec<Desk>>>);

impl Desks {
    /// All there are now.
    #[must_use]
    pub fn all(&self) -> Vec<Desk> {
        self.0.lock().clone()
    }
}

/// A thread of a door. Clones are the same.
#[derive(Clone)]
pub struct Desk(Arc<Worker>);

impl Desk {
    /// Whoever makes the calls that are made on this thread.
    #[must_use]
    pub fn worker(&self) -> &Arc<Worker> {
        &self.0
    }
}

/// What a listener needs of the core. Clones are the same.
#[derive(Clone)]
pub struct Door {
    pub(super) shared: Arc<Shared>,
    desks: Desks,
    threads: usize,
    phase: watch::Receiver<Phase>,
}

impl Door {
    /// `desks` gets the threads that are started; `threads`: how many there should be.
    #[must_use]
    pub fn new(shared: Arc<Shared>, desks: Desks, threads: usize, phase: watch::Receiver<Phase>) -> Self {
        Self { shared, desks, threads, phase }
    }

    /// Binds `host:port`; `name` is that of the port.
    ///
    /// # Errors
    /// The address is in use, not ours or no address; the message names it.
    pub fn bind(&self, address: &str, name: &str) -> io::Result<TcpListener> {
        listen::bind(address, name)
    }

    /// Starts a thread with a runtime of its own, on which the clients may be served that enter at its desk. Whether it turns is
    /// looked at as it is of data threads.
    ///
    /// # Errors
    /// The system gives none.
    pub fn spawn<W: Future<Output = ()> + Send + 'static>(
        &self,
        name: String,
        work: impl FnOnce(Desk) -> W,
    ) -> io::Result<JoinHandle<()>> {
        let desk = self.desk();
        let load = Arc::clone(&desk.0.load);
        let work = work(desk);
        thread::spawn(name, self.shared.settings.give_back_memory, async move {
            let mut beat = interval(HEARTBEAT);
            let mut work = pin!(work);
            loop {
                tokio::select! {
                    () = work.as_mut() => return,
                    _ = beat.tick() => load.turned_ms.store(clock::monotonic_ms(), Ordering::Relaxed),
                }
            }
        })
    }

    /// A desk of the door.
    pub(super) fn desk(&self) -> Desk {
        let load = Arc::new(Load::default());
        load.turned_ms.store(clock::monotonic_ms(), Ordering::Relaxed);
        let (shared, phase) = (Arc::clone(&self.shared), self.phase.clone());
        let desk = Desk(Arc::new(Worker { shared, links: Links::default(), phase, load }));
        self.desks.0.lock().push(desk.clone());
        desk
    }

    /// How many threads share the work: as many as there are data threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Counts a request that was answered with a status that is no success.
    pub fn count_fault(&self, status: u16) {
        self.shared.metrics.rest_fault(status);
    }

    /// What a message may have, in bytes.
    #[must_use]
    pub fn max_message_bytes(&self) -> usize {
        self.shared.settings.max_message_bytes
    }

    /// What a list of headers may have, in bytes.
    #[must_use]
    pub fn max_header_bytes(&self) -> usize {
        self.shared.settings.max_header_bytes
    }

    /// When a client that comes now is asked to connect again, and how long its requests then have. Clients that came together
    /// do not leave together.
    #[must_use]
    pub fn age(&self) -> (Option<Duration>, Option<Duration>) {
        let settings = &self.shared.settings;
        let age = settings.max_connection_age.map(|age| age.mul_f64(0.9 + fastrand::f64() / 5.0));
        (age, settings.max_connection_age_grace)
    }

    /// How long to rest after an error of `accept`.
    #[must_use]
    pub fn pause() -> Duration {
        listen::PAUSE
    }

    /// Lets in the client at `address`, which is served on the thread of this desk, until the guest is dropped; None if there are too
    /// many.
    #[must_use]
    pub fn enter(&self, address: SocketAddr, desk: &Desk) -> Option<Guest> {
        let holder = connections::holder_of(address.ip());
        let admission = self.shared.connections(Port::Serving).admit(holder)?;
        let account = self.shared.ledger.open(Side::Clients, &holder.to_string());
        Some(Guest::new(self.clone(), desk.clone(), address, account, admission))
    }

    /// Puts TLS over a connection that was accepted, if there is material.
    ///
    /// # Errors
    /// The client has gone, or the handshake failed.
    pub async fn secure(&self, stream: TcpStream) -> io::Result<Socket> {
        listen::prepare(&stream)?;
        self.shared.serving_tls.accept_web(stream).await
    }

    /// Whether connections that do nothing should make room.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.shared.connections(Port::Serving).are_scarce()
    }

    /// Whether calls of this vmodel have come lately. Others are not known here.
    #[must_use]
    pub fn knows_vmodel(&self, vmodel: &str) -> bool {
        self.shared.table.has_vmodel(vmodel)
    }

    /// The model that a call of a vmodel chooses by this version; None: the vmodel is not known here, or has no such version.
    #[must_use]
    pub fn model_of_version(&self, vmodel: &str, version: &str) -> Option<Arc<str>> {
        self.shared.table.version_of(vmodel, version).ok().flatten()
    }

    /// Whether the model is loaded somewhere.
    #[must_use]
    pub fn knows_model(&self, model: &str) -> bool {
        self.shared.table.get(model).is_some()
    }

    /// Waits until no new connections should come.
    pub async fn drained(&mut self) {
        // An error: the core has gone.
        let _ = self.phase.wait_for(|phase| *phase != Phase::Running).await;
    }

    /// Waits until everything ends.
    pub async fn closed(&mut self) {
        let _ = self.phase.wait_for(|phase| *phase == Phase::Closed).await;
    }
}
