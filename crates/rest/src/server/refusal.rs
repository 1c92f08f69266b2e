//! Calls and requests that were not answered.

use http::StatusCode;
use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use modelmesh_core::Refused;

use crate::fault::Fault;

/// The model that answered in place of the wanted one.
pub const FALLBACK: HeaderName = HeaderName::from_static("mm-fallback");

/// What a client is told of a call that was not answered.
#[must_use]
pub fn fault_of(refused: Refused) -> Fault {
    let Refused { code, message, pushback, fallback } = refused;
    let message = if message.is_empty() { code.name().to_owned() } else { message };
    Fault { fallback, ..Fault::of_call(code as u32, message, pushback) }
}

/// A fault as an answer: status, headers and body.
#[must_use]
pub fn refused(fault: &Fault) -> (StatusCode, HeaderMap, Vec<u8>) {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = fault.retry_after_s() {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    if fault.status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(allow) = fault.allow {
        headers.insert(ALLOW, HeaderValue::from_static(allow));
    }
    if let Some(model) = &fault.fallback {
        headers.insert(FALLBACK, model.clone());
    }
    (fault.status, headers, fault.body())
}
