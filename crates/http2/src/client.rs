//! A connection that we open.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::connection::{Driver, Turn};
use crate::error::Error;
use crate::handles::{Pinger, Sender};
use crate::settings::Settings;
use crate::state::{Role, State};

/// The client's side of a connection: a future that moves its bytes, and is ready when it has ended.
pub struct Client<T> {
    driver: Driver<T>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    /// Begins to speak; nothing is written before the connection is polled.
    pub fn new(io: T, settings: Settings) -> (Sender, Self) {
        let driver = Driver::new(io, State::new(Role::Client, settings));
        (Sender::new(&driver.state), Self { driver })
    }

    #[must_use]
    pub fn pinger(&self) -> Pinger {
        Pinger::new(&self.driver.state)
    }

    /// What the connection holds, in bytes: read buffers, answers that were not taken, requests that wait to be read by
    /// the server.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.driver.state.lock().held()
    }

    /// Whether the other side has spoken HTTP/2 yet.
    #[must_use]
    pub fn has_settings(&self) -> bool {
        self.driver.has_settings()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Client<T> {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match self.driver.turn(cx) {
                Turn::More => {}
                Turn::Pending => return Poll::Pending,
                Turn::Over(outcome) => return Poll::Ready(outcome),
            }
        }
    }
}
