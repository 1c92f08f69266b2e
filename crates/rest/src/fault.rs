//! What is answered instead of what was asked for: an HTTP status and `{"error": …}`.

use std::time::Duration;

use http::{HeaderValue, StatusCode};

use crate::json;

/// If no delay of a retry is known.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A request that is not answered as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub status: StatusCode,
    pub message: String,
    /// When trying again makes sense, if it does.
    pub retry_after: Option<Duration>,
    /// What would have been allowed, of 405.
    pub allow: Option<&'static str>,
    /// The model that answered so in place of the wanted one.
    pub fallback: Option<HeaderValue>,
}

impl Fault {
    #[must_use]
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after: None, allow: None, fallback: None }
    }

    /// The caller's mistake.
    #[must_use]
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// What may pass: 503.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { retry_after: Some(RETRY_AFTER), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// From what a gRPC call ended with; `pushback`: how long its server asks to wait.
    #[must_use]
    pub fn of_call(code: u32, message: impl Into<String>, pushback: Option<Duration>) -> Self {
        let status = status_of(code);
        let again = matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
        let retry_after = pushback.or(again.then_some(RETRY_AFTER));
        Self { retry_after, ..Self::new(status, message) }
    }

    /// The value of `Retry-After`: whole seconds, at least one.
    #[must_use]
    pub fn retry_after_s(&self) -> Option<u64> {
        self.retry_after.map(|wait| u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1))
    }

    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let mut body = b"{\"error\":".to_vec();
        json::write_string(&self.message, &mut body);
        body.push(b'}');
        body
    }
}

/// The HTTP status of a gRPC code, by the table of grpc-gateway, which the old REST proxy used.
fn status_of(code: u32) -> StatusCode {
    match code {
        0 => StatusCode::OK,
        // CANCELLED: "client closed request" of other proxies.
        1 => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        // INVALID_ARGUMENT, FAILED_PRECONDITION, OUT_OF_RANGE
        3 | 9 | 11 => StatusCode::BAD_REQUEST,
        4 => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        // ALREADY_EXISTS, ABORTED
        6 | 10 => StatusCode::CONFLICT,
        7 => StatusCode::FORBIDDEN,
        8 => StatusCode::TOO_MANY_REQUESTS,
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        16 => StatusCode::UNAUTHORIZED,
        // UNKNOWN, INTERNAL, DATA_LOSS, and numbers that are no codes.
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_statuses_of_grpc_gateway() {
        let expected = [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401];
        for (code, status) in (0..).zip(expected) {
            assert_eq!(Fault::of_call(code, "", None).status.as_u16(), status, "{code}");
        }
        assert_eq!(Fault::of_call(4711, "", None).status.as_u16(), 500);
    }

    #[test]
    fn what_may_pass_says_when_to_try_again() {
        assert_eq!(Fault::of_call(14, "", None).retry_after_s(), Some(1));
        assert_eq!(Fault::of_call(8, "", Some(Duration::from_millis(2001))).retry_after_s(), Some(3));
        assert_eq!(Fault::of_call(14, "", Some(Duration::ZERO)).retry_after_s(), Some(1));
        assert_eq!(Fault::of_call(5, "", None).retry_after_s(), None);
    }

    #[test]
    fn the_body_is_json_whatever_the_message() {
        let fault = Fault::bad("no \"x\"\n\u{1}");
        let body: serde_json::Value = serde_json::from_slice(&fault.body()).unwrap();
        assert_eq!(body, serde_json::json!({"error": "no \"x\"\n\u{1}"}));
    }
}
