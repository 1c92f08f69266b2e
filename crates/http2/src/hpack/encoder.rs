//! From names and values to a header block.

use std::collections::VecDeque;

use super::table::STATIC;
use super::{ENTRY, TABLE_SIZE};

/// Where entries of the table are found again: an entry has one of the `WAYS` places of a set. If all are taken the oldest is
/// forgotten, and sent as text once more. With one place only, two fields of every call that share it would displace each other.
const SETS: usize = 32;
const WAYS: usize = 4;
/// Values above this are not worth the entries that they displace.
const LARGEST_INDEXED: usize = 512;
/// Values that differ from call to call, or that must not be found out by the size of what we write.
const NOT_INDEXED: [&str; 14] = [
    "authorization",
    "content-length",
    "cookie",
    "date",
    "etag",
    "grpc-message",
    "grpc-retry-pushback-ms",
    "grpc-status-details-bin",
    "grpc-timeout",
    "mm-tried",
    "proxy-authorization",
    "set-cookie",
    "traceparent",
    "tracestate",
];

/// An entry of the other side's table.
struct Slot {
    name: Box<[u8]>,
    value: Box<[u8]>,
    /// How many entries had been inserted before it.
    number: u64,
}

/// One direction's compression.
pub(crate) struct Encoder {
    sets: Vec<[Option<Slot>; WAYS]>,
    /// Sizes of the entries in the table, the oldest first.
    sizes: VecDeque<usize>,
    size: usize,
    max: usize,
    inserted: u64,
    /// The smallest and the last table size that the other side does not know yet.
    resized: Option<(usize, usize)>,
}

impl Encoder {
    pub fn new() -> Self {
        Self { sets: Vec::new(), sizes: VecDeque::new(), size: 0, max: TABLE_SIZE, inserted: 0, resized: None }
    }

    /// What the other side permits.
    pub fn set_max(&mut self, bytes: usize) {
        let max = bytes.min(TABLE_SIZE);
        if max != self.max {
            let smallest = self.resized.map_or(max, |(smallest, _)| smallest.min(max));
            self.resized = Some((smallest, max));
            self.max = max;
            self.make_room(0);
        }
    }

    /// Begins a block.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some((smallest, last)) = self.resized.take() {
            if smallest < last {
                integer(out, 0x20, 5, smallest);
            }
            integer(out, 0x20, 5, last);
        }
    }

    /// Adds one field.
    pub fn field(&mut self, out: &mut Vec<u8>, name: &[u8], value: &[u8], sensitive: bool) {
        if let Some(index) = statically(name, value) {
            return out.push(0x80 | index);
        }
        if sensitive {
            return literal(out, 0x10, 4, name, value);
        }
        if self.sets.is_empty() {
            self.sets.resize_with(SETS, Default::default);
        }
        let set = &mut self.sets[hash(name, value) % SETS];
        for known in set.iter().flatten() {
            let age = self.inserted - known.number;
            if age <= self.sizes.len() as u64 && *known.value == *value && *known.name == *name {
                return integer(out, 0x80, 7, STATIC.len() + usize::try_from(age).unwrap_or(0));
            }
        }
        let size = name.len() + value.len() + ENTRY;
        let hopeless = value.len() > LARGEST_INDEXED || size > self.max;
        if hopeless || NOT_INDEXED.iter().any(|not| not.as_bytes() == name) {
            return literal(out, 0, 4, name, value);
        }
        let oldest = set.iter_mut().min_by_key(|place| place.as_ref().map(|known| known.number));
        if let Some(place) = oldest {
            *place = Some(Slot { name: name.into(), value: value.into(), number: self.inserted });
        }
        literal(out, 0x40, 6, name, value);
        self.make_room(size);
        self.sizes.push_back(size);
        self.size += size;
        self.inserted += 1;
    }

    fn make_room(&mut self, bytes: usize) {
        while self.size + bytes > self.max
            && let Some(size) = self.sizes.pop_front()
        {
            self.size -= size;
        }
    }
}

/// The index of a field that both sides know from the start.
fn statically(name: &[u8], value: &[u8]) -> Option<u8> {
    match (name, value) {
        (b":method", b"POST") => Some(3),
        (b":scheme", b"http") => Some(6),
        (b":scheme", b"https") => Some(7),
        (b":status", b"200") => Some(8),
        _ => None,
    }
}

/// The index of a name that both sides know from the start; 0 if they do not.
fn static_name(name: &[u8]) -> usize {
    STATIC.iter().position(|(known, _)| known.as_bytes() == name).map_or(0, |at| at + 1)
}

fn hash(name: &[u8], value: &[u8]) -> usize {
    let mut hash = name.len() as u64;
    let mut mix = |word: u64| hash = (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    for part in [name, value] {
        let (eights, rest) = part.as_chunks::<8>();
        for eight in eights {
            mix(u64::from_le_bytes(*eight));
        }
        // Where there are eight, the last bytes are read again: cheaper than to copy only those that are left.
        mix(match part.last_chunk::<8>() {
            Some(last) => u64::from_le_bytes(*last),
            None => rest.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte)),
        });
    }
    usize::try_from(hash >> 32).unwrap_or(0)
}

fn literal(out: &mut Vec<u8>, pattern: u8, prefix: u32, name: &[u8], value: &[u8]) {
    let index = static_name(name);
    integer(out, pattern, prefix, index);
    if index == 0 {
        integer(out, 0, 7, name.len());
        out.extend_from_slice(name);
    }
    integer(out, 0, 7, value.len());
    out.extend_from_slice(value);
}

#[inline]
fn integer(out: &mut Vec<u8>, pattern: u8, prefix: u32, value: usize) {
    if value < (1 << prefix) - 1 {
        return out.push(pattern | low(value));
    }
    long_integer(out, pattern, prefix, value);
}

fn low(value: usize) -> u8 {
    u8::try_from(value & 0x7f).unwrap_or(0)
}

fn long_integer(out: &mut Vec<u8>, pattern: u8, prefix: u32, value: usize) {
    let mask = (1 << prefix) - 1;
    out.push(pattern | low(mask));
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(0x80 | low(rest));
        rest >>= 7;
    }
    out.push(low(rest));
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::super::{Decoder, Name};
    use super::*;

    /// What a decoder makes of blocks in turn.
    fn through(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut fields = Vec::new();
        let each = |name: &Name, value: &HeaderValue, _| {
            let (name, value) = match name {
                Name::Regular(name) => (name.as_str().to_owned(), value.as_bytes().to_vec()),
                Name::Method(Some(method)) => (":method".to_owned(), method.as_str().as_bytes().to_vec()),
                Name::Path(Some(path)) => (":path".to_owned(), path.as_str().as_bytes().to_vec()),
                Name::Status(Some(status)) => (":status".to_owned(), status.as_str().as_bytes().to_vec()),
                other => (format!("{other:?}"), Vec::new()),
            };
            fields.push((name, value));
        };
        decoder.decode(block, usize::MAX, each).unwrap();
        fields
    }

    fn encoded(encoder: &mut Encoder, fields: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut block = Vec::new();
        encoder.begin(&mut block);
        for (name, value) in fields {
            encoder.field(&mut block, name.as_bytes(), value, false);
        }
        block
    }

    fn field(name: &str, value: &str) -> (String, Vec<u8>) {
        (name.to_owned(), value.as_bytes().to_vec())
    }

    #[test]
    fn what_passes_again_is_a_byte() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let fields = [field(":method", "POST"), field(":path", "/p.S/M"), field("mm-model-id", "m")];
        let first = encoded(&mut encoder, &fields);
        let second = encoded(&mut encoder, &fields);
        assert_eq!(second.len(), 3);
        assert_eq!(through(&mut decoder, &first), fields);
        assert_eq!(through(&mut decoder, &second), fields);
    }

    #[test]
    fn fields_that_share_a_set_do_not_displace_each_other() {
        let set = hash(b"x-a", b"0") % SETS;
        let sharing = (0..).map(|value| field("x-a", &value.to_string()));
        let sharing: Vec<_> =
            sharing.filter(|(name, value)| hash(name.as_bytes(), value) % SETS == set).take(WAYS + 1).collect();
        let mut encoder = Encoder::new();
        encoded(&mut encoder, &sharing[..WAYS]);
        assert_eq!(encoded(&mut encoder, &sharing[..WAYS]).len(), WAYS, "a byte each");
        encoded(&mut encoder, &sharing[WAYS..]); // which takes the place of the oldest
        assert_eq!(encoded(&mut encoder, &sharing[1..]).len(), WAYS);
        assert!(encoded(&mut encoder, &sharing[..1]).len() > 1);
    }

    #[test]
    fn a_deadline_displaces_nothing() {
        let mut encoder = Encoder::new();
        for timeout in 0..1000 {
            encoded(&mut encoder, &[field("grpc-timeout", &format!("{timeout}m"))]);
        }
        assert_eq!(encoder.inserted, 0);
    }

    #[test]
    fn the_table_becomes_smaller_and_larger_again() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let fields = [field("x-a", "1"), field("x-b", "2")];
        through(&mut decoder, &encoded(&mut encoder, &fields));
        encoder.set_max(0);
        encoder.set_max(100);
        let block = encoded(&mut encoder, &fields);
        assert_eq!(block[..3], [0x20, 0x3f, 100 - 31], "both sizes are told");
        assert_eq!(through(&mut decoder, &block), fields);
        assert_eq!(through(&mut decoder, &encoded(&mut encoder, &fields)), fields);
    }

    proptest::proptest! {
        #[test]
        fn blocks_come_back_as_they_were(
            blocks in proptest::collection::vec(
                proptest::collection::vec(("x-[a-e]{1,3}", "[a-c]{0,40}"), 0..12), 1..40
            ),
            sizes in proptest::collection::vec(0usize..5000, 40),
        ) {
            let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
            for (fields, size) in blocks.iter().zip(sizes) {
                if size % 3 == 0 {
                    encoder.set_max(size);
                }
                let fields: Vec<_> = fields.iter().map(|(name, value)| field(name, value)).collect();
                let block = encoded(&mut encoder, &fields);
                assert_eq!(through(&mut decoder, &block), fields);
            }
        }

        #[test]
        fn no_bytes_break_the_decoder(block in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let mut decoder = Decoder::new();
            let _ = decoder.decode(&block, usize::MAX, |_, _, _| {});
            assert!(decoder.table_size() <= TABLE_SIZE);
        }
    }
}
