//! The class `OnnxSession`: an ONNX model that runs without Python.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use modelmesh_core::infer::Input;
use modelmesh_onnx::{Described, Library, Session, Size};
use parking_lot::Mutex;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::{self, Arrays};

/// Libraries that were opened, by path. They stay.
static LIBRARIES: Mutex<Option<HashMap<PathBuf, Arc<Library>>>> = Mutex::new(None);

fn library(path: PathBuf) -> Result<Arc<Library>, String> {
    let mut libraries = LIBRARIES.lock();
    let known = libraries.get_or_insert_default();
    if let Some(library) = known.get(&path) {
        return Ok(Arc::clone(library));
    }
    let library = Arc::new(Library::open(&path)?);
    known.insert(path, Arc::clone(&library));
    Ok(library)
}

/// Name, datatype, and the size of each axis: a number, a name, or None.
type Spec<'py> = (String, &'static str, Vec<Bound<'py, PyAny>>);

/// A model in memory.
#[pyclass(frozen, module = "modelmesh._core._native")]
pub struct OnnxSession {
    session: Mutex<Option<Arc<Session>>>,
    arrays: Arrays,
}

impl OnnxSession {
    /// None: it was closed.
    pub fn session(&self) -> Option<Arc<Session>> {
        self.session.lock().clone()
    }

    fn opened(&self) -> PyResult<Arc<Session>> {
        self.session().ok_or_else(|| PyRuntimeError::new_err("the session was closed"))
    }
}

#[pymethods]
impl OnnxSession {
    #[new]
    #[pyo3(signature = (*, library, model, threads))]
    fn new(py: Python<'_>, library: PathBuf, model: PathBuf, threads: i32) -> PyResult<Self> {
        let opened = py.detach(|| Session::open(self::library(library)?, &model, threads));
        let session = Mutex::new(Some(Arc::new(opened.map_err(PyRuntimeError::new_err)?)));
        Ok(Self { session, arrays: Arrays::new(py)? })
    }

    fn inputs<'py>(&self, py: Python<'py>) -> PyResult<Vec<Spec<'py>>> {
        self.opened()?.inputs().iter().map(|one| spec(py, one)).collect()
    }

    fn outputs<'py>(&self, py: Python<'py>) -> PyResult<Vec<Spec<'py>>> {
        self.opened()?.outputs().iter().map(|one| spec(py, one)).collect()
    }

    fn run<'py>(&self, py: Python<'py>, inputs: &Bound<'py, PyDict>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let session = self.opened()?;
        let mut buffers = Vec::with_capacity(inputs.len());
        for (name, array) in inputs {
            buffers.push((name.extract::<String>()?, PyUntypedBuffer::get(&array)?));
        }
        let mut tensors = Vec::with_capacity(buffers.len());
        for (name, buffer) in &buffers {
            let datatype = arrays::datatype_of(buffer).filter(|_| buffer.is_c_contiguous());
            let datatype = datatype.ok_or_else(|| PyTypeError::new_err(format!("{name:?} is no plain array")))?;
            // SAFETY: the stub says that arrays may not be changed during the call.
            let data = unsafe { arrays::bytes_of(buffer) };
            tensors.push(Input { name, datatype, shape: buffer.shape().to_vec(), data });
        }
        let outputs = py.detach(|| session.run(&tensors)).map_err(PyRuntimeError::new_err)?;
        let tensors = outputs.tensors().map_err(PyRuntimeError::new_err)?;
        tensors.iter().map(|(_, datatype, shape, data)| self.arrays.array(py, *datatype, shape, data)).collect()
    }

    fn close(&self, py: Python<'_>) {
        let session = self.session.lock().take();
        // Giving back hundreds of megabytes takes milliseconds.
        py.detach(|| drop(session));
    }
}

fn spec<'py>(py: Python<'py>, described: &Described) -> PyResult<Spec<'py>> {
    let size = |size: &Size| match size {
        Size::Fixed(size) => size.into_pyobject(py).map(Bound::into_any).map_err(PyErr::from),
        Size::Open(name) => name.as_deref().into_pyobject(py).map_err(PyErr::from),
    };
    let shape = described.shape.iter().map(size).collect::<PyResult<_>>()?;
    Ok((described.name.clone(), described.datatype.name(), shape))
}
