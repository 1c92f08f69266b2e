//! The model id inside a protobuf message, by field path, on encoded bytes.
//!
//! What a parser would see is what counts: repeated occurrences of a message field merge, and of the id
//! field the last one wins. So the last one is read, and when an id is written every other occurrence goes:
//! otherwise a client could have one model's permissions and another model's answer. Everything else keeps
//! its bytes and its order.

use crate::wire::protobuf::{Field, Fields, LENGTH_DELIMITED, write_varint};

pub use crate::wire::protobuf::Malformed;

/// The fields of that number at one level, each of which must have a length. Not collected: a message of
/// nothing but such fields would take many times its size.
fn wanted(bytes: &[u8], number: u32) -> impl Iterator<Item = Result<Field, Malformed>> {
    Fields::new(bytes).filter_map(move |field| match field {
        Ok(field) if field.number != number => None,
        Ok(field) if field.wire_type != LENGTH_DELIMITED => {
            Some(Err(Malformed(format!("proto message id field is not a string (type = {})", field.wire_type))))
        }
        wanted => Some(wanted),
    })
}

/// The id a parser would see; None if there is none. `path` is not empty.
///
/// # Errors
/// The message cannot be parsed.
pub fn extract<'a>(message: &'a [u8], path: &[u32]) -> Result<Option<&'a [u8]>, Malformed> {
    let Some((number, rest)) = path.split_first() else { return Ok(None) };
    let mut id = None;
    for field in wanted(message, *number) {
        let field = field?;
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
    let mut last = None;
    for field in wanted(level, *number) {
        last = Some(field?.start);
    }
    let mut copied = 0;
    for field in wanted(level, *number) {
        let field = field?;
        let id = id.filter(|_| last == Some(field.start));
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
    if let (Some(id), None) = (id, last) {
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

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_why() {
        let refused = |bytes: &[u8]| extract(bytes, &[1]).unwrap_err().0;
        assert_eq!(refused(&[0x08, 0x01]), "proto message id field is not a string (type = 0)");
        assert_eq!(refused(&[0x13]), "unsupported protobuf field type:3");
        for bytes in [&[0x0a][..], &[0x0a, 0x05, b'x'], &[0x00], &[0xff; 11], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]] {
            assert_eq!(refused(bytes), "proto parsing error", "{bytes:?}");
        }
    }

    #[test]
    fn a_message_of_nothing_but_ids() {
        let mut message = [0x0a, 0x00].repeat(1 << 20);
        message.extend([0x0a, 0x01, b'x']);
        assert_eq!(extract(&message, &[1]).unwrap(), Some(&b"x"[..]));
        assert_eq!(inject(&message, &[1], b"m").unwrap(), [0x0a, 0x01, b'm']);
        assert_eq!(extract(&message, &[1, 7]).unwrap_err().0, "proto parsing error", "the last is no message");
        assert_eq!(inject(&[0x0a, 0x00].repeat(3), &[1, 2], b"m").unwrap(), [0x0a, 0, 0x0a, 0, 0x0a, 3, 0x12, 1, b'm']);
    }
}
