//! How a call of a door's client ended that was not answered.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use modelmesh_http2::Error;

use crate::wire::headers::MM_FALLBACK;
use crate::wire::retry::PUSHBACK;
use crate::wire::status::{Code, code_of, message_of};

/// How a call ended that was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub code: Code,
    pub message: String,
    /// When it may be worth another try, if whoever refused said so.
    pub pushback: Option<Duration>,
    /// The model that ended it in place of the wanted one.
    pub fallback: Option<HeaderValue>,
}

impl Refused {
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), pushback: None, fallback: None }
    }

    #[must_use]
    pub fn of_stream(error: &Error) -> Self {
        let code = match error {
            Error::Reset { reason, .. } => Code::from_reset(*reason).unwrap_or(Code::Unavailable),
            Error::TooLarge { .. } => Code::ResourceExhausted,
            _ => Code::Unavailable,
        };
        Self::new(code, error.to_string())
    }

    #[must_use]
    pub fn of_trailers(trailers: &HeaderMap) -> Self {
        let code = code_of(trailers).unwrap_or(Code::Unknown);
        let ms = trailers.get(PUSHBACK).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        let (pushback, fallback) = (ms.map(Duration::from_millis), trailers.get(MM_FALLBACK).cloned());
        Self { code, message: message_of(trailers), pushback, fallback }
    }

    /// What the head of the answer said of the model that ended it; None: there was no head, or the wanted model did.
    #[must_use]
    pub fn by(self, fallback: Option<&HeaderValue>) -> Self {
        Self { fallback: self.fallback.or_else(|| fallback.cloned()), ..self }
    }
}
