//! Compressed messages, where they must be read or changed. Elsewhere they pass as they are.

use std::io::Read;

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use http::{HeaderMap, HeaderValue};

use crate::framing::Message;
use crate::headers::{GRPC_ACCEPT_ENCODING, GRPC_ENCODING};
use crate::status::{Code, Status};

/// How the messages of a call may be compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    Gzip,
    Unknown,
}

impl Encoding {
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        match headers.get(GRPC_ENCODING).map(HeaderValue::as_bytes) {
            None | Some(b"identity" | b"") => Self::Identity,
            Some(b"gzip") => Self::Gzip,
            Some(_) => Self::Unknown,
        }
    }
}

/// The message as it was before compression.
///
/// # Errors
/// UNIMPLEMENTED for an encoding we do not know (with those we do), RESOURCE_EXHAUSTED if it grows
/// beyond `max`, INVALID_ARGUMENT if it is damaged.
pub fn expand(message: Message, encoding: Encoding, max: usize) -> Result<Bytes, Status> {
    if !message.compressed {
        return Ok(message.payload);
    }
    match encoding {
        Encoding::Gzip => gunzip(&message.payload, max),
        Encoding::Identity => Err(Status::new(
            Code::Internal,
            "a message is marked as compressed, but grpc-encoding names no compression",
        )),
        Encoding::Unknown => Err(Status::new(Code::Unimplemented, "this compression is not supported")
            .with(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity,gzip"))),
    }
}

fn gunzip(bytes: &[u8], max: usize) -> Result<Bytes, Status> {
    let damaged = || Status::new(Code::InvalidArgument, "a compressed message is damaged");
    let mut expanded = Vec::new();
    // One byte more than permitted shows that it is too much, without expanding the rest.
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let mut decoder = GzDecoder::new(bytes);
    decoder.by_ref().take(limit).read_to_end(&mut expanded).map_err(|_| damaged())?;
    if expanded.len() > max {
        let message = format!("Received message larger than max after decompression ({max})");
        return Err(Status::new(Code::ResourceExhausted, message));
    }
    // Some libraries read what follows the first member, others do not: what they would make of the
    // message is not what we read.
    if !decoder.into_inner().is_empty() {
        return Err(damaged());
    }
    expanded.shrink_to_fit();
    Ok(expanded.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn message(plain: &[u8]) -> Message {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        Message { compressed: true, payload: encoder.finish().unwrap().into() }
    }

    #[test]
    fn gzip_is_read() {
        let plain = vec![7; 100_000];
        assert_eq!(expand(message(&plain), Encoding::Gzip, 100_000).unwrap(), plain);
    }

    #[test]
    fn a_second_member_is_refused() {
        let [one, two] = [message(b"one"), message(b"two")].map(|message| message.payload);
        let both = Message { compressed: true, payload: [one, two].concat().into() };
        assert_eq!(expand(both, Encoding::Gzip, 10).unwrap_err().code, Code::InvalidArgument);
    }

    #[test]
    fn a_cut_message_is_refused() {
        let whole = message(&[7; 1000]).payload;
        for length in 0..whole.len() {
            let cut = Message { compressed: true, payload: whole.slice(..length) };
            assert_eq!(expand(cut, Encoding::Gzip, 1000).unwrap_err().code, Code::InvalidArgument, "{length}");
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let status = expand(message(&vec![0; 100_001]), Encoding::Gzip, 100_000).unwrap_err();
        assert_eq!(status.code, Code::ResourceExhausted);
    }

    #[test]
    fn what_cannot_be_read_says_what_can() {
        let status = expand(message(b"x"), Encoding::Unknown, 10).unwrap_err();
        assert_eq!(status.code, Code::Unimplemented);
        assert_eq!(status.into_trailers()[GRPC_ACCEPT_ENCODING], "identity,gzip");
        let damaged = Message { compressed: true, payload: Bytes::from_static(b"nonsense") };
        assert_eq!(expand(damaged, Encoding::Gzip, 10).unwrap_err().code, Code::InvalidArgument);
    }
}
