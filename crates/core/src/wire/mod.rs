//! The rules of gRPC on the wire.

pub mod compression;
pub mod framing;
pub mod headers;
pub mod infer;
pub mod protobuf;
pub mod retry;
pub mod splice;
pub mod status;
pub mod timeout;
