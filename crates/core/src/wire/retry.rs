//! Statuses that say when to try again, in both forms that gRPC clients know.

use std::time::Duration;

use http::HeaderValue;
use http::header::HeaderName;

use crate::wire::headers::encode_bin;
use crate::wire::protobuf::write_varint;
use crate::wire::status::{Code, Status};

pub const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// A failure that is worth repeating after a while.
#[must_use]
pub fn retry_later(code: Code, message: String, after: Duration) -> Status {
    let ms = after.as_nanos().div_ceil(1_000_000);
    let details = encode_bin(&details(code, &message, after));
    let pushback = HeaderValue::from_str(&ms.to_string()).unwrap_or(HeaderValue::from_static("1000"));
    Status::new(code, message).with(PUSHBACK, pushback).with(DETAILS, details)
}

/// A `google.rpc.Status` with a `google.rpc.RetryInfo`.
fn details(code: Code, message: &str, after: Duration) -> Vec<u8> {
    let mut delay = Vec::new();
    number(1, after.as_secs(), &mut delay);
    number(2, u64::from(after.subsec_nanos()), &mut delay);
    let mut info = Vec::new();
    field(1, &delay, &mut info);
    let mut any = Vec::new();
    field(1, RETRY_INFO.as_bytes(), &mut any);
    field(2, &info, &mut any);
    let mut status = Vec::new();
    number(1, code as u64, &mut status);
    field(2, message.as_bytes(), &mut status);
    field(3, &any, &mut status);
    status
}

fn number(field: u8, value: u64, out: &mut Vec<u8>) {
    out.push(field << 3);
    write_varint(value, out);
}

fn field(field: u8, content: &[u8], out: &mut Vec<u8>) {
    out.push(field << 3 | 2);
    write_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::wire::headers::decode_bin;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Any {
        #[prost(string, tag = "1")]
        type_url: String,
        #[prost(bytes = "vec", tag = "2")]
        value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct RpcStatus {
        #[prost(int32, tag = "1")]
        code: i32,
        #[prost(string, tag = "2")]
        message: String,
        #[prost(message, repeated, tag = "3")]
        details: Vec<Any>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Delay {
        #[prost(int64, tag = "1")]
        seconds: i64,
        #[prost(int32, tag = "2")]
        nanos: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct RetryInfo {
        #[prost(message, tag = "1")]
        delay: Option<Delay>,
    }

    #[test]
    fn the_delay_is_read_by_a_parser_that_people_use() {
        let status = retry_later(Code::ResourceExhausted, "too much".to_owned(), Duration::from_micros(2_500_100));
        let [(pushback, ms), (details, value)] = &status.trailers[..] else { panic!("{status:?}") };
        assert_eq!((pushback, ms.to_str().unwrap(), details), (&PUSHBACK, "2501", &DETAILS));
        let read = RpcStatus::decode(&*decode_bin(value.as_bytes()).unwrap()).unwrap();
        assert_eq!((read.code, read.message.as_str(), read.details.len()), (8, "too much", 1));
        assert_eq!(read.details[0].type_url, RETRY_INFO);
        let info = RetryInfo::decode(&*read.details[0].value).unwrap();
        assert_eq!(info.delay, Some(Delay { seconds: 2, nanos: 500_100_000 }));
    }
}
