//! A call with several model ids: each id is an ordinary call of its own (hit, missed and replayed alone),
//! the answers are joined in header order. Joined protobuf messages are one message: fields merge.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use modelmesh_http2::Headers;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::call::caller::Caller;
use crate::call::deadline::Deadline;
use crate::call::end::End;
use crate::call::entry;
use crate::call::extraction;
use crate::call::fallback::Fallback;
use crate::call::inference::Call;
use crate::call::part::{Part, is_joined, too_large};
use crate::call::replay::Body;
use crate::call::stopped::{poll_stopped, unless_stopped};
use crate::call::subject::Subject;
use crate::routing::naming::Shadowed;
use crate::transport::flow::Gone;
use crate::wire::compression::Purse;
use crate::wire::framing::{PREFIX, framed};
use crate::wire::headers::{MM_MODEL_ID, MM_MODEL_ID_BIN, MM_VMODEL_ID, MM_VMODEL_ID_BIN, TAS_MODEL_ID};
use crate::wire::status::{Code, Status};

/// What an id costs beside its text: its place and its answer's head.
const PART: usize = 512;
/// What a part costs while it runs, beside its headers.
const RUNNING: usize = 8 << 10;
/// What a header costs beside its text.
const HEADER: usize = 224;

fn too_much_metadata() -> End {
    End::Refused(Status::new(
        Code::ResourceExhausted,
        "the joined answer's metadata is larger than a header list may be",
    ))
}

/// Serves a call with several ids, to its end.
pub async fn run(call: &mut Call, subjects: Vec<Subject>) {
    match answer(call, subjects).await {
        Ok(()) => {}
        Err(end) => call.finish(end),
    }
}

/// Runs the parts, and gives the client their joined answer.
async fn answer(call: &mut Call, subjects: Vec<Subject>) -> Result<(), End> {
    let max = call.worker.shared.settings.max_message_bytes;
    let parallelism = call.worker.shared.settings.multi_parallelism.max(1);
    // Each part names its model itself.
    let mut headers = call.headers.clone();
    for name in [MM_MODEL_ID, MM_MODEL_ID_BIN, MM_VMODEL_ID, MM_VMODEL_ID_BIN, TAS_MODEL_ID] {
        headers.remove(name);
    }
    let header_bytes = headers.list_size();
    let parts_bytes = subjects.iter().map(|subject| subject.name().len() + PART).sum::<usize>();
    let lists_bytes = parallelism.min(subjects.len()) * (RUNNING + header_bytes + HEADER * headers.len());
    let charge = call.holder.charge(parts_bytes + lists_bytes).ok_or_else(|| {
        let message = "too much is held for calls with several ids; try again";
        End::Refused(Status::new(Code::ResourceExhausted, message))
    })?;
    extraction::whole_request(&mut call.caller, &mut call.deadline, &mut call.body).await?;
    let request: Vec<Bytes> = call.body.read_so_far().cloned().collect();
    let all_required =
        call.headers.get("mm-required").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"all"));
    let left = Arc::new(AtomicUsize::new(max.saturating_add(64 << 10)));
    let mut parts: Vec<Option<Part>> = subjects.iter().map(|_| None).collect();
    let mut waiting = subjects.into_iter().enumerate();
    let mut metadata_left = call.worker.shared.settings.max_header_bytes;
    // Dropping the set cancels what still runs.
    let mut running = JoinSet::new();
    loop {
        while running.len() < parallelism
            && let Some((index, subject)) = waiting.next()
        {
            running.spawn(one(sub_call(call, subject, (&headers, header_bytes), &request, &left), index));
        }
        let next = poll_fn(|cx| running.poll_join_next(cx));
        let Some(done) = unless_stopped(&mut call.caller, &mut call.deadline, next).await? else { break };
        // A part that panicked fails the call as any other error does.
        let (index, code, part) =
            done.map_err(|_| End::Refused(Status::new(Code::Internal, "one of the models could not be called")))?;
        if part.as_ref().is_some_and(|part| part.overflowed) {
            return Err(End::Refused(too_large(max)));
        }
        match (code, part) {
            (Some(Code::Ok), Some(part)) => {
                metadata_left = metadata_left.checked_sub(part.metadata_bytes()).ok_or_else(too_much_metadata)?;
                parts[index] = Some(part);
            }
            (Some(Code::NotFound), Some(_)) if !all_required => {}
            (Some(code), Some(part)) => {
                call.caller.end_with(trailers_only(part.trailers), code);
                return Ok(());
            }
            _ => return Err(End::Refused(Status::new(Code::Unavailable, "one of the models gave no answer"))),
        }
    }
    let mut purse = Purse::of_requests(&call.worker.shared.replay, &call.holder);
    let joined = join(parts.into_iter().flatten().collect(), max, &mut purse);
    let joined = unless_stopped(&mut call.caller, &mut call.deadline, joined).await?;
    let (head, mut message, trailers) = joined.map_err(End::Refused)?;
    call.caller.begin(head).map_err(|Gone| End::Gone)?;
    call.caller.message_bytes = message.len().saturating_sub(PREFIX) as u64;
    if let Some(copied) = &mut call.caller.copied {
        copied.push(&message);
    }
    let caller = &mut call.caller;
    let deadline = &mut call.deadline;
    poll_fn(|cx| match caller.poll_send(cx, &mut message, |_| ()) {
        Poll::Ready(sent) => Poll::Ready(sent.map_err(|Gone| End::Gone)),
        Poll::Pending => poll_stopped(caller, deadline, cx).map(Err),
    })
    .await?;
    call.caller.end_with(trailers, Code::Ok);
    drop(charge);
    Ok(())
}

/// An error ends the call before anything else of an answer.
fn trailers_only(mut trailers: HeaderMap) -> HeaderMap {
    trailers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/grpc"));
    trailers
}

async fn one(mut call: Call, index: usize) -> (usize, Option<Code>, Option<Part>) {
    let began = Instant::now();
    call.run().await;
    entry::use_up(&call, call.caller.ended.unwrap_or(Code::Cancelled), began.elapsed());
    call.count_invocation();
    (index, call.caller.ended, call.caller.into_part())
}

fn sub_call(
    call: &Call,
    subject: Subject,
    (headers, header_bytes): (&HeaderMap, usize),
    request: &[Bytes],
    left: &Arc<AtomicUsize>,
) -> Call {
    Call {
        worker: Arc::clone(&call.worker),
        caller: Caller::of_part(Part::new(left)),
        // The chunks are shared, and paid for by the whole call.
        body: Body::whole(request.iter().cloned(), call.worker.shared.replay.share()),
        headers: headers.clone(),
        header_bytes,
        path: call.path.clone(),
        subject,
        hopped: None,
        balanced: call.balanced,
        priority: call.priority,
        deadline: call.deadline.as_ref().map(|deadline| Deadline::after(deadline.left())),
        rule: call.rule.clone(),
        token: None,
        draw: None,
        invoked: None,
        attempts: 0,
        notes: None,
        loading: None,
        fallback: Fallback::Untried,
        version: None,
        // What its parts are copies of could not be compared.
        shadowed: Shadowed::No,
        trial: None,
        principal: call.principal.clone(),
        holder: Arc::clone(&call.holder),
    }
}

/// The joined answer: headers, message, trailers.
async fn join(parts: Vec<Part>, max: usize, purse: &mut Purse) -> Result<(HeaderMap, Bytes, HeaderMap), Status> {
    if parts.is_empty() {
        return Err(Status::new(Code::NotFound, "none of the requested models were found"));
    }
    let (mut head, mut trailers, mut joined) = (HeaderMap::new(), HeaderMap::new(), BytesMut::new());
    for part in parts {
        part.payload(max, purse, &mut joined).await?;
        for (name, value) in part.head.iter().flat_map(HeaderMap::iter) {
            if *name == CONTENT_TYPE {
                head.insert(CONTENT_TYPE, value.clone());
            } else if is_joined(name) {
                head.append(name.clone(), value.clone());
            }
        }
        for (name, value) in &part.trailers {
            if is_joined(name) {
                trailers.append(name.clone(), value.clone());
            }
        }
    }
    for (name, value) in &Status::new(Code::Ok, "").into_trailers() {
        trailers.insert(name.clone(), value.clone());
    }
    Ok((head, framed(&joined), trailers))
}
