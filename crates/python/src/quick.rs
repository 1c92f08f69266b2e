//! The class `QuickModels`: models whose calls are answered within the turn that reads them. Tensors become numpy arrays, and the
//! arrays that a model returns an answer, without a message of Python's in between.
//!
//! What is unusual is left to Python, before the model runs or after it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use modelmesh_core::infer::{self, Datatype, Input, Output, Request};
use modelmesh_core::{Opened, PREFIX, thread_cpu};
use parking_lot::Mutex;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::arrays::{self, Arrays};
use crate::onnx::OnnxSession;

/// How a call was answered.
pub enum Outcome {
    /// Its answer, with the prefix of gRPC.
    Answer(Bytes),
    /// No quick model was called.
    Unasked,
    /// What the model returned or raised: Python makes the answer.
    Other(PyResult<Py<PyAny>>),
}

/// The clocks at the beginning of a turn, once a model has been called in it.
#[derive(Default)]
pub struct Turn(Option<(Instant, Duration)>);

/// An input as the model's signature has it.
struct Spec {
    name: String,
    datatypes: Vec<Datatype>,
    /// -1: any size.
    shape: Vec<i64>,
}

impl Spec {
    fn fits(&self, input: &Input<'_>) -> bool {
        self.datatypes.contains(&input.datatype)
            && self.shape.len() == input.shape.len()
            && self
                .shape
                .iter()
                .zip(&input.shape)
                .all(|(wanted, size)| *wanted == -1 || usize::try_from(*wanted) == Ok(*size))
    }
}

/// What answers.
enum Infer {
    Python(Py<PyAny>),
    Onnx(Py<OnnxSession>),
}

struct Model {
    infer: Infer,
    /// None: requests are not checked.
    inputs: Option<Vec<Spec>>,
    outputs: Vec<(String, String)>,
    /// A call that takes longer is told.
    slow: Duration,
    was_slow: Py<PyAny>,
    /// Calls since the last that was told.
    calls: AtomicU64,
}

impl Model {
    fn takes(&self, request: &Request<'_>) -> bool {
        let Some(specs) = &self.inputs else { return true };
        // No name comes twice on either side.
        specs.len() == request.inputs.len()
            && request.inputs.iter().all(|input| specs.iter().any(|spec| spec.name == input.name && spec.fits(input)))
    }
}

/// Models by id.
#[pyclass(frozen, module = "modelmesh._core._native")]
pub struct QuickModels {
    path: String,
    arrays: Arrays,
    models: Mutex<HashMap<String, Arc<Model>>>,
}

#[pymethods]
impl QuickModels {
    #[new]
    fn new(py: Python<'_>, path: String) -> PyResult<Self> {
        Ok(Self { path, arrays: Arrays::new(py)?, models: Mutex::default() })
    }

    #[pyo3(signature = (model, *, infer, inputs, outputs, slow_us, was_slow))]
    fn put(
        &self,
        model: String,
        infer: &Bound<'_, PyAny>,
        inputs: Vec<(String, Vec<String>, Vec<i64>)>,
        outputs: Vec<(String, String)>,
        slow_us: u64,
        was_slow: Py<PyAny>,
    ) {
        let spec = |(name, datatypes, shape): (String, Vec<String>, Vec<i64>)| Spec {
            name,
            datatypes: datatypes.iter().filter_map(|datatype| Datatype::named(datatype)).collect(),
            shape,
        };
        let inputs = (!inputs.is_empty()).then(|| inputs.into_iter().map(spec).collect());
        let slow = Duration::from_micros(slow_us);
        let infer = match infer.cast::<OnnxSession>() {
            Ok(session) => Infer::Onnx(session.clone().unbind()),
            Err(_) => Infer::Python(infer.clone().unbind()),
        };
        let put = Model { infer, inputs, outputs, slow, was_slow, calls: AtomicU64::new(0) };
        let before = self.models.lock().insert(model, Arc::new(put));
        // Not under the lock: its objects may run code when they go.
        drop(before);
    }

    fn remove(&self, model: &str) {
        let removed = self.models.lock().remove(model);
        drop(removed);
    }
}

impl QuickModels {
    /// Answers a call, if its model is quick and the call is as most are.
    pub fn run(&self, py: Python<'_>, opened: &Opened, max_message: usize, turn: &mut Turn) -> Outcome {
        let Some(message) = opened.message.as_ref().filter(|message| !message.compressed) else {
            return Outcome::Unasked;
        };
        if opened.path != self.path {
            return Outcome::Unasked;
        }
        let Some(request) = infer::read(&message.payload) else { return Outcome::Unasked };
        let Some(id) = opened.model.as_ref().map_or(Some(request.model_name), |id| str::from_utf8(id).ok()) else {
            return Outcome::Unasked;
        };
        let Some(model) = self.models.lock().get(id).cloned() else { return Outcome::Unasked };
        if !model.takes(&request) {
            return Outcome::Unasked;
        }
        let turn = *turn.0.get_or_insert_with(|| (Instant::now(), thread_cpu()));
        let began = Instant::now();
        let outcome = match &model.infer {
            Infer::Python(infer) => self.run_python(py, &request, id, &model, infer, max_message),
            Infer::Onnx(session) => run_onnx(&request, id, session.get(), max_message),
        };
        let took = began.elapsed();
        model.calls.fetch_add(1, Ordering::Relaxed);
        if took > model.slow {
            // What ran before it in this turn has computed at most all the time.
            let computed = thread_cpu().saturating_sub(turn.1).saturating_sub(began - turn.0);
            let calls = model.calls.swap(0, Ordering::Relaxed);
            let told = (calls, took.as_secs_f64() * 1e6, computed.as_secs_f64() * 1e6);
            if let Err(error) = model.was_slow.call1(py, told) {
                error.write_unraisable(py, None);
            }
        }
        outcome
    }

    fn run_python(
        &self,
        py: Python<'_>,
        request: &Request<'_>,
        id: &str,
        model: &Model,
        infer: &Py<PyAny>,
        max_message: usize,
    ) -> Outcome {
        let Ok(inputs) = self.arrays.of(py, &request.inputs) else { return Outcome::Unasked };
        let outputs = match infer.bind(py).call1((inputs, PyDict::new(py))) {
            Ok(outputs) => outputs,
            Err(error) => return Outcome::Other(Err(error)),
        };
        match self.written(request, id, model, &outputs) {
            Some(answer) if fits(&answer, max_message) => Outcome::Answer(answer),
            _ => Outcome::Other(Ok(outputs.unbind())),
        }
    }

    /// The answer of arrays. None: there is something else among them, or something else is said of them.
    fn written(&self, request: &Request<'_>, id: &str, model: &Model, outputs: &Bound<'_, PyAny>) -> Option<Bytes> {
        let mut arrays = Vec::new();
        for (name, array) in outputs.cast_exact::<PyDict>().ok()? {
            if !self.arrays.is_array(&array) {
                return None;
            }
            // Fails for arrays without an axis, and for types that buffers have no format for.
            arrays.push((name.cast_into_exact::<PyString>().ok()?, PyUntypedBuffer::get(&array).ok()?));
        }
        let written = {
            let mut described = Vec::with_capacity(arrays.len());
            for (name, buffer) in &arrays {
                let name = name.to_str().ok()?;
                let datatype = arrays::datatype_of(buffer)?;
                let said = model.outputs.iter().find(|(of, _)| of == name);
                if !buffer.is_c_contiguous() || said.is_some_and(|(_, said)| said != datatype.name()) {
                    return None;
                }
                // SAFETY: nothing runs here that could change it.
                let data = unsafe { arrays::bytes_of(buffer) };
                described.push(Output { name, datatype, shape: buffer.shape(), data });
            }
            infer::write(request, id, &described)
        };
        for (_, buffer) in arrays {
            buffer.release(outputs.py());
        }
        written
    }
}

fn fits(framed: &Bytes, max_message: usize) -> bool {
    framed.len() <= max_message + PREFIX
}

/// Python says what is wrong, if something is.
fn run_onnx(request: &Request<'_>, id: &str, session: &OnnxSession, max_message: usize) -> Outcome {
    let answer = session.session().and_then(|session| {
        let outputs = session.run(&request.inputs).ok()?;
        let tensors = outputs.tensors().ok()?;
        let described: Vec<Output<'_>> = tensors
            .iter()
            .map(|(name, datatype, shape, data)| Output { name, datatype: *datatype, shape, data })
            .collect();
        infer::write(request, id, &described)
    });
    answer.filter(|answer| fits(answer, max_message)).map_or(Outcome::Unasked, Outcome::Answer)
}
