//! What is noted down of a call beyond its counters: payloads, spans, log lines. Most calls have none of it,
//! and pay one look at a flag.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use parking_lot::RwLock;

use crate::budget::Share;
use crate::call::Call;
use crate::clock;
use crate::events::Event;
use crate::framing::Deframer;
use crate::headers::GRPC_ENCODING;
use crate::identify::Subject;
use crate::listen::Port;
use crate::shared::Shared;
use crate::status::Code;
use crate::trace::Trace;

/// Failed calls that are told for the log in one second; a flood of failures is one story.
const FAILURES_A_SECOND: u64 = 100;
/// Tells one call from all others, also of other instances; clients may send their own.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A client's own id is cut there.
const LONGEST_ID: usize = 128;

/// Which calls' payloads are wanted; None means any.
#[derive(Clone, Debug, Default)]
pub struct TapRule {
    pub model: Option<String>,
    pub vmodel: Option<String>,
    /// Full name, or the part after the slash.
    pub method: Option<String>,
    /// Of the calls that match, between 0 and 1.
    pub fraction: f64,
}

impl TapRule {
    fn matches_method(&self, method: &str) -> bool {
        self.method.as_ref().is_none_or(|wanted| {
            method == wanted || method.rsplit_once('/').is_some_and(|(_, name)| name == wanted.as_str())
        })
    }

    fn matches_subject(&self, subject: &Subject) -> bool {
        // A vmodel's model may not be known yet; then it may still match.
        let unknown = subject.model.is_empty() && subject.vmodel.is_some();
        (self.model.is_none() || unknown || self.model.as_deref() == Some(&subject.model))
            && (self.vmodel.is_none() || self.vmodel == subject.vmodel)
    }
}

/// What an operator chose.
#[derive(Clone, Debug, Default)]
pub struct Observing {
    /// At most 64.
    pub taps: Vec<TapRule>,
    /// Headers that go with payloads; None: all.
    pub tap_headers: Option<HashSet<String>>,
    /// Headers that never go with payloads.
    pub tap_secrets: HashSet<String>,
    /// Of the calls that come without a trace; None: tracing is off.
    pub traced: Option<f64>,
    pub log_failed: bool,
    pub log_all: bool,
    pub log_invocations: bool,
    /// Headers that go with log lines.
    pub log_headers: Vec<String>,
}

/// The choice in force, and its flags, which every call reads.
#[derive(Default)]
pub struct Choice {
    begins: AtomicBool,
    invocations: AtomicBool,
    observing: RwLock<Arc<Observing>>,
    /// The second of the last failure, and how many were told in it.
    failures: AtomicU64,
}

impl Choice {
    pub fn set(&self, observing: Observing) {
        self.begins.store(!observing.taps.is_empty() || observing.traced.is_some(), Ordering::Relaxed);
        self.invocations.store(observing.log_invocations, Ordering::Relaxed);
        *self.observing.write() = Arc::new(observing);
    }

    fn get(&self) -> Arc<Observing> {
        Arc::clone(&self.observing.read())
    }

    /// One more failure may be told in this second.
    fn may_tell_failure(&self) -> bool {
        let second = clock::monotonic_ms() / 1000;
        let packed = self.failures.load(Ordering::Relaxed);
        let told = if packed >> 16 == second { packed & 0xFFFF } else { 0 };
        // Two threads at once may both count as one: the bound is no promise.
        self.failures.store(second << 16 | (told + 1).min(0xFFFF), Ordering::Relaxed);
        told < FAILURES_A_SECOND
    }
}

/// What is noted down of one call.
pub struct Notes {
    /// Bit n: the n-th tap may want it.
    taps: u64,
    began_ms: u64,
    pub trace: Option<Trace>,
}

/// One direction of a call, copied by reference count.
pub struct Copied {
    pub headers: HeaderMap,
    chunks: Vec<Bytes>,
    share: Share,
    whole: bool,
}

impl Copied {
    fn new(share: Share) -> Box<Self> {
        Box::new(Self { headers: HeaderMap::new(), chunks: Vec::new(), share, whole: true })
    }

    pub fn push(&mut self, chunk: &Bytes) {
        if self.whole && self.share.grow(chunk.len()) {
            self.chunks.push(chunk.clone());
        } else {
            self.whole = false;
            self.chunks.clear();
            self.share.clear();
        }
    }
}

/// Payloads of one call on their way to the control plane.
pub struct Tapped {
    pub id: u128,
    /// Bit n: the n-th tap wants it.
    pub taps: u64,
    pub subject: Subject,
    pub method: String,
    pub code: Code,
    pub began_ms: u64,
    pub duration_us: u64,
    pub request_headers: Vec<(String, Vec<u8>)>,
    pub response_headers: Vec<(String, Vec<u8>)>,
    pub request_encoding: String,
    pub response_encoding: String,
    request: Box<Copied>,
    response: Box<Copied>,
}

impl std::fmt::Debug for Tapped {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tapped").field("subject", &self.subject).finish_non_exhaustive()
    }
}

/// (compressed, bytes) of each message.
pub type Messages = Vec<(bool, Bytes)>;

impl Tapped {
    /// Cuts the copies into messages: those of the request, those of the answer.
    #[must_use]
    pub fn messages(&self) -> (Messages, Messages) {
        (messages(&self.request), messages(&self.response))
    }
}

fn messages(copied: &Copied) -> Messages {
    let mut deframer = Deframer::default();
    for chunk in &copied.chunks {
        deframer.push(chunk);
    }
    std::iter::from_fn(|| deframer.next_message()).map(|message| (message.compressed, message.payload)).collect()
}

/// A call that is told for the log.
#[derive(Debug)]
pub struct Logged {
    /// The runtime is about to be called; else the call has ended.
    pub invocation: bool,
    pub id: String,
    pub subject: Subject,
    pub method: String,
    pub code: Code,
    pub message: String,
    pub duration_us: u64,
    pub attempts: u32,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub headers: Vec<(String, Vec<u8>)>,
}

/// Decides, before anything is read, what will be noted down.
pub fn begin(shared: &Arc<Shared>, port: Port, method: &str, headers: &HeaderMap) -> Option<Box<Notes>> {
    if !shared.observed.begins.load(Ordering::Relaxed) {
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

/// Lets copies go that no tap wants, now that it is known what the call is about.
pub fn identified(call: &mut Call) {
    let Some(notes) = call.notes.as_mut().filter(|notes| notes.taps != 0) else { return };
    notes.taps = narrowed(&call.worker.shared.observed.get(), notes.taps, &call.subject);
    if notes.taps == 0 {
        call.body.copied = None;
        call.caller.copied = None;
    }
}

fn narrowed(observing: &Observing, taps: u64, subject: &Subject) -> u64 {
    observing
        .taps
        .iter()
        .enumerate()
        .filter(|(_, tap)| !tap.matches_subject(subject))
        .fold(taps, |taps, (index, _)| taps & !(1 << index))
}

/// The runtime is about to be called.
pub fn invoking(call: &Call) {
    let shared = &call.worker.shared;
    if shared.observed.invocations.load(Ordering::Relaxed) {
        log(call, &shared.observed.get(), true, Code::Ok, 0);
    }
}

/// The call has ended.
pub fn ended(call: &mut Call, code: Code, duration_us: u64) {
    let shared = Arc::clone(&call.worker.shared);
    if call.hopped.is_none() {
        let observing = shared.observed.observing.read();
        let tell = observing.log_all || (code != Code::Ok && observing.log_failed);
        let tell = tell.then(|| Arc::clone(&observing));
        drop(observing);
        if let Some(observing) = tell
            && (observing.log_all || shared.observed.may_tell_failure())
        {
            log(call, &observing, false, code, duration_us);
        }
    }
    let Some(notes) = call.notes.take() else { return };
    let id = notes.trace.as_ref().map_or_else(|| fastrand::u128(..), |trace| trace.id);
    if notes.taps != 0 {
        tap(call, &notes, id, code, duration_us);
    }
    if let Some(trace) = notes.trace {
        let spans = trace.end(code);
        let (subject, method) = (call.subject.clone(), call.method().to_owned());
        shared.events.spare(Event::Traced { trace: id, subject, method, spans });
    }
}

fn tap(call: &mut Call, notes: &Notes, id: u128, code: Code, duration_us: u64) {
    let shared = Arc::clone(&call.worker.shared);
    let observing = shared.observed.get();
    let (Some(request), Some(response)) = (call.body.copied.take(), call.caller.copied.take()) else { return };
    let taps = narrowed(&observing, notes.taps, &call.subject);
    if taps == 0 {
        return;
    }
    let encoding =
        |headers: &HeaderMap| headers.get(GRPC_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let told = request.whole
        && response.whole
        && shared.events.spare(Event::Tapped(Box::new(Tapped {
            id,
            taps,
            subject: call.subject.clone(),
            method: call.method().to_owned(),
            code,
            began_ms: notes.began_ms,
            duration_us,
            request_headers: shown(&observing, &call.headers),
            response_headers: shown(&observing, &response.headers),
            request_encoding: encoding(&call.headers),
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
    crate::headers::metadata(headers).into_iter().filter(|(name, _)| may_pass(name)).collect()
}

fn log(call: &Call, observing: &Observing, invocation: bool, code: Code, duration_us: u64) {
    let given = call.headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let traced = || call.notes.as_ref().and_then(|notes| notes.trace.as_ref()).map(|trace| trace.id);
    let id = match given {
        Some(given) => given.chars().take(LONGEST_ID).collect(),
        None => format!("{:032x}", traced().unwrap_or_else(|| fastrand::u128(..))),
    };
    let headers = observing
        .log_headers
        .iter()
        .filter_map(|name| Some((name.clone(), call.headers.get(name.as_str())?.as_bytes().to_vec())))
        .collect();
    call.worker.shared.events.spare(Event::Logged(Box::new(Logged {
        invocation,
        id,
        subject: call.subject.clone(),
        method: call.method().to_owned(),
        code,
        message: call.caller.message.clone().unwrap_or_default(),
        duration_us,
        attempts: call.attempts,
        request_bytes: call.body.message_bytes(),
        response_bytes: call.caller.message_bytes,
        headers,
    })));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(model: &str, vmodel: Option<&str>) -> Subject {
        Subject { model: model.into(), vmodel: vmodel.map(Into::into) }
    }

    #[test]
    fn methods_match_by_full_and_by_short_name() {
        let tap = |method: &str| TapRule { method: Some(method.into()), fraction: 1.0, ..TapRule::default() };
        assert!(tap("p.S/M").matches_method("p.S/M"));
        assert!(tap("M").matches_method("p.S/M"));
        assert!(!tap("S/M").matches_method("p.S/M"));
        assert!(!tap("M").matches_method("p.S/MM"));
        assert!(TapRule::default().matches_method("p.S/M"));
    }

    #[test]
    fn models_match_as_far_as_they_are_known() {
        let model = TapRule { model: Some("m".into()), ..TapRule::default() };
        assert!(model.matches_subject(&subject("m", None)));
        assert!(!model.matches_subject(&subject("n", None)));
        assert!(model.matches_subject(&subject("", Some("v"))), "not known yet");
        assert!(!model.matches_subject(&subject("n", Some("v"))));
        assert!(!model.matches_subject(&subject("", None)), "several ids");
        let vmodel = TapRule { vmodel: Some("v".into()), ..TapRule::default() };
        assert!(vmodel.matches_subject(&subject("m", Some("v"))));
        assert!(!vmodel.matches_subject(&subject("m", None)));
    }

    #[test]
    fn a_flood_of_failures_is_cut() {
        let choice = Choice::default();
        let told = (0..1000).filter(|_| choice.may_tell_failure()).count();
        assert!((100..=200).contains(&told), "at most two seconds passed: {told}");
    }
}
