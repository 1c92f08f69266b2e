//! The sockets of a server in Python, and the connections on them. One descriptor tells whether any of them has something.
//!
//! Whoever has an event loop waits for that descriptor, and makes a turn: all that can be read is read, and the calls that it
//! concerns come out. Answers go in, and `flush` sends them: those of one turn leave in one write a connection.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use bytes::Bytes;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use slab::Slab;
use socket2::Socket;

use crate::transport::news::{CallId, CallIds, slot_of};
use crate::transport::pipe::MOST_UNTAKEN;
use crate::transport::request::{Part, Unfinished};
use crate::transport::server::{Came, ServerConnection};
use crate::wire::status::Status;

/// Connections that are looked at in one turn. The others have the next one.
const READY: usize = 64;
/// Bytes that are read of a connection in one turn.
const READ: usize = 128 << 10;

struct Connection {
    socket: Socket,
    server: ServerConnection,
    /// What the socket has not taken yet, from `sent` on.
    unsent: Vec<u8>,
    sent: usize,
    /// Whether it waits for room in the socket.
    waits: bool,
    /// Whether `flush` has to look at it.
    is_dirty: bool,
    was_silent: bool,
}

/// All connections of a server.
pub struct Sockets {
    epoll: Epoll,
    connections: Slab<Connection>,
    dirty: Vec<usize>,
    ids: CallIds,
    unfinished: Arc<Unfinished>,
    max_message: usize,
    buffer: Box<[u8]>,
    /// Whether connections are closed once all is sent.
    is_closing: bool,
}

impl Sockets {
    /// `max_message`: bytes of one message. `max_unfinished`: bytes that requests may have that are not whole, on all connections
    /// together.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn new(max_message: usize, max_unfinished: usize) -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            connections: Slab::new(),
            dirty: Vec::new(),
            ids: CallIds::default(),
            unfinished: Arc::new(Unfinished::new(max_unfinished)),
            max_message,
            buffer: vec![0; READ].into_boxed_slice(),
            is_closing: false,
        })
    }

    /// Readable while a turn has something to do.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.epoll.0.as_raw_fd()
    }

    /// How many connections there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.connections.len()
    }

    /// Takes over a connection that was accepted.
    ///
    /// # Errors
    /// The client has gone already, or the system cannot watch one more.
    pub fn add(&mut self, descriptor: OwnedFd) -> io::Result<()> {
        let socket = Socket::from(descriptor);
        socket.set_nonblocking(true)?;
        // Without it every small message waits for a delayed acknowledgement. A Unix socket has no such thing.
        let _ = socket.set_tcp_nodelay(true);
        let entry = self.connections.vacant_entry();
        let slot = entry.key();
        self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, slot as u64))?;
        let server = ServerConnection::new(self.max_message, Arc::clone(&self.unfinished), self.ids.of_slot(slot));
        entry.insert(Connection {
            socket,
            server,
            unsent: Vec::new(),
            sent: 0,
            waits: false,
            is_dirty: false,
            was_silent: false,
        });
        Ok(())
    }

    /// Reads what there is to read, and tells what came of it. `flush` has to follow.
    pub fn turn(&mut self) -> Came {
        let mut came = Came::default();
        let mut events = [EpollEvent::empty(); READY];
        let ready = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for event in &events[..ready] {
            let slot = usize::try_from(event.data()).unwrap_or(usize::MAX);
            if event.events() != EpollFlags::EPOLLOUT {
                self.read(slot, &mut came);
            }
            self.mark(slot);
        }
        came
    }

    fn read(&mut self, slot: usize, came: &mut Came) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        match connection.socket.read(&mut self.buffer) {
            Ok(read @ 1..) => came.add(connection.server.receive(&self.buffer[..read])),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Ok(0) | Err(_) => self.lose(slot, came),
        }
    }

    /// Sends what there is to send, as far as the sockets take it, and tells what came of that. Until it tells nothing, it has to
    /// be called again.
    pub fn flush(&mut self) -> Came {
        let mut came = Came::default();
        for slot in std::mem::take(&mut self.dirty) {
            if let Some(connection) = self.connections.get_mut(slot) {
                connection.is_dirty = false;
                if self.send(slot, &mut came).is_err() {
                    self.lose(slot, &mut came);
                }
            }
        }
        came
    }

    /// Fails if the connection has ended, well or not.
    fn send(&mut self, slot: usize, came: &mut Came) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(slot) else { return Ok(()) };
        let mut may_have_more = true;
        loop {
            if connection.unsent.is_empty() && may_have_more {
                let (bytes, more) = connection.server.take();
                may_have_more = bytes.len() >= MOST_UNTAKEN || !more.is_empty();
                came.add(more);
                (connection.unsent, connection.sent) = (bytes, 0);
            }
            if connection.unsent.is_empty() {
                break;
            }
            match connection.socket.write(&connection.unsent[connection.sent..]) {
                Ok(sent) => connection.sent += sent,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return connection.wait(&self.epoll, slot, true),
                Err(error) => return Err(error),
            }
            if connection.sent == connection.unsent.len() {
                connection.unsent = Vec::new();
            }
        }
        if self.is_closing || connection.server.has_ended() {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        connection.wait(&self.epoll, slot, false)
    }

    fn lose(&mut self, slot: usize, came: &mut Came) {
        if let Some(mut connection) = self.connections.try_remove(slot) {
            // Closing it does not suffice where a process that was forked has it, too.
            let _ = self.epoll.delete(&connection.socket);
            came.cancelled.extend(connection.server.lost());
        }
    }

    fn mark(&mut self, slot: usize) {
        if let Some(connection) = self.connections.get_mut(slot)
            && !connection.is_dirty
        {
            connection.is_dirty = true;
            self.dirty.push(slot);
        }
    }

    fn mark_all(&mut self) {
        let slots: Vec<usize> = self.connections.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.mark(slot);
        }
    }

    // --- calls; `flush` has to follow each ---

    fn of(&mut self, call: CallId) -> Option<&mut ServerConnection> {
        let slot = slot_of(call);
        self.mark(slot);
        self.connections.get_mut(slot).map(|connection| &mut connection.server)
    }

    /// What comes next of a request.
    pub fn next(&mut self, call: CallId) -> Part {
        self.of(call).map_or(Part::Pending, |server| server.next(call))
    }

    /// Answers with one message, which has its prefix, and OK.
    pub fn answer(&mut self, call: CallId, framed: Bytes) {
        if let Some(server) = self.of(call) {
            server.answer(call, framed);
        }
    }

    /// Sends one message of several. False if the client has gone.
    pub fn send_message(&mut self, call: CallId, message: &[u8]) -> bool {
        self.of(call).is_some_and(|server| server.send(call, message))
    }

    /// Whether more of the answer may be sent now; if not, there will be news of the call when it may.
    pub fn has_room(&mut self, call: CallId) -> bool {
        self.of(call).is_none_or(|server| server.has_room(call))
    }

    /// Ends a call.
    pub fn end(&mut self, call: CallId, status: Status) {
        if let Some(server) = self.of(call) {
            server.end(call, status);
        }
    }

    // --- all connections; `flush` has to follow each ---

    /// To be called every few seconds: closes connections whose clients do not continue with what they began, do not read, or say
    /// nothing for two looks.
    pub fn look(&mut self) -> Came {
        let mut silent = Vec::new();
        for (slot, connection) in &mut self.connections {
            let speaks = connection.server.look();
            if !speaks && connection.was_silent {
                silent.push(slot);
            }
            connection.was_silent = !speaks;
        }
        let mut came = Came::default();
        for slot in silent {
            self.lose(slot, &mut came);
        }
        self.mark_all();
        came
    }

    /// Asks all clients to open no more calls.
    pub fn leave(&mut self) {
        for (_, connection) in &mut self.connections {
            connection.server.leave();
        }
        self.mark_all();
    }

    /// Closes each connection once all is sent that there is to send.
    pub fn close(&mut self) {
        self.is_closing = true;
        self.mark_all();
    }

    /// Closes all connections now.
    pub fn abort(&mut self) -> Came {
        let mut came = Came::default();
        let slots: Vec<usize> = self.connections.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.lose(slot, &mut came);
        }
        came
    }
}

impl Connection {
    /// Waits for room in the socket, or no more.
    fn wait(&mut self, epoll: &Epoll, slot: usize, waits: bool) -> io::Result<()> {
        if self.waits == waits {
            return Ok(());
        }
        self.waits = waits;
        let wanted = if waits { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        Ok(epoll.modify(&self.socket, &mut EpollEvent::new(wanted, slot as u64))?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::transport::client::{ClientConnection, Next};
    use crate::wire::framing::framed;
    use crate::wire::status::Code;

    struct Client {
        socket: UnixStream,
        connection: ClientConnection,
    }

    impl Client {
        fn of(server: &mut Sockets) -> Self {
            let (socket, other) = UnixStream::pair().unwrap();
            socket.set_nonblocking(true).unwrap();
            server.add(other.into()).unwrap();
            Self { socket, connection: ClientConnection::new("server", None, 64 << 20).unwrap() }
        }

        /// Moves bytes until neither side has any for the other.
        fn exchange(&mut self, server: &mut Sockets) -> Came {
            let mut all = Came::default();
            let mut buffer = vec![0; 64 << 10];
            loop {
                let mut asked = &self.connection.take()[..];
                let mut is_quiet = asked.is_empty();
                while !asked.is_empty() {
                    match self.socket.write(asked) {
                        Ok(sent) => asked = &asked[sent..],
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(_) => asked = &[], // the server has closed it
                    }
                    all.add(server.turn());
                }
                let before = (all.calls.len(), all.news.len(), all.cancelled.len());
                all.add(server.turn());
                all.add(server.flush());
                is_quiet &= before == (all.calls.len(), all.news.len(), all.cancelled.len());
                while let Ok(read @ 1..) = self.socket.read(&mut buffer) {
                    self.connection.receive(&buffer[..read]);
                    is_quiet = false;
                }
                if is_quiet {
                    return all;
                }
            }
        }

        /// What the call gets; large messages come as far as they are read.
        fn answer(&mut self, server: &mut Sockets, call: CallId) -> Next {
            for _ in 0..1000 {
                match self.connection.next(call) {
                    Next::Pending => self.exchange(server),
                    next => return next,
                };
            }
            Next::Pending
        }

        fn ask(&mut self, message: &[u8]) -> CallId {
            let path = http::uri::PathAndQuery::from_static("/p.S/M");
            let call = self.connection.open(&path, &[], None).unwrap();
            self.connection.send(call, message, true);
            call
        }
    }

    fn server() -> Sockets {
        Sockets::new(64 << 20, 1 << 30).unwrap()
    }

    #[test]
    fn calls_of_all_connections_come_in_one_turn_and_their_answers_go_where_they_belong() {
        let mut server = server();
        let mut clients: Vec<Client> = (0..3).map(|_| Client::of(&mut server)).collect();
        for client in &mut clients {
            assert!(client.exchange(&mut server).is_empty());
        }
        let asked: Vec<CallId> = clients.iter_mut().map(|client| client.ask(b"request")).collect();
        for client in &mut clients {
            client.socket.write_all(&client.connection.take()).unwrap();
        }
        let calls = server.turn().calls;
        assert_eq!(calls.len(), 3);
        for (number, opened) in calls.iter().enumerate() {
            server.answer(opened.call, framed(&[u8::try_from(number).unwrap()]));
        }
        let mut answers: Vec<Bytes> = Vec::new();
        for (client, call) in clients.iter_mut().zip(asked) {
            client.exchange(&mut server);
            let Next::Message(answer) = client.answer(&mut server, call) else { panic!("no answer") };
            answers.push(answer);
        }
        answers.sort();
        assert_eq!(answers, [&[0][..], &[1], &[2]]);
    }

    #[test]
    fn what_a_socket_does_not_take_waits_for_room() {
        let mut server = server();
        let mut client = Client::of(&mut server);
        let asked = client.ask(b"request");
        let opened = client.exchange(&mut server).calls.remove(0);
        let message = vec![7; 20 << 20];
        server.answer(opened.call, framed(&message));
        assert!(server.flush().is_empty());
        assert!(server.connections[0].waits);
        assert!(client.answer(&mut server, asked) == Next::Message(message.into()));
        assert!(!server.connections[0].waits);
    }

    #[test]
    fn the_calls_of_a_client_that_has_gone_are_cancelled_and_what_follows_is_dropped() {
        let mut server = server();
        let mut client = Client::of(&mut server);
        client.ask(b"request");
        let call = client.exchange(&mut server).calls[0].call;
        drop(client);
        assert_eq!(server.turn().cancelled, [call]);
        assert_eq!(server.count(), 0);
        let mut other = Client::of(&mut server);
        let asked = other.ask(b"request");
        other.exchange(&mut server);
        server.answer(call, framed(b"too late"));
        server.end(call, Status::new(Code::Internal, "too late"));
        assert!(!server.send_message(call, b"too late") && server.has_room(call));
        other.exchange(&mut server);
        assert_eq!(
            other.connection.next(asked),
            Next::Pending,
            "the other call is in the same place, and not answered"
        );
    }

    #[test]
    fn what_is_no_http2_ends_its_connection() {
        let mut server = server();
        let (mut socket, other) = UnixStream::pair().unwrap();
        server.add(other.into()).unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\n\r\n and more than HTTP/2 begins with").unwrap();
        server.turn();
        server.flush();
        assert_eq!(server.count(), 0);
    }

    #[test]
    fn a_client_that_says_nothing_is_closed_at_the_second_look() {
        let mut server = server();
        let (_silent, other) = UnixStream::pair().unwrap();
        server.add(other.into()).unwrap();
        let mut client = Client::of(&mut server);
        client.exchange(&mut server);
        server.look();
        assert_eq!(server.count(), 2);
        server.look();
        assert_eq!(server.count(), 1);
    }

    #[test]
    fn it_closes_once_all_is_sent() {
        let mut server = server();
        let mut client = Client::of(&mut server);
        let asked = client.ask(b"request");
        let opened = client.exchange(&mut server).calls.remove(0);
        let idle = Client::of(&mut server);
        server.answer(opened.call, framed(&vec![7; 500 << 10]));
        server.close();
        server.flush();
        assert_eq!(server.count(), 1, "the idle one is closed");
        assert!(matches!(client.answer(&mut server, asked), Next::Message(message) if message.len() == 500 << 10));
        client.exchange(&mut server);
        assert_eq!(server.count(), 0);
        drop(idle);
    }
}
