//! One attempt: a stream on a connection to the runtime or to a peer, relayed until it ends.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use modelmesh_http2::Error;

use crate::call::end::End;
use crate::call::extraction::Injector;
use crate::call::inference::Call;
use crate::call::outcome::{Failure, Outcome};
use crate::call::relay::{Relay, Upstream};
use crate::call::stopped::unless_stopped;
use crate::call::subject::Hop;
use crate::observe::trace::Begun;
use crate::routing::copy::LocalCopy;
use crate::transport::flow::Outflow;
use crate::transport::link::{Lane, Link, Place};
use crate::transport::peers::Destination;
use crate::wire::compression::Purse;
use crate::wire::headers::TRACEPARENT;
use crate::wire::headers::{self, GRPC_TIMEOUT, HopHeaders, TowardsRuntime};
use crate::wire::status::{Code, Status};
use crate::wire::timeout;

/// Attempts on another connection, without asking Python, when the first was stale: it took no new
/// streams any more, so nothing was processed.
const STALE_RETRIES: usize = 2;

/// Where an attempt goes, and what only that side is told.
#[derive(Clone, Copy)]
pub enum Towards<'a> {
    Runtime(&'a LocalCopy),
    Peer { hop: Hop, tried: &'a [String], view: Option<u64> },
}

/// Makes one attempt.
///
/// `stage`: what the other side's spans are children of, if the call is traced.
pub async fn run(call: &mut Call, destination: &Arc<Destination>, towards: Towards<'_>, stage: Option<Begun>) -> End {
    let worker = Arc::clone(&call.worker);
    let link = worker.links.get(&worker.shared, destination);
    let mut left = STALE_RETRIES;
    loop {
        let end = once(call, &link, towards, stage).await;
        match end {
            End::Failed(failure)
                if left > 0
                    && failure.unprocessed
                    && failure.outcome == Outcome::Lost
                    && failure.answer.is_none()
                    && !destination.is_lost()
                    && !call.caller.has_begun()
                    && call.body.can_replay() =>
            {
                left -= 1;
            }
            end => return end,
        }
    }
}

async fn once(call: &mut Call, link: &Arc<Link>, towards: Towards<'_>, stage: Option<Begun>) -> End {
    let lane = if call.holder.is_restless() { Lane::Restless } else { Lane::Common };
    let place = match link.place_now(lane) {
        Some(place) => place,
        // Rare, and larger than what every call needs.
        None => match Box::pin(unless_stopped(&mut call.caller, &mut call.deadline, link.place(lane))).await {
            Ok(Ok(place)) => place,
            Ok(Err(error)) => return never_sent(error.0),
            Err(end) => return end,
        },
    };
    relay(call, link, &place, towards, stage).await
}

async fn relay(call: &mut Call, link: &Link, place: &Place, towards: Towards<'_>, stage: Option<Begun>) -> End {
    let timeout = call.deadline.as_ref().map(|deadline| timeout::format(deadline.left()));
    let trace = call.notes.as_ref().and_then(|notes| notes.trace.as_ref());
    let traceparent = stage.and_then(|stage| Some(trace?.header(stage)));
    let authority = link.destination.authority.as_str();
    let sent = match towards {
        Towards::Runtime(_) => {
            let (from, model) = (&call.headers, call.subject.model.as_str());
            let (timeout, traceparent) = (timeout.as_ref(), traceparent.as_ref());
            let headers = TowardsRuntime { from, from_bytes: call.header_bytes, model, timeout, traceparent };
            place.sender().send(authority, &call.path, &headers, false)
        }
        Towards::Peer { hop, tried, view } => {
            let hop = HopHeaders { hop: hop.text(), tried, view };
            let mut headers = headers::towards_peer(&call.headers, &call.subject, &hop);
            for (name, value) in [(GRPC_TIMEOUT, timeout), (TRACEPARENT, traceparent)] {
                if let Some(value) = value {
                    headers.insert(name, value);
                }
            }
            place.sender().send(authority, &call.path, &headers, false)
        }
    };
    let (answer, request) = match sent {
        Ok(sent) => sent,
        Err(error @ Error::TooLarge { .. }) => {
            return End::Refused(Status::new(Code::ResourceExhausted, error.to_string()));
        }
        Err(error) => {
            place.mark_dead();
            return never_sent(error.to_string());
        }
    };
    call.body.rewind();
    let max_message = call.worker.shared.settings.max_message_bytes;
    // A request that is one message has been looked at already.
    let checks = call.is_ingress() && !call.body.is_one_message();
    let works = (matches!(towards, Towards::Runtime(_)), checks);
    let purse = || Purse::of_requests(&call.worker.shared.replay, &call.holder);
    let injector = Injector::new(&call.rule, &call.headers, &call.subject, works, max_message, purse);
    let (may_move, is_ingress, is_of_vmodel) = (call.may_move(), call.is_ingress(), call.subject.vmodel.is_some());
    let mut relay = Relay {
        caller: &mut call.caller,
        body: &mut call.body,
        upstream: Upstream::new(Outflow::new(request), answer, max_message),
        copy: match towards {
            Towards::Runtime(copy) => Some(copy),
            Towards::Peer { .. } => None,
        },
        may_move,
        is_ingress,
        is_of_vmodel,
        place,
        deadline: call.deadline.as_ref().map(|deadline| deadline.at),
        injector: injector.map(Box::new),
    };
    let deadline = &mut call.deadline;
    let end = poll_fn(|cx| {
        if let Poll::Ready(end) = relay.poll(cx) {
            return Poll::Ready(end);
        }
        match deadline {
            Some(deadline) => deadline.poll(cx).map(|()| End::Late),
            None => Poll::Pending,
        }
    })
    .await;
    if let End::Failed(failure) = &end
        && failure.unprocessed
        && failure.outcome == Outcome::Lost
    {
        // It refused this stream, so it will refuse the next one.
        place.mark_dead();
    }
    end
}

fn never_sent(message: impl Into<String>) -> End {
    Failure::new(Outcome::Lost, Code::Unavailable, message).unprocessed().into()
}
