//! HTTP headers to the metadata of a call.
//!
//! Names that begin with `Grpc-Metadata-` lose this, as grpc-gateway and with it the old REST proxy has it. Of the others
//! those pass that are ours, are about a trace or about who calls, or begin with `x-`; what is about HTTP or about the body
//! does not.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use modelmesh_core::{format_timeout, parse_timeout};

use super::names::Kind;
use crate::fault::Fault;

const PREFIX: &str = "grpc-metadata-";
const PREFER: &str = "prefer";
const MM_WAIT: &str = "mm-wait";
const MM_VERSION: &str = "mm-version";
const GRPC_TIMEOUT: &str = "grpc-timeout";
const REQUEST_TIMEOUT: &str = "x-request-timeout";
const IDS: [&str; 5] = ["mm-model-id", "mm-model-id-bin", "mm-vmodel-id", "mm-vmodel-id-bin", "tas-model-id"];
const TRACES: [&str; 4] = ["traceparent", "tracestate", "baggage", "b3"];

/// The metadata of a call that a request makes.
///
/// # Errors
/// 400: a time-out that is none.
pub fn of(headers: &HeaderMap, parameter: Option<Duration>) -> Result<HeaderMap, Fault> {
    let mut to = HeaderMap::with_capacity(headers.len() + 4);
    to.insert(TE, HeaderValue::from_static("trailers"));
    to.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    for (name, value) in headers {
        if let Some(name) = passed(name) {
            to.append(name, value.clone());
        }
    }
    if let Some(wait) = preferred_wait(headers) {
        to.insert(MM_WAIT, format_timeout(wait));
    }
    if let Some(timeout) = shortest_timeout(headers, parameter)? {
        to.insert(GRPC_TIMEOUT, format_timeout(timeout));
    }
    Ok(to)
}

/// What a header is called in the metadata, if it passes.
fn passed(name: &HeaderName) -> Option<HeaderName> {
    let text = name.as_str();
    if let Some(inner) = text.strip_prefix(PREFIX) {
        // `grpc-…` says how messages are framed, and that is ours to say.
        let framing = inner.starts_with("grpc-") || matches!(inner, "content-type" | "te" | "host" | "connection");
        return if framing { None } else { HeaderName::from_bytes(inner.as_bytes()).ok() };
    }
    let passes = text.starts_with("mm-")
        || (text.starts_with("x-") && text != REQUEST_TIMEOUT)
        || text == "tas-model-id"
        || *name == AUTHORIZATION
        || TRACES.contains(&text);
    passes.then(|| name.clone())
}

/// The shortest of the ways to say how long a call may take.
fn shortest_timeout(headers: &HeaderMap, parameter: Option<Duration>) -> Result<Option<Duration>, Fault> {
    let grpc = headers.get(GRPC_TIMEOUT).map(|value| parse_timeout(value).ok_or(GRPC_TIMEOUT)).transpose();
    let seconds = headers.get(REQUEST_TIMEOUT).map(|value| seconds(value).ok_or(REQUEST_TIMEOUT)).transpose();
    let malformed = |name| Fault::bad(format!("malformed {name}"));
    let all = [grpc.map_err(malformed)?, seconds.map_err(malformed)?, parameter];
    Ok(all.into_iter().flatten().min())
}

/// How long the client wants to wait for a load (`Prefer: wait=5`). What is no preference of ours is none: clients prefer what
/// they like.
///
/// Source: RFC 7240, 4.3.
fn preferred_wait(headers: &HeaderMap) -> Option<Duration> {
    let all = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let wait = all.flat_map(|value| value.split(',')).find_map(|one| one.trim().strip_prefix("wait="))?;
    wait.trim_matches('"').parse().ok().map(Duration::from_secs)
}

fn seconds(value: &HeaderValue) -> Option<Duration> {
    let seconds: f64 = value.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// Whether the client says itself whose call it is.
#[must_use]
pub fn names_model(metadata: &HeaderMap) -> bool {
    IDS.iter().any(|id| metadata.contains_key(*id))
}

/// Takes back what `name` said.
pub fn unname(metadata: &mut HeaderMap) {
    for id in IDS {
        metadata.remove(id);
    }
}

/// Says whose call it is.
pub fn name(metadata: &mut HeaderMap, kind: Kind, id: &str) {
    let name = match kind {
        Kind::Model => "mm-model-id-bin",
        Kind::VModel => "mm-vmodel-id-bin",
    };
    if let Ok(value) = HeaderValue::from_str(&STANDARD_NO_PAD.encode(id)) {
        metadata.insert(name, value);
    }
}

/// Says which model of a vmodel is called.
pub fn choose(metadata: &mut HeaderMap, version: &str) {
    if let Ok(value) = HeaderValue::from_bytes(version.as_bytes()) {
        metadata.insert(MM_VERSION, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(pairs: &[(&'static str, &'static str)]) -> Result<Vec<(String, String)>, Fault> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let metadata = of(&headers, Some(Duration::from_secs(9)))?;
        let pair =
            |(name, value): (&HeaderName, &HeaderValue)| (name.as_str().to_owned(), value.to_str().unwrap().to_owned());
        Ok(metadata.iter().map(pair).filter(|(name, _)| name != "te" && name != "content-type").collect())
    }

    #[test]
    fn what_is_about_the_call_passes_and_what_is_about_http_does_not() {
        let passed = metadata(&[
            ("mm-model-id", "m"),
            ("grpc-metadata-mm-vmodel-id", "v"),
            ("grpc-metadata-grpc-status", "0"),
            ("grpc-metadata-content-type", "text/html"),
            ("grpc-status", "0"),
            ("x-request-id", "7"),
            ("x-request-timeout", "8"),
            ("authorization", "Bearer t"),
            ("traceparent", "t"),
            ("cookie", "c"),
            ("host", "h"),
            ("content-length", "3"),
            ("content-encoding", "gzip"),
            ("accept", "*/*"),
            ("user-agent", "u"),
        ]);
        let expected = [
            ("mm-model-id", "m"),
            ("mm-vmodel-id", "v"),
            ("x-request-id", "7"),
            ("authorization", "Bearer t"),
            ("traceparent", "t"),
            ("grpc-timeout", "8000000u"),
        ];
        assert_eq!(passed.unwrap(), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_preference_to_wait_is_the_clients_patience() {
        let wait = |value: &'static str| {
            let found = metadata(&[("prefer", value)]).unwrap();
            found.into_iter().find(|(name, _)| name == "mm-wait").map(|(_, value)| value)
        };
        for (value, expected) in [("wait=5", "5000000u"), ("respond-async, wait=0", "0u"), ("wait=\"7\"", "7000000u")] {
            assert_eq!(wait(value).as_deref(), Some(expected), "{value}");
        }
        for value in ["wait", "wait=", "wait=-1", "wait=soon", "return=minimal"] {
            assert_eq!(wait(value), None, "{value}");
        }
    }

    #[test]
    fn the_shortest_time_out_wins() {
        let timeout = |pairs: &[(&'static str, &'static str)]| metadata(pairs).map(|all| all[0].1.clone());
        assert_eq!(timeout(&[]).unwrap(), "9000000u");
        assert_eq!(timeout(&[("grpc-timeout", "5S"), ("x-request-timeout", "0.25")]).unwrap(), "250000u");
        assert_eq!(timeout(&[("grpc-timeout", "1m")]).unwrap(), "1000u");
        for (name, value) in [
            ("grpc-timeout", "5"),
            ("x-request-timeout", "-1"),
            ("x-request-timeout", "NaN"),
            ("x-request-timeout", ""),
        ] {
            assert_eq!(timeout(&[(name, value)]).unwrap_err().status.as_u16(), 400, "{name} {value}");
        }
    }
}
