//! Whether a request may begin: all that is refused before its body is read and its route is chosen.
//!
//! The steps stand in the order in which they refuse: the method, who calls, what is left of our own budgets (`admit`);
//! and once it is known what the call is about, what they may do, and what is left of their tenant's share (`permit`).
//! Of the calls that Python answers, it looks itself at what they may do (`modelmesh/management/rights.py`).

use http::header::CONTENT_TYPE;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode};
use modelmesh_http2::Headers;
use tokio::time::Instant;

use crate::access::{Listener, Looked, Origin, Principal, Turn};
use crate::call::caller::Caller;
use crate::call::deadline::Deadline;
use crate::call::identify::{self, Hopped};
use crate::call::rejection::Rejection;
use crate::call::rules::{Answerer, MethodRule, method_in};
use crate::call::subject::Subject;
use crate::call::who::Who;
use crate::ledger::Account;
use crate::shared::Shared;
use crate::transport::port::Port;
use crate::wire::headers::GRPC_TIMEOUT;
use crate::wire::status::{Code, Status};
use crate::wire::timeout;

/// What is known of a request before its body.
pub struct Asked<'a> {
    pub port: Port,
    pub origin: &'a Origin,
    pub method: &'a Method,
    pub path: &'a PathAndQuery,
    pub headers: &'a HeaderMap,
}

impl Asked<'_> {
    /// Full name of the gRPC method.
    #[must_use]
    pub fn name(&self) -> &str {
        method_in(self.path.path())
    }
}

/// A request that may begin.
pub struct Admitted {
    pub deadline: Option<Deadline>,
    /// None: Python answers it.
    pub rule: Option<MethodRule>,
    /// What the instance says that sent it; None for a client's.
    pub hopped: Option<Hopped>,
    pub who: Who,
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
    let (rule, is_open) = rule(shared, asked)?;
    let hopped = hop(asked, rule.is_some())?;
    let who = if is_open { Who::Unchecked } else { identity(shared, asked)? };
    budget(account)?;
    Ok(Admitted { deadline, rule, hopped, who, header_bytes })
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

/// The rule of the method, if it is one of models, and whether it takes no credential.
fn rule(shared: &Shared, asked: &Asked<'_>) -> Result<(Option<MethodRule>, bool), Refused> {
    let rules = shared.rules.read();
    let answerer = rules.answerer(asked.port, asked.name()).map_err(Refused::of(Rejection::NotAllowed))?;
    let listener = asked.origin.listener;
    rules.admit(&answerer, listener, asked.name()).map_err(Refused::of(Rejection::NotAllowed))?;
    match answerer {
        Answerer::Python => Ok((None, rules.open_methods.contains(asked.name()))),
        Answerer::Model(rule) => Ok((Some(rule.for_headers(asked.headers)), false)),
    }
}

/// What another instance of ours says of its call.
fn hop(asked: &Asked<'_>, is_inference: bool) -> Result<Option<Hopped>, Refused> {
    if asked.port == Port::Serving || !is_inference {
        return Ok(None);
    }
    identify::hop_of(asked.headers).map(Some).map_err(Refused::of(Rejection::NotFromInstance))
}

/// Who calls. Of instances it is asked no more than that they came to the peer port: whoever they call for was let in there.
fn identity(shared: &Shared, asked: &Asked<'_>) -> Result<Who, Refused> {
    if asked.port == Port::Peer || !shared.access.is_on() {
        return Ok(Who::Unchecked);
    }
    match shared.access.look(asked.headers, asked.origin) {
        Looked::Known(principal) => Ok(Who::Known(principal)),
        Looked::Unknown(question) => Ok(Who::Unknown(question)),
        Looked::Refused(status) => Err(Refused::of(Rejection::Unauthenticated)(status)),
    }
}

/// Whether `principal` may call all of `subjects`, and has calls left. The call of its tenant runs until the turn is dropped.
///
/// # Errors
/// Why not, and what the client is told.
pub fn permit(
    principal: &Principal,
    subjects: &[Subject],
    listener: Listener,
    now: Instant,
) -> Result<Option<Turn>, (Rejection, Status)> {
    for subject in subjects {
        principal.may_infer(subject, listener).map_err(|status| (Rejection::NotPermitted, status))?;
    }
    let Some(tenant) = &principal.tenant else { return Ok(None) };
    let turn = tenant.begin(&principal.identity.tenant, subjects.len(), now);
    turn.map(Some).map_err(|status| (Rejection::OverQuota, status))
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

    use std::sync::Arc;

    use super::*;
    use crate::access::{Identity, Limits, Right, Tenant};
    use crate::call::priority::Priority;
    use crate::call::rules::Rules;
    use crate::ledger::Side;
    use crate::settings::Settings;

    /// Why a request is refused that has these things against it, numbered by the steps.
    fn refused(is_hop: bool, faults: std::ops::Range<usize>) -> Option<Rejection> {
        let shared = Shared::new(Settings { max_header_bytes: 1000, ..Settings::default() }).unwrap();
        *shared.rules.write() = Rules { allow_others: true, ..Rules::default() };
        shared.access.set(Some(vec![]));
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
        // On the peer port it is asked from where, on the serving port who.
        let port = if is_hop { Port::Peer } else { Port::Serving };
        if !has(4) {
            headers.insert("mm-hop", HeaderValue::from_static("hit"));
            headers.insert("mm-model-id-bin", HeaderValue::from_static("YQ"));
        } else if !is_hop {
            headers.insert("authorization", HeaderValue::from_static("Basic x"));
        }
        if has(5) {
            account.note(usize::MAX >> 1, Waker::noop()).unwrap_err();
        }
        let asked = Asked { port, origin: &Origin::default(), method: &Method::POST, path: &path, headers: &headers };
        admit(&shared, &account, &asked).err().map(|refused| refused.why)
    }

    #[test]
    fn the_first_step_that_refuses_names_the_reason() {
        for (is_hop, who) in [(true, Rejection::NotFromInstance), (false, Rejection::Unauthenticated)] {
            let order = [
                Rejection::NotGrpc,
                Rejection::HeadersTooLarge,
                Rejection::BadTimeout,
                Rejection::NotAllowed,
                who,
                Rejection::TooMuchOpen,
            ];
            for (first, why) in order.into_iter().enumerate() {
                assert_eq!(refused(is_hop, first..order.len()), Some(why), "with all that come after it");
                assert_eq!(refused(is_hop, first..first + 1), Some(why), "alone");
            }
            assert_eq!(refused(is_hop, 0..0), None);
        }
    }

    #[test]
    fn rights_are_looked_at_before_the_quota_and_in_the_same_words_for_what_there_is_not() {
        let tenant = Arc::new(Tenant::default());
        tenant.limit(Limits { calls_at_once: Some(1), calls_per_second: None });
        let right = Right { pattern: "m".into(), vmodels: false, listeners: Listener::Grpc.bit() };
        let identity = Identity { name: "p".into(), groups: vec![], tenant: "t".into() };
        let principal = Principal::new(identity, &[right], Priority::Normal, Some(tenant), None);
        let now = Instant::now();
        let model = |model: &str| [Subject { model: model.into(), vmodel: None }];
        let vmodel = [Subject { model: String::new(), vmodel: Some("m".into()) }];
        let turn = permit(&principal, &model("m"), Listener::Grpc, now).unwrap();
        let refused = |subjects: &[Subject], listener| permit(&principal, subjects, listener, now).unwrap_err();
        assert_eq!(refused(&model("m"), Listener::Grpc).0, Rejection::OverQuota);
        let (why, status) = refused(&model("n"), Listener::Grpc);
        assert_eq!((why, status.code), (Rejection::NotPermitted, Code::PermissionDenied));
        assert_eq!(status.message, "p may not infer with model n");
        assert_eq!(refused(&vmodel, Listener::Grpc).0, Rejection::NotPermitted);
        assert_eq!(refused(&model("m"), Listener::Rest).0, Rejection::NotPermitted);
        assert_eq!(refused(&[model("m"), model("n")].concat(), Listener::Grpc).0, Rejection::NotPermitted);
        drop(turn);
        assert!(permit(&principal, &model("m"), Listener::Grpc, now).is_ok());
    }
}
