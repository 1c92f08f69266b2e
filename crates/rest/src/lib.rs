//! The REST front door: Open Inference Protocol over HTTP, as calls that the core routes like any other.
//!
//! Pure, without sockets: `route` (path to operation), `datatype` (what tensors are made of), `fault` (what is answered
//! instead), `json` (writing it).

#![forbid(unsafe_code)]

mod datatype;
mod fault;
mod json;
mod route;

pub use datatype::Datatype;
pub use fault::Fault;
pub use route::{Match, Operation, ROUTES, Route, find};
