//! The class `QuickModels`: models whose calls are read here. Tensors become numpy arrays, and the arrays that a model returns an
//! answer, without a message of Python's in between. Calls of a quick model are answered within the turn that reads them; those of
//! a model that takes batches are held.
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
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::Arrays;
use crate::held::{self, HeldCall, Said};
use crate::onnx::OnnxSession;

/// How a call was answered.
pub enum Outcome {
    /// Its answer, with the prefix of gRPC.
    Answer(Bytes),
    /// No quick model was called.
    Unasked,
    /// It waits for a batch, of which this object is told.
    Held(Py<PyAny>, Py<HeldCall>),
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

/// Name, datatypes and shape of each.
type Specs = Vec<(String, Vec<String>, Vec<i64>)>;

/// What answers.
enum Infer {
    Python(Py<PyAny>),
    Onnx(Py<OnnxSession>),
}

/// A model whose calls are answered at once.
struct Quick {
    infer: Infer,
    /// A call that takes longer is told.
    slow: Duration,
    was_slow: Py<PyAny>,
    /// Calls since the last that was told.
    calls: AtomicU64,
}

enum Way {
    Now(Quick),
    /// They are held, and this object is told of them.
    Later(Py<PyAny>),
}

struct Model {
    /// None: requests are not checked.
    inputs: Option<Vec<Spec>>,
    outputs: Said,
    way: Way,
}

impl Model {
    fn new(inputs: Specs, outputs: Vec<(String, String)>, way: Way) -> Self {
        let spec = |(name, datatypes, shape): (String, Vec<String>, Vec<i64>)| Spec {
            name,
            datatypes: datatypes.iter().filter_map(|datatype| Datatype::named(datatype)).collect(),
            shape,
        };
        let inputs = (!inputs.is_empty()).then(|| inputs.into_iter().map(spec).collect());
        Self { inputs, outputs: outputs.into(), way }
    }

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
        inputs: Specs,
        outputs: Vec<(String, String)>,
        slow_us: u64,
        was_slow: Py<PyAny>,
    ) {
        let infer = match infer.cast::<OnnxSession>() {
            Ok(session) => Infer::Onnx(session.clone().unbind()),
            Err(_) => Infer::Python(infer.clone().unbind()),
        };
        let quick = Quick { infer, slow: Duration::from_micros(slow_us), was_slow, calls: AtomicU64::new(0) };
        self.insert(model, Model::new(inputs, outputs, Way::Now(quick)));
    }

    #[pyo3(signature = (model, *, inputs, outputs, take))]
    fn hold(&self, model: String, inputs: Specs, outputs: Vec<(String, String)>, take: Py<PyAny>) {
        self.insert(model, Model::new(inputs, outputs, Way::Later(take)));
    }

    fn joined<'py>(&self, py: Python<'py>, calls: Vec<Bound<'py, HeldCall>>) -> PyResult<Bound<'py, PyDict>> {
        held::joined(py, &self.arrays, &calls)
    }

    fn remove(&self, model: &str) {
        let removed = self.models.lock().remove(model);
        drop(removed);
    }
}

impl QuickModels {
    fn insert(&self, id: String, model: Model) {
        let before = self.models.lock().insert(id, Arc::new(model));
        // Not under the lock: its objects may run code when they go.
        drop(before);
    }

    /// Answers or holds a call, if its model is known here and the call is as most are.
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
        let quick = match &model.way {
            Way::Now(quick) => quick,
            Way::Later(take) => {
                let held = HeldCall::of(py, opened, &message.payload, &request, id, &model.outputs);
                return held.map_or(Outcome::Unasked, |held| Outcome::Held(take.clone_ref(py), held));
            }
        };
        let turn = *turn.0.get_or_insert_with(|| (Instant::now(), thread_cpu()));
        let began = Instant::now();
        let outcome = match &quick.infer {
            Infer::Python(infer) => self.run_python(py, &request, id, &model.outputs, infer, max_message),
            Infer::Onnx(session) => run_onnx(&request, id, session.get(), max_message),
        };
        let took = began.elapsed();
        quick.calls.fetch_add(1, Ordering::Relaxed);
        if took > quick.slow {
            // What ran before it in this turn has computed at most all the time.
            let computed = thread_cpu().saturating_sub(turn.1).saturating_sub(began - turn.0);
            let calls = quick.calls.swap(0, Ordering::Relaxed);
            let told = (calls, took.as_secs_f64() * 1e6, computed.as_secs_f64() * 1e6);
            if let Err(error) = quick.was_slow.call1(py, told) {
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
        said: &[(String, String)],
        infer: &Py<PyAny>,
        max_message: usize,
    ) -> Outcome {
        let Ok(inputs) = self.arrays.of(py, &request.inputs) else { return Outcome::Unasked };
        let outputs = match infer.bind(py).call1((inputs, PyDict::new(py))) {
            Ok(outputs) => outputs,
            Err(error) => return Outcome::Other(Err(error)),
        };
        let answer = self.arrays.returned(&outputs).and_then(|returned| {
            // SAFETY: nothing runs here that could change it.
            let described = unsafe { returned.outputs(said) };
            let answer = described.and_then(|outputs| infer::write(request, id, &outputs));
            returned.release(py);
            answer
        });
        match answer {
            Some(answer) if fits(&answer, max_message) => Outcome::Answer(answer),
            _ => Outcome::Other(Ok(outputs.unbind())),
        }
    }

    /// The answers to held calls whose tensors were joined; None where Python has to make it.
    pub fn divided(
        &self,
        calls: &[Bound<'_, HeldCall>],
        outputs: &Bound<'_, PyAny>,
        max_message: usize,
    ) -> Vec<Option<Bytes>> {
        let answers = self.arrays.returned(outputs).map(|returned| {
            let answers = held::divided(calls, &returned);
            returned.release(outputs.py());
            answers
        });
        let answers = answers.flatten().unwrap_or_else(|| vec![None; calls.len()]);
        answers.into_iter().map(|answer| answer.filter(|answer| fits(answer, max_message))).collect()
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
