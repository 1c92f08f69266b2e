//! Copies of calls to the shadow of a vmodel, never in the way of the caller.
//!
//! What passes of a call is kept by reference, within a budget of its own. The copy is sent after the caller has its answer, as
//! a call of the lowest class that is tried once, waits for no load, and has a deadline of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::budget::Share;
use crate::call::caller::Caller;
use crate::call::deadline::Deadline;
use crate::call::end::End;
use crate::call::fallback::Fallback;
use crate::call::inference::Call;
use crate::call::priority::Priority;
use crate::call::replay::Body;
use crate::call::subject::{Hop, Subject};
use crate::clock;
use crate::events::Event;
use crate::ledger::{Holder, Side};
use crate::observe::notes::Notes;
use crate::observe::shadows::ShadowEnd;
use crate::observe::told::Copied;
use crate::routing::naming::{Shadow, Shadowed, WHOLE};
use crate::routing::resolve::{self, Choice};
use crate::shared::Shared;
use crate::wire::compression::{Encoding, Purse, expand};
use crate::wire::framing::PREFIX;
use crate::wire::infer;
use crate::wire::status::{Code, Status};

/// How long a copy of a call may run.
const BOUND: Duration = Duration::from_secs(30);
/// Bytes of the longest answer that is compared. A longer one would keep the thread from others for too long.
const COMPARED: usize = 1 << 20;
/// The method whose answers are compared by their tensors.
const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

impl Call {
    /// It is known whether the vmodel has a shadow. Decides, once, whether the call is copied to it, and begins to.
    pub fn choose_shadow(&mut self, shadow: Option<Arc<Shadow>>) {
        if !matches!(self.shadowed, Shadowed::Undecided) {
            return;
        }
        let Some(shadow) = shadow.filter(|shadow| shadow.takes(fastrand::u8(..WHOLE))) else {
            self.shadowed = Shadowed::No;
            return;
        };
        let shared = &self.worker.shared;
        let budget = &shared.shadow_budgets.bytes;
        // A copy for payload sinks is copied once more in the end.
        if self.body.copied.is_none() {
            self.body.copy_to(Some(Copied::up_to(longest(self), budget.share())));
        }
        if shadow.compares && self.caller.copied.is_none() {
            self.caller.copied = Some(Copied::up_to(COMPARED, budget.share()));
        }
        self.shadowed = Shadowed::Yes(shadow);
    }
}

/// Bytes of the longest request that is copied.
fn longest(call: &Call) -> usize {
    call.worker.shared.settings.max_message_bytes.saturating_add(PREFIX)
}

/// A copy of a call.
struct Copy {
    call: Call,
    vmodel: String,
    shadow: Arc<Shadow>,
    /// What the caller was answered, if that is compared. None: it is not wanted, or too long, or there was no room for it.
    expected: Option<Box<Copied>>,
    /// Pays for the request.
    _request: Box<Copied>,
    /// Its place among those that run.
    _place: Share,
}

/// The call has ended: sends the copy of it, if there is to be one. Nothing waits for that.
pub fn send(call: &mut Call) {
    let Shadowed::Yes(shadow) = std::mem::take(&mut call.shadowed) else { return };
    let Some(vmodel) = call.subject.vmodel.clone() else { return };
    // Only what the vmodel itself has answered well can be compared.
    let is_answered = call.caller.ended == Some(Code::Ok) && call.caller.fallback.is_none();
    if !is_answered || *call.subject.model == *shadow.model {
        return;
    }
    let shared = Arc::clone(&call.worker.shared);
    let counted = |end: ShadowEnd| shared.shadows.count(&vmodel, &shadow.model, end as usize);
    if call.body.messages() != 1 {
        return counted(ShadowEnd::Stream);
    }
    let budgets = &shared.shadow_budgets;
    // A copy that payload sinks want stays theirs.
    let is_tapped = call.notes.as_deref().is_some_and(Notes::wants_payloads);
    let of = |copied: &mut Option<Box<Copied>>, max| {
        let copied = match copied {
            Some(copied) if is_tapped => Some(copied.again(max, budgets.bytes.share())),
            copied => copied.take(),
        };
        copied.filter(|copied| copied.is_whole())
    };
    let longest = longest(call);
    let request = of(&mut call.body.copied, longest);
    let expected = if shadow.compares { of(&mut call.caller.copied, COMPARED) } else { None };
    let mut place = budgets.at_once.share();
    let (Some(request), true) = (request, place.grow(1)) else { return counted(ShadowEnd::Dropped) };
    let holder = Arc::clone(shared.ledger.open(Side::Clients, "shadow").holder());
    let mut headers = call.headers.clone();
    Priority::Low.mark(&mut headers);
    let mut caller = Caller::of_copy();
    caller.copied = expected.is_some().then(|| Copied::up_to(COMPARED, budgets.bytes.share()));
    let copy = Copy {
        call: Call {
            worker: Arc::clone(&call.worker),
            caller,
            // The chunks are shared, and paid for by the copy.
            body: Body::whole(request.chunks().cloned(), shared.replay.share()),
            headers,
            header_bytes: call.header_bytes,
            path: call.path.clone(),
            subject: Subject::of_model(shadow.model.to_string()),
            hopped: None,
            balanced: false,
            priority: Priority::Low,
            deadline: Some(Deadline::after(BOUND)),
            rule: call.rule.clone(),
            token: None,
            draw: None,
            invoked: None,
            attempts: 0,
            notes: None,
            loading: None,
            fallback: Fallback::Over,
            version: None,
            shadowed: Shadowed::No,
            trial: None,
            principal: None,
            holder,
        },
        vmodel,
        shadow,
        expected,
        _request: request,
        _place: place,
    };
    tokio::spawn(Box::pin(copy.run()));
}

impl Copy {
    async fn run(mut self) {
        let shared = Arc::clone(&self.call.worker.shared);
        let end = self.end().await;
        self.call.count_invocation();
        shared.shadows.count(&self.vmodel, &self.shadow.model, end as usize);
    }

    async fn end(&mut self) -> ShadowEnd {
        let call = &mut self.call;
        let (end, tried) = match resolve::choose(call.shared(), &self.shadow.model, false) {
            Choice::Local(used) => call.serve(Some(used)).await,
            Choice::Remote(used) => call.forward(used, Hop::Hit, &[], None).await,
            Choice::Miss => {
                self.ask_for_a_load();
                return ShadowEnd::Cold;
            }
        };
        match end {
            // Told, because it may say something about the copy of the model. It is not repeated.
            End::Failed(failure) => drop(call.attempt_failed(failure, tried).await),
            end => call.finish(end),
        }
        if call.caller.ended != Some(Code::Ok) {
            return ShadowEnd::Failed;
        }
        let answer = call.caller.copied.take().filter(|copied| copied.is_whole());
        let (Some(expected), Some(answer)) = (self.expected.take(), answer) else { return ShadowEnd::Answered };
        let (shared, holder) = (Arc::clone(call.shared()), Arc::clone(&call.holder));
        let reader = Reader { shared, holder, is_infer: call.path.path() == INFER };
        match reader.are_same(&expected, &answer).await {
            Ok(true) => ShadowEnd::Equal,
            Ok(false) => ShadowEnd::Different,
            Err(_) => ShadowEnd::Answered,
        }
    }

    /// The next copies find the model, once it is loaded.
    fn ask_for_a_load(&self) {
        let shared = &self.call.worker.shared;
        if self.shadow.is_to_be_told(clock::monotonic_ms().max(1)) {
            let subject = Subject { model: self.shadow.model.to_string(), vmodel: Some(self.vmodel.clone()) };
            // If the queue is full it is dropped and counted there; it is sent again.
            let _ = shared.events.offer(Event::Wanted { subject, fallback: None, failure: None });
        }
    }
}

/// Reads answers to compare them.
struct Reader {
    shared: Arc<Shared>,
    holder: Arc<Holder>,
    /// They are those of `ModelInfer`.
    is_infer: bool,
}

impl Reader {
    /// Whether two answers say the same.
    ///
    /// # Errors
    /// A compressed one is damaged, or there is no room for what it holds.
    async fn are_same(&self, one: &Copied, other: &Copied) -> Result<bool, Status> {
        let why = "too much is held for copies of calls";
        let mut purse = Purse::new(&self.shared.shadow_budgets.bytes, &self.holder, why);
        let (one, other) = (messages(one, &mut purse).await?, messages(other, &mut purse).await?);
        let pair = |(one, other): (&Bytes, &Bytes)| one == other || self.is_infer && infer::says_the_same(one, other);
        Ok(one.len() == other.len() && one.iter().zip(&other).all(pair))
    }
}

/// The messages of an answer, as they were before compression; the purse pays for what they have grown to.
async fn messages(copied: &Copied, purse: &mut Purse) -> Result<Vec<Bytes>, Status> {
    let encoding = Encoding::of(&copied.headers);
    let mut messages = Vec::new();
    for message in copied.messages() {
        messages.push(expand(message, encoding, COMPARED, purse).await?);
    }
    Ok(messages)
}
