//! The listener and its threads. None of them is a data thread: what HTTP and JSON cost here no gRPC call pays. The calls of its
//! clients are made on these threads as well: nothing of a request leaves the thread that it came to.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use modelmesh_core::{Desk, Door};
use parking_lot::Mutex;
use tokio::time::sleep;

use super::client;
use super::console;
use super::guests::House;
use super::heavy::Heavy;
use super::names::Names;
use crate::origins::Origins;

/// The front door of one instance. It ends with the core whose door it was given.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Front {
    /// Binds `host:port` and serves from then on; `origins`: of pages that may call, `*` for all; `with_console`:
    /// whether the console is served.
    ///
    /// # Errors
    /// The address is in use, not ours or no address (the message names it), or the system gives no thread.
    pub fn start(door: &Door, address: &str, origins: Vec<String>, with_console: bool) -> io::Result<Self> {
        let listener = door.bind(address, "REST")?;
        let bound = listener.local_addr()?;
        let house = Arc::new(House {
            door: door.clone(),
            names: Names::default(),
            origins: Origins::new(origins),
            heavy: Heavy::new(door.threads()),
            console: with_console.then(console::places),
        });
        let mut threads = Vec::new();
        for index in 0..door.threads() {
            let (listener, house) = (listener.try_clone()?, Arc::clone(&house));
            threads.push(door.spawn(format!("mm-rest-{index}"), |desk| run(listener, house, desk))?);
        }
        Ok(Self { address: bound, threads: Mutex::new(threads) })
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Waits for the threads, once the core has closed.
    pub fn join(&self) {
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A thread that panicked has printed why; it is over either way.
            let _ = thread.join();
        }
    }
}

/// Accepts until the core drains, and serves until it closes.
async fn run(listener: TcpListener, house: Arc<House>, desk: Desk) {
    let mut door = house.door.clone();
    tokio::select! {
        () = accept(listener, house, &desk) => {}
        () = door.drained() => {}
    }
    door.closed().await;
}

async fn accept(listener: TcpListener, house: Arc<House>, desk: &Desk) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                if let Some(guest) = house.door.enter(address, desk) {
                    tokio::spawn(client::serve(stream, guest, Arc::clone(&house)));
                }
            }
            Err(_) => sleep(Door::pause()).await,
        }
    }
}
