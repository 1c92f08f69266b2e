//! From an HTTP/2 request to a call that runs.

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderValue;
use modelmesh_http2::{Accepted, RequestHead};
use tokio::time::Instant;

use crate::call::admission::{self, Admitted, Asked};
use crate::call::caller::Caller;
use crate::call::end::End;
use crate::call::extraction;
use crate::call::identify::{self, Ids};
use crate::call::inference::Call;
use crate::call::multi;
use crate::call::rejection::Rejection;
use crate::call::replay::Body;
use crate::call::subject::Subject;
use crate::ledger::Account;
use crate::observe::metrics::Ended;
use crate::observe::notes;
use crate::services::calls::{self, Opening};
use crate::transport::port::Port;
use crate::transport::thread::Worker;
use crate::wire::compression::Purse;
use crate::wire::headers::MM_BALANCED;
use crate::wire::status::{Code, Status};

/// Begins to serve one request: refuses it here, or gives it a task of its own.
///
/// Not async itself: what only the beginning needs would make every task larger.
pub fn begin(
    worker: &Arc<Worker>,
    port: Port,
    address: SocketAddr,
    account: &Account,
    (head, stream, answer): Accepted,
) {
    let RequestHead { method, path, headers } = head;
    let mut caller = Caller::new(answer, port == Port::Peer);
    let shared = &worker.shared;
    let asked = Asked { port, method: &method, path: &path, headers: &headers };
    let Admitted { deadline, rule, hopped, header_bytes } = match admission::admit(shared, account, &asked) {
        Ok(admitted) => admitted,
        Err(refused) => {
            shared.metrics.rejected(refused.why);
            return refused.tell(&mut caller);
        }
    };
    // Only the ingress keeps a copy: it is the only one to replay.
    let keep = port == Port::Serving && rule.is_some();
    let began = Instant::now();
    let max_message = match &rule {
        Some(_) => shared.settings.max_message_bytes,
        None => calls::MOST_MESSAGE_BYTES.min(shared.settings.max_message_bytes),
    };
    let mut body = Body::new(stream, max_message, shared.replay.share(), keep);
    let open = worker.load.count_call();
    let Some(rule) = rule else {
        let method = path.path().trim_start_matches('/').to_owned();
        let holder = Arc::clone(account.holder());
        let opening = Opening { port, peer_address: address.to_string(), holder, method, headers, deadline };
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let method = opening.method.clone();
            let code = calls::serve(&shared, opening, caller, body).await;
            shared.metrics.managed(&method, code, began.elapsed());
            drop(open);
        });
        return;
    };
    let notes = notes::begin(shared, port, path.path().trim_start_matches('/'), &headers);
    if let Some(notes) = &notes {
        (body.copied, caller.copied) = notes.copies(shared);
    }
    let balanced = headers.get(MM_BALANCED).is_some_and(|value| value == HeaderValue::from_static("true"));
    let worker = Arc::clone(worker);
    let subject = Subject::default();
    let mut call = Call {
        worker,
        caller,
        body,
        headers,
        header_bytes,
        path,
        subject,
        hopped,
        balanced,
        deadline,
        rule,
        token: None,
        draw: None,
        invoked: None,
        attempts: 0,
        notes,
        holder: Arc::clone(account.holder()),
    };
    // Boxed: a task moves what it is made of three times, and a call is large.
    tokio::spawn(Box::pin(async move {
        serve(&mut call, began).await;
        drop(open);
    }));
}

/// Serves one inference call to its end.
async fn serve(call: &mut Call, began: Instant) {
    match identify(call).await {
        Ok(Named::One(subject)) => {
            call.identified(subject);
            call.run().await;
        }
        // Rare and large, so not a part of every task.
        Ok(Named::Many { ids, vmodels }) => Box::pin(multi::run(call, ids, vmodels)).await,
        Err(end) => {
            if matches!(end, End::Refused(_)) {
                call.worker.shared.metrics.rejected(Rejection::BadId);
            }
            return call.finish(end);
        }
    }
    let code = call.caller.ended.unwrap_or(Code::Cancelled);
    let time = began.elapsed();
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

/// What a call is about.
enum Named {
    One(Subject),
    Many { ids: Vec<String>, vmodels: bool },
}

/// Reads what the call is about, from its headers and, for some methods, from its first message.
async fn identify(call: &mut Call) -> Result<Named, End> {
    let ids = if call.rule.extraction_path.is_empty() && call.rule.injection_path.is_empty() {
        None
    } else {
        Box::pin(read_message(call)).await?
    };
    if let Some(hopped) = &call.hopped {
        return Ok(Named::One(hopped.subject.clone()));
    }
    let ids = match ids {
        Some(ids) => ids,
        None => identify::ids_of(&call.headers).map_err(End::Refused)?,
    };
    Ok(match ids {
        Ids::Model(model) => Named::One(Subject { model, vmodel: None }),
        Ids::VModel(vmodel) => Named::One(Subject { model: String::new(), vmodel: Some(vmodel) }),
        Ids::Many { ids, vmodels } => Named::Many { ids, vmodels },
    })
}
