//! How an attempt ended, where another copy may cure it.

use http::{HeaderMap, HeaderValue};

use crate::wire::headers::{GRPC_MESSAGE, MM_REFUSED, MM_VIEW};
use crate::wire::status::{self, Code};

/// Names are those of `mm-refused` and of the native stub, which documents them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    NotHere,
    Moved,
    Busy,
    Draining,
    NoRoom,
    LoadFailed,
    StoreAway,
    Unavailable,
    Exhausted,
    Lost,
    /// The other side stands still: as `Lost`, but nothing says that the call was the reason.
    Hung,
    Ended,
    /// The model answered INTERNAL. Another copy of it would do the same, but the fallback of the vmodel may not; Python does not
    /// hear of it.
    Internal,
}

/// All but `Lost` say that nothing was done.
const REFUSALS: [Outcome; 8] = [
    Outcome::NotHere,
    Outcome::Moved,
    Outcome::Busy,
    Outcome::Draining,
    Outcome::NoRoom,
    Outcome::LoadFailed,
    Outcome::StoreAway,
    Outcome::Lost,
];

impl Outcome {
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::NotHere => "not-here",
            Self::Moved => "moved",
            Self::Busy => "busy",
            Self::Draining => "draining",
            Self::NoRoom => "no-room",
            Self::LoadFailed => "load-failed",
            Self::StoreAway => "store-away",
            Self::Unavailable => "unavailable",
            Self::Exhausted => "exhausted",
            Self::Lost => "lost",
            Self::Hung => "hung",
            Self::Ended => "ended",
            Self::Internal => "internal",
        }
    }
}

/// What the client gets if no retry succeeds: the answer as it came.
#[derive(Debug)]
pub struct Answer {
    /// Response headers, if they came before the trailers.
    pub head: Option<HeaderMap>,
    pub trailers: HeaderMap,
}

/// A failed attempt.
#[derive(Debug)]
pub struct Failure {
    pub outcome: Outcome,
    pub code: Code,
    pub message: String,
    pub view: Option<u64>,
    /// The request was never sent, or refused before anything was done with it.
    pub unprocessed: bool,
    pub answer: Option<Answer>,
}

impl Failure {
    /// A failure without an answer of the other side.
    pub fn new(outcome: Outcome, code: Code, message: impl Into<String>) -> Self {
        Self { outcome, code, message: message.into(), view: None, unprocessed: false, answer: None }
    }

    #[must_use]
    pub fn unprocessed(mut self) -> Self {
        self.unprocessed = true;
        self
    }
}

/// Reads the end of an answer without a body: None if it is the client's business alone.
#[must_use]
pub fn of_trailers(trailers: &HeaderMap, code: Code, from_peer: bool) -> Option<Failure> {
    if from_peer && let Some(refusal) = trailers.get(MM_REFUSED) {
        let outcome = REFUSALS.into_iter().find(|outcome| outcome.text().as_bytes() == refusal.as_bytes());
        let mut failure = failure(outcome.unwrap_or(Outcome::NotHere), trailers, code);
        // A word that only later versions know may mean that the call has begun there.
        failure.unprocessed = outcome.is_some_and(|outcome| outcome != Outcome::Lost);
        failure.view = trailers.get(MM_VIEW).and_then(|view| view.to_str().ok()?.parse().ok());
        return Some(failure);
    }
    let outcome = match code {
        Code::NotFound if !from_peer => Outcome::NotHere,
        Code::Unavailable | Code::InvalidArgument if !from_peer && imitates_not_found(code, trailers) => {
            Outcome::NotHere
        }
        Code::Unavailable => Outcome::Unavailable,
        Code::ResourceExhausted => Outcome::Exhausted,
        _ => return None,
    };
    Some(failure(outcome, trailers, code))
}

/// An answer of INTERNAL without a body, to a call that the fallback of its vmodel may answer.
#[must_use]
pub fn of_internal(trailers: &HeaderMap, code: Code) -> Option<Failure> {
    (code == Code::Internal).then(|| failure(Outcome::Internal, trailers, code))
}

fn failure(outcome: Outcome, trailers: &HeaderMap, code: Code) -> Failure {
    Failure::new(outcome, code, status::message_of(trailers))
}

/// Triton answers UNAVAILABLE and MLServer INVALID_ARGUMENT where the contract says NOT_FOUND.
///
/// Looked for in the message as it is on the wire: of these words none is encoded.
fn imitates_not_found(code: Code, trailers: &HeaderMap) -> bool {
    let message = trailers.get(GRPC_MESSAGE).map_or(&b""[..], HeaderValue::as_bytes);
    match code {
        Code::Unavailable => {
            message.starts_with(b"Request for unknown model")
                && (message.ends_with(b" is not found") || message.ends_with(b" has no available versions"))
        }
        Code::InvalidArgument => message.starts_with(b"Model ") && message.ends_with(b" not found"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::wire::status::Status;

    fn outcome(code: Code, message: &'static str, from_peer: bool) -> Option<Outcome> {
        of_trailers(&Status::new(code, message).into_trailers(), code, from_peer).map(|failure| failure.outcome)
    }

    #[test]
    fn runtimes_that_imitate_not_found() {
        for (code, message) in [
            (Code::NotFound, ""),
            (Code::Unavailable, "Request for unknown model: 'x' is not found"),
            (Code::Unavailable, "Request for unknown model: 'x' has no available versions"),
            (Code::InvalidArgument, "Model x not found"),
        ] {
            assert_eq!(outcome(code, message, false), Some(Outcome::NotHere), "{message}");
        }
        assert_eq!(outcome(Code::Unavailable, "busy", false), Some(Outcome::Unavailable));
        assert_eq!(outcome(Code::InvalidArgument, "bad tensor", false), None);
        assert_eq!(outcome(Code::NotFound, "model not found", true), None, "of a peer: the client's business");
    }

    #[test]
    fn refusals_are_believed_of_peers_only() {
        let mut trailers = Status::new(Code::Unavailable, "x").into_trailers();
        trailers.insert(MM_REFUSED, HeaderValue::from_static("moved"));
        trailers.insert(MM_VIEW, HeaderValue::from_static("12"));
        let failure = of_trailers(&trailers, Code::Unavailable, true).unwrap();
        assert_eq!((failure.outcome, failure.view, failure.unprocessed), (Outcome::Moved, Some(12), true));
        let failure = of_trailers(&trailers, Code::Unavailable, false).unwrap();
        assert_eq!((failure.outcome, failure.view), (Outcome::Unavailable, None));
        trailers.insert(MM_REFUSED, HeaderValue::from_static("lost"));
        let failure = of_trailers(&trailers, Code::Unavailable, true).unwrap();
        assert_eq!((failure.outcome, failure.unprocessed), (Outcome::Lost, false), "it ended a runtime there");
        trailers.insert(MM_REFUSED, HeaderValue::from_static("word-from-the-future"));
        let failure = of_trailers(&trailers, Code::Unavailable, true).unwrap();
        assert_eq!((failure.outcome, failure.unprocessed), (Outcome::NotHere, false), "it may have begun there");
    }
}
