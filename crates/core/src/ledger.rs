//! What others make us hold, by who they are: each connection, each address, and all of a side together.
//!
//! Whoever serves a connection notes what it holds after each turn; what calls hold beside it is charged. Beyond a bound
//! the greediest connection goes, first of the address that holds most. Sides do not pay for each other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

/// Changes below this are not noted for others to see: a warm call notes nothing.
const STEP: usize = 32 << 10;
/// What a client's connection may hold, unless two of the largest messages are more.
const OF_CONNECTION: usize = 32 << 20;

/// Calls that a connection may give up within seconds and count as others do.
const RESTLESS: usize = 16;

/// Whose connections they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Clients.
    Clients,
    /// Other instances that call us.
    Peers,
    /// The runtime, and other instances that we call.
    Neighbours,
}

impl Side {
    pub const ALL: [Self; 3] = [Self::Clients, Self::Peers, Self::Neighbours];

    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Peers => "peers",
            Self::Neighbours => "neighbours",
        }
    }
}

/// Bytes that may be held.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    connection: usize,
    address: usize,
    all: usize,
}

impl Bounds {
    /// `all`: of the side. `message`: the largest that is taken.
    fn of(side: Side, all: usize, message: usize) -> Self {
        let address = all / 2;
        // Between two of ours there are few connections, for the calls of all clients.
        let of_client = OF_CONNECTION.max(message.saturating_mul(2)).min(address);
        let connection = if side == Side::Clients { of_client } else { address };
        Self { connection, address, all }
    }
}

/// The accounts of all connections.
#[derive(Debug)]
pub struct Ledger {
    sides: [Arc<Book>; 3],
}

/// A connection has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuch;

impl TooMuch {
    /// What its other side is told.
    pub const WHY: &'static str = "more is held for it than for any other";
}

/// The accounts of one side.
#[derive(Debug)]
struct Book {
    bounds: Bounds,
    held: AtomicUsize,
    open: Mutex<Open>,
    expelled: AtomicU64,
}

#[derive(Debug, Default)]
struct Open {
    connections: HashMap<u64, Arc<Entry>>,
    addresses: HashMap<Box<str>, Arc<AtomicUsize>>,
    last: u64,
}

/// What one connection and its calls hold.
#[derive(Debug)]
struct Entry {
    /// What the connection's address holds.
    of_address: Arc<AtomicUsize>,
    sum: Mutex<Sum>,
    /// It has to go, and does not count any more.
    expelled: AtomicBool,
}

#[derive(Debug, Default)]
struct Sum {
    held: usize,
    waker: Option<Waker>,
}

impl Entry {
    fn held(&self) -> usize {
        self.sum.lock().held
    }

    fn is_expelled(&self) -> bool {
        self.expelled.load(Ordering::Relaxed)
    }
}

impl Ledger {
    /// `all`: what each side may hold, in bytes; `message`: the largest that is taken.
    #[must_use]
    pub fn new(all: usize, message: usize) -> Self {
        let book = |side| {
            let bounds = Bounds::of(side, all, message);
            Arc::new(Book { bounds, held: 0.into(), open: Mutex::default(), expelled: 0.into() })
        };
        Self { sides: Side::ALL.map(book) }
    }

    fn book(&self, side: Side) -> &Arc<Book> {
        &self.sides[side as usize]
    }

    /// The account of a new connection from, or to, an address.
    #[must_use]
    pub fn open(&self, side: Side, address: &str) -> Account {
        let book = self.book(side);
        let mut open = book.open.lock();
        let of_address = Arc::clone(open.addresses.entry(address.into()).or_default());
        open.last += 1;
        let id = open.last;
        let entry = Arc::new(Entry { of_address, sum: Mutex::default(), expelled: AtomicBool::new(false) });
        open.connections.insert(id, Arc::clone(&entry));
        drop(open);
        Account {
            holder: Arc::new(Holder { given_up: 0.into(), book: Arc::clone(book), entry, id, address: address.into() }),
            noted: 0,
        }
    }

    /// Bytes that a side holds.
    #[must_use]
    pub fn held(&self, side: Side) -> usize {
        self.book(side).held.load(Ordering::Relaxed)
    }

    /// Connections of a side that had to go.
    #[must_use]
    pub fn expelled(&self, side: Side) -> u64 {
        self.book(side).expelled.load(Ordering::Relaxed)
    }
}

impl Book {
    fn add(&self, entry: &Entry, bytes: usize, waker: Option<&Waker>) {
        let mut sum = entry.sum.lock();
        sum.held += bytes;
        if let Some(waker) = waker
            && !sum.waker.as_ref().is_some_and(|known| known.will_wake(waker))
        {
            sum.waker = Some(waker.clone());
        }
        if !entry.is_expelled() {
            entry.of_address.fetch_add(bytes, Ordering::Relaxed);
            self.held.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn take(&self, entry: &Entry, bytes: usize) {
        let mut sum = entry.sum.lock();
        sum.held -= bytes;
        if !entry.is_expelled() {
            entry.of_address.fetch_sub(bytes, Ordering::Relaxed);
            self.held.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Ends connections until no bound is passed.
    fn enforce(&self, entry: &Entry) {
        if entry.held() > self.bounds.connection {
            self.expel(entry);
        }
        let of_address = || entry.of_address.load(Ordering::Relaxed) > self.bounds.address;
        let of_all = || self.held.load(Ordering::Relaxed) > self.bounds.all;
        if !of_address() && !of_all() {
            return;
        }
        let open = self.open.lock();
        let greediest_at = |address: &Arc<AtomicUsize>| {
            let of_it = open.connections.values().filter(|other| Arc::ptr_eq(&other.of_address, address));
            of_it.filter(|other| !other.is_expelled()).max_by_key(|other| other.held())
        };
        while of_address()
            && let Some(greediest) = greediest_at(&entry.of_address)
        {
            self.expel(greediest);
        }
        while of_all()
            && let Some(address) = open.addresses.values().max_by_key(|held| held.load(Ordering::Relaxed))
            && let Some(greediest) = greediest_at(address)
        {
            self.expel(greediest);
        }
    }

    fn expel(&self, entry: &Entry) {
        let mut sum = entry.sum.lock();
        if entry.expelled.swap(true, Ordering::Relaxed) {
            return;
        }
        self.expelled.fetch_add(1, Ordering::Relaxed);
        // It is about to end: no other has to end for the same bytes.
        entry.of_address.fetch_sub(sum.held, Ordering::Relaxed);
        self.held.fetch_sub(sum.held, Ordering::Relaxed);
        if let Some(waker) = sum.waker.take() {
            waker.wake();
        }
    }
}

/// A connection and its calls: while one of them is there, what it holds is on the account.
#[derive(Debug)]
pub struct Holder {
    /// Calls that it gave up lately.
    given_up: AtomicUsize,
    book: Arc<Book>,
    entry: Arc<Entry>,
    id: u64,
    address: Box<str>,
}

impl Holder {
    /// The connection, among those of its side.
    #[must_use]
    pub fn connection(&self) -> u64 {
        self.id
    }

    /// It has given up a call.
    pub fn gives_up(&self) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
    }

    /// Some seconds have gone by.
    pub fn calm(&self) {
        self.given_up.store(self.given_up.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
    }

    /// Whether it gives up so many calls that whoever serves them may take it for an attack. No other client should be on the
    /// same connection then.
    #[must_use]
    pub fn is_restless(&self) -> bool {
        self.given_up.load(Ordering::Relaxed) > RESTLESS
    }

    /// Pays for bytes of a call until the returned value is dropped; None: the connection, or its side, holds too much.
    #[must_use]
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        let mut charge = Charge { holder: Arc::clone(self), bytes: 0 };
        charge.grow(bytes).then_some(charge)
    }

    /// Whether so many more bytes would come too near to what ends the connection.
    fn is_full(&self, bytes: usize) -> bool {
        self.entry.held().saturating_add(bytes) > self.book.bounds.connection / 8 * 7
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let mut open = self.book.open.lock();
        open.connections.remove(&self.id);
        // This one's, and the table's.
        if Arc::strong_count(&self.entry.of_address) <= 2 {
            open.addresses.remove(&self.address);
        }
    }
}

/// What a call pays; given back when dropped.
#[derive(Debug)]
pub struct Charge {
    holder: Arc<Holder>,
    bytes: usize,
}

impl Charge {
    /// Pays for more bytes; false, and nothing more is paid: the connection, or its side, holds too much.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let Holder { book, entry, .. } = &*self.holder;
        if self.holder.is_full(bytes) || book.held.load(Ordering::Relaxed).saturating_add(bytes) > book.bounds.all {
            return false;
        }
        book.add(entry, bytes, None);
        self.bytes += bytes;
        true
    }

    /// Gives some back.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.holder.book.take(&self.holder.entry, bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.holder.book.take(&self.holder.entry, self.bytes);
    }
}

/// The account of a connection, in the hands of whoever serves it.
#[derive(Debug)]
pub struct Account {
    holder: Arc<Holder>,
    noted: usize,
}

impl Account {
    #[must_use]
    pub fn holder(&self) -> &Arc<Holder> {
        &self.holder
    }

    /// Notes what the connection holds now. `waker`: of whoever serves it, should it have to go.
    ///
    /// # Errors
    /// It has to go: it, its address or its side holds too much.
    pub fn note(&mut self, held: usize, waker: &Waker) -> Result<(), TooMuch> {
        let Holder { book, entry, .. } = &*self.holder;
        if held.abs_diff(self.noted) >= STEP {
            if held > self.noted {
                book.add(entry, held - self.noted, Some(waker));
                self.noted = held;
                book.enforce(entry);
            } else {
                book.take(entry, self.noted - held);
                self.noted = held;
            }
        }
        if entry.is_expelled() { Err(TooMuch) } else { Ok(()) }
    }

    /// Whether the connection may begin another call.
    #[must_use]
    pub fn takes_calls(&self) -> bool {
        self.noted == 0 || !self.holder.is_full(0)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.holder.book.take(&self.holder.entry, self.noted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;

    fn note(account: &mut Account, held: usize) -> Result<(), TooMuch> {
        account.note(held, Waker::noop())
    }

    #[test]
    fn everything_is_given_back() {
        let ledger = Ledger::new(64 * MIB, MIB);
        let mut account = ledger.open(Side::Clients, "a");
        note(&mut account, 5 * MIB).unwrap();
        note(&mut account, 2 * MIB).unwrap();
        let charge = account.holder().charge(MIB).unwrap();
        assert_eq!(ledger.held(Side::Clients), 3 * MIB);
        drop(account);
        assert_eq!(ledger.held(Side::Clients), MIB);
        drop(charge);
        assert_eq!(ledger.held(Side::Clients), 0);
        let open = ledger.book(Side::Clients).open.lock();
        assert!(open.connections.is_empty() && open.addresses.is_empty());
    }

    #[test]
    fn small_changes_are_nobodys_business() {
        let ledger = Ledger::new(64 * MIB, MIB);
        let mut account = ledger.open(Side::Clients, "a");
        note(&mut account, 20 * KIB).unwrap();
        assert_eq!(ledger.held(Side::Clients), 0);
        note(&mut account, 40 * KIB).unwrap();
        assert_eq!(ledger.held(Side::Clients), 40 * KIB);
    }

    #[test]
    fn a_connection_that_is_nearly_full_begins_no_more_calls_and_a_full_one_goes() {
        let ledger = Ledger::new(1024 * MIB, MIB);
        let mut account = ledger.open(Side::Clients, "a");
        note(&mut account, 20 * MIB).unwrap();
        assert!(account.takes_calls());
        note(&mut account, 30 * MIB).unwrap();
        assert!(!account.takes_calls());
        assert!(account.holder().charge(1).is_none());
        assert_eq!(note(&mut account, 33 * MIB), Err(TooMuch));
        assert_eq!(ledger.held(Side::Clients), 0, "it does not count any more");
        assert_eq!(ledger.expelled(Side::Clients), 1);
        drop(account);
        assert_eq!(ledger.held(Side::Clients), 0);
    }

    #[test]
    fn of_an_address_that_holds_too_much_the_greediest_goes() {
        let ledger = Ledger::new(64 * MIB, MIB);
        let mut accounts: Vec<Account> = (0..4).map(|_| ledger.open(Side::Clients, "a")).collect();
        let mut other = ledger.open(Side::Clients, "b");
        note(&mut other, 20 * MIB).unwrap();
        note(&mut accounts[0], 12 * MIB).unwrap();
        for account in &mut accounts[1..3] {
            note(account, 9 * MIB).unwrap();
        }
        note(&mut accounts[3], 5 * MIB).unwrap();
        let gone: Vec<bool> = accounts.iter().map(|account| account.holder.entry.is_expelled()).collect();
        assert_eq!(gone, [true, false, false, false]);
        assert!(note(&mut other, 20 * MIB).is_ok());
    }

    #[test]
    fn of_a_side_that_holds_too_much_the_greediest_of_the_greediest_address_goes() {
        let ledger = Ledger::new(64 * MIB, MIB);
        let mut crowd: Vec<Account> = (0..5).map(|_| ledger.open(Side::Clients, "a")).collect();
        let mut single = ledger.open(Side::Clients, "b");
        let mut third = ledger.open(Side::Clients, "c");
        note(&mut single, 20 * MIB).unwrap();
        for account in &mut crowd {
            note(account, 6 * MIB).unwrap();
        }
        note(&mut third, 16 * MIB).unwrap();
        assert!(note(&mut single, 20 * MIB).is_ok() && note(&mut third, 16 * MIB).is_ok());
        assert_eq!(crowd.iter().filter(|account| account.holder.entry.is_expelled()).count(), 1);
        assert_eq!(ledger.held(Side::Clients), 60 * MIB);
    }

    #[test]
    fn sides_do_not_pay_for_each_other() {
        let ledger = Ledger::new(64 * MIB, MIB);
        let mut clients: Vec<Account> = (0..9).map(|at| ledger.open(Side::Clients, &at.to_string())).collect();
        let mut peer = ledger.open(Side::Peers, "a");
        for client in &mut clients {
            let _ = note(client, 16 * MIB);
        }
        assert!(note(&mut peer, 16 * MIB).is_ok() && peer.takes_calls());
        assert!(ledger.held(Side::Clients) <= 64 * MIB);
    }
}
