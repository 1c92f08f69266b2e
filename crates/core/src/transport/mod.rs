//! Sockets and connections: from clients and other instances, to the runtime and other instances, and those of the control plane.

pub mod client;
pub mod connect;
pub mod connection;
pub mod connections;
pub mod door;
pub mod drain;
pub mod flow;
pub mod limits;
pub mod link;
pub mod listen;
pub mod news;
pub mod peers;
pub mod pinned;
pub mod pipe;
pub mod port;
pub mod race;
pub mod request;
pub mod server;
pub mod socket;
pub mod sockets;
pub mod stall;
pub mod thread;
pub mod tls;
pub mod worker;
