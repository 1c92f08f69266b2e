//! One inference call, from its first header to its last: where it goes, what happens when that fails.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Poll;
use std::time::Duration;

use http::HeaderMap;
use http::uri::PathAndQuery;
use tokio::time::Instant;

use crate::access::{Principal, tenant};
use crate::call::attempt::{self, Towards};
use crate::call::caller::Caller;
use crate::call::deadline::{Deadline, deadline_exceeded, timeout_ms};
use crate::call::end::{End, read_too_slowly};
use crate::call::fallback::Fallback;
use crate::call::held::Resolution;
use crate::call::identify::Hopped;
use crate::call::outcome::{Failure, Outcome};
use crate::call::patience::Patience;
use crate::call::priority::Priority;
use crate::call::replay::{Body, BodyError};
use crate::call::rules::{MethodRule, method_in};
use crate::call::stopped::{poll_stopped, unless_stopped};
use crate::call::subject::{Hop, Subject};
use crate::call::version::Version;
use crate::events::Event;
use crate::ledger::Holder;
use crate::observe::metrics::HoldEnd;
use crate::observe::notes::Facts;
use crate::observe::notes::{self, Notes};
use crate::observe::trace::{self, Begun, Stage};
use crate::routing::copy::Ending;
use crate::routing::line::{NO_TENANT, Waiter};
use crate::routing::local::LocalUse;
use crate::routing::naming::Shadowed;
use crate::routing::peer::RemoteUse;
use crate::routing::resolve::{self, Choice};
use crate::routing::trial::Trial;
use crate::shared::Shared;
use crate::transport::thread::Worker;
use crate::wire::headers::MM_REFUSED;
use crate::wire::status::{Code, Status};

/// An inference call.
pub struct Call {
    pub worker: Arc<Worker>,
    pub caller: Caller,
    pub body: Body,
    pub headers: HeaderMap,
    /// The list size of `headers`.
    pub header_bytes: usize,
    pub path: PathAndQuery,
    pub subject: Subject,
    /// As another instance sent it; None at the ingress.
    pub hopped: Option<Hopped>,
    pub balanced: bool,
    pub priority: Priority,
    pub deadline: Option<Deadline>,
    pub rule: MethodRule,
    /// By what Python knows the call: drawn when it first hears of it, and the same at each further attempt.
    pub token: Option<u64>,
    /// Which share of a vmodel's calls it belongs to; the same however often that is looked up.
    pub draw: Option<u8>,
    /// How the runtime beside us answered, and how long that took; counted when the call ends.
    pub invoked: Option<(Code, Duration)>,
    pub attempts: u32,
    /// What is noted down of it; None for most.
    pub notes: Option<Box<Notes>>,
    /// Whether it waits for a load now, where there is a bound for that.
    pub loading: Option<Arc<AtomicBool>>,
    /// The version that its message names.
    pub version: Option<Box<Version>>,
    /// How far it has come with the fallback of its vmodel.
    pub fallback: Fallback,
    /// Whether it is copied to the shadow of its vmodel.
    pub shadowed: Shadowed,
    /// Counts how the models of its vmodel answer.
    pub trial: Option<Arc<Trial>>,
    /// Who calls, if that has a tenant.
    pub principal: Option<Arc<Principal>>,
    /// Who pays for what it holds beside its stream.
    pub holder: Arc<Holder>,
}

/// What an attempt was made with, as `AttemptFailed` names it.
pub struct Tried {
    instance: Arc<str>,
    load_id: u64,
}

impl Call {
    pub fn shared(&self) -> &Arc<Shared> {
        &self.worker.shared
    }

    #[must_use]
    pub fn method(&self) -> &str {
        method_in(self.path.path())
    }

    pub fn known_token(&mut self) -> u64 {
        *self.token.get_or_insert_with(|| self.worker.shared.held.token())
    }

    /// Whether the call came from a client, not from another instance.
    #[must_use]
    pub fn is_ingress(&self) -> bool {
        self.hopped.is_none()
    }

    /// What is known of it now.
    fn facts(&self) -> Facts<'_> {
        Facts {
            shared: &self.worker.shared,
            subject: &self.subject,
            method: self.method(),
            headers: &self.headers,
            is_ingress: self.is_ingress(),
            message: self.caller.message.as_ref(),
            attempts: self.attempts,
            request_bytes: self.body.message_bytes(),
            response_bytes: self.caller.message_bytes,
            trace: self.notes.as_ref().and_then(|notes| notes.trace.as_ref()).map(|trace| trace.id),
        }
    }

    /// It is known what the call is about.
    pub fn identified(&mut self, subject: Subject) {
        self.subject = subject;
        if let Some(notes) = &mut self.notes
            && !notes.wants_payloads_of(&self.worker.shared, &self.subject)
        {
            self.body.copied = None;
            self.caller.copied = None;
        }
    }

    /// Tells those who want to know that it has ended.
    pub fn tell_end(&mut self, code: Code, duration_us: u64) {
        let copies = (self.body.copied.take(), self.caller.copied.take());
        let notes = self.notes.take();
        let trace = notes.as_ref().and_then(|notes| notes.trace.as_ref()).map(|trace| trace.id);
        notes::ended(&Facts { trace, ..self.facts() }, notes, copies, code, duration_us);
    }

    /// Begins a stage, if this call is traced.
    fn stage(&self, stage: Stage) -> Option<Begun> {
        self.notes.as_ref()?.trace.as_ref().map(|_| trace::begin(stage))
    }

    fn staged(&mut self, begun: Option<Begun>, code: Option<Code>, detail: &str) {
        if let (Some(begun), Some(notes)) = (begun, &mut self.notes)
            && let Some(trace) = &mut notes.trace
        {
            trace.note(begun, code, detail);
        }
    }

    /// Serves the call to its end, unless a load is needed and there is a bound for how long to wait: then it returns the bound.
    pub async fn serve_or_wait(&mut self) -> Option<Patience> {
        let mut resolution = Resolution::Route;
        let mut failed = None;
        loop {
            let (end, tried) = match resolution {
                Resolution::Route => match self.route() {
                    Ok(Choice::Local(used)) => self.serve(Some(used)).await,
                    Ok(Choice::Remote(used)) => self.forward(used, Hop::Hit, &[], None).await,
                    // What is rare is boxed, so that the task of a hit stays small.
                    Ok(Choice::Miss) => match self.patience() {
                        Some(patience) => return Some(patience),
                        None => match Box::pin(self.miss()).await {
                            Ok(next) => {
                                resolution = next;
                                continue;
                            }
                            Err(end) => {
                                self.finish(end);
                                return None;
                            }
                        },
                    },
                    Err(status) => {
                        self.caller.end(status);
                        return None;
                    }
                },
                Resolution::Serve => {
                    let used = resolve::local(self.shared(), &self.subject.model, self.is_ingress());
                    self.serve(used).await
                }
                Resolution::Forward { instance, hop, tried, view } => {
                    if !self.is_ingress() {
                        let message = "a forwarded request is not forwarded again";
                        self.caller.end(Status::new(Code::Internal, message));
                        return None;
                    }
                    let used = RemoteUse::of_instance(self.shared(), &self.subject.model, &instance);
                    self.forward(used, hop, &tried, view).await
                }
                Resolution::Return => {
                    resolution = self.goes_on_after(failed.take().map_or_else(no_answer, End::Failed))?;
                    continue;
                }
                Resolution::Fail(status) => {
                    resolution = self.goes_on_after(End::Refused(status))?;
                    continue;
                }
            };
            let End::Failed(failure) = end else {
                self.finish(end);
                return None;
            };
            if failure.outcome == Outcome::Internal {
                resolution = self.goes_on_after(End::Failed(failure))?;
                continue;
            }
            self.suspect(&failure);
            match Box::pin(self.attempt_failed(failure, tried)).await {
                Ok((next, failure)) => {
                    resolution = next;
                    failed = Some(failure);
                }
                Err(end) => {
                    self.finish(end);
                    return None;
                }
            }
        }
    }

    /// Gives the client what its call ended with.
    pub fn finish(&mut self, end: End) {
        match end {
            End::Answered | End::Failed(_) => {}
            End::Gone => {
                self.holder.gives_up();
                self.caller.abandoned();
            }
            End::Late => {
                self.holder.gives_up();
                self.caller.end(deadline_exceeded());
            }
            End::Refused(status) => self.caller.end(status),
            End::Unread => self.caller.cut_off(read_too_slowly()),
        }
    }

    /// One attempt at the local copy.
    pub async fn serve(&mut self, used: Option<LocalUse>) -> (End, Tried) {
        self.attempts += 1;
        let instance = Arc::clone(&self.shared().settings.instance);
        let Some(mut used) = used else {
            let failure = Failure::new(Outcome::NotHere, Code::Unavailable, "the copy is not ready").unprocessed();
            return (failure.into(), Tried { instance, load_id: 0 });
        };
        let tried = Tried { instance, load_id: used.copy().load_id };
        let queued = used.is_limited().then(Instant::now);
        let queue = queued.and_then(|_| self.stage(Stage::Queue));
        // Only where there is a line to stand in it matters whose turn it is.
        let has_tenants = queued.is_some() && self.shared().access.is_on();
        let tenant = if has_tenants { tenant::number_of(&self.headers) } else { NO_TENANT };
        let waiter = Waiter { tenant, priority: self.priority };
        let turn = poll_fn(|cx| used.poll_turn(waiter, cx));
        let turn = unless_stopped(&mut self.caller, &mut self.deadline, turn);
        match turn.await {
            Err(end) => return (end, tried),
            Ok(Err(_)) => {
                let message = "Model queue overload";
                let failure = Failure::new(Outcome::Exhausted, Code::ResourceExhausted, message).unprocessed();
                return (failure.into(), tried);
            }
            Ok(Ok(())) => {}
        }
        if used.copy().ending() == Ending::Hung && self.may_move() {
            let failure = Failure::new(Outcome::Hung, Code::Unavailable, "the runtime does not answer").unprocessed();
            return (failure.into(), tried);
        }
        if let Some(queued) = queued {
            self.staged(queue, None, "");
            self.shared().metrics.queued(&self.subject.model, queued.elapsed());
        }
        if self.shared().observed.wants_invocations() {
            notes::invoking(&self.facts());
        }
        let infer = self.stage(Stage::Infer);
        let destination = self.shared().runtime.read().clone();
        let end = attempt::run(self, &destination, Towards::Runtime(used.copy()), infer).await;
        let code = match &end {
            End::Failed(failure) if failure.answer.is_some() => Some(failure.code),
            End::Answered => self.caller.ended,
            _ => None,
        };
        if let Some(code) = code {
            self.count_invocation(); // of an attempt before this one
            self.invoked = Some((code, used.ended()));
        }
        self.staged(infer, code, &tried.instance);
        (end, tried)
    }

    /// Whether it goes elsewhere if the runtime does not answer: once. Where the next does not answer either, perhaps because
    /// its calls take long, it stays.
    #[must_use]
    pub fn may_move(&self) -> bool {
        self.rule.idempotent && self.attempts <= 1 && self.hopped.as_ref().is_none_or(|hopped| hopped.tried.is_empty())
    }

    /// Counts how the runtime answered, where that is not told with the end of the call.
    pub fn count_invocation(&mut self) {
        if let Some((code, time)) = self.invoked.take() {
            let vmodel = self.subject.vmodel.as_deref().unwrap_or_default();
            self.shared().metrics.invoked(&self.subject.model, vmodel, self.method(), code, time);
        }
    }

    /// One attempt over a hop.
    pub async fn forward(&mut self, used: RemoteUse, hop: Hop, tried: &[String], view: Option<u64>) -> (End, Tried) {
        self.attempts += 1;
        let who = Tried { instance: Arc::clone(&used.peer.instance), load_id: used.load_id() };
        let Some(destination) = used.peer.destination() else {
            let message = format!("the address of {} is not known", who.instance);
            return (Failure::new(Outcome::Lost, Code::Unavailable, message).unprocessed().into(), who);
        };
        let sent = self.stage(Stage::Hop);
        self.waits_for_load(hop == Hop::Load);
        let end = attempt::run(self, &destination, Towards::Peer { hop, tried, view }, sent).await;
        self.waits_for_load(false);
        let code = match &end {
            End::Failed(failure) => Some(failure.code),
            _ => self.caller.ended,
        };
        self.staged(sent, code, &who.instance);
        (end, who)
    }

    /// No ready copy is known: Python decides.
    async fn miss(&mut self) -> Result<Resolution, End> {
        let subject = self.subject.clone();
        let method = self.method().to_owned();
        let timeout_ms = timeout_ms(self.deadline.as_ref());
        let (balanced, priority) = (self.balanced, self.priority);
        let hopped = self.hopped.as_ref();
        let (hop, tried, view) =
            hopped.map_or((None, Vec::new(), None), |hopped| (Some(hopped.hop), hopped.tried.clone(), hopped.view));
        let token = self.known_token();
        self.hold(Event::Missed { token, subject, method, timeout_ms, hop, tried, view, balanced, priority }).await
    }

    /// Python hears of the failure; if the request can be repeated, it decides what is next.
    pub async fn attempt_failed(
        &mut self,
        failure: Box<Failure>,
        tried: Tried,
    ) -> Result<(Resolution, Box<Failure>), End> {
        let replayable = self.may_repeat(failure.unprocessed);
        // The text clients of the old system match on names the method.
        let message = match failure.outcome {
            Outcome::Unavailable => format!("{}: UNAVAILABLE: {}", self.method(), failure.message),
            _ => failure.message.clone(),
        };
        let event = Event::AttemptFailed {
            token: self.known_token(),
            subject: self.subject.clone(),
            instance: tried.instance.to_string(),
            load_id: tried.load_id,
            outcome: failure.outcome,
            replayable,
            begun: !failure.unprocessed,
            code: failure.code,
            message,
            view: failure.view,
            priority: self.priority,
        };
        if !replayable {
            // Only to know: if the queue is full it is dropped, and counted there.
            let _ = self.shared().events.offer(event);
            self.give_answer(*failure);
            return Err(End::Answered);
        }
        self.hold(event).await.map(|resolution| (resolution, failure))
    }

    /// Gives the client a failed attempt's own answer, or what stands for it.
    pub fn give_answer(&mut self, failure: Failure) {
        let not_here = matches!(
            failure.outcome,
            Outcome::NotHere | Outcome::Moved | Outcome::Busy | Outcome::Draining | Outcome::NoRoom | Outcome::Ended
        );
        if not_here && !self.is_ingress() && !self.caller.has_begun() {
            return self.caller.end(refusal(Outcome::NotHere));
        }
        // Our runtime is away, which another instance's is not; or it went under this call, which may be why.
        let gone = matches!(failure.outcome, Outcome::Lost | Outcome::Hung);
        let repeatable = gone && (failure.unprocessed || self.rule.idempotent);
        if repeatable && !self.is_ingress() && !self.caller.has_begun() {
            return self.caller.end(refusal(if failure.unprocessed { Outcome::Busy } else { Outcome::Lost }));
        }
        if not_here && (self.caller.has_begun() || failure.answer.is_none() || failure.unprocessed) {
            let message = format!("model {} moved while the call was open; repeat it", self.subject.model);
            return self.caller.end(Status::new(Code::Unavailable, message));
        }
        match failure.answer {
            Some(answer) if !self.caller.has_begun() => {
                if let Some(head) = answer.head
                    && self.caller.begin(head).is_err()
                {
                    return self.caller.abandoned();
                }
                self.caller.end_as_received(answer.trailers);
            }
            _ => self.caller.end(Status::new(failure.code, failure.message)),
        }
    }

    /// Holds the request until Python has decided. Meanwhile it is read, up to the bounds.
    pub async fn hold(&mut self, event: Event) -> Result<Resolution, End> {
        let shared = Arc::clone(self.shared());
        let name = self.subject.vmodel.as_ref().filter(|_| self.subject.model.is_empty());
        let name = name.unwrap_or(&self.subject.model).clone();
        let token = self.known_token();
        let mut hold = shared.held.hold(token, &name, self.priority, self.body.kept_bytes()).map_err(End::Refused)?;
        shared.events.offer(event).map_err(|_| {
            End::Refused(Status::new(Code::ResourceExhausted, "the control plane is behind; try again"))
        })?;
        let mut unresolved = Unresolved { shared: &shared, token: Some(hold.token) };
        let (held, stage) = (Instant::now(), self.stage(Stage::Hold));
        self.waits_for_load(true);
        let outcome = poll_fn(|cx| {
            if let Poll::Ready(resolution) = Pin::new(&mut hold.resolution).poll(cx) {
                let closing = |_| Err(Status::new(Code::Unavailable, "the instance is stopping"));
                return Poll::Ready(resolution.unwrap_or_else(closing).map_err(End::Refused));
            }
            while !hold.bytes.budget_is_exhausted()
                && let Poll::Ready(read) = self.body.poll_read_ahead(cx)
            {
                match read {
                    Ok(bytes) => {
                        hold.bytes.add(bytes);
                    }
                    Err(BodyError::Gone) => return Poll::Ready(Err(End::Gone)),
                    Err(BodyError::TooLong(error)) => {
                        let status = Status::new(Code::ResourceExhausted, error.message());
                        return Poll::Ready(Err(End::Refused(status)));
                    }
                }
            }
            poll_stopped(&mut self.caller, &mut self.deadline, cx).map(Err)
        })
        .await;
        if outcome.is_ok() {
            unresolved.token = None;
        }
        drop(unresolved);
        self.waits_for_load(false);
        let (end, detail) = match &outcome {
            Ok(Resolution::Serve) => (HoldEnd::Served, "served"),
            Ok(Resolution::Route) => (HoldEnd::Routed, "routed"),
            Ok(Resolution::Forward { .. }) => (HoldEnd::Forwarded, "forwarded"),
            Ok(Resolution::Return | Resolution::Fail(_)) => (HoldEnd::Failed, "failed"),
            Err(_) => (HoldEnd::Gone, "gone"),
        };
        shared.metrics.held(&self.subject.model, end, held.elapsed());
        self.staged(stage, None, detail);
        outcome
    }
}

/// What a call ends with if Python wants the answer of an attempt that was not made.
fn no_answer() -> End {
    End::Refused(Status::new(Code::Internal, "there is no failed attempt whose answer could be given"))
}

/// Tells Python of a held request that it has gone, also when its task is dropped as a part of a whole.
struct Unresolved<'a> {
    shared: &'a Shared,
    token: Option<u64>,
}

impl Drop for Unresolved<'_> {
    fn drop(&mut self) {
        if let Some(token) = self.token {
            self.shared.events.push(Event::Cancelled { token });
        }
    }
}

/// A refusal, as instances tell it to each other.
#[must_use]
pub fn refusal(outcome: Outcome) -> Status {
    Status::new(Code::Unavailable, format!("refused: {}", outcome.text()))
        .with(MM_REFUSED, http::HeaderValue::from_static(outcome.text()))
}
