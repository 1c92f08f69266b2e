//! Header compression: RFC 7541.

mod decoder;
mod encoder;
mod huffman;
mod table;

pub(crate) use decoder::{Decoder, Name};
pub(crate) use encoder::Encoder;

/// What both sides' tables hold unless they are told otherwise. We never ask for more.
pub(crate) const TABLE_SIZE: usize = 4096;
/// What an entry of a table costs beside its text.
pub(crate) const ENTRY: usize = 32;
