//! The part with sockets: `front` (listener and threads), `client` (one connection), `guests` (who is here, and whose turn it
//! is), `exchange` (one request), `body` (reading and writing bodies), `metadata` (headers to those of the call), `names`
//! (vmodel or model), `calls` (the calls that requests become), `generation` (answers that come one by one), `heavy` (large bodies), `refusal` (what was not answered), `malformed` (what is not HTTP), `pages` (files for browsers, and the page to try
//! calls), `console` (a page for people).

mod body;
mod calls;
mod client;
mod console;
mod exchange;
mod front;
mod generation;
mod guests;
mod heavy;
mod malformed;
mod metadata;
mod names;
mod pages;
mod refusal;

pub use front::Front;
