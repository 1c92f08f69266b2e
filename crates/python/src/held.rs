//! The class `HeldCall`: a call of a model that takes batches. Several of them are one call of the model: their tensors become one
//! array for each input, row after row, and the rows of its answer are divided among them.

use std::sync::Arc;

use bytes::Bytes;
use modelmesh_core::infer::{self, Input, Output, Request};
use modelmesh_core::{CallId, Opened};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::arrays::{Arrays, Returned};

/// Name and datatype of the outputs that are known of a model.
pub type Said = Arc<[(String, String)]>;

/// A call that was read, and fits its model.
#[pyclass(frozen, module = "modelmesh._core._native")]
pub struct HeldCall {
    #[pyo3(get)]
    call: CallId,
    #[pyo3(get)]
    path: String,
    #[pyo3(get)]
    model: Option<Py<PyBytes>>,
    #[pyo3(get)]
    timeout_ms: Option<u64>,
    #[pyo3(get)]
    rows: usize,
    #[pyo3(get)]
    kind: Py<PyBytes>,
    payload: Bytes,
    id: String,
    said: Said,
}

#[pymethods]
impl HeldCall {
    #[getter]
    fn message<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.payload)
    }
}

impl HeldCall {
    /// None: it cannot be in a batch.
    pub fn of(
        py: Python<'_>,
        opened: &Opened,
        payload: &Bytes,
        request: &Request<'_>,
        id: &str,
        said: &Said,
    ) -> Option<Py<Self>> {
        let rows = rows_of(&request.inputs)?;
        let held = Self {
            call: opened.call,
            path: opened.path.clone(),
            model: opened.model.as_ref().map(|model| PyBytes::new(py, model).unbind()),
            timeout_ms: opened.timeout_ms,
            rows,
            kind: PyBytes::new(py, &kind_of(&request.inputs)).unbind(),
            payload: payload.clone(),
            id: id.to_owned(),
            said: Arc::clone(said),
        };
        Py::new(py, held).ok()
    }

    pub fn call(&self) -> CallId {
        self.call
    }

    /// None never comes: it was read before.
    fn request(&self) -> Option<Request<'_>> {
        infer::read(&self.payload)
    }
}

/// Rows of each input. None: they differ in that, or have none.
fn rows_of(inputs: &[Input<'_>]) -> Option<usize> {
    let rows = *inputs.first()?.shape.first()?;
    (rows > 0 && inputs.iter().all(|input| input.shape.first() == Some(&rows))).then_some(rows)
}

/// Equal for requests whose inputs have the same names, datatypes, and shapes behind the first axis.
fn kind_of(inputs: &[Input<'_>]) -> Vec<u8> {
    let mut sorted: Vec<&Input<'_>> = inputs.iter().collect();
    sorted.sort_unstable_by_key(|input| input.name);
    let mut kind = Vec::with_capacity(32 * inputs.len());
    for input in sorted {
        kind.extend((input.name.len() as u64).to_le_bytes());
        kind.extend(input.name.as_bytes());
        kind.push(input.datatype as u8);
        kind.extend((input.shape.len() as u64).to_le_bytes());
        input.shape[1..].iter().for_each(|size| kind.extend((*size as u64).to_le_bytes()));
    }
    kind
}

/// The inputs of calls of one kind as one, row after row.
pub fn joined<'py>(py: Python<'py>, arrays: &Arrays, calls: &[Bound<'py, HeldCall>]) -> PyResult<Bound<'py, PyDict>> {
    let differ = || PyValueError::new_err("the calls are not of one kind");
    let requests: Vec<Request<'_>> = calls.iter().filter_map(|call| call.get().request()).collect();
    let rows = calls.iter().map(|call| call.get().rows).sum();
    let inputs = PyDict::new(py);
    for input in requests.first().map_or(&[][..], |first| &first.inputs) {
        let mut parts = Vec::with_capacity(requests.len());
        for request in &requests {
            let same = request.inputs.iter().find(|other| other.name == input.name);
            parts.push(same.ok_or_else(differ)?.data);
        }
        let mut shape = input.shape.clone();
        *shape.first_mut().ok_or_else(differ)? = rows;
        inputs.set_item(input.name, arrays.joined(py, input.datatype, &shape, &parts)?)?;
    }
    Ok(inputs)
}

/// The answer to each of these calls, with the rows that are its own; that of a lone call has all. None: the outputs are not such
/// that all can have theirs; or one wants an output that there is not.
pub fn divided(calls: &[Bound<'_, HeldCall>], returned: &Returned<'_>) -> Option<Vec<Option<Bytes>>> {
    let first = calls.first()?.get();
    // SAFETY: nothing runs here that could change the arrays.
    let outputs = unsafe { returned.outputs(&first.said) }?;
    if let [_] = calls {
        return Some(vec![first.request().and_then(|request| infer::write(&request, &first.id, &outputs))]);
    }
    let rows: usize = calls.iter().map(|call| call.get().rows).sum();
    if outputs.iter().any(|output| output.shape.first() != Some(&rows)) {
        return None;
    }
    let mut shapes: Vec<Vec<usize>> = outputs.iter().map(|output| output.shape.to_vec()).collect();
    let mut begin = 0;
    let mut answers = Vec::with_capacity(calls.len());
    for call in calls {
        let call = call.get();
        let end = begin + call.rows;
        for shape in &mut shapes {
            shape[0] = call.rows;
        }
        let parts: Vec<Output<'_>> = outputs
            .iter()
            .zip(&shapes)
            .map(|(output, shape)| {
                let width = output.data.len() / rows;
                let data = &output.data[begin * width..end * width];
                Output { name: output.name, datatype: output.datatype, shape, data }
            })
            .collect();
        answers.push(call.request().and_then(|request| infer::write(&request, &call.id, &parts)));
        begin = end;
    }
    Some(answers)
}
