//! HTTP/2 (RFC 9113, RFC 7541) for a proxy that relays gRPC.
//!
//! A connection is served by one thread; its streams are held there too. Whoever holds a stream writes its frames into
//! the connection's output at once, so nothing waits as a message between tasks, and all that was written in a turn of
//! the thread leaves in one system call. What a proxy of gRPC does not need is not there: pushes, priorities, CONNECT,
//! other methods than POST from the client.
//!
//! Everything that a stranger sends is bounded: by [`Settings`] (streams, windows, header lists, resets), and by what is
//! counted of each connection (`account`): bytes held, frames that say nothing, looks at streams for each byte received. Errors of a stream reset it; errors of the connection end it with GOAWAY.

#![forbid(unsafe_code)]

mod account;
mod buffer;
mod client;
mod connection;
mod error;
mod fields;
mod frame;
mod handles;
mod head;
mod hpack;
mod output;
mod reader;
mod receive;
mod send;
mod server;
mod settings;
mod state;
mod stream;
mod window;

pub use client::Client;
pub use error::{Error, Reason};
pub use fields::{RequestHead, ResponseHead};
pub use handles::{Pinger, RecvStream, SendStream, Sender};
pub use head::Headers;
pub use server::{Accepted, Server};
pub use settings::Settings;
