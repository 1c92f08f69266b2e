//! gRPC's message prefix, its statuses, and as much protobuf as `mmesh.ModelRuntime` needs.

use bytes::{BufMut, Bytes, BytesMut};

/// Names of the statuses by code.
pub const STATUS_NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A message with its prefix: not compressed, and its length.
///
/// # Panics
/// If the message has 4 GiB or more.
#[must_use]
pub fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a message of less than 4 GiB"));
    framed.put_slice(message);
    framed.freeze()
}

/// The first message of a body, or None if it is cut.
#[must_use]
pub fn unframed(body: &[u8]) -> Option<&[u8]> {
    let length = u32::from_be_bytes(body.get(1..5)?.try_into().ok()?);
    body.get(5..5 + usize::try_from(length).ok()?)
}

/// Append an integer field; protobuf leaves zeros out.
pub fn put_integer(message: &mut Vec<u8>, field: u8, value: u64) {
    if value != 0 {
        message.push(field << 3);
        put_varint(message, value);
    }
}

fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    message.push(value.to_le_bytes()[0]);
}

/// The bytes of the string field number 1 of a message, which may be missing: the model id of all requests of
/// `mmesh.ModelRuntime`. None if the message is broken.
#[must_use]
pub fn first_field(message: &[u8]) -> Option<&[u8]> {
    let mut rest = message;
    let mut found: &[u8] = &[];
    while !rest.is_empty() {
        let tag = take_varint(&mut rest)?;
        match tag & 7 {
            0 => {
                take_varint(&mut rest)?;
            }
            2 => {
                let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                let (value, after) = rest.split_at_checked(length)?;
                if tag >> 3 == 1 {
                    found = value;
                }
                rest = after;
            }
            _ => return None, // no message of ours has others
        }
    }
    Some(found)
}

/// The answer to an inference that gives back its inputs: the raw contents (field 7 of a `ModelInferRequest`) are those of the
/// answer (field 6), the inputs (5) its outputs (5), and requested outputs (6) are left out. None if the message is broken.
#[must_use]
pub fn mirrored(request: &[u8]) -> Option<Vec<u8>> {
    let mut answer = Vec::with_capacity(request.len());
    let mut rest = request;
    while !rest.is_empty() {
        let tag = take_varint(&mut rest)?;
        if tag & 7 != 2 {
            return None; // it has no others
        }
        let length = usize::try_from(take_varint(&mut rest)?).ok()?;
        let (value, after) = rest.split_at_checked(length)?;
        rest = after;
        let field = match tag >> 3 {
            6 => continue,
            7 => 6,
            field => field,
        };
        put_varint(&mut answer, field << 3 | 2);
        put_varint(&mut answer, length as u64);
        answer.extend_from_slice(value);
    }
    Some(answer)
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_out_of_its_frame() {
        let framed = framed(b"hello");
        assert_eq!(&framed[..], b"\0\0\0\0\x05hello");
        assert_eq!(unframed(&framed), Some(&b"hello"[..]));
        assert_eq!(unframed(&framed[..9]), None);
    }

    #[test]
    fn an_inference_comes_back_as_its_answer() {
        let request = [0x0a, 1, b'm', 0x2a, 2, 1, 2, 0x32, 1, 9, 0x3a, 2, 7, 8];
        assert_eq!(mirrored(&request).unwrap(), [0x0a, 1, b'm', 0x2a, 2, 1, 2, 0x32, 2, 7, 8]);
        assert_eq!(mirrored(&[0x3a, 9, 1]), None);
    }

    #[test]
    fn fields_are_written_and_found() {
        let mut message = vec![0x0a, 2, b'm', b'1'];
        put_integer(&mut message, 2, 300);
        put_integer(&mut message, 3, 0);
        assert_eq!(message, [0x0a, 2, b'm', b'1', 0x10, 0xac, 0x02]);
        assert_eq!(first_field(&message), Some(&b"m1"[..]));
        assert_eq!(first_field(&[]), Some(&b""[..]));
        assert_eq!(first_field(&[0x0a, 5, b'm']), None);
    }
}
