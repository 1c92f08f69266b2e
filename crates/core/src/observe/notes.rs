//! What is noted down of a call beyond its counters: payloads, spans, log lines. Most calls have none of it,
//! and pay one look at a flag.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::call::subject::Subject;
use crate::clock;
use crate::events::Event;
use crate::observe::observing::Observing;
use crate::observe::told::{Copied, Logged, Tapped};
use crate::observe::trace::Trace;
use crate::shared::Shared;
use crate::transport::port::Port;
use crate::wire::headers::GRPC_ENCODING;
use crate::wire::status::{Code, decode_message};

/// Tells one call from all others, also of other instances; clients may send their own.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A client's own id is cut there.
const LONGEST_ID: usize = 128;

/// What is noted down of one call.
pub struct Notes {
    /// Bit n: the n-th tap may want it.
    taps: u64,
    began_ms: u64,
    pub trace: Option<Trace>,
}

/// Decides, before anything is read, what will be noted down.
pub fn begin(shared: &Arc<Shared>, port: Port, method: &str, headers: &HeaderMap) -> Option<Box<Notes>> {
    if !shared.observed.wants_notes() {
        return None;
    }
    let observing = shared.observed.get();
    let ingress = port == Port::Serving;
    let mut taps = 0;
    if ingress && !observing.taps.is_empty() {
        // One draw for all, so that what a small tap gets, a larger one gets too.
        let draw = fastrand::f64();
        for (index, tap) in observing.taps.iter().enumerate() {
            if draw < tap.fraction && tap.matches_method(method) {
                taps |= 1 << index;
            }
        }
    }
    let trace = observing.traced.and_then(|fraction| Trace::begin(headers, ingress, fraction));
    (taps != 0 || trace.is_some()).then(|| Box::new(Notes { taps, began_ms: clock::epoch_ms(), trace }))
}

impl Notes {
    /// Somewhere to copy to, if payloads may be wanted: for the request, and for the answer.
    #[must_use]
    pub fn copies(&self, shared: &Shared) -> (Option<Box<Copied>>, Option<Box<Copied>>) {
        let copy = || (self.taps != 0).then(|| Copied::new(shared.tapped.share()));
        (copy(), copy())
    }
}

impl Notes {
    /// Whether payloads are wanted.
    #[must_use]
    pub fn wants_payloads(&self) -> bool {
        self.taps != 0
    }

    /// Whether payloads are still wanted, now that it is known what the call is about.
    pub fn wants_payloads_of(&mut self, shared: &Shared, subject: &Subject) -> bool {
        if self.taps != 0 {
            self.taps = narrowed(&shared.observed.get(), self.taps, subject);
        }
        self.taps != 0
    }
}

/// What is known of a call, for those who want to be told of it.
pub struct Facts<'a> {
    pub shared: &'a Shared,
    pub subject: &'a Subject,
    /// Full name.
    pub method: &'a str,
    pub headers: &'a HeaderMap,
    pub is_ingress: bool,
    /// Why it did not end well, as it is on the wire.
    pub message: Option<&'a HeaderValue>,
    pub attempts: u32,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// By which other spans know it, if it is traced.
    pub trace: Option<u128>,
}

/// Copies of the request and of the answer.
pub type Copies = (Option<Box<Copied>>, Option<Box<Copied>>);

fn narrowed(observing: &Observing, taps: u64, subject: &Subject) -> u64 {
    observing
        .taps
        .iter()
        .enumerate()
        .filter(|(_, tap)| !tap.matches_subject(subject))
        .fold(taps, |taps, (index, _)| taps & !(1 << index))
}

/// The runtime is about to be called, and somebody wants to know.
pub fn invoking(facts: &Facts<'_>) {
    log(facts, &facts.shared.observed.get(), true, Code::Ok, 0);
}

/// The call has ended.
pub fn ended(facts: &Facts<'_>, notes: Option<Box<Notes>>, copies: Copies, code: Code, duration_us: u64) {
    let shared = facts.shared;
    if facts.is_ingress
        && let Some(observing) = shared.observed.log_of(code)
    {
        log(facts, &observing, false, code, duration_us);
    }
    let Some(notes) = notes else { return };
    let id = notes.trace.as_ref().map_or_else(|| fastrand::u128(..), |trace| trace.id);
    if notes.taps != 0 {
        tap(facts, &notes, copies, id, code, duration_us);
    }
    if let Some(trace) = notes.trace {
        let spans = trace.end(code);
        let (subject, method) = (facts.subject.clone(), facts.method.to_owned());
        shared.events.spare(Event::Traced { trace: id, subject, method, spans });
    }
}

fn tap(facts: &Facts<'_>, notes: &Notes, copies: Copies, id: u128, code: Code, duration_us: u64) {
    let shared = facts.shared;
    let observing = shared.observed.get();
    let (Some(request), Some(response)) = copies else { return };
    let taps = narrowed(&observing, notes.taps, facts.subject);
    if taps == 0 {
        return;
    }
    let encoding =
        |headers: &HeaderMap| headers.get(GRPC_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let told = request.is_whole()
        && response.is_whole()
        && shared.events.spare(Event::Tapped(Box::new(Tapped {
            id,
            taps,
            subject: facts.subject.clone(),
            method: facts.method.to_owned(),
            code,
            began_ms: notes.began_ms,
            duration_us,
            request_headers: shown(&observing, facts.headers),
            response_headers: shown(&observing, &response.headers),
            request_encoding: encoding(facts.headers),
            response_encoding: encoding(&response.headers),
            request,
            response,
        })));
    let counter = if told { &shared.metrics.taps.told } else { &shared.metrics.taps.dropped };
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The headers that may go with a payload.
fn shown(observing: &Observing, headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let may_pass = |name: &str| {
        !observing.tap_secrets.contains(name) && observing.tap_headers.as_ref().is_none_or(|names| names.contains(name))
    };
    crate::wire::headers::metadata(headers).into_iter().filter(|(name, _)| may_pass(name)).collect()
}

fn log(facts: &Facts<'_>, observing: &Observing, invocation: bool, code: Code, duration_us: u64) {
    let given = facts.headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let id = match given {
        Some(given) => given.chars().take(LONGEST_ID).collect(),
        None => format!("{:032x}", facts.trace.unwrap_or_else(|| fastrand::u128(..))),
    };
    let headers = observing
        .log_headers
        .iter()
        .filter_map(|name| Some((name.clone(), facts.headers.get(name.as_str())?.as_bytes().to_vec())))
        .collect();
    facts.shared.events.spare(Event::Logged(Box::new(Logged {
        invocation,
        id,
        subject: facts.subject.clone(),
        method: facts.method.to_owned(),
        code,
        message: facts.message.map(decode_message).unwrap_or_default(),
        duration_us,
        attempts: facts.attempts,
        request_bytes: facts.request_bytes,
        response_bytes: facts.response_bytes,
        headers,
    })));
}
