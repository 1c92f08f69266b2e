//! The data plane of `ModelMesh`: it moves the bytes of inference calls while a control plane decides.
//!
//! Files are named after a request's path. In reading order:
//!
//! - in: `listen` (acceptor), `worker` (a data thread), `connection`, `entry` (request to call), `identify`
//!   (whose is it), `extraction` and `splice` (ids inside messages), `rules` (may it be called);
//! - where to: `call` (the decision loop), `resolve` (which known copy), `table`, `copy`, `gate`, `held`
//!   (what waits for Python), `outcome` (why an attempt failed);
//! - moving: `attempt`, `local`, `peer`, `relay`, `replay` (request body), `caller` (answer), `flow`, `multi` (several
//!   ids in one call);
//! - upstream: `peers` (addresses), `link` (connections), `connect`;
//! - Python's own services: `calls`, `mailbox` (what both tell each other), `pools` (whose turn it is); Python's own calls: `client` (a connection without a socket), `pipe` (its bytes);
//! - rules of the wire: `headers`, `status`, `timeout`, `framing`, `compression`, `limits`, `tls`;
//! - around it: `engine` (composition root), `shared`, `events`, `accounting`, `drain`;
//! - what is held, and for whom: `ledger` (connections), `budget` (kinds of bytes);
//! - told of it: `metrics`, `histogram`, `observe` (payloads and log lines), `trace`.

#![forbid(unsafe_code)]

mod accounting;
mod attempt;
mod budget;
mod call;
mod caller;
mod calls;
mod client;
mod clock;
mod compression;
mod connect;
mod connection;
mod copy;
mod drain;
mod engine;
mod entry;
mod events;
mod extraction;
mod flow;
mod framing;
mod gate;
mod headers;
mod held;
mod histogram;
mod identify;
mod ledger;
mod limits;
mod link;
mod listen;
mod local;
mod mailbox;
mod memory;
mod metrics;
mod multi;
mod naming;
mod observe;
mod outcome;
mod peer;
mod peers;
mod pinned;
mod pipe;
mod pools;
mod race;
mod relay;
mod replay;
mod resolve;
mod rules;
mod shared;
mod socket;
mod splice;
mod stall;
mod status;
mod table;
mod timeout;
mod tls;
mod trace;
mod worker;

pub use client::{CallId, ClientConnection, Next};
pub use copy::choose_copy;
pub use engine::Engine;
pub use events::Event;
pub use gate::Bounds;
pub use held::Resolution;
pub use identify::{Hop, Subject};
pub use listen::Port;
pub use metrics::{Counted, Series};
pub use naming::Naming;
pub use observe::{Logged, Messages, Observing, TapRule, Tapped};
pub use outcome::Outcome;
pub use rules::{MethodRule, Rules};
pub use shared::Settings;
pub use status::{Code, Status};
pub use table::{NO_SLOT, NewLocal, NewRoute};
pub use tls::{ClientAuth, ClientTls, Material};
pub use trace::Span;
