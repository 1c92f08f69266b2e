//! The REST front door: Open Inference Protocol over HTTP, as calls that the core routes like any other.
//!
//! Pure, without sockets: `route` (path to operation), `request`, `reader` and `data` (JSON and binary tensors to the message of the
//! call), `answer` and `classes` (the message of the answer to JSON and binary tensors), `describe` (servers and models), `options` (small bodies), `listing` (pages of names), `v1` and `nested`
//! (rows of V1), `generate` (named values to tensors, and back), `openapi` (a description for machines), `origins` (which pages may call),
//! `numbers` (lists of numbers in text), `datatype` and `shape` (what tensors are made of), `proto` (messages), `fault` (what is answered instead), `json` (what
//! is wrong with it, and writing it). With sockets: `server`.

#![forbid(unsafe_code)]

mod answer;
mod classes;
mod data;
mod datatype;
mod describe;
mod fault;
mod generate;
mod json;
mod listing;
mod nested;
mod numbers;
mod openapi;
mod options;
mod origins;
mod proto;
mod reader;
mod request;
mod route;
mod server;
mod shape;
mod v1;

pub use server::Front;
