//! Tensors of messages as numpy arrays, and back. numpy is imported when `Arrays` is made.

use modelmesh_core::infer::{Datatype, Input, Output};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

/// What arrays are made with.
pub struct Arrays {
    array: Py<PyAny>,
    types: [Py<PyAny>; Datatype::ALL.len()],
}

impl Arrays {
    /// # Errors
    /// numpy is not installed.
    pub fn new(py: Python<'_>) -> PyResult<Self> {
        let numpy = py.import("numpy")?;
        let named = |datatype: Datatype| match datatype {
            Datatype::Bool => "bool".to_owned(),
            Datatype::Fp16 => "float16".to_owned(),
            Datatype::Fp32 => "float32".to_owned(),
            Datatype::Fp64 => "float64".to_owned(),
            other => other.name().to_lowercase(),
        };
        let mut types = Vec::new();
        for datatype in Datatype::ALL {
            types.push(numpy.call_method1("dtype", (named(datatype),))?.unbind());
        }
        let types = types.try_into().map_err(|_| PyValueError::new_err("as many types as datatypes"))?;
        Ok(Self { array: numpy.getattr("ndarray")?.unbind(), types })
    }

    /// A read-only array of copied bytes, of which there are as many as shape and datatype say.
    pub fn array<'py>(
        &self,
        py: Python<'py>,
        datatype: Datatype,
        shape: &[usize],
        data: &[u8],
    ) -> PyResult<Bound<'py, PyAny>> {
        self.joined(py, datatype, shape, &[data])
    }

    /// The same of bytes that lie in several places, one after the other.
    pub fn joined<'py>(
        &self,
        py: Python<'py>,
        datatype: Datatype,
        shape: &[usize],
        parts: &[&[u8]],
    ) -> PyResult<Bound<'py, PyAny>> {
        // Bytes of Python are aligned, as those of a message are not.
        let data = PyBytes::new_with(py, parts.iter().map(|part| part.len()).sum(), |mut left| {
            for part in parts {
                let (place, rest) = left.split_at_mut(part.len());
                place.copy_from_slice(part);
                left = rest;
            }
            Ok(())
        })?;
        self.array.bind(py).call1((PyTuple::new(py, shape)?, &self.types[datatype as usize], data))
    }

    /// The inputs of a request by name.
    pub fn of<'py>(&self, py: Python<'py>, inputs: &[Input<'_>]) -> PyResult<Bound<'py, PyDict>> {
        let arrays = PyDict::new(py);
        for input in inputs {
            arrays.set_item(input.name, self.array(py, input.datatype, &input.shape, input.data)?)?;
        }
        Ok(arrays)
    }

    /// What a model has returned, if that is a dict of arrays. None: there is something else among them.
    pub fn returned<'py>(&self, outputs: &Bound<'py, PyAny>) -> Option<Returned<'py>> {
        let mut arrays = Vec::new();
        for (name, array) in outputs.cast_exact::<PyDict>().ok()? {
            // Not of a class that only derives from it.
            if !array.get_type().is(&self.array) {
                return None;
            }
            // Fails for arrays without an axis, and for types that buffers have no format for.
            arrays.push((name.cast_into_exact::<PyString>().ok()?, PyUntypedBuffer::get(&array).ok()?));
        }
        Some(Returned { arrays })
    }
}

/// Arrays by name.
pub struct Returned<'py> {
    arrays: Vec<(Bound<'py, PyString>, PyUntypedBuffer)>,
}

impl Returned<'_> {
    /// Each as messages have it. None: messages cannot have one, or it is not what is `said` of it (name and datatype).
    ///
    /// # Safety
    /// Nothing changes the arrays while the outputs are used.
    pub unsafe fn outputs(&self, said: &[(String, String)]) -> Option<Vec<Output<'_>>> {
        let mut outputs = Vec::with_capacity(self.arrays.len());
        for (name, buffer) in &self.arrays {
            let name = name.to_str().ok()?;
            let datatype = datatype_of(buffer)?;
            let known = said.iter().find(|(of, _)| of == name);
            if !buffer.is_c_contiguous() || known.is_some_and(|(_, known)| known != datatype.name()) {
                return None;
            }
            // SAFETY: the caller's promise.
            let data = unsafe { bytes_of(buffer) };
            outputs.push(Output { name, datatype, shape: buffer.shape(), data });
        }
        Some(outputs)
    }

    /// Releases the arrays. Dropping them would look for the interpreter once for each.
    pub fn release(self, py: Python<'_>) {
        for (_, buffer) in self.arrays {
            buffer.release(py);
        }
    }
}

/// The bytes of a contiguous buffer.
///
/// # Safety
/// Nothing changes them while they are used.
pub unsafe fn bytes_of(buffer: &PyUntypedBuffer) -> &[u8] {
    debug_assert!(buffer.is_c_contiguous());
    match buffer.len_bytes() {
        // It may have no address.
        0 => &[],
        // SAFETY: the buffer is held, and has that many bytes; for the rest there is the caller's promise.
        length => unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), length) },
    }
}

/// None: messages have no such elements, or not in this order of bytes.
pub fn datatype_of(buffer: &PyUntypedBuffer) -> Option<Datatype> {
    let [kind] = buffer.format().to_bytes() else { return None };
    Some(match (kind, buffer.item_size()) {
        (b'?', 1) => Datatype::Bool,
        (b'b', 1) => Datatype::Int8,
        (b'h', 2) => Datatype::Int16,
        (b'i' | b'l', 4) => Datatype::Int32,
        (b'l' | b'q', 8) => Datatype::Int64,
        (b'B', 1) => Datatype::Uint8,
        (b'H', 2) => Datatype::Uint16,
        (b'I' | b'L', 4) => Datatype::Uint32,
        (b'L' | b'Q', 8) => Datatype::Uint64,
        (b'e', 2) => Datatype::Fp16,
        (b'f', 4) => Datatype::Fp32,
        (b'd', 8) => Datatype::Fp64,
        _ => return None,
    })
}
