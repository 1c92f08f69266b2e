//! Events as objects with named, typed fields; `_native.pyi` documents them.

use modelmesh_core::{Event, Messages, Subject};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use pyo3::{PyClass, PyClassInitializer};

type Headers = Vec<(String, Py<PyBytes>)>;
type Payloads = Vec<(bool, Py<PyBytes>)>;

/// Frozen classes whose every field can be read.
macro_rules! classes {
    ($($name:ident { $($field:ident: $kind:ty),+ $(,)? })+) => {
        $(
            #[pyclass(frozen, get_all, module = "modelmesh._core._native")]
            pub struct $name {
                $($field: $kind),+
            }
        )+
    };
}

classes! {
    Missed {
        token: u64,
        model: String,
        vmodel: Option<String>,
        method: String,
        timeout_ms: Option<u64>,
        hop: Option<&'static str>,
        tried: Vec<String>,
        view: Option<u64>,
        balanced: bool,
        priority: &'static str,
    }
    Overdue { token: u64, model: String, vmodel: Option<String>, until_deadline: bool }
    Wanted { model: String, vmodel: Option<String>, fallback: Option<String>, failure: Option<String> }
    AttemptFailed {
        token: u64,
        model: String,
        vmodel: Option<String>,
        instance: String,
        load_id: u64,
        outcome: &'static str,
        replayable: bool,
        begun: bool,
        status: u8,
        message: String,
        view: Option<u64>,
        priority: &'static str,
    }
    Called {
        token: u64,
        port: &'static str,
        listener: &'static str,
        identity: Option<(String, Vec<String>, String)>,
        peer_address: String,
        method: String,
        metadata: Headers,
        timeout_ms: Option<u64>,
    }
    Asked { token: u64, certificate: bool, credential: Py<PyBytes> }
    CallMessage { token: u64, message: Option<Py<PyBytes>> }
    Cancelled { token: u64 }
    CopyIdle { model: String, load_id: u64 }
    LinkLost { instance: String }
    LinkBack { instance: String }
    Tapped {
        id: String,
        taps: u64,
        model: String,
        vmodel: Option<String>,
        method: String,
        status: u8,
        began_ms: u64,
        duration_us: u64,
        request_headers: Headers,
        response_headers: Headers,
        request_encoding: String,
        response_encoding: String,
        request: Payloads,
        response: Payloads,
    }
    Logged {
        invocation: bool,
        id: String,
        model: String,
        vmodel: Option<String>,
        method: String,
        status: u8,
        message: String,
        duration_us: u64,
        attempts: u32,
        request_bytes: u64,
        response_bytes: u64,
        headers: Headers,
    }
    Span {
        stage: &'static str,
        id: u64,
        parent: u64,
        start_ns: u64,
        end_ns: u64,
        status: Option<u8>,
        detail: String,
    }
    Traced { trace: u128, model: String, vmodel: Option<String>, method: String, spans: Vec<Py<Span>> }
}

/// The object of one event.
pub fn to_object(py: Python<'_>, event: Event) -> PyResult<Py<PyAny>> {
    match event {
        Event::Missed {
            token,
            subject: Subject { model, vmodel },
            method,
            timeout_ms,
            hop,
            tried,
            view,
            balanced,
            priority,
        } => {
            let (hop, priority) = (hop.map(modelmesh_core::Hop::text), priority.text());
            object(py, Missed { token, model, vmodel, method, timeout_ms, hop, tried, view, balanced, priority })
        }
        Event::Overdue { token, subject: Subject { model, vmodel }, until_deadline } => {
            object(py, Overdue { token, model, vmodel, until_deadline })
        }
        Event::Wanted { subject: Subject { model, vmodel }, fallback, failure } => {
            object(py, Wanted { model, vmodel, fallback, failure })
        }
        Event::AttemptFailed {
            token,
            subject: Subject { model, vmodel },
            instance,
            load_id,
            outcome,
            replayable,
            begun,
            code,
            message,
            view,
            priority,
        } => {
            let (outcome, status, priority) = (outcome.text(), code as u8, priority.text());
            let failed = AttemptFailed {
                token,
                model,
                vmodel,
                instance,
                load_id,
                outcome,
                replayable,
                begun,
                status,
                message,
                view,
                priority,
            };
            object(py, failed)
        }
        Event::Called { token, port, listener, identity, peer_address, method, metadata, timeout_ms } => {
            let metadata = headers(py, &metadata);
            let identity = identity.map(|who| (who.name, who.groups, who.tenant));
            let (port, listener) = (port.text(), listener.text());
            object(py, Called { token, port, listener, identity, peer_address, method, metadata, timeout_ms })
        }
        Event::Asked(modelmesh_core::Asked { token, certificate, credential }) => {
            object(py, Asked { token, certificate, credential: bytes(py, &credential) })
        }
        // The receipt is dropped here: the caller's next message may be read.
        Event::CallMessage { token, message, receipt: _ } => {
            object(py, CallMessage { token, message: message.map(|message| bytes(py, &message)) })
        }
        Event::Cancelled { token } => object(py, Cancelled { token }),
        Event::CopyIdle { model, load_id } => object(py, CopyIdle { model, load_id }),
        Event::LinkLost { instance } => object(py, LinkLost { instance }),
        Event::LinkBack { instance } => object(py, LinkBack { instance }),
        Event::Tapped(tapped) => object(py, payloads_of(py, *tapped)),
        Event::Logged(logged) => {
            let logged = *logged;
            object(
                py,
                Logged {
                    invocation: logged.invocation,
                    id: logged.id,
                    model: logged.subject.model,
                    vmodel: logged.subject.vmodel,
                    method: logged.method,
                    status: logged.code as u8,
                    message: logged.message,
                    duration_us: logged.duration_us,
                    attempts: logged.attempts,
                    request_bytes: logged.request_bytes,
                    response_bytes: logged.response_bytes,
                    headers: headers(py, &logged.headers),
                },
            )
        }
        Event::Traced { trace, subject: Subject { model, vmodel }, method, spans } => {
            let spans = spans
                .into_iter()
                .map(|span| {
                    let (stage, status) = (span.stage(), span.code.map(|code| code as u8));
                    let modelmesh_core::Span { id, parent, start_ns, end_ns, detail, .. } = span;
                    Py::new(py, Span { stage, id, parent, start_ns, end_ns, status, detail })
                })
                .collect::<PyResult<_>>()?;
            object(py, Traced { trace, model, vmodel, method, spans })
        }
    }
}

/// The payloads of a call.
fn payloads_of(py: Python<'_>, tapped: modelmesh_core::Tapped) -> Tapped {
    let (request, response) = tapped.messages();
    Tapped {
        id: format!("{:032x}", tapped.id),
        taps: tapped.taps,
        model: tapped.subject.model,
        vmodel: tapped.subject.vmodel,
        method: tapped.method,
        status: tapped.code as u8,
        began_ms: tapped.began_ms,
        duration_us: tapped.duration_us,
        request_headers: headers(py, &tapped.request_headers),
        response_headers: headers(py, &tapped.response_headers),
        request_encoding: tapped.request_encoding,
        response_encoding: tapped.response_encoding,
        request: payloads(py, &request),
        response: payloads(py, &response),
    }
}

fn object<T: PyClass + Into<PyClassInitializer<T>>>(py: Python<'_>, value: T) -> PyResult<Py<PyAny>> {
    Ok(Py::new(py, value)?.into_any())
}

fn bytes(py: Python<'_>, value: &[u8]) -> Py<PyBytes> {
    PyBytes::new(py, value).unbind()
}

fn headers(py: Python<'_>, headers: &[(String, Vec<u8>)]) -> Headers {
    headers.iter().map(|(name, value)| (name.clone(), bytes(py, value))).collect()
}

fn payloads(py: Python<'_>, messages: &Messages) -> Payloads {
    messages.iter().map(|(compressed, message)| (*compressed, bytes(py, message))).collect()
}
