//! The version of a vmodel that a call chooses in its message: `model_version` of the Open Inference Protocol.
//!
//! Only calls of vmodels are looked at, and of these only the beginning of the request: libraries write fields in the order of
//! their numbers, so the version stands before the tensors, which are not read. A version that the vmodel has chooses one of its
//! models, and is taken out of the message: the runtime does not know it. Another one stays in the message, for the runtime.

use std::borrow::Cow;
use std::ops::Range;
use std::task::{Context, Poll};

use crate::call::replay::{Body, BodyError};
use crate::wire::framing::PREFIX;
use crate::wire::protobuf::LENGTH_DELIMITED;

/// Bytes of a request that are looked at. An id has at most 8 KiB, and a version is shorter.
const LOOKED_AT: usize = 16 << 10;

/// A version that a message names.
#[derive(Debug, PartialEq, Eq)]
pub struct Version {
    pub name: String,
    /// Where it stands in the request; None: it was taken out of it.
    field: Option<Range<usize>>,
}

/// What the beginning of a request says.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Version(Version),
    Nothing,
    /// More of it is needed.
    Unknown,
}

impl Version {
    /// Takes it out of the request, once.
    pub fn take_out(&mut self, body: &mut Body) {
        if let Some(field) = self.field.take() {
            body.cut(field);
        }
    }

    /// Whether it chooses a model: then the runtime is not asked for it.
    #[must_use]
    pub fn is_chosen(&self) -> bool {
        self.field.is_none()
    }
}

/// Reads the version in the field of that number from the beginning of a request; None: there is none.
pub fn poll_find(body: &mut Body, number: u32, cx: &mut Context<'_>) -> Poll<Result<Option<Version>, BodyError>> {
    loop {
        match find(&front(body), number) {
            Found::Version(version) => return Poll::Ready(Ok(Some(version))),
            Found::Nothing => return Poll::Ready(Ok(None)),
            Found::Unknown if body.is_read() || body.is_blocked() => return Poll::Ready(Ok(None)),
            Found::Unknown => {}
        }
        match body.poll_look_ahead(cx)? {
            Poll::Pending if !body.is_read() => return Poll::Pending,
            Poll::Pending | Poll::Ready(_) => {}
        }
    }
}

/// The beginning of a request, as far as it is here.
fn front(body: &Body) -> Cow<'_, [u8]> {
    let mut chunks = body.read_so_far();
    let Some(first) = chunks.next() else { return Cow::Borrowed(&[]) };
    if first.len() >= LOOKED_AT {
        return Cow::Borrowed(&first[..LOOKED_AT]);
    }
    let Some(second) = chunks.next() else { return Cow::Borrowed(first) };
    let mut front = first.to_vec();
    for chunk in std::iter::once(second).chain(chunks) {
        let room = LOOKED_AT - front.len();
        front.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    Cow::Owned(front)
}

/// The version in the field of that number, if it comes before all fields of higher numbers.
fn find(front: &[u8], number: u32) -> Found {
    let unknown = if front.len() < LOOKED_AT { Found::Unknown } else { Found::Nothing };
    let Some((prefix, message)) = front.split_at_checked(PREFIX) else { return unknown };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if prefix[0] != 0 {
        return Found::Nothing; // compressed
    }
    let message = &message[..message.len().min(length)];
    let (mut at, mut before) = (0, 0);
    while at < length {
        let start = at;
        let Some(tag) = varint(message, &mut at) else { return unknown };
        // Each number once, in their order: so few fields are read, however often more has come.
        let is_in_order = (before + 1..=u64::from(number)).contains(&(tag >> 3));
        if !is_in_order || tag & 7 != u64::from(LENGTH_DELIMITED) {
            return Found::Nothing;
        }
        before = tag >> 3;
        let Some(size) = varint(message, &mut at) else { return unknown };
        let Some(end) = usize::try_from(size).ok().and_then(|size| at.checked_add(size)).filter(|end| *end <= length)
        else {
            return Found::Nothing; // malformed: the runtime says so
        };
        if end > LOOKED_AT {
            return Found::Nothing;
        }
        let Some(content) = message.get(at..end) else { return unknown };
        if tag >> 3 == u64::from(number) {
            return match std::str::from_utf8(content) {
                Ok(name) if !name.is_empty() => {
                    let field = Some(PREFIX + start..PREFIX + end);
                    Found::Version(Version { name: name.to_owned(), field })
                }
                _ => Found::Nothing,
            };
        }
        at = end;
    }
    Found::Nothing
}

/// A number that begins there. None: it does not end.
fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::framing::framed;
    use crate::wire::protobuf::write_varint;

    /// A request of text fields, as the numbers say.
    fn request(fields: &[(u8, &str)]) -> Vec<u8> {
        let mut message = Vec::new();
        for (number, text) in fields {
            message.push(number << 3 | LENGTH_DELIMITED);
            write_varint(text.len() as u64, &mut message);
            message.extend_from_slice(text.as_bytes());
        }
        framed(&message).to_vec()
    }

    fn found(front: &[u8]) -> Option<(String, Range<usize>)> {
        match find(front, 2) {
            Found::Version(Version { name, field }) => Some((name, field.unwrap())),
            Found::Nothing => None,
            Found::Unknown => panic!("more is needed"),
        }
    }

    #[test]
    fn the_version_is_read_where_libraries_write_it() {
        let tensors = "x".repeat(1 << 20);
        let of = |version: &str| found(&request(&[(1, "model"), (2, version), (5, &tensors)])[..LOOKED_AT]);
        assert_eq!(of("stable"), Some(("stable".into(), 12..20)));
        assert_eq!(of(""), None);
        assert_eq!(found(&request(&[(2, "v")])), Some(("v".into(), 5..8)));
        assert_eq!(found(&request(&[(1, "model"), (5, &tensors)])[..64]), None, "of the tensors nothing is waited for");
        assert_eq!(found(&request(&[(5, "t"), (2, "v")])), None, "behind the tensors it is the runtime's");
        assert_eq!(found(&request(&[(1, "m"), (1, "n"), (2, "v")])), None, "as no library writes it");
        assert_eq!(found(&request(&[])), None);
    }

    #[test]
    fn only_as_much_as_is_needed_is_waited_for() {
        let whole = request(&[(1, "model"), (2, "stable"), (5, "tensor")]);
        for length in 0..whole.len() {
            assert_eq!(find(&whole[..length], 2) == Found::Unknown, length < 20, "{length}");
        }
        let long = request(&[(1, &"m".repeat(LOOKED_AT)), (2, "stable")]);
        assert_eq!(find(&long[..30], 2), Found::Nothing);
    }

    #[test]
    fn what_cannot_be_read_is_the_runtimes() {
        for message in [&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0x12, 2, 0xff, 0xfe], &[0x10, 1], &[0x0a, 9, b'm']]
        {
            assert_eq!(found(&framed(message)), None, "{message:?}");
        }
        let mut compressed = request(&[(2, "stable")]);
        compressed[0] = 1;
        assert_eq!(found(&compressed), None);
        // Any bytes at all, of any length: one of the three, and no panic.
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..100_000 {
            let length = rng.usize(..40);
            let bytes: Vec<u8> = (0..length).map(|_| if rng.bool() { rng.u8(..24) } else { rng.u8(..) }).collect();
            let _ = find(&bytes, 2);
            if let Found::Version(Version { field: Some(field), .. }) = find(&framed(&bytes), 2) {
                assert!(field.start >= PREFIX && field.end <= PREFIX + length);
            }
        }
    }
}
