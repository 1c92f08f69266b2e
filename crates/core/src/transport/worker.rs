//! A data thread: connections that live and die on one single-threaded runtime, and its own upstream
//! connections. Nothing on the path of a hit leaves the thread.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use crate::clock;
use crate::transport::connection;
use crate::transport::connections::Admission;
use crate::transport::drain::Phase;
use crate::transport::listen::HEARTBEAT;
use crate::transport::port::Port;
use crate::transport::thread::{Arrived, Command, Load, Worker};

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
            Command::Serve { arrived, port, address, admission } => {
                let counted = Counted(Arc::clone(&self.load));
                self.begin(arrived, port, address, (counted, admission));
            }
            Command::Forget(destination) => self.links.forget(destination),
            Command::WarmRuntime => self.warm_runtime(),
        }
    }

    /// Serves a connection on this thread; `admission` as in `Command::Serve`.
    pub fn serve(self: &Arc<Self>, arrived: Arrived, port: Port, address: SocketAddr, admission: Option<Admission>) {
        self.load.connections.fetch_add(1, Ordering::Relaxed);
        self.begin(arrived, port, address, (Counted(Arc::clone(&self.load)), admission));
    }

    fn begin(
        self: &Arc<Self>,
        arrived: Arrived,
        port: Port,
        address: SocketAddr,
        counted: (Counted, Option<Admission>),
    ) {
        let worker = Arc::clone(self);
        tokio::spawn(async move {
            // A client that cannot shake hands, or goes, is no event of ours.
            let _ = connection::serve(worker, arrived, port, address).await;
            drop(counted);
        });
    }

    /// The runtime's link is kept without traffic, so that its loss is noticed.
    fn warm_runtime(self: &Arc<Self>) {
        let runtime = self.shared.runtime.read().clone();
        self.links.get(&self.shared, &runtime).warm();
    }
}
