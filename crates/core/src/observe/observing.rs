//! What an operator wants to be told of calls.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::call::subject::Subject;
use crate::clock;
use crate::wire::status::Code;

/// Failed calls that are told for the log in one second; a flood of failures is one story.
const FAILURES_A_SECOND: u64 = 100;

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
    #[must_use]
    pub fn matches_method(&self, method: &str) -> bool {
        self.method.as_ref().is_none_or(|wanted| {
            method == wanted || method.rsplit_once('/').is_some_and(|(_, name)| name == wanted.as_str())
        })
    }

    #[must_use]
    pub fn matches_subject(&self, subject: &Subject) -> bool {
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

    #[must_use]
    pub fn get(&self) -> Arc<Observing> {
        Arc::clone(&self.observing.read())
    }

    /// Whether notes of calls may be wanted.
    #[must_use]
    pub fn wants_notes(&self) -> bool {
        self.begins.load(Ordering::Relaxed)
    }

    /// Whether somebody wants to know when the runtime is called.
    #[must_use]
    pub fn wants_invocations(&self) -> bool {
        self.invocations.load(Ordering::Relaxed)
    }

    /// The choice, if the end of a call with such a status is to be told for the log.
    #[must_use]
    pub fn log_of(&self, code: Code) -> Option<Arc<Observing>> {
        let observing = self.observing.read();
        let tell = observing.log_all || (code != Code::Ok && observing.log_failed);
        let tell = tell.then(|| Arc::clone(&observing));
        drop(observing);
        tell.filter(|observing| observing.log_all || self.may_tell_failure())
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
