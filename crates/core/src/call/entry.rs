//! From an HTTP/2 request to a call that runs.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue};
use modelmesh_http2::{Accepted, RequestHead};
use tokio::time::Instant;

use crate::access::{self, Listener, Origin, Principal, tenant};
use crate::call::admission::{self, Admitted, Asked};
use crate::call::caller::Caller;
use crate::call::deadline::Deadline;
use crate::call::end::End;
use crate::call::extraction;
use crate::call::fallback::Fallback;
use crate::call::identify::{self, Hopped, Ids};
use crate::call::inference::Call;
use crate::call::multi;
use crate::call::priority::Priority;
use crate::call::rejection::Rejection;
use crate::call::replay::Body;
use crate::call::rules::{MethodRule, method_in};
use crate::call::shadow;
use crate::call::stopped::unless_stopped;
use crate::call::subject::Subject;
use crate::call::version;
use crate::call::who::Who;
use crate::ledger::{Account, Holder};
use crate::observe::metrics::Ended;
use crate::observe::notes;
use crate::routing::naming::Shadowed;
use crate::services::calls::{self, Opening};
use crate::transport::port::Port;
use crate::transport::thread::Worker;
use crate::wire::compression::Purse;
use crate::wire::headers::{MM_BALANCED, MM_VERSION};
use crate::wire::status::{Code, Status};

/// By which connection a request came.
pub struct Arrival<'a> {
    pub port: Port,
    pub address: SocketAddr,
    pub origin: &'a Origin,
}

/// Begins to serve one request: refuses it here, or gives it a task of its own.
///
/// Not async itself: what only the beginning needs would make every task larger.
pub fn begin(worker: &Arc<Worker>, arrival: &Arrival<'_>, account: &Account, (head, stream, answer): Accepted) {
    let Arrival { port, address, origin } = *arrival;
    let RequestHead { method, path, mut headers } = head;
    let mut caller = Caller::new(answer, port == Port::Peer);
    let shared = &worker.shared;
    let asked = Asked { port, origin, method: &method, path: &path, headers: &headers };
    let admitted = match admission::admit(shared, account, &asked) {
        Ok(admitted) => admitted,
        Err(refused) => {
            shared.metrics.rejected(refused.why);
            return refused.tell(&mut caller);
        }
    };
    if !matches!(admitted.who, Who::Unchecked) {
        access::strip(&mut headers);
    }
    let Admitted { deadline, rule, hopped, who, header_bytes } = admitted;
    // Only the ingress keeps a copy: it is the only one to replay.
    let keep = port == Port::Serving && rule.is_some();
    let began = Instant::now();
    let max_message = match &rule {
        Some(_) => shared.settings.max_message_bytes,
        None => calls::MOST_MESSAGE_BYTES.min(shared.settings.max_message_bytes),
    };
    let body = Body::new(stream, max_message, shared.replay.share(), keep);
    let open = worker.load.count_call();
    let Some(rule) = rule else {
        let method = method_in(path.path()).to_owned();
        let holder = Arc::clone(account.holder());
        let listener = origin.listener;
        let opening = Opening { port, listener, peer_address: address.to_string(), holder, method, headers, deadline };
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let method = opening.method.clone();
            let code = calls::serve(&shared, opening, who, caller, body).await;
            shared.metrics.managed(&method, code, began.elapsed());
            drop(open);
        });
        return;
    };
    let holder = Arc::clone(account.holder());
    let known = Known { port, deadline, rule, hopped, header_bytes };
    let mut call = call_of(worker, known, (path, headers), (caller, body), holder);
    let listener = origin.listener;
    // Boxed: a task moves what it is made of three times.
    tokio::spawn(Box::pin(async move {
        serve(&mut call, began, who, listener).await;
        drop(open);
    }));
}

/// What is known of an inference call when it is admitted.
pub struct Known {
    pub port: Port,
    pub deadline: Option<Deadline>,
    pub rule: MethodRule,
    pub hopped: Option<Hopped>,
    pub header_bytes: usize,
}

/// An inference call, of which it is not known yet what it is about. Boxed: it is large, and moved more often than that is worth.
#[inline]
pub fn call_of(
    worker: &Arc<Worker>,
    Known { port, deadline, rule, hopped, header_bytes }: Known,
    (path, headers): (PathAndQuery, HeaderMap),
    (mut caller, mut body): (Caller, Body),
    holder: Arc<Holder>,
) -> Box<Call> {
    let shared = &worker.shared;
    let notes = notes::begin(shared, port, method_in(path.path()), &headers);
    if let Some(notes) = &notes {
        let (request, answer) = notes.copies(shared);
        body.copy_to(request);
        caller.copied = answer;
    }
    let balanced = headers.get(MM_BALANCED).is_some_and(|value| value == HeaderValue::from_static("true"));
    Box::new(Call {
        worker: Arc::clone(worker),
        caller,
        body,
        headers,
        header_bytes,
        path,
        subject: Subject::default(),
        hopped,
        balanced,
        priority: Priority::Normal,
        deadline,
        rule,
        token: None,
        draw: None,
        invoked: None,
        attempts: 0,
        notes,
        loading: None,
        fallback: Fallback::Untried,
        version: None,
        shadowed: Shadowed::Undecided,
        trial: None,
        principal: None,
        holder,
    })
}

/// Serves one inference call to its end.
pub async fn serve(call: &mut Call, began: Instant, who: Who, listener: Listener) {
    let principal = match who {
        Who::Unchecked => None,
        Who::Known(principal) => Some(principal),
        // Rare and large, so not a part of every task.
        who @ Who::Unknown(_) => match Box::pin(settle(call, who)).await {
            Ok(principal) => principal,
            Err(end) => return refuse(call, Rejection::Unauthenticated, end),
        },
    };
    let subjects = match identify(call).await {
        Ok(subjects) => subjects,
        Err(end) => return refuse(call, Rejection::BadId, end),
    };
    if let Some(principal) = principal.as_ref().filter(|principal| principal.highest < call.priority) {
        call.priority = principal.highest;
        call.priority.mark(&mut call.headers);
    }
    if let Some(principal) = principal.as_ref().filter(|principal| principal.tenant.is_some()) {
        tenant::mark(&mut call.headers, &principal.identity.tenant);
        call.principal = Some(Arc::clone(principal));
    }
    let permitted = principal.map(|principal| admission::permit(&principal, subjects.all(), listener, began));
    let turn = match permitted.transpose() {
        Ok(turn) => turn.flatten(),
        Err((why, status)) => return refuse(call, why, End::Refused(status)),
    };
    match subjects {
        Subjects::One(subject) => {
            let may_name_version = call.rule.version_field != 0 && subject.vmodel.is_some() && call.is_ingress();
            call.identified(subject);
            if may_name_version && let Err(end) = read_version(call).await {
                return refuse(call, Rejection::BadId, end);
            }
            call.run().await;
            shadow::send(call);
        }
        Subjects::Many(subjects) => Box::pin(multi::run(call, subjects)).await,
    }
    if let Some(mut turn) = turn {
        turn.bytes = call.body.message_bytes() + call.caller.message_bytes;
    }
    count(call, began);
}

/// Counts a call that has ended, and tells those who want to know.
pub fn count(call: &mut Call, began: Instant) {
    let code = call.caller.ended.unwrap_or(Code::Cancelled);
    let time = began.elapsed();
    use_up(call, code, time);
    if let Some(trial) = call.trial.take() {
        trial.ended(&call.subject.model, code, time);
    }
    if call.is_ingress() {
        call.worker.shared.metrics.requested(&Ended {
            method: call.method(),
            model: &call.subject.model,
            vmodel: call.subject.vmodel.as_deref().unwrap_or_default(),
            code,
            time,
            request_bytes: call.body.message_bytes(),
            response_bytes: call.caller.message_bytes,
            invoked: call.invoked,
        });
    } else {
        call.count_invocation();
    }
    call.tell_end(code, u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
}

/// Counts what a client's call has used of its model.
pub fn use_up(call: &Call, code: Code, time: Duration) {
    if !call.is_ingress() || call.subject.model.is_empty() {
        return;
    }
    let tenant = call.principal.as_ref().map_or("", |principal| principal.identity.tenant.as_str());
    let (ok, bytes) = (code == Code::Ok, call.body.message_bytes() + call.caller.message_bytes);
    let answered = ok || call.invoked.is_some();
    call.worker.shared.usage.called(tenant, &call.subject.model, answered, ok, time, bytes);
}

/// Waits until it is known who calls.
async fn settle(call: &mut Call, who: Who) -> Result<Option<Arc<Principal>>, End> {
    let shared = Arc::clone(&call.worker.shared);
    who.settle(&shared, &mut call.caller, &mut call.deadline).await
}

/// Ends a call before it goes anywhere; `why` is counted if it was us who ended it.
fn refuse(call: &mut Call, why: Rejection, end: End) {
    if matches!(end, End::Refused(_)) {
        call.worker.shared.metrics.rejected(why);
    }
    call.finish(end);
}

/// Looks into the first message of a method whose messages carry ids.
async fn read_message(call: &mut Call) -> Result<Option<Ids>, End> {
    let extracts = !call.rule.extraction_path.is_empty() && call.hopped.is_none();
    if !extracts && call.rule.injection_path.is_empty() {
        return Ok(None);
    }
    let max = call.worker.shared.settings.max_message_bytes;
    let mut purse = Purse::of_requests(&call.worker.shared.replay, &call.holder);
    let (caller, deadline, body) = (&mut call.caller, &mut call.deadline, &mut call.body);
    let message = extraction::first_message(caller, deadline, body, &call.headers, (max, &mut purse));
    let Some(message) = message.await? else {
        return Err(End::Refused(Status::new(Code::Internal, "Half-closed without a request")));
    };
    // Before the runtime is called: afterwards it would have to be told that the call is off.
    extraction::check_injection(&message, &call.rule).map_err(End::Refused)?;
    if extracts { extraction::ids_in(&message, &call.rule).map_err(End::Refused) } else { Ok(None) }
}

/// Reads which version of its vmodel a call chooses in its message, unless a header chooses one.
async fn read_version(call: &mut Call) -> Result<(), End> {
    if call.headers.contains_key(MM_VERSION) {
        return Ok(());
    }
    let (body, number) = (&mut call.body, call.rule.version_field);
    let found = poll_fn(|cx| version::poll_find(body, number, cx));
    call.version = unless_stopped(&mut call.caller, &mut call.deadline, found).await??.map(Box::new);
    Ok(())
}

/// What a call is about.
enum Subjects {
    One(Subject),
    Many(Vec<Subject>),
}

impl Subjects {
    fn all(&self) -> &[Subject] {
        match self {
            Self::One(subject) => std::slice::from_ref(subject),
            Self::Many(subjects) => subjects,
        }
    }
}

/// Reads what the call is about, from its headers and, for some methods, from its first message; and its class.
async fn identify(call: &mut Call) -> Result<Subjects, End> {
    let ids = if call.rule.extraction_path.is_empty() && call.rule.injection_path.is_empty() {
        None
    } else {
        Box::pin(read_message(call)).await?
    };
    if let Some(hopped) = &call.hopped {
        call.priority = hopped.priority;
        return Ok(Subjects::One(hopped.subject.clone()));
    }
    let read = match ids {
        Some(ids) => Priority::claimed(&call.headers).map(|priority| (ids, priority)),
        None => identify::read(&call.headers),
    };
    let (ids, priority) = read.map_err(End::Refused)?;
    call.priority = priority;
    Ok(match ids {
        Ids::Model(model) => Subjects::One(Subject::of_model(model)),
        Ids::VModel(vmodel) => Subjects::One(Subject::of_vmodel(vmodel)),
        Ids::Many { ids, vmodels } => {
            let subject = if vmodels { Subject::of_vmodel } else { Subject::of_model };
            Subjects::Many(ids.into_iter().map(subject).collect())
        }
    })
}
