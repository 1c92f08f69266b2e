//! What both programs need: arguments, sockets, gRPC framing, and the CPU time of processes.

pub mod arguments;
pub mod cpu;
pub mod grpc;
pub mod socket;
pub mod tls;

/// Received but unread bytes of one stream. Beyond 1 MB nothing gets faster.
pub const STREAM_WINDOW: u32 = 1 << 20;
/// Of one connection: many stuck streams must not stop the others.
pub const CONNECTION_WINDOW: u32 = 64 << 20;
