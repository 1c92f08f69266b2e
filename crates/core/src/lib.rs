//! The data plane of `ModelMesh`: it moves the bytes of inference calls while a control plane decides.
//!
//! Files are named after a request's path. In reading order:
//!
//! - in: `listen` (acceptor), `connections` (how many there may be), `worker` (a data thread's loop), `thread` (its
//!   state), `connection`, `entry` (request to call), `admission` (may it begin), `rejection` (why not), `identify` (whose is it),
//!   `extraction` and `splice` (ids inside messages), `rules` (may it be called);
//! - where to: `call` (the decision loop), `resolve` (which known copy), `table`, `copy`, `gate`, `held`
//!   (what waits for Python), `outcome` (why an attempt failed), `end` (how it ended);
//! - moving: `attempt`, `local`, `peer`, `relay`, `replay` (request body), `caller` (answer), `flow`, `multi` (several
//!   ids in one call) and its `part`s, `deadline` and `stopped` (who does not wait any more);
//! - upstream: `peers` (addresses), `link` (connections), `connect`;
//! - Python's own services: `calls`, `mailbox` (what both tell each other), `pools` (whose turn it is); Python's own
//!   calls: `client` (a connection without a socket), `pipe` (its bytes);
//! - rules of the wire: `headers`, `status`, `timeout`, `framing`, `compression`, `limits`, `tls`;
//! - `door`: where listeners of other protocols come in;
//! - around it: `engine` (composition root), `settings`, `shared`, `events`, `accounting`, `drain`, `memory`;
//! - what is held, and for whom: `ledger` (connections), `budget` (kinds of bytes);
//! - told of it: `metrics`, `histogram`, `observing` (what is wanted), `observe` (who gets it), `told` (payloads and log
//!   lines), `trace`.

#![forbid(unsafe_code)]

mod accounting;
mod admission;
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
mod connections;
mod copy;
mod deadline;
mod door;
mod drain;
mod end;
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
mod observing;
mod outcome;
mod part;
mod peer;
mod peers;
mod pinned;
mod pipe;
mod pools;
mod port;
mod race;
mod rejection;
mod relay;
mod replay;
mod resolve;
mod rules;
mod settings;
mod shared;
mod socket;
mod splice;
mod stall;
mod status;
mod stopped;
mod subject;
mod table;
mod thread;
mod timeout;
mod tls;
mod told;
mod trace;
mod worker;

pub use client::{CallId, ClientConnection, Next};
pub use copy::choose_copy;
pub use door::{Door, Guest, Purse, Refused};
pub use engine::Engine;
pub use events::Event;
pub use framing::prefix_of;
pub use gate::Bounds;
pub use held::Resolution;
pub use metrics::{Counted, Series};
pub use naming::Naming;
pub use observing::{Observing, TapRule};
pub use outcome::Outcome;
pub use port::Port;
pub use rules::{MethodRule, Rules};
pub use settings::Settings;
pub use socket::Socket;
pub use status::{Code, Status};
pub use subject::{Hop, Subject};
pub use table::{NO_SLOT, NewLocal, NewRoute};
pub use timeout::{format as format_timeout, parse as parse_timeout};
pub use tls::{ClientAuth, ClientTls, Material};
pub use told::{Logged, Messages, Tapped};
pub use trace::Span;
