//! The classes for servers in Python: `ServerSockets`, with the calls on its connections. Each method takes microseconds, so none
//! releases the interpreter; `turn` and `flush` may call quick models.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use bytes::Bytes;
use modelmesh_core as core;
use modelmesh_core::{CallId, Code, Message, Opened, Part, Sockets, Status, framed};
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::held::HeldCall;
use crate::quick::{Outcome, QuickModels, Turn};

/// A call that began.
#[pyclass(frozen, module = "modelmesh._core._native")]
pub struct OpenedCall {
    #[pyo3(get)]
    call: CallId,
    #[pyo3(get)]
    path: String,
    #[pyo3(get)]
    model: Option<Py<PyBytes>>,
    #[pyo3(get)]
    timeout_ms: Option<u64>,
    #[pyo3(get)]
    encoding: Option<String>,
    #[pyo3(get)]
    compressed: bool,
    payload: Option<Bytes>,
    outcome: Option<PyResult<Py<PyAny>>>,
}

impl OpenedCall {
    fn new(py: Python<'_>, opened: Opened, outcome: Option<PyResult<Py<PyAny>>>) -> Self {
        let Opened { call, path, model, timeout_ms, encoding, message } = opened;
        Self {
            call,
            path,
            model: model.map(|model| PyBytes::new(py, &model).unbind()),
            timeout_ms,
            encoding,
            compressed: message.as_ref().is_some_and(|message| message.compressed),
            payload: message.map(|message| message.payload),
            outcome,
        }
    }
}

#[pymethods]
impl OpenedCall {
    #[getter]
    fn message<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.payload.as_ref().map(|payload| PyBytes::new(py, payload))
    }

    #[getter]
    fn has_run(&self) -> bool {
        self.outcome.is_some()
    }

    fn outputs(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        match &self.outcome {
            None => Ok(None),
            Some(Ok(outputs)) => Ok(Some(outputs.clone_ref(py))),
            Some(Err(error)) => Err(error.clone_ref(py)),
        }
    }
}

/// What has happened on the connections.
#[pyclass(frozen, get_all, module = "modelmesh._core._native")]
pub struct Came {
    calls: Vec<Py<OpenedCall>>,
    held: Vec<(Py<PyAny>, Vec<Py<HeldCall>>)>,
    news: Vec<CallId>,
    cancelled: Vec<CallId>,
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

/// The connections of a server, with their sockets.
#[pyclass(frozen, module = "modelmesh._core._native")]
pub struct ServerSockets {
    sockets: Mutex<Sockets>,
    quick: Option<Py<QuickModels>>,
    max_message: usize,
}

impl ServerSockets {
    /// Has quick models answer; what is left is for Python. The lock is free while a model runs.
    fn told(&self, py: Python<'_>, came: core::Came) -> PyResult<Option<Came>> {
        let core::Came { calls, news, cancelled } = came;
        let mut turn = Turn::default();
        let mut left = Vec::new();
        let mut held: Vec<(Py<PyAny>, Vec<Py<HeldCall>>)> = Vec::new();
        for opened in calls {
            let outcome = self
                .quick
                .as_ref()
                .map_or(Outcome::Unasked, |quick| quick.get().run(py, &opened, self.max_message, &mut turn));
            let outcome = match outcome {
                Outcome::Answer(framed) => {
                    self.sockets.lock().answer(opened.call, framed);
                    continue;
                }
                Outcome::Held(take, call) => {
                    match held.iter_mut().find(|(other, _)| other.is(&take)) {
                        Some((_, calls)) => calls.push(call),
                        None => held.push((take, vec![call])),
                    }
                    continue;
                }
                Outcome::Unasked => None,
                Outcome::Other(returned) => Some(returned),
            };
            left.push(Py::new(py, OpenedCall::new(py, opened, outcome))?);
        }
        let is_nothing = left.is_empty() && held.is_empty() && news.is_empty() && cancelled.is_empty();
        Ok((!is_nothing).then_some(Came { calls: left, held, news, cancelled }))
    }
}

#[pymethods]
impl ServerSockets {
    #[new]
    #[pyo3(signature = (*, max_message_bytes, max_unfinished_bytes, quick = None))]
    fn new(max_message_bytes: usize, max_unfinished_bytes: usize, quick: Option<Py<QuickModels>>) -> PyResult<Self> {
        let sockets = Mutex::new(Sockets::new(max_message_bytes, max_unfinished_bytes)?);
        Ok(Self { sockets, quick, max_message: max_message_bytes })
    }

    fn fileno(&self) -> RawFd {
        self.sockets.lock().descriptor()
    }

    fn __len__(&self) -> usize {
        self.sockets.lock().count()
    }

    fn add(&self, descriptor: RawFd) -> PyResult<()> {
        if descriptor < 0 {
            return Err(PyValueError::new_err(format!("{descriptor} is no descriptor")));
        }
        // SAFETY: the stub says that the caller owns it, and gives it away.
        let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(self.sockets.lock().add(owned)?)
    }

    fn turn(&self, py: Python<'_>) -> PyResult<Option<Came>> {
        let came = self.sockets.lock().turn();
        match self.told(py, came)? {
            None => self.flush(py),
            came => Ok(came),
        }
    }

    fn flush(&self, py: Python<'_>) -> PyResult<Option<Came>> {
        loop {
            let came = self.sockets.lock().flush();
            if came.is_empty() {
                return Ok(None);
            }
            if let Some(came) = self.told(py, came)? {
                return Ok(Some(came));
            }
        }
    }

    fn next(&self, py: Python<'_>, call: CallId) -> Option<RequestPart> {
        let part = self.sockets.lock().next(call);
        RequestPart::of(py, part)
    }

    fn answer(&self, call: CallId, message: &[u8]) {
        self.sockets.lock().answer(call, framed(message));
    }

    fn answer_together(&self, calls: Vec<Bound<'_, HeldCall>>, outputs: &Bound<'_, PyAny>) -> Vec<usize> {
        let Some(quick) = &self.quick else { return (0..calls.len()).collect() };
        let answers = quick.get().divided(&calls, outputs, self.max_message);
        let mut sockets = self.sockets.lock();
        let mut left = Vec::new();
        for (at, (call, answer)) in calls.iter().zip(answers).enumerate() {
            match answer {
                Some(framed) => sockets.answer(call.get().call(), framed),
                None => left.push(at),
            }
        }
        left
    }

    fn send(&self, call: CallId, message: &[u8]) -> bool {
        self.sockets.lock().send_message(call, message)
    }

    fn has_room(&self, call: CallId) -> bool {
        self.sockets.lock().has_room(call)
    }

    fn end(&self, call: CallId, status: u64, details: String) -> PyResult<()> {
        let code = Code::from_number(status);
        if code as u64 != status {
            return Err(PyValueError::new_err(format!("{status} is no status of gRPC")));
        }
        self.sockets.lock().end(call, Status::new(code, details));
        Ok(())
    }

    fn look(&self, py: Python<'_>) -> PyResult<Option<Came>> {
        let came = self.sockets.lock().look();
        self.told(py, came)
    }

    fn leave(&self) {
        self.sockets.lock().leave();
    }

    fn close(&self) {
        self.sockets.lock().close();
    }

    fn abort(&self, py: Python<'_>) -> PyResult<Option<Came>> {
        let came = self.sockets.lock().abort();
        self.told(py, came)
    }
}
