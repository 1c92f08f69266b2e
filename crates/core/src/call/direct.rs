//! A unary call whose request is here and whose answer is taken as a whole. It needs no stream, and no task beside that of whoever
//! waits for the answer.

use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use tokio::time::Instant;

use crate::access::{self, Listener};
use crate::call::admission::{self, Admitted, Asked};
use crate::call::caller::Caller;
use crate::call::entry::{self, Arrival, Known};
use crate::call::inference::Call;
use crate::call::replay::Body;
use crate::call::rules::{Answerer, method_in};
use crate::call::who::Who;
use crate::call::whole::Whole;
use crate::ledger::Account;
use crate::shared::Shared;
use crate::transport::port::Port;
use crate::transport::purse::Purse;
use crate::transport::thread::{OpenCall, Worker};
use crate::wire::status::{Code, Status};

/// What is asked.
pub struct Request<'a> {
    pub path: &'a PathAndQuery,
    pub headers: HeaderMap,
    /// With its prefix.
    pub message: Bytes,
    /// Pays for the answer.
    pub purse: Purse,
}

/// Whether models answer this method, so that `begin` takes a call of it.
#[must_use]
pub fn is_for_models(shared: &Shared, path: &PathAndQuery) -> bool {
    let method = method_in(path.path());
    matches!(shared.rules.read().answerer(Port::Serving, method), Ok(Answerer::Model(_)))
}

/// Begins a call of a client. It goes on while the future is polled, on a thread whose worker this is. Dropped before its end, it
/// is cancelled.
///
/// None, and nothing was done: it is not `is_for_models`.
pub fn begin(
    worker: &Arc<Worker>,
    arrival: &Arrival<'_>,
    account: &Account,
    request: Request<'_>,
) -> impl Future<Output = Option<Whole>> + Send + use<> {
    let prepared = prepare(worker, arrival, account, request);
    async move {
        match prepared {
            Ok(prepared) => prepared.run().await,
            Err(caller) => caller.into_whole(),
        }
    }
}

/// A call that may run.
struct Prepared {
    running: Running,
    who: Who,
    listener: Listener,
    _open: OpenCall,
}

/// # Errors
/// It is refused; the caller was told why.
fn prepare(
    worker: &Arc<Worker>,
    Arrival { port, origin, .. }: &Arrival<'_>,
    account: &Account,
    Request { path, mut headers, message, purse }: Request<'_>,
) -> Result<Prepared, Caller> {
    let shared = &worker.shared;
    let max_message = shared.settings.max_message_bytes;
    let mut caller = Caller::of_whole(Whole::new(max_message, purse));
    let asked = Asked { port: *port, origin, method: &Method::POST, path, headers: &headers };
    let Admitted { deadline, rule, hopped, who, header_bytes } = match admission::admit(shared, account, &asked) {
        Ok(admitted) => admitted,
        Err(refused) => {
            shared.metrics.rejected(refused.why);
            refused.tell(&mut caller);
            return Err(caller);
        }
    };
    if !matches!(who, Who::Unchecked) {
        access::strip(&mut headers);
    }
    let Some(rule) = rule else {
        caller.end(Status::new(Code::Internal, "no model answers this method"));
        return Err(caller);
    };
    let body = match Body::of_message(message, max_message, shared.replay.share()) {
        Ok(body) => body,
        Err(too_long) => {
            caller.end(Status::new(Code::ResourceExhausted, too_long.message()));
            return Err(caller);
        }
    };
    let known = Known { port: *port, deadline, rule, hopped, header_bytes };
    let holder = Arc::clone(account.holder());
    let call = entry::call_of(worker, known, (path.clone(), headers), (caller, body), holder);
    let running = Running { call: Some(call), began: Instant::now() };
    Ok(Prepared { running, who, listener: origin.listener, _open: worker.load.count_call() })
}

impl Prepared {
    async fn run(self) -> Option<Whole> {
        let Self { mut running, who, listener, _open } = self;
        let began = running.began;
        // Boxed: what waits for the answer is moved more often than that is worth.
        Box::pin(entry::serve(running.call.as_mut()?, began, who, listener)).await;
        running.call.take()?.caller.into_whole()
    }
}

/// A call that has begun. Dropped before its end, it counts as given up.
struct Running {
    /// None: it has ended.
    call: Option<Box<Call>>,
    began: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut call) = self.call.take() else { return };
        call.holder.gives_up();
        call.caller.abandoned();
        // Of one that was not identified nothing is counted, however it ends.
        if !call.subject.name().is_empty() {
            entry::count(&mut call, self.began);
        }
    }
}
