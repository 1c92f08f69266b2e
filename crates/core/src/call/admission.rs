//! Whether a request may begin: all that is refused before anybody reads its body or asks where it goes.
//!
//! The steps stand in the order in which they refuse: the method, who calls, what they may do, what is left of their
//! tenant's share, what is left of our own budgets. Rights and tenants belong between `identity` and `budget`; nothing is
//! refused for them yet.

use http::header::CONTENT_TYPE;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode};
use modelmesh_http2::Headers;

use crate::call::caller::Caller;
use crate::call::deadline::Deadline;
use crate::call::identify::{self, Hopped};
use crate::call::rejection::Rejection;
use crate::call::rules::{Answerer, MethodRule};
use crate::ledger::Account;
use crate::shared::Shared;
use crate::transport::port::Port;
use crate::wire::headers::GRPC_TIMEOUT;
use crate::wire::status::{Code, Status};
use crate::wire::timeout;

/// What is known of a request before its body.
pub struct Asked<'a> {
    pub port: Port,
    pub method: &'a Method,
    pub path: &'a PathAndQuery,
    pub headers: &'a HeaderMap,
}

impl Asked<'_> {
    /// Full name of the gRPC method.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.path().trim_start_matches('/')
    }
}

/// A request that may begin.
pub struct Admitted {
    pub deadline: Option<Deadline>,
    /// None: Python answers it.
    pub rule: Option<MethodRule>,
    /// What the instance says that sent it; None for a client's.
    pub hopped: Option<Hopped>,
    /// The list size of its headers.
    pub header_bytes: usize,
}

/// A request that may not.
#[derive(Debug)]
pub struct Refused {
    pub why: Rejection,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    /// It is no gRPC call, so a gRPC status says nothing to it.
    Http(StatusCode),
    Grpc(Status),
}

impl Refused {
    fn of(why: Rejection) -> impl FnOnce(Status) -> Self {
        move |status| Self { why, answer: Answer::Grpc(status) }
    }

    /// Says so.
    pub fn tell(self, caller: &mut Caller) {
        match self.answer {
            Answer::Http(code) => caller.end_http(code),
            Answer::Grpc(status) => caller.end(status),
        }
    }
}

/// Takes the steps, in their order.
///
/// # Errors
/// It is refused.
pub fn admit(shared: &Shared, account: &Account, asked: &Asked<'_>) -> Result<Admitted, Refused> {
    is_grpc(asked)?;
    let header_bytes = header_bytes(shared, asked)?;
    let deadline = deadline(asked)?;
    let rule = rule(shared, asked)?;
    let hopped = identity(asked, rule.is_some())?;
    budget(account)?;
    Ok(Admitted { deadline, rule, hopped, header_bytes })
}

fn is_grpc(asked: &Asked<'_>) -> Result<(), Refused> {
    let code = if asked.method != Method::POST {
        StatusCode::METHOD_NOT_ALLOWED
    } else if !asked.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    } else {
        return Ok(());
    };
    Err(Refused { why: Rejection::NotGrpc, answer: Answer::Http(code) })
}

fn header_bytes(shared: &Shared, asked: &Asked<'_>) -> Result<usize, Refused> {
    let max = shared.settings.max_header_bytes;
    let size = asked.headers.list_size();
    if size <= max {
        return Ok(size);
    }
    let message = format!("Received header list larger than max ({size} vs. {max})");
    Err(Refused::of(Rejection::HeadersTooLarge)(Status::new(Code::ResourceExhausted, message)))
}

fn deadline(asked: &Asked<'_>) -> Result<Option<Deadline>, Refused> {
    let Some(value) = asked.headers.get(GRPC_TIMEOUT) else { return Ok(None) };
    let malformed = || Status::new(Code::InvalidArgument, "malformed grpc-timeout");
    let timeout = timeout::parse(value).ok_or_else(malformed).map_err(Refused::of(Rejection::BadTimeout))?;
    Ok(Some(Deadline::after(timeout)))
}

/// The rule of the method, if it is one of models.
fn rule(shared: &Shared, asked: &Asked<'_>) -> Result<Option<MethodRule>, Refused> {
    let rules = shared.rules.read();
    match rules.answerer(asked.port, asked.name()).map_err(Refused::of(Rejection::NotAllowed))? {
        Answerer::Python => Ok(None),
        Answerer::Model(rule) => Ok(Some(rule.for_headers(asked.headers))),
    }
}

/// Who calls: a client, or another instance of ours.
fn identity(asked: &Asked<'_>, is_inference: bool) -> Result<Option<Hopped>, Refused> {
    if asked.port == Port::Serving || !is_inference {
        return Ok(None);
    }
    identify::hop_of(asked.headers).map(Some).map_err(Refused::of(Rejection::NotFromInstance))
}

/// What the connection has open already.
fn budget(account: &Account) -> Result<(), Refused> {
    if account.takes_calls() {
        return Ok(());
    }
    let message = "this connection has too much open; try again";
    Err(Refused::of(Rejection::TooMuchOpen)(Status::new(Code::ResourceExhausted, message)))
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http::HeaderValue;

    use super::*;
    use crate::call::rules::Rules;
    use crate::ledger::Side;
    use crate::settings::Settings;

    /// Why a request is refused that has these things against it, numbered by the steps.
    fn refused(faults: std::ops::Range<usize>) -> Option<Rejection> {
        let shared = Shared::new(Settings { max_header_bytes: 1000, ..Settings::default() }).unwrap();
        *shared.rules.write() = Rules { allow_others: true, ..Rules::default() };
        let mut account = shared.ledger.open(Side::Peers, "a");
        let mut headers = HeaderMap::new();
        let has = |fault| faults.contains(&fault);
        if !has(0) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        }
        if has(1) {
            headers.insert("x", HeaderValue::from_bytes(&[b'x'; 2000]).unwrap());
        }
        if has(2) {
            headers.insert(GRPC_TIMEOUT, HeaderValue::from_static("soon"));
        }
        let path = PathAndQuery::from_static(if has(3) { "/nothing" } else { "/p.S/M" });
        if !has(4) {
            headers.insert("mm-hop", HeaderValue::from_static("hit"));
            headers.insert("mm-model-id-bin", HeaderValue::from_static("YQ"));
        }
        if has(5) {
            account.note(usize::MAX >> 1, Waker::noop()).unwrap_err();
        }
        let asked = Asked { port: Port::Peer, method: &Method::POST, path: &path, headers: &headers };
        admit(&shared, &account, &asked).err().map(|refused| refused.why)
    }

    #[test]
    fn the_first_step_that_refuses_names_the_reason() {
        let order = [
            Rejection::NotGrpc,
            Rejection::HeadersTooLarge,
            Rejection::BadTimeout,
            Rejection::NotAllowed,
            Rejection::NotFromInstance,
            Rejection::TooMuchOpen,
        ];
        for (first, why) in order.into_iter().enumerate() {
            assert_eq!(refused(first..order.len()), Some(why), "with all that come after it");
            assert_eq!(refused(first..first + 1), Some(why), "alone");
        }
        assert_eq!(refused(0..0), None);
    }
}
