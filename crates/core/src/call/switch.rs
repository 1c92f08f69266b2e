//! Where a call goes after a model has failed it, or because no copy of the model is ready: to the fallback of its vmodel, and back.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::call::end::End;
use crate::call::fallback::{Fallback, Next, Wanted};
use crate::call::held::Resolution;
use crate::call::inference::Call;
use crate::call::outcome::{Failure, Outcome};
use crate::clock;
use crate::events::Event;
use crate::observe::fallbacks::FallbackReason;
use crate::routing::resolve::{self, Choice};
use crate::wire::headers::MM_VERSION;
use crate::wire::status::{CODES, Code};

impl Call {
    /// Whether the call may be made again. `unprocessed`: nothing was done with it so far.
    #[must_use]
    pub fn may_repeat(&self, unprocessed: bool) -> bool {
        self.is_ingress()
            && !self.caller.is_copy()
            && !self.caller.has_begun()
            && self.body.can_replay()
            && (self.rule.idempotent || unprocessed)
    }

    /// Where the call goes if the fallback answers because the wanted model failed.
    #[must_use]
    pub fn route_to_fallback(&self) -> Option<Choice> {
        let Fallback::Failed(_) = &self.fallback else { return None };
        Some(resolve::choose(self.shared(), &self.subject.model, self.balanced))
    }

    /// The call is looked up again: from now on the wanted model answers.
    pub fn leave_fallback(&mut self) {
        self.caller.fallback = None;
        if matches!(self.fallback, Fallback::Cold) {
            self.fallback = Fallback::Over;
        }
    }

    /// No copy of the wanted model is ready: a ready copy of the fallback.
    #[cold]
    pub fn fall_back_from_cold(&mut self) -> Option<Choice> {
        if !self.fallback.is_untried() {
            return None;
        }
        let fallback = self.fallback_model()?;
        let choice = resolve::choose(self.shared(), &fallback, self.balanced);
        if matches!(choice, Choice::Miss) {
            return None;
        }
        self.tell_of_fallback(&fallback, || None);
        self.fallback = Fallback::Cold;
        self.switch_to(fallback, FallbackReason::Cold);
        Some(choice)
    }

    /// An attempt failed. If it may be why a runtime ended or hangs, no other model gets the call.
    pub fn suspect(&mut self, failure: &Failure) {
        let may_be_why = matches!(failure.outcome, Outcome::Lost | Outcome::Hung) && !failure.unprocessed;
        if may_be_why && !matches!(self.fallback, Fallback::Failed(_)) {
            self.fallback = Fallback::Over;
        }
    }

    /// A model has failed the call for good. If another one is tried, this is what happens next; None: the client has its answer.
    #[cold]
    pub fn goes_on_after(&mut self, end: End) -> Option<Resolution> {
        let (code, unprocessed) = match &end {
            End::Failed(failure) => (failure.code, failure.unprocessed),
            // Python decides about what may be made again only.
            End::Refused(status) => (status.code, true),
            End::Answered | End::Gone | End::Late | End::Unread => {
                self.finish(end);
                return None;
            }
        };
        match self.fallback.next(code, self.may_repeat(unprocessed)) {
            Next::Fallback => return self.fall_back_from_failure(end, code).then_some(Resolution::Route),
            Next::Wanted => {
                self.count_invocation();
                self.token = None;
                return Some(Resolution::Route); // which leaves the fallback
            }
            Next::TellWanted => {
                if let Fallback::Failed(wanted) = std::mem::take(&mut self.fallback) {
                    self.count_invocation();
                    self.caller.fallback = None;
                    self.subject.model = wanted.model;
                    self.tell(wanted.end);
                }
                self.fallback = Fallback::Over;
            }
            Next::Tell => self.tell(end),
        }
        None
    }

    /// The wanted model failed: the fallback is tried, and loaded if need be. False: there is none, and the client has its answer.
    fn fall_back_from_failure(&mut self, end: End, code: Code) -> bool {
        let fallback = self.fallback_model().filter(|fallback| **fallback != *self.subject.model);
        let Some(fallback) = fallback else {
            self.tell(end);
            return false;
        };
        let message = match &end {
            End::Failed(failure) => failure.message.as_str(),
            End::Refused(status) => &status.message,
            End::Answered | End::Gone | End::Late | End::Unread => "",
        };
        self.tell_of_fallback(&fallback, || Some(format!("{}: {message}", CODES[code as usize].1)));
        if let Some(trial) = self.trial.take() {
            // What the fallback answers says nothing about the model that failed.
            trial.ended(&self.subject.model, code, Duration::ZERO);
        }
        self.count_invocation();
        let model = self.subject.model.clone();
        self.fallback = Fallback::Failed(Box::new(Wanted { model, end }));
        // To Python it is another call: of the fallback.
        self.token = None;
        self.switch_to(fallback, FallbackReason::Failed);
        true
    }

    /// The fallback of the vmodel, unless the client chose a version.
    fn fallback_model(&self) -> Option<Arc<str>> {
        if self.headers.contains_key(MM_VERSION) || self.version.as_ref().is_some_and(|version| version.is_chosen()) {
            return None;
        }
        let vmodel = self.subject.vmodel.as_deref()?;
        self.shared().table.fallback_of(vmodel)
    }

    /// The control plane hears once a second which model is cold, or how it failed.
    fn tell_of_fallback(&self, fallback: &str, failure: impl FnOnce() -> Option<String>) {
        let vmodel = self.subject.name();
        if !self.shared().table.is_fallback_to_be_told(vmodel, clock::monotonic_ms().max(1)) {
            return;
        }
        let (subject, fallback) = (self.subject.clone(), Some(fallback.to_owned()));
        let event = Event::Wanted { subject, fallback, failure: failure() };
        // If the queue is full it is dropped and counted there; it is sent again.
        let _ = self.shared().events.offer(event);
    }

    fn switch_to(&mut self, fallback: Arc<str>, reason: FallbackReason) {
        self.shared().fallbacks.count(self.subject.name(), &fallback, reason as usize);
        // Boxed, because few calls have one and every call has room for it.
        self.caller.fallback = HeaderValue::from_bytes(fallback.as_bytes()).ok().map(Box::new);
        self.subject.model = fallback.to_string();
    }

    /// Gives the client what a model has ended its call with.
    fn tell(&mut self, end: End) {
        match end {
            End::Failed(failure) => self.give_answer(*failure),
            end => self.finish(end),
        }
    }
}
