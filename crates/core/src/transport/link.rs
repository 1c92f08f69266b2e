//! The connections of one data thread to one destination: opened when needed, opened again at once
//! when they die, and probed in the background when that fails.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use hashbrown::HashMap;
use modelmesh_http2::Sender;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock;
use crate::events::Event;
use crate::shared::Shared;
use crate::transport::connect::{self, Ended, Opened, Signs};
use crate::transport::peers::Destination;
use crate::transport::stall::Crowd;

/// Connections of one thread to one destination. One serves small messages best; more are opened only
/// when the other side limits concurrent streams, or when too many answers on it are not read.
const MOST_CONNECTIONS: usize = 16;
/// Of these, for clients that give up many calls.
const MOST_RESTLESS: usize = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(40);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A connection that dies younger than this is opened again after a pause, unless a call needs it.
const YOUNG_MS: u64 = 1000;

/// Whose calls a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Common,
    /// Of clients that give up so many calls that the other side may end the connection over it.
    Restless,
}

/// An open connection.
pub struct Conn {
    sender: Sender,
    lane: Lane,
    signs: Arc<Signs>,
    crowd: Arc<Crowd>,
    dead: AtomicBool,
    opened_ms: u64,
}

impl Conn {
    fn has_room(&self) -> bool {
        !self.is_stale() && self.in_flight() < self.sender.max_streams() && !self.crowd.is_large()
    }

    fn is_stale(&self) -> bool {
        self.signs.is_stale.load(Ordering::Relaxed)
    }

    fn in_flight(&self) -> usize {
        self.signs.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it has no calls and will get none.
    fn is_left(&self) -> bool {
        self.is_stale() && self.in_flight() == 0
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }
}

/// A place on a connection, for one call.
pub struct Place {
    conn: Arc<Conn>,
}

impl Place {
    fn on(conn: &Arc<Conn>) -> Self {
        conn.signs.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { conn: Arc::clone(conn) }
    }

    #[must_use]
    pub fn sender(&self) -> &Sender {
        &self.conn.sender
    }

    /// The answers on this connection that are not read.
    #[must_use]
    pub fn crowd(&self) -> &Arc<Crowd> {
        &self.conn.crowd
    }

    /// Whether the connection ended because the other side stands still.
    #[must_use]
    pub fn hangs(&self) -> bool {
        self.conn.signs.is_hung.load(Ordering::Relaxed)
    }

    /// The connection takes no new calls: GOAWAY, or it has died.
    pub fn mark_dead(&self) {
        self.conn.dead.store(true, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.conn.signs.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The destination cannot be reached; nothing was sent.
#[derive(Clone, Debug)]
pub struct Unreachable(pub String);

type Opening = watch::Receiver<Option<Result<(), Unreachable>>>;

/// All connections of this thread to one destination.
pub struct Link {
    pub destination: Arc<Destination>,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    conns: Vec<Arc<Conn>>,
    /// By lane.
    opening: [Option<Opening>; 2],
}

impl State {
    fn with_room(&mut self, lane: Lane) -> Option<Place> {
        self.conns.retain(|conn| !conn.is_dead() && !conn.is_left());
        self.conns.iter().find(|conn| conn.lane == lane && conn.has_room()).map(Place::on)
    }

    /// Rather one that serves, and of the lane.
    fn least_loaded(&self, lane: Lane) -> Option<Place> {
        let load = |conn: &&Arc<Conn>| (conn.is_stale(), conn.lane != lane, conn.in_flight());
        self.conns.iter().min_by_key(load).map(Place::on)
    }

    fn of_lane(&self, lane: Lane) -> usize {
        self.conns.iter().filter(|conn| conn.lane == lane).count()
    }
}

impl Link {
    fn new(shared: Arc<Shared>, destination: Arc<Destination>) -> Arc<Self> {
        Arc::new(Self { destination, shared, state: Mutex::default() })
    }

    /// A place on a connection, without waiting; None if one must be opened first.
    #[must_use]
    pub fn place_now(&self, lane: Lane) -> Option<Place> {
        self.state.lock().with_room(lane)
    }

    /// A place on a connection; opens one if none has room. Past the bound calls share, and HTTP/2
    /// queues their streams.
    ///
    /// # Errors
    /// There is no answer from the destination.
    pub async fn place(self: &Arc<Self>, lane: Lane) -> Result<Place, Unreachable> {
        loop {
            let mut opening = {
                let mut state = self.state.lock();
                if let Some(place) = state.with_room(lane) {
                    return Ok(place);
                }
                let most = if lane == Lane::Common { MOST_CONNECTIONS } else { MOST_RESTLESS };
                if state.of_lane(lane) >= most
                    && let Some(place) = state.least_loaded(lane)
                {
                    return Ok(place);
                }
                if state.conns.is_empty() && self.destination.is_lost() {
                    return Err(Unreachable(format!("the link to {} is lost", self.destination.instance)));
                }
                self.open(&mut state, lane)
            };
            let outcome = match opening.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone().unwrap_or(Ok(())),
                Err(_) => Err(Unreachable("the data plane is closing".into())),
            };
            if let Err(unreachable) = outcome {
                return self.state.lock().least_loaded(lane).ok_or(unreachable);
            }
        }
    }

    /// Opens a connection now, for a link that is kept without traffic.
    pub fn warm(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.conns.is_empty() && !self.destination.is_forgotten() {
            self.open(&mut state, Lane::Common);
        }
    }

    /// Begins to open a connection, or joins who does already.
    fn open(self: &Arc<Self>, state: &mut State, lane: Lane) -> Opening {
        if let Some(opening) = &state.opening[lane as usize] {
            return opening.clone();
        }
        let (done, opening) = watch::channel(None);
        state.opening[lane as usize] = Some(opening.clone());
        let link = Arc::clone(self);
        // A task of its own: the call that asked first may be cancelled while others wait.
        tokio::spawn(async move {
            let outcome = connect::open(&link.shared, &link.destination).await;
            let outcome = match outcome {
                Ok(opened) => {
                    link.add(opened, lane);
                    Ok(())
                }
                Err(error) => {
                    let mut state = link.state.lock();
                    state.opening[lane as usize] = None;
                    let alone = state.conns.is_empty();
                    drop(state);
                    if alone {
                        link.lose();
                    }
                    Err(Unreachable(format!("{}: {error}", link.destination.instance)))
                }
            };
            done.send_replace(Some(outcome));
        });
        opening
    }

    fn add(self: &Arc<Self>, opened: Opened, lane: Lane) {
        let conn = Arc::new(Conn {
            sender: opened.sender.clone(),
            lane,
            signs: Arc::default(),
            crowd: Arc::default(),
            dead: AtomicBool::new(false),
            opened_ms: clock::monotonic_ms(),
        });
        let mut state = self.state.lock();
        state.conns.push(Arc::clone(&conn));
        state.opening[lane as usize] = None;
        drop(state);
        if self.destination.set_lost(false) {
            self.shared.events.push(Event::LinkBack { instance: self.destination.instance.to_string() });
        }
        let link = Arc::downgrade(self);
        // Held here it would keep the connection open when it is not wanted any more.
        let (weak, signs, opened_ms) = (Arc::downgrade(&conn), Arc::clone(&conn.signs), conn.opened_ms);
        drop(conn);
        tokio::spawn(async move {
            let ended = opened.drive(&signs, lane == Lane::Restless).await;
            if let Some(conn) = weak.upgrade() {
                conn.dead.store(true, Ordering::Relaxed);
            }
            let Some(link) = link.upgrade() else { return };
            if link.remove(&weak) && ended == Ended::Lost {
                if clock::monotonic_ms() - opened_ms < YOUNG_MS {
                    // Somebody who accepts and hangs up must not keep us busy. Calls do not wait for this.
                    tokio::time::sleep(jittered(FIRST_PAUSE)).await;
                }
                link.warm();
            }
        });
    }

    /// Takes a connection out that has ended; true if it was the last one.
    fn remove(&self, conn: &Weak<Conn>) -> bool {
        let mut state = self.state.lock();
        state.conns.retain(|other| !std::ptr::eq(Arc::as_ptr(other), Weak::as_ptr(conn)));
        state.conns.is_empty()
    }

    /// Tells that the link is lost, and begins to probe.
    fn lose(self: &Arc<Self>) {
        if self.destination.is_forgotten() || !self.destination.set_lost(true) {
            return;
        }
        self.shared.events.push(Event::LinkLost { instance: self.destination.instance.to_string() });
        let link = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                tokio::time::sleep(jittered(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                let Some(link) = link.upgrade().filter(|link| !link.destination.is_forgotten()) else { return };
                if !link.destination.is_lost() {
                    return;
                }
                if let Ok(opened) = connect::open(&link.shared, &link.destination).await {
                    link.add(opened, Lane::Common);
                    return;
                }
            }
        });
    }
}

/// Many instances lose the same peer at once; they must not all come back at once.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// The links of one data thread.
#[derive(Default)]
pub struct Links {
    by_destination: Mutex<HashMap<u64, Arc<Link>>>,
}

impl Links {
    pub fn get(&self, shared: &Arc<Shared>, destination: &Arc<Destination>) -> Arc<Link> {
        let mut links = self.by_destination.lock();
        Arc::clone(
            links.entry(destination.id).or_insert_with(|| Link::new(Arc::clone(shared), Arc::clone(destination))),
        )
    }

    /// Drops a link; its connections close when the calls on them have ended.
    pub fn forget(&self, destination: u64) {
        self.by_destination.lock().remove(&destination);
    }
}
