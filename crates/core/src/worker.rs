//! A data thread: connections that live and die on one single-threaded runtime, and its own upstream
//! connections. Nothing on the path of a hit leaves the thread.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{mpsc, watch};

use crate::clock;
use crate::connection;
use crate::drain::Phase;
use crate::link::Links;
use crate::listen::{Admission, HEARTBEAT, Port};
use crate::shared::Shared;

/// What other threads ask of a data thread.
pub enum Command {
    Serve {
        stream: TcpStream,
        port: Port,
        address: SocketAddr,
        admission: Admission,
    },
    /// A destination is no longer valid.
    Forget(u64),
    /// The runtime has another address.
    WarmRuntime,
}

/// State of one data thread.
pub struct Worker {
    pub shared: Arc<Shared>,
    pub links: Links,
    pub phase: watch::Receiver<Phase>,
    pub load: Arc<Load>,
}

/// What other threads see of a data thread.
#[derive(Debug, Default)]
pub struct Load {
    pub connections: AtomicUsize,
    calls: AtomicUsize,
    pub turned_ms: AtomicU64,
}

impl Load {
    #[must_use]
    pub fn open_calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Counts a call until the returned value is dropped.
    #[must_use]
    pub fn count_call(self: &Arc<Self>) -> OpenCall {
        self.calls.fetch_add(1, Ordering::Relaxed);
        OpenCall(Arc::clone(self))
    }
}

/// One open call of a data thread.
pub struct OpenCall(Arc<Load>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How other threads reach a data thread.
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    pub load: Arc<Load>,
}

impl Handle {
    /// A handle, and what its thread runs on.
    #[must_use]
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (commands, received) = mpsc::unbounded_channel();
        (Self { commands, load: Arc::default() }, received)
    }

    pub fn send(&self, command: Command) {
        if let Command::Serve { .. } = command {
            // Counted here, not there: a burst of connections must not all see the same least loaded thread.
            self.load.connections.fetch_add(1, Ordering::Relaxed);
        }
        // Fails only when the thread has ended, and with it the core.
        let _ = self.commands.send(command);
    }

    #[must_use]
    pub fn connections(&self) -> usize {
        self.load.connections.load(Ordering::Relaxed)
    }
}

/// One connection less, however its task ends.
struct Counted(Arc<Load>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    /// Runs until the core closes. Tasks that are still there end with the runtime.
    pub async fn run(self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let worker = Arc::new(self);
        let mut phase = worker.phase.clone();
        let mut beat = tokio::time::interval(HEARTBEAT);
        worker.warm_runtime();
        loop {
            tokio::select! {
                _ = phase.wait_for(|phase| *phase == Phase::Closed) => return,
                _ = beat.tick() => {
                    worker.load.turned_ms.store(clock::monotonic_ms(), Ordering::Relaxed);
                    worker.shared.events.flush();
                }
                command = commands.recv() => match command {
                    Some(command) => worker.obey(command),
                    None => return,
                },
            }
        }
    }

    fn obey(self: &Arc<Self>, command: Command) {
        match command {
            Command::Serve { stream, port, address, admission } => {
                let counted = Counted(Arc::clone(&self.load));
                let worker = Arc::clone(self);
                tokio::spawn(async move {
                    // A client that cannot shake hands, or goes, is no event of ours.
                    let _ = connection::serve(worker, stream, port, address).await;
                    drop((counted, admission));
                });
            }
            Command::Forget(destination) => self.links.forget(destination),
            Command::WarmRuntime => self.warm_runtime(),
        }
    }

    /// The runtime's link is kept without traffic, so that its loss is noticed.
    fn warm_runtime(self: &Arc<Self>) {
        let runtime = self.shared.runtime.read().clone();
        self.links.get(&self.shared, &runtime).warm();
    }
}
