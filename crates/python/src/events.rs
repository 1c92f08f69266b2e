//! Events as tuples, in the order of `_native.pyi`.

use modelmesh_core::{Event, Messages, Subject};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

/// First elements of the tuples.
pub mod kinds {
    pub const MISSED: u8 = 0;
    pub const ATTEMPT_FAILED: u8 = 1;
    pub const CALLED: u8 = 2;
    pub const CALL_MESSAGE: u8 = 3;
    pub const CANCELLED: u8 = 4;
    pub const COPY_IDLE: u8 = 5;
    pub const LINK_LOST: u8 = 6;
    pub const LINK_BACK: u8 = 7;
    pub const TAPPED: u8 = 8;
    pub const LOGGED: u8 = 9;
    pub const TRACED: u8 = 10;
}

/// Builds a tuple of elements of any types.
macro_rules! tuple {
    ($py:expr, $($element:expr),+ $(,)?) => {
        PyTuple::new($py, [$($element.into_bound_py_any($py)?),+])
    };
}

pub fn to_tuple(py: Python<'_>, event: Event) -> PyResult<Bound<'_, PyTuple>> {
    match event {
        Event::Missed { token, subject: Subject { model, vmodel }, method, timeout_ms, hop, tried, view, balanced } => {
            let hop = hop.map(modelmesh_core::Hop::text);
            tuple!(py, kinds::MISSED, token, model, vmodel, method, timeout_ms, hop, tried, view, balanced)
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
        } => tuple!(
            py,
            kinds::ATTEMPT_FAILED,
            token,
            model,
            vmodel,
            instance,
            load_id,
            outcome.text(),
            replayable,
            begun,
            code as u8,
            message,
            view,
        ),
        Event::Called { token, port, peer_address, method, metadata, timeout_ms } => {
            let metadata: Vec<_> = metadata.into_iter().map(|(name, value)| (name, PyBytes::new(py, &value))).collect();
            tuple!(py, kinds::CALLED, token, port.text(), peer_address, method, metadata, timeout_ms)
        }
        // The receipt is dropped here: the caller's next message may be read.
        Event::CallMessage { token, message, receipt: _ } => {
            let message = message.map(|message| PyBytes::new(py, &message));
            tuple!(py, kinds::CALL_MESSAGE, token, message)
        }
        Event::Cancelled { token } => tuple!(py, kinds::CANCELLED, token),
        Event::CopyIdle { model, load_id } => tuple!(py, kinds::COPY_IDLE, model, load_id),
        Event::LinkLost { instance } => tuple!(py, kinds::LINK_LOST, instance),
        Event::LinkBack { instance } => tuple!(py, kinds::LINK_BACK, instance),
        Event::Tapped(tapped) => {
            let (request, response) = tapped.messages();
            let Subject { model, vmodel } = &tapped.subject;
            tuple!(
                py,
                kinds::TAPPED,
                format!("{:032x}", tapped.id),
                tapped.taps,
                model,
                vmodel,
                &tapped.method,
                tapped.code as u8,
                tapped.began_ms,
                tapped.duration_us,
                headers(py, &tapped.request_headers),
                headers(py, &tapped.response_headers),
                &tapped.request_encoding,
                &tapped.response_encoding,
                messages(py, &request),
                messages(py, &response),
            )
        }
        Event::Logged(logged) => {
            let Subject { model, vmodel } = &logged.subject;
            tuple!(
                py,
                kinds::LOGGED,
                logged.invocation,
                &logged.id,
                model,
                vmodel,
                &logged.method,
                logged.code as u8,
                &logged.message,
                logged.duration_us,
                logged.attempts,
                logged.request_bytes,
                logged.response_bytes,
                headers(py, &logged.headers),
            )
        }
        Event::Traced { trace, subject: Subject { model, vmodel }, method, spans } => {
            let spans: Vec<_> = spans
                .into_iter()
                .map(|span| {
                    let code = span.code.map(|code| code as u8);
                    (span.stage(), span.id, span.parent, span.start_ns, span.end_ns, code, span.detail)
                })
                .collect();
            tuple!(py, kinds::TRACED, format!("{trace:032x}"), model, vmodel, method, spans)
        }
    }
}

fn headers<'py>(py: Python<'py>, headers: &[(String, Vec<u8>)]) -> Vec<(String, Bound<'py, PyBytes>)> {
    headers.iter().map(|(name, value)| (name.clone(), PyBytes::new(py, value))).collect()
}

fn messages<'py>(py: Python<'py>, messages: &Messages) -> Vec<(bool, Bound<'py, PyBytes>)> {
    messages.iter().map(|(compressed, bytes)| (*compressed, PyBytes::new(py, bytes))).collect()
}
