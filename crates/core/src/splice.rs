//! The model id inside a protobuf message, by field path, on encoded bytes.
//!
//! What a parser would see is what counts: repeated occurrences of a message field merge, and of the id
//! field the last one wins. So the last one is read, and when an id is written every other occurrence goes:
//! otherwise a client could have one model's permissions and another model's answer. Everything else keeps
//! its bytes and its order.

/// The bytes are no protobuf message, or the id field is no string.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

fn malformed(what: &str) -> Malformed {
    Malformed(what.to_owned())
}

/// One field: where it begins and ends, and where its content begins if it has a length.
struct Field {
    number: u32,
    wire_type: u8,
    start: usize,
    content: usize,
    end: usize,
}

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;
const FIXED32: u8 = 5;

/// Iterates over the fields of one level.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or_else(|| malformed("proto parsing error"))?;
            self.at += 1;
            // Bits beyond the 64th are dropped, as parsers do.
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(malformed("proto parsing error"))
    }

    fn field(&mut self) -> Result<Field, Malformed> {
        let start = self.at;
        let tag = self.varint()?;
        let wire_type = u8::try_from(tag & 7).unwrap_or(7);
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|number| (1..=0x1fff_ffff).contains(number))
            .ok_or_else(|| malformed("proto parsing error"))?;
        let mut content = self.at;
        let length = match wire_type {
            VARINT => {
                self.varint()?;
                self.at - content
            }
            FIXED64 => 8,
            FIXED32 => 4,
            LENGTH_DELIMITED => {
                let length = self.varint()?;
                content = self.at;
                usize::try_from(length).map_err(|_| malformed("proto parsing error"))?
            }
            other => return Err(Malformed(format!("unsupported protobuf field type:{other}"))),
        };
        let end = content.checked_add(length).filter(|end| *end <= self.bytes.len());
        self.at = end.ok_or_else(|| malformed("proto parsing error"))?;
        Ok(Field { number, wire_type, start, content, end: self.at })
    }
}

impl Iterator for Fields<'_> {
    type Item = Result<Field, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.at = self.bytes.len();
        }
        Some(field)
    }
}

/// The fields of that number at one level, all of which must have a length.
fn wanted(bytes: &[u8], number: u32) -> Result<Vec<Field>, Malformed> {
    let mut found = Vec::new();
    for field in (Fields { bytes, at: 0 }) {
        let field = field?;
        if field.number == number {
            if field.wire_type != LENGTH_DELIMITED {
                return Err(Malformed(format!("proto message id field is not a string (type = {})", field.wire_type)));
            }
            found.push(field);
        }
    }
    Ok(found)
}

/// The id a parser would see; None if there is none. `path` is not empty.
///
/// # Errors
/// The message cannot be parsed.
pub fn extract<'a>(message: &'a [u8], path: &[u32]) -> Result<Option<&'a [u8]>, Malformed> {
    let Some((number, rest)) = path.split_first() else { return Ok(None) };
    let mut id = None;
    for field in wanted(message, *number)? {
        let content = &message[field.content..field.end];
        // A later parent without the field leaves what an earlier one set.
        id = if rest.is_empty() { Some(content) } else { extract(content, rest)?.or(id) };
    }
    Ok(id)
}

/// The message with the id set, so that every parser sees this one. `path` is not empty.
///
/// # Errors
/// The message cannot be parsed.
pub fn inject(message: &[u8], path: &[u32], id: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(message.len() + id.len() + 6 * path.len());
    rewrite(message, path, Some(id), &mut out)?;
    Ok(out)
}

/// Writes a level with the id set in the last occurrence of its field, and taken out of the others.
/// Without an id it is taken out of all.
fn rewrite(level: &[u8], path: &[u32], id: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let Some((number, rest)) = path.split_first() else { return Ok(()) };
    let fields = wanted(level, *number)?;
    let mut copied = 0;
    for (index, field) in fields.iter().enumerate() {
        let id = id.filter(|_| index + 1 == fields.len());
        out.extend_from_slice(&level[copied..field.start]);
        copied = field.end;
        if !rest.is_empty() {
            let mut inner = Vec::new();
            rewrite(&level[field.content..field.end], rest, id, &mut inner)?;
            write_field(*number, &inner, out);
        } else if let Some(id) = id {
            write_field(*number, id, out);
        }
    }
    out.extend_from_slice(&level[copied..]);
    if let (Some(id), true) = (id, fields.is_empty()) {
        let mut inner = id.to_vec();
        for number in rest.iter().rev() {
            let content = std::mem::take(&mut inner);
            write_field(*number, &content, &mut inner);
        }
        write_field(*number, &inner, out);
    }
    Ok(())
}

fn write_field(number: u32, content: &[u8], out: &mut Vec<u8>) {
    write_varint(u64::from(number) << 3 | u64::from(LENGTH_DELIMITED), out);
    write_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    /// The path used here is 2, 3.
    #[derive(Clone, PartialEq, Message)]
    struct Outer {
        #[prost(int64, tag = "1")]
        before: i64,
        #[prost(message, optional, tag = "2")]
        inner: Option<Inner>,
        #[prost(string, tag = "3")]
        after: String,
    }

    #[derive(Clone, PartialEq, Message)]
    struct Inner {
        #[prost(fixed64, tag = "1")]
        before: u64,
        #[prost(string, optional, tag = "3")]
        id: Option<String>,
        #[prost(float, tag = "9")]
        after: f32,
    }

    fn inner() -> impl Strategy<Value = Inner> {
        (any::<u64>(), proptest::option::of(".{0,200}"), -9.0_f32..9.0).prop_map(|(before, id, after)| Inner {
            before,
            id,
            after,
        })
    }

    fn outer() -> impl Strategy<Value = Outer> {
        (any::<i64>(), proptest::option::of(inner()), ".{0,9}").prop_map(|(before, inner, after)| Outer {
            before,
            inner,
            after,
        })
    }

    /// Several encodings in a row are one message: fields repeat, and parsers merge them.
    fn encoded(parts: &[Outer]) -> Vec<u8> {
        parts.iter().flat_map(Message::encode_to_vec).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn a_parser_sees_what_we_read(parts in proptest::collection::vec(outer(), 0..5)) {
            let bytes = encoded(&parts);
            let parsed = Outer::decode(&*bytes).unwrap();
            let id = extract(&bytes, &[2, 3]).unwrap().map(|id| String::from_utf8(id.to_vec()).unwrap());
            prop_assert_eq!(id, parsed.inner.and_then(|inner| inner.id));
        }

        #[test]
        fn a_parser_sees_what_we_write(parts in proptest::collection::vec(outer(), 0..5), id in ".{1,200}") {
            let bytes = encoded(&parts);
            let written = inject(&bytes, &[2, 3], id.as_bytes()).unwrap();
            let mut expected = Outer::decode(&*bytes).unwrap();
            expected.inner.get_or_insert_default().id = Some(id);
            prop_assert_eq!(Outer::decode(&*written).unwrap(), expected);
            let leaves: usize = wanted(&written, 2).unwrap().iter()
                .map(|field| wanted(&written[field.content..field.end], 3).unwrap().len()).sum();
            prop_assert_eq!(leaves, 1, "no other occurrence is left");
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(written) = inject(&bytes, &[2, 3], b"id") {
                prop_assert_eq!(extract(&written, &[2, 3]).unwrap(), Some(&b"id"[..]));
            }
        }
    }

    #[test]
    fn refusals_say_why() {
        let refused = |bytes: &[u8]| extract(bytes, &[1]).unwrap_err().0;
        assert_eq!(refused(&[0x08, 0x01]), "proto message id field is not a string (type = 0)");
        assert_eq!(refused(&[0x13]), "unsupported protobuf field type:3");
        for bytes in [&[0x0a][..], &[0x0a, 0x05, b'x'], &[0x00], &[0xff; 11], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]] {
            assert_eq!(refused(bytes), "proto parsing error", "{bytes:?}");
        }
    }
}
