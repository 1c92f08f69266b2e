//! The class `ServerConnection`: calls that a server in Python answers. Each method takes microseconds, so none releases the
//! interpreter.

use std::sync::Arc;

use modelmesh_core as core;
use modelmesh_core::{CallId, Code, Message, Opened, Part, Status};
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// A call that began.
#[pyclass(frozen, get_all, module = "modelmesh._core._native")]
pub struct OpenedCall {
    call: CallId,
    path: String,
    model: Option<Py<PyBytes>>,
    timeout_ms: Option<u64>,
    encoding: Option<String>,
    message: Option<Py<PyBytes>>,
    compressed: bool,
}

impl OpenedCall {
    fn new(py: Python<'_>, opened: Opened) -> Self {
        let Opened { call, path, model, timeout_ms, encoding, message } = opened;
        Self {
            call,
            path,
            model: model.map(|model| PyBytes::new(py, &model).unbind()),
            timeout_ms,
            encoding,
            compressed: message.as_ref().is_some_and(|message| message.compressed),
            message: message.map(|message| PyBytes::new(py, &message.payload).unbind()),
        }
    }
}

/// What has happened on a connection.
#[pyclass(frozen, get_all, module = "modelmesh._core._native")]
pub struct Came {
    calls: Vec<Py<OpenedCall>>,
    news: Vec<CallId>,
    cancelled: Vec<CallId>,
}

impl Came {
    fn new(py: Python<'_>, came: core::Came) -> PyResult<Option<Self>> {
        let core::Came { calls, news, cancelled } = came;
        if calls.is_empty() && news.is_empty() && cancelled.is_empty() {
            return Ok(None);
        }
        let calls =
            calls.into_iter().map(|opened| Py::new(py, OpenedCall::new(py, opened))).collect::<PyResult<_>>()?;
        Ok(Some(Self { calls, news, cancelled }))
    }
}

/// A part of a request: a message, its end, or why it cannot be read.
#[pyclass(frozen, get_all, module = "modelmesh._core._native")]
pub struct RequestPart {
    message: Option<Py<PyBytes>>,
    compressed: bool,
    is_last: bool,
    status: Option<u8>,
    details: String,
}

impl RequestPart {
    fn of(py: Python<'_>, part: Part) -> Option<Self> {
        let none = Self { message: None, compressed: false, is_last: false, status: None, details: String::new() };
        Some(match part {
            Part::Pending => return None,
            Part::End => Self { is_last: true, ..none },
            Part::Bad(code, details) => Self { status: Some(code as u8), details, ..none },
            Part::Message(Message { compressed, payload }) => {
                Self { message: Some(PyBytes::new(py, &payload).unbind()), compressed, ..none }
            }
        })
    }
}

/// What all connections of a server may hold of requests that are not whole.
#[pyclass(frozen, module = "modelmesh._core._native")]
pub struct Unfinished(Arc<core::Unfinished>);

#[pymethods]
impl Unfinished {
    #[new]
    fn new(max_bytes: usize) -> Self {
        Self(Arc::new(core::Unfinished::new(max_bytes)))
    }
}

/// The server's side of one gRPC connection, without a socket.
#[pyclass(frozen, module = "modelmesh._core._native")]
pub struct ServerConnection(Mutex<core::ServerConnection>);

#[pymethods]
impl ServerConnection {
    #[new]
    #[pyo3(signature = (*, max_message_bytes, unfinished))]
    fn new(max_message_bytes: usize, unfinished: &Unfinished) -> Self {
        Self(Mutex::new(core::ServerConnection::new(max_message_bytes, Arc::clone(&unfinished.0))))
    }

    fn receive(&self, py: Python<'_>, data: &[u8]) -> PyResult<Option<Came>> {
        let came = self.0.lock().receive(data);
        Came::new(py, came)
    }

    fn take<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyBytes>, Option<Came>)> {
        let (bytes, came) = self.0.lock().take();
        Ok((PyBytes::new(py, &bytes), Came::new(py, came)?))
    }

    fn next(&self, py: Python<'_>, call: CallId) -> Option<RequestPart> {
        let part = self.0.lock().next(call);
        RequestPart::of(py, part)
    }

    fn answer(&self, call: CallId, message: &[u8]) {
        self.0.lock().answer(call, message);
    }

    fn send(&self, call: CallId, message: &[u8]) -> bool {
        self.0.lock().send(call, message)
    }

    fn has_room(&self, call: CallId) -> bool {
        self.0.lock().has_room(call)
    }

    fn end(&self, call: CallId, status: u64, details: String) -> PyResult<()> {
        let code = Code::from_number(status);
        if code as u64 != status {
            return Err(PyValueError::new_err(format!("{status} is no status of gRPC")));
        }
        self.0.lock().end(call, Status::new(code, details));
        Ok(())
    }

    fn leave(&self) {
        self.0.lock().leave();
    }

    fn look(&self) -> bool {
        self.0.lock().look()
    }

    fn lost(&self) -> Vec<CallId> {
        self.0.lock().lost()
    }

    #[getter]
    fn has_ended(&self) -> bool {
        self.0.lock().has_ended()
    }

    #[getter]
    fn failure(&self) -> Option<String> {
        self.0.lock().failure().map(ToOwned::to_owned)
    }
}
