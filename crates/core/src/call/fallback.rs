//! The fallback of a vmodel: a model that answers its calls where the wanted one is cold or fails.
//!
//! Each of the two is tried once. Only calls that may be made again go on to the other one: no part of an answer has been passed
//! on, the request is still here, and the method may be repeated or nothing was done with the call. A call under which a
//! runtime ended or hangs may be the reason for that, so no other model gets it.

use crate::call::end::End;
use crate::wire::status::Code;

/// How far a call has come with the fallback of its vmodel.
#[derive(Debug, Default)]
pub enum Fallback {
    #[default]
    Untried,
    /// It answers because no copy of the wanted model was ready. If it fails, the wanted model is waited for.
    Cold,
    /// It answers because the wanted model failed.
    Failed(Box<Wanted>),
    /// No other model is tried.
    Over,
}

/// What the wanted model ended the call with. The client gets it if the fallback fails too.
#[derive(Debug)]
pub struct Wanted {
    pub model: String,
    pub end: End,
}

/// What follows when a model has failed a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The fallback is tried.
    Fallback,
    /// The wanted model is waited for.
    Wanted,
    /// The client gets what the wanted model ended with.
    TellWanted,
    /// The client gets this end.
    Tell,
}

impl Fallback {
    /// `code`: how the model that was tried ended the call. `may_repeat`: the call may be made again.
    #[must_use]
    pub fn next(&self, code: Code, may_repeat: bool) -> Next {
        match self {
            Self::Failed(_) => Next::TellWanted,
            Self::Cold if may_repeat => Next::Wanted,
            Self::Untried if may_repeat && is_failing(code) => Next::Fallback,
            Self::Untried | Self::Cold | Self::Over => Next::Tell,
        }
    }

    /// Whether a copy of the fallback answers if none of the wanted model is ready.
    #[must_use]
    pub fn is_untried(&self) -> bool {
        matches!(self, Self::Untried)
    }
}

/// Whether a model that ends a call so is failing. Other codes are about the call itself, or ask its client to slow down.
fn is_failing(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::status::{CODES, Status};

    fn failed() -> Fallback {
        let end = End::Refused(Status::new(Code::Internal, "no"));
        Fallback::Failed(Box::new(Wanted { model: "m".to_owned(), end }))
    }

    #[test]
    fn each_model_is_tried_once() {
        for code in [Code::Unavailable, Code::Internal] {
            assert_eq!(Fallback::Untried.next(code, true), Next::Fallback);
            assert_eq!(Fallback::Cold.next(code, true), Next::Wanted);
            assert_eq!(failed().next(code, true), Next::TellWanted);
            assert_eq!(Fallback::Over.next(code, true), Next::Tell);
        }
    }

    #[test]
    fn what_may_not_be_repeated_is_told() {
        for code in [Code::Unavailable, Code::Internal] {
            assert_eq!(Fallback::Untried.next(code, false), Next::Tell);
            assert_eq!(Fallback::Cold.next(code, false), Next::Tell);
            assert_eq!(failed().next(code, false), Next::TellWanted);
        }
    }

    #[test]
    fn a_model_that_refuses_the_call_is_not_failing() {
        let failing: Vec<_> = CODES
            .into_iter()
            .filter(|(code, _)| Fallback::Untried.next(*code, true) == Next::Fallback)
            .map(|(_, name)| name)
            .collect();
        assert_eq!(failing, ["INTERNAL", "UNAVAILABLE"]);
    }
}
