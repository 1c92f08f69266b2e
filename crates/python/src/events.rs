//! Events as tuples, in the order of `_native.pyi`.

use modelmesh_core::{Event, Subject};
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
    }
}
