//! Requests that are not HTTP. hyper answers them itself and without a body; here they get the body that every refusal has.

use bytes::Bytes;
use http::StatusCode;

use crate::fault::Fault;

const EMPTY: &[u8] = b"content-length: 0\r\n";

/// What is written instead, if `head` is an answer that hyper makes itself; `head` is all that is written at once.
///
/// No answer of ours is one: what we refuse has a body.
#[must_use]
pub fn with_body(head: &[u8]) -> Option<(StatusCode, Bytes)> {
    let status = head.strip_prefix(b"HTTP/1.1 ").or_else(|| head.strip_prefix(b"HTTP/1.0 "))?.get(..3)?;
    let (status, reason) = match status {
        b"400" => (StatusCode::BAD_REQUEST, "the request is not HTTP/1.1, or its head is malformed"),
        b"414" => (StatusCode::URI_TOO_LONG, "the path is too long"),
        b"431" => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, TOO_LARGE),
        _ => return None,
    };
    let at = head.windows(EMPTY.len()).position(|window| window == EMPTY)?;
    if !head.ends_with(b"\r\n\r\n") || head.windows(4).position(|window| window == b"\r\n\r\n")? + 4 != head.len() {
        return None;
    }
    let body = Fault::new(status, reason).body();
    let described = format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    Some((status, [&head[..at], described.as_bytes(), &head[at + EMPTY.len()..], &body].concat().into()))
}

/// Of a request whose headers have more bytes than they may.
pub const TOO_LARGE: &str = "the headers are too large (MM_SVC_GRPC_MAX_HEADERS_SIZE)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hyper_refuses_gets_a_body_and_everything_else_stays_as_it_is() {
        let head = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\ndate: d\r\n\r\n";
        let (status, whole) = with_body(head).unwrap();
        assert_eq!(status.as_u16(), 431);
        let (head, body) = std::str::from_utf8(&whole).unwrap().split_once("\r\n\r\n").unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["error"], TOO_LARGE);
        assert!(head.contains(&format!("content-length: {}\r\ndate: d", body.len())), "{head}");
        for other in [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 12\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\nmore",
            "HTTP/1.1 400 Bad Request\r\n\r\n{\"a\": \"content-length: 0\r\n\r\n\"\r\n\r\n",
            "{\"error\":\"no\"}",
            "HTTP/1.1 4",
            "",
        ] {
            assert_eq!(with_body(other.as_bytes()), None, "{other}");
        }
    }
}
