//! A data thread, as those see it that run on it, and as other threads see it.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow};
use tokio::io::DuplexStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};

use crate::access::{Listener, Origin};
use crate::shared::Shared;
use crate::transport::connections::Admission;
use crate::transport::drain::Phase;
use crate::transport::link::Links;
use crate::transport::port::Port;

/// A connection on which nothing was received yet.
pub enum Arrived {
    /// At a listener of ours.
    Tcp(TcpStream, Listener),
    /// From a listener of ours that speaks another protocol, and has seen to TLS.
    Inside(DuplexStream, Origin),
}

/// What other threads ask of a data thread.
pub enum Command {
    Serve {
        arrived: Arrived,
        port: Port,
        address: SocketAddr,
        /// None: whoever let it in counts it.
        admission: Option<Admission>,
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

/// The data thread with the fewest connections.
#[must_use]
pub fn least_loaded(workers: &[Handle]) -> Option<&Handle> {
    workers.iter().min_by_key(|worker| worker.connections())
}

/// How often a thread calls `Settings::give_back_memory`.
const GIVE_BACK: Duration = Duration::from_secs(1);

/// Starts a thread with a runtime of its own.
///
/// # Errors
/// The system gives none.
pub fn spawn(
    name: String,
    give_back_memory: fn(),
    work: impl Future<Output = ()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let runtime: Runtime = Builder::new_current_thread().enable_all().build()?;
    // Signals belong to Python's main thread; a thread inherits the mask it is started under.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let started = thread::Builder::new().name(name).spawn(move || {
        runtime.spawn(async move {
            let mut beat = tokio::time::interval(GIVE_BACK);
            loop {
                beat.tick().await;
                give_back_memory();
            }
        });
        runtime.block_on(work);
    });
    before.thread_set_mask()?;
    started
}
