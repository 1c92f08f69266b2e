//! The classes `ClientConnection` and `ClientTls`: calls that Python makes itself. Each takes microseconds, so none
//! releases the interpreter.

use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use modelmesh_core as core;
use modelmesh_core::Next;
use parking_lot::Mutex;
use pyo3::exceptions::{PyConnectionError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

/// Trusted authorities, and our certificate and key. PEM.
#[pyclass(frozen, module = "modelmesh._core._native")]
pub struct ClientTls(core::ClientTls);

#[pymethods]
impl ClientTls {
    #[new]
    #[pyo3(signature = (*, trusted = None, certificate_chain = None, private_key = None))]
    fn new(trusted: Option<&[u8]>, certificate_chain: Option<&[u8]>, private_key: Option<&[u8]>) -> PyResult<Self> {
        core::ClientTls::new(trusted, certificate_chain.zip(private_key)).map(Self).map_err(PyValueError::new_err)
    }
}

/// One gRPC connection without a socket.
#[pyclass(frozen, module = "modelmesh._core._native")]
pub struct ClientConnection(Mutex<core::ClientConnection>);

#[pymethods]
impl ClientConnection {
    #[new]
    #[pyo3(signature = (*, authority, max_message_bytes, tls = None, tls_name = ""))]
    fn new(authority: &str, max_message_bytes: usize, tls: Option<&ClientTls>, tls_name: &str) -> PyResult<Self> {
        core::ClientConnection::new(authority, tls.map(|tls| (&tls.0, tls_name)), max_message_bytes)
            .map(|connection| Self(Mutex::new(connection)))
            .map_err(PyValueError::new_err)
    }

    fn open(&self, path: &str, metadata: Vec<(String, String)>, timeout_ms: Option<u64>) -> PyResult<core::CallId> {
        let path: PathAndQuery = path.parse().map_err(|_| PyValueError::new_err(format!("{path:?} is no path")))?;
        let metadata: Vec<_> = metadata
            .into_iter()
            .map(|(name, value)| {
                let known = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(&value).ok());
                known.ok_or_else(|| PyValueError::new_err(format!("the metadata {name:?} cannot be sent")))
            })
            .collect::<PyResult<_>>()?;
        self.0.lock().open(&path, &metadata, timeout_ms.map(Duration::from_millis)).map_err(PyConnectionError::new_err)
    }

    fn send(&self, call: core::CallId, message: &[u8], last: bool) {
        self.0.lock().send(call, message, last);
    }

    fn next<'py>(&self, py: Python<'py>, call: core::CallId) -> PyResult<Option<Bound<'py, PyAny>>> {
        let next = self.0.lock().next(call);
        Ok(match next {
            Next::Message(message) => Some(PyBytes::new(py, &message).into_any()),
            Next::Ended { code, message, unprocessed } => {
                Some((code as u8, message, unprocessed).into_pyobject(py).map(Bound::<PyTuple>::into_any)?)
            }
            Next::Pending => None,
        })
    }

    fn cancel(&self, call: core::CallId) {
        self.0.lock().cancel(call);
    }

    fn receive(&self, data: &[u8]) -> Vec<core::CallId> {
        self.0.lock().receive(data)
    }

    fn lost(&self, why: &str) -> Vec<core::CallId> {
        self.0.lock().lost(why)
    }

    fn close(&self, why: &str) -> Vec<core::CallId> {
        self.0.lock().close(why)
    }

    fn take<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.lock().take())
    }

    fn ping(&self) {
        self.0.lock().ping();
    }

    #[getter]
    fn answered(&self) -> u64 {
        self.0.lock().answered()
    }

    #[getter]
    fn held_bytes(&self) -> usize {
        self.0.lock().held_bytes()
    }

    #[getter]
    fn is_settled(&self) -> bool {
        self.0.lock().is_settled()
    }

    #[getter]
    fn takes_calls(&self) -> bool {
        self.0.lock().takes_calls()
    }

    #[getter]
    fn failure(&self) -> Option<String> {
        self.0.lock().failure().map(ToOwned::to_owned)
    }
}
