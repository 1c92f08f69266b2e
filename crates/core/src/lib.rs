//! The data plane of `ModelMesh`: it moves the bytes of inference calls while a control plane decides.
//!
//! In the order of a request's path:
//!
//! - `transport`: `listen` (acceptor), `connections` (how many there may be), `worker` (a data thread's loop), `thread` (its
//!   state), `connection`; towards others `peers` (addresses), `link` (connections), `connect`; for Python `client` and
//!   `server` (connections without a socket), `request` (what a client asks), `pipe` (their bytes), `news` (what happened on them) and
//!   `sockets` (those of a server); `door`, where listeners of other protocols come in, `guest` (a client of theirs), `purse` (what
//!   its request holds) and `refused` (what it is told);
//! - `call`: `entry` (request to call), `admission` (may it begin), `who` (calls), `rejection` (why not), `rules` (may it be called),
//!   `identify` (whose is it), `extraction` (ids inside messages), `inference` (the decision loop), `attempt`, `relay`, `replay`
//!   (request body), `caller` (answer), `direct` (a call without a stream) and `whole` (its answer), `multi` (several ids in one call) and its `part`s, `held` (what waits for Python), `patience` (how long it waits for a load), `route` (where it goes), `shadow` (a copy of it),
//!   `outcome` (why an attempt failed), `end` (how it ended), `deadline` and `stopped` (who does not wait any more);
//! - `access`: `credential` (what a call shows), `table` (whose it is), `principal` and `patterns` (what they may), `tenant`;
//! - `routing`: `table`, `copy`, `gate`, `naming`, `trial` (how its models answer), `resolve` (which known copy), `local` and `peer` (a call at one);
//! - `services`, that Python answers: `calls`, `mailbox` (what both tell each other), `pools` (whose turn it is);
//! - `wire`: `headers`, `status`, `timeout`, `framing`, `compression`, `protobuf`, `splice` (ids in messages), `infer` (tensors);
//! - `observe`: `metrics`, `histogram`, `observing` (what is wanted), `notes` (who gets it), `told` (payloads and log lines),
//!   `trace`, `usage` (who has used which model how much), `shadows` (how copies of calls ended), `fallbacks`;
//! - around it: `engine` (composition root), `settings`, `shared`, `events`, `memory`; what is held for each client: `ledger`
//!   (connections), `budget` (kinds of bytes).

#![forbid(unsafe_code)]

mod access;
mod budget;
mod call;
mod clock;
mod engine;
mod events;
mod ledger;
mod memory;
mod observe;
mod routing;
mod services;
mod settings;
mod shared;
mod transport;
mod wire;

pub use access::{Asked, Identity, Limits, Listener, Right, Verdict};
pub use call::held::Resolution;
pub use call::outcome::Outcome;
pub use call::priority::Priority;
pub use call::rules::{MethodRule, Rules};
pub use call::subject::{Hop, Subject};
pub use clock::thread_cpu;
pub use engine::Engine;
pub use events::Event;
pub use observe::metrics::{Counted, Series};
pub use observe::observing::{Observing, TapRule};
pub use observe::shadows::ShadowCounts;
pub use observe::told::{Logged, Messages, Tapped};
pub use observe::trace::Span;
pub use observe::usage::Consumed;
pub use routing::copy::choose_copy;
pub use routing::gate::Bounds;
pub use routing::naming::{Naming, Shadow};
pub use routing::table::{NO_SLOT, NewLocal, NewRoute};
pub use routing::trial::Tally;
pub use settings::Settings;
pub use transport::client::{ClientConnection, Next};
pub use transport::door::{Desk, Door};
pub use transport::guest::{AnswerStream, Guest};
pub use transport::news::CallId;
pub use transport::port::Port;
pub use transport::purse::Purse;
pub use transport::refused::Refused;
pub use transport::request::Part;
pub use transport::server::{Came, Opened};
pub use transport::socket::Socket;
pub use transport::sockets::Sockets;
pub use transport::tls::{ClientAuth, ClientTls, Material};
pub use wire::framing::{Message, PREFIX, framed, prefix_of};
pub use wire::infer;
pub use wire::status::{Code, Status};
pub use wire::timeout::{format as format_timeout, parse as parse_timeout};
