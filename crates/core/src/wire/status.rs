//! gRPC status codes, and how a status is written on the wire.
//!
//! Source: the gRPC protocol, `statuscodes.md` and `PROTOCOL-HTTP2.md`.

use std::borrow::Cow;
use std::fmt::Write;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use modelmesh_http2::Reason;

use crate::wire::headers::{GRPC_MESSAGE, GRPC_STATUS};

/// A gRPC status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    Ok = 0,
    Cancelled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

/// Every code, in order, with the name that metrics carry.
pub const CODES: [(Code, &str); 17] = [
    (Code::Ok, "OK"),
    (Code::Cancelled, "CANCELLED"),
    (Code::Unknown, "UNKNOWN"),
    (Code::InvalidArgument, "INVALID_ARGUMENT"),
    (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (Code::NotFound, "NOT_FOUND"),
    (Code::AlreadyExists, "ALREADY_EXISTS"),
    (Code::PermissionDenied, "PERMISSION_DENIED"),
    (Code::ResourceExhausted, "RESOURCE_EXHAUSTED"),
    (Code::FailedPrecondition, "FAILED_PRECONDITION"),
    (Code::Aborted, "ABORTED"),
    (Code::OutOfRange, "OUT_OF_RANGE"),
    (Code::Unimplemented, "UNIMPLEMENTED"),
    (Code::Internal, "INTERNAL"),
    (Code::Unavailable, "UNAVAILABLE"),
    (Code::DataLoss, "DATA_LOSS"),
    (Code::Unauthenticated, "UNAUTHENTICATED"),
];

const DIGITS: [&str; 17] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];

impl Code {
    /// Unknown numbers are `Unknown`, as every gRPC library reads them.
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        usize::try_from(number).ok().and_then(|index| CODES.get(index)).map_or(Self::Unknown, |(code, _)| *code)
    }

    fn from_header(value: &HeaderValue) -> Self {
        match value.as_bytes() {
            [digit @ b'0'..=b'9'] => Self::from_number(u64::from(digit - b'0')),
            [b'1', digit @ b'0'..=b'6'] => Self::from_number(10 + u64::from(digit - b'0')),
            _ => Self::Unknown,
        }
    }

    /// The code of an HTTP status that came instead of a gRPC one.
    ///
    /// Source: gRPC, `http-grpc-status-mapping.md`.
    #[must_use]
    pub fn from_http(status: http::StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502 | 503 | 504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }

    /// The code of a stream that the server reset; None if that says nothing about the call: it was not processed, or the
    /// server stops.
    ///
    /// Source: gRPC, `PROTOCOL-HTTP2.md`, "HTTP2 Transport Mapping", "Errors".
    #[must_use]
    pub fn from_reset(reason: Reason) -> Option<Self> {
        match reason {
            Reason::REFUSED_STREAM | Reason::CANCEL => None,
            Reason::ENHANCE_YOUR_CALM => Some(Self::ResourceExhausted),
            Reason::INADEQUATE_SECURITY => Some(Self::PermissionDenied),
            _ => Some(Self::Internal),
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        CODES[self as usize].1
    }
}

/// How a call ends: code, text, and trailers in wire form (`-bin` values in base64).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    pub message: Cow<'static, str>,
    pub trailers: Vec<(HeaderName, HeaderValue)>,
}

impl Status {
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), trailers: Vec::new() }
    }

    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.trailers.push((name, value));
        self
    }

    /// Adds a trailer in wire form; None if it is not one.
    #[must_use]
    pub fn with_pair(self, name: &str, value: &[u8]) -> Option<Self> {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(value).ok()?;
        Some(self.with(name, value))
    }

    /// The trailers that follow an answer.
    #[must_use]
    pub fn into_trailers(self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.trailers.len() + 2);
        map.insert(GRPC_STATUS, HeaderValue::from_static(DIGITS[self.code as usize]));
        if !self.message.is_empty() {
            map.insert(GRPC_MESSAGE, encode_message(&self.message));
        }
        for (name, value) in self.trailers {
            map.append(name, value);
        }
        map
    }

    /// The one header block of a trailers-only answer.
    #[must_use]
    pub fn into_trailers_only(self) -> HeaderMap {
        let mut map = self.into_trailers();
        map.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        map
    }
}

/// The status in a block of trailers; None without `grpc-status`.
#[must_use]
pub fn code_of(trailers: &HeaderMap) -> Option<Code> {
    trailers.get(GRPC_STATUS).map(Code::from_header)
}

/// The decoded message in a block of trailers.
#[must_use]
pub fn message_of(trailers: &HeaderMap) -> String {
    trailers.get(GRPC_MESSAGE).map_or_else(String::new, decode_message)
}

/// Percent-encodes what `grpc-message` may not carry as it is.
fn encode_message(text: &str) -> HeaderValue {
    let plain = text.bytes().all(|byte| (0x20..=0x7e).contains(&byte) && byte != b'%');
    if plain && let Ok(value) = HeaderValue::from_str(text) {
        return value;
    }
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if (0x20..=0x7e).contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    HeaderValue::from_str(&encoded).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Undoes `encode_message`; what is badly encoded stays as it came.
#[must_use]
pub fn decode_message(value: &HeaderValue) -> String {
    let raw = value.as_bytes();
    if !raw.contains(&b'%') {
        return String::from_utf8_lossy(raw).into_owned();
    }
    let mut bytes = Vec::with_capacity(raw.len());
    let mut at = 0;
    while at < raw.len() {
        let escaped = (raw[at] == b'%')
            .then(|| raw.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(escaped.unwrap_or(raw[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        for text in ["plain", "100 % of naïve Grüße\n", "日本語", ""] {
            assert_eq!(decode_message(&encode_message(text)), text);
        }
    }

    #[test]
    fn a_badly_encoded_message_is_kept() {
        assert_eq!(decode_message(&HeaderValue::from_static("50% off %zz %4")), "50% off %zz %4");
    }

    #[test]
    fn unknown_codes_are_unknown() {
        for text in ["17", "abc", "", "-1", "00"] {
            let value = HeaderValue::from_str(text).unwrap();
            assert_eq!(Code::from_header(&value), Code::Unknown);
        }
        assert_eq!(Code::from_header(&HeaderValue::from_static("14")), Code::Unavailable);
    }
}
