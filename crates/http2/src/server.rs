//! A connection that a client opened.

use std::future::poll_fn;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::connection::{Driver, Turn};
use crate::error::Error;
use crate::fields::RequestHead;
use crate::handles::{RecvStream, SendStream, halves};
use crate::settings::Settings;
use crate::state::{Role, State};

/// A request: its head, its body, and where its answer goes.
pub type Accepted = (RequestHead, RecvStream, SendStream);

/// The server's side of a connection. Nothing is read or written unless `poll_accept` is called.
pub struct Server<T> {
    driver: Driver<T>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Server<T> {
    /// Waits until the client has said that it speaks HTTP/2.
    ///
    /// # Errors
    /// It says something else, or the socket breaks.
    pub async fn handshake(io: T, settings: Settings) -> Result<Self, Error> {
        let mut driver = Driver::new(io, State::new(Role::Server, settings));
        poll_fn(|cx| {
            while !driver.has_preface() {
                match driver.turn(cx) {
                    Turn::More => {}
                    Turn::Pending => return Poll::Pending,
                    Turn::Over(Ok(())) => return Poll::Ready(Err(Error::Broken(std::io::ErrorKind::UnexpectedEof))),
                    Turn::Over(Err(error)) => return Poll::Ready(Err(error)),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await?;
        Ok(Self { driver })
    }

    /// The next request; None when the connection has ended. Moves the bytes of all streams.
    ///
    /// # Errors
    /// The client broke the protocol, or the socket broke.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Accepted, Error>>> {
        loop {
            if let Some((head, key)) = self.driver.state.lock().next_accepted() {
                let (receiver, sender) = halves(&self.driver.state, key, false);
                return Poll::Ready(Some(Ok((head, receiver, sender))));
            }
            match self.driver.turn(cx) {
                Turn::More => {}
                Turn::Pending => return Poll::Pending,
                Turn::Over(Ok(())) => return Poll::Ready(None),
                Turn::Over(Err(error)) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    /// Asks the client to open no more streams. Those that are open are served; then the connection ends.
    pub fn leave(&mut self) {
        self.driver.state.lock().on_behalf(State::leave);
    }

    /// What the connection holds, in bytes: read buffers, header lists and bodies of open streams, what waits to be read
    /// by the client.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.driver.state.lock().held()
    }

    /// Ends the connection: `poll_accept` returns the error, and the client is told why.
    pub fn expel(&mut self, why: &'static str) {
        self.driver.expel(why);
    }

    /// To be called every few seconds. Some if the client leaves off in the middle, or does not read: why it should be
    /// expelled.
    pub fn look(&mut self) -> Option<&'static str> {
        self.driver.look()
    }

    /// Whether any streams are open.
    #[must_use]
    pub fn has_streams(&self) -> bool {
        self.driver.state.lock().active > 0
    }
}
