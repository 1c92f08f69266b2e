//! From a header block to names and values. Entries of the tables are kept as they are used, already checked: what
//! passes a second time costs no more than a count of references.

use std::collections::VecDeque;
use std::sync::LazyLock;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::huffman;
use super::table::STATIC;
use super::{ENTRY, TABLE_SIZE};
use crate::error::{Fault, Reason};

/// The name of a field. Those of HTTP/2 itself carry their value; None if it is not a valid one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Name {
    Method(Option<Method>),
    Path(Option<PathAndQuery>),
    Status(Option<StatusCode>),
    Scheme,
    Authority,
    Protocol,
    Regular(HeaderName),
    /// The name, or the value of a regular one, is not permitted in HTTP.
    Invalid,
}

#[derive(Clone)]
struct Entry {
    name: Name,
    value: HeaderValue,
    /// By the rule for tables: text and 32 bytes.
    size: usize,
}

static STATIC_ENTRIES: LazyLock<Vec<Entry>> =
    LazyLock::new(|| STATIC.iter().map(|(name, value)| entry(name.as_bytes(), value.as_bytes(), false)).collect());

fn entry(name: &[u8], value: &[u8], sensitive: bool) -> Entry {
    named(name_of(name, value), name.len(), value, sensitive)
}

fn named(name: Name, name_length: usize, value: &[u8], sensitive: bool) -> Entry {
    let size = name_length + value.len() + ENTRY;
    let empty = HeaderValue::from_static("");
    if !matches!(name, Name::Regular(_)) {
        return Entry { name, value: empty, size };
    }
    match HeaderValue::from_bytes(value) {
        Ok(mut value) => {
            value.set_sensitive(sensitive);
            Entry { name, value, size }
        }
        Err(_) => Entry { name: Name::Invalid, value: empty, size },
    }
}

fn name_of(name: &[u8], value: &[u8]) -> Name {
    match name {
        b":method" => Name::Method(Method::from_bytes(value).ok()),
        b":path" => Name::Path(PathAndQuery::try_from(value).ok().filter(|_| value.starts_with(b"/") || value == b"*")),
        b":status" => Name::Status(StatusCode::from_bytes(value).ok()),
        b":scheme" => Name::Scheme,
        b":authority" => Name::Authority,
        b":protocol" => Name::Protocol,
        // Upper case is an error in HTTP/2.
        _ => HeaderName::from_lowercase(name).map_or(Name::Invalid, Name::Regular),
    }
}

/// One direction's decompression.
pub(crate) struct Decoder {
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

fn fault(why: &'static str) -> Fault {
    Fault::new(Reason::COMPRESSION_ERROR, why)
}

impl Decoder {
    pub fn new() -> Self {
        Self { entries: VecDeque::new(), size: 0, max: TABLE_SIZE, name: Vec::new(), value: Vec::new() }
    }

    /// Reads a whole block, and calls `each` with every field: its name, its value, and its size (text and 32 bytes).
    ///
    /// A field that is known costs its sender a byte, and us the work of reading it: beyond `most` bytes in all there is no
    /// end to wait for.
    pub fn decode(
        &mut self,
        mut block: &[u8],
        most: usize,
        mut each: impl FnMut(&Name, &HeaderValue, usize),
    ) -> Result<(), Fault> {
        let mut begun = false;
        let mut left = most;
        let mut pay = |size: usize| match left.checked_sub(size) {
            Some(rest) => {
                left = rest;
                Ok(())
            }
            None => Err(Fault::new(Reason::ENHANCE_YOUR_CALM, "a header list beyond all bounds")),
        };
        while let Some(first) = block.first().copied() {
            if first & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                let entry = self.at(index)?;
                pay(entry.size)?;
                each(&entry.name, &entry.value, entry.size);
            } else if first & 0xe0 == 0x20 {
                let max = integer(&mut block, 5)?;
                if begun || max > TABLE_SIZE {
                    return Err(fault("a table size that was not agreed on"));
                }
                self.max = max;
                self.make_room(0);
                continue;
            } else {
                let indexed = first & 0x40 != 0;
                let index = integer(&mut block, if indexed { 6 } else { 4 })?;
                let entry = self.literal(index, &mut block, first & 0xf0 == 0x10)?;
                pay(entry.size)?;
                each(&entry.name, &entry.value, entry.size);
                if indexed {
                    self.insert(entry);
                }
            }
            begun = true;
        }
        Ok(())
    }

    fn literal(&mut self, index: usize, block: &mut &[u8], sensitive: bool) -> Result<Entry, Fault> {
        if index == 0 {
            self.name.clear();
            string(block, &mut self.name)?;
            self.value.clear();
            string(block, &mut self.value)?;
            return Ok(entry(&self.name, &self.value, sensitive));
        }
        self.value.clear();
        string(block, &mut self.value)?;
        let known = self.at(index)?;
        let pseudo = match known.name {
            Name::Method(_) => ":method",
            Name::Path(_) => ":path",
            Name::Status(_) => ":status",
            Name::Scheme => ":scheme",
            Name::Authority => ":authority",
            Name::Protocol => ":protocol",
            Name::Regular(ref name) => {
                return Ok(named(known.name.clone(), name.as_str().len(), &self.value, sensitive));
            }
            // The name, or only its earlier value, was not valid: the message is malformed in either case.
            Name::Invalid => return Ok(named(Name::Invalid, 0, &self.value, sensitive)),
        };
        Ok(entry(pseudo.as_bytes(), &self.value, sensitive))
    }

    fn at(&self, index: usize) -> Result<&Entry, Fault> {
        let statics = &*STATIC_ENTRIES;
        let entry = match index.checked_sub(1) {
            Some(at) if at < statics.len() => statics.get(at),
            Some(at) => self.entries.get(at - statics.len()),
            None => None,
        };
        entry.ok_or_else(|| fault("no entry of that index"))
    }

    fn insert(&mut self, entry: Entry) {
        self.make_room(entry.size);
        if entry.size <= self.max {
            self.size += entry.size;
            self.entries.push_front(entry);
        }
    }

    #[cfg(test)]
    pub fn table_size(&self) -> usize {
        self.size
    }

    fn make_room(&mut self, bytes: usize) {
        while self.size + bytes > self.max
            && let Some(entry) = self.entries.pop_back()
        {
            self.size -= entry.size;
        }
    }
}

/// An integer with a prefix of so many bits: RFC 7541, section 5.1.
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, Fault> {
    let (first, mut rest) = block.split_first().ok_or_else(|| fault("the block ends inside a field"))?;
    let mask = (1 << prefix) - 1;
    let mut value = usize::from(*first) & mask;
    if value == mask {
        let mut shift = 0;
        loop {
            let (byte, after) = rest.split_first().ok_or_else(|| fault("the block ends inside a number"))?;
            rest = after;
            // Four more bytes are far beyond all that we take.
            if shift > 21 {
                return Err(fault("a number that is too large"));
            }
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *block = rest;
    Ok(value)
}

fn string(block: &mut &[u8], text: &mut Vec<u8>) -> Result<(), Fault> {
    let coded = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(block, 7)?;
    let (bytes, rest) = block.split_at_checked(length).ok_or_else(|| fault("the block ends inside a string"))?;
    *block = rest;
    if coded {
        huffman::decode(bytes, text).map_err(|_| fault("a string that is not Huffman code"))
    } else {
        text.extend_from_slice(bytes);
        Ok(())
    }
}
