//! An ONNX model in memory.

use std::ffi::{CString, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::Arc;

use modelmesh_core::infer::{Datatype, Input};
use ort_sys::{
    ONNXTensorElementDataType, OrtLoggingLevel, OrtSession, OrtSessionOptions, OrtTensorTypeAndShapeInfo, OrtTypeInfo,
    OrtValue,
};

use crate::library::{Library, text};

/// `ONNX_TYPE_TENSOR`.
const TENSOR: i32 = 1;

/// How many elements an axis has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Size {
    Fixed(i64),
    /// Any, the same wherever the name stands; or without a name.
    Open(Option<String>),
}

/// An input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    pub name: String,
    pub datatype: Datatype,
    pub shape: Vec<Size>,
}

/// A session. `run` may be called by several threads at once.
pub struct Session {
    library: Arc<Library>,
    raw: *mut OrtSession,
    inputs: Vec<Described>,
    outputs: Vec<Described>,
    input_names: Vec<CString>,
    output_names: Vec<CString>,
}

// SAFETY: onnxruntime's documentation says that `Run` of one session may be called by several threads at once; nothing else changes it.
unsafe impl Send for Session {}
// SAFETY: as above.
unsafe impl Sync for Session {}

/// Ends with its function what the library has made.
struct Guard<T>(*mut T, unsafe extern "system" fn(*mut T));

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the library made it, and it is ended here only.
            unsafe { (self.1)(self.0) }
        }
    }
}

impl Session {
    /// Loads the model of a file. `threads`: of one call.
    ///
    /// # Errors
    /// As the library says it; or an input or output is no plain tensor.
    pub fn open(library: Arc<Library>, path: &Path, threads: i32) -> Result<Self, String> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
        let api = library.api();
        let mut options: *mut OrtSessionOptions = ptr::null_mut();
        let mut session: *mut OrtSession = ptr::null_mut();
        // SAFETY: each call gets what the calls before it have made, and a place for what it makes.
        unsafe {
            library.check((api.CreateSessionOptions)(&raw mut options))?;
            let options = Guard(options, api.ReleaseSessionOptions);
            library.check((api.SetIntraOpNumThreads)(options.0, threads))?;
            library.check((api.SetInterOpNumThreads)(options.0, 1))?;
            // An arena never gives memory back before the session ends.
            library.check((api.DisableCpuMemArena)(options.0))?;
            let quiet = OrtLoggingLevel::ORT_LOGGING_LEVEL_ERROR as i32;
            library.check((api.SetSessionLogSeverityLevel)(options.0, quiet))?;
            library.check((api.CreateSession)(library.env, path.as_ptr(), options.0, &raw mut session))?;
        }
        let mut opened = Self {
            library,
            raw: session,
            inputs: Vec::new(),
            outputs: Vec::new(),
            input_names: Vec::new(),
            output_names: Vec::new(),
        };
        opened.inputs = opened.described(true)?;
        opened.outputs = opened.described(false)?;
        opened.input_names = names(&opened.inputs)?;
        opened.output_names = names(&opened.outputs)?;
        Ok(opened)
    }

    #[must_use]
    pub fn inputs(&self) -> &[Described] {
        &self.inputs
    }

    #[must_use]
    pub fn outputs(&self) -> &[Described] {
        &self.outputs
    }

    fn described(&self, inputs: bool) -> Result<Vec<Described>, String> {
        let (library, api) = (&self.library, self.library.api());
        let mut found = Vec::new();
        let mut count = 0;
        // SAFETY: the session is there, and each call gets a place for what it makes. An index is below the count.
        unsafe {
            let counted = if inputs { api.SessionGetInputCount } else { api.SessionGetOutputCount };
            let named = if inputs { api.SessionGetInputName } else { api.SessionGetOutputName };
            let typed = if inputs { api.SessionGetInputTypeInfo } else { api.SessionGetOutputTypeInfo };
            library.check(counted(self.raw, &raw mut count))?;
            for index in 0..count {
                let mut name: *mut c_char = ptr::null_mut();
                library.check(named(self.raw, index, library.allocator, &raw mut name))?;
                let known = text(name);
                library.check((api.AllocatorFree)(library.allocator, name.cast()))?;
                let mut info: *mut OrtTypeInfo = ptr::null_mut();
                library.check(typed(self.raw, index, &raw mut info))?;
                let info = Guard(info, api.ReleaseTypeInfo);
                let mut kind = 0_i32;
                library.check((api.GetOnnxTypeFromTypeInfo)(info.0, (&raw mut kind).cast()))?;
                let mut tensor: *const OrtTensorTypeAndShapeInfo = ptr::null();
                if kind == TENSOR {
                    library.check((api.CastTypeInfoToTensorInfo)(info.0, &raw mut tensor))?;
                }
                if tensor.is_null() {
                    return Err(format!("{known:?} is no tensor"));
                }
                let (datatype, sizes) = self.shape(tensor)?;
                let datatype = datatype.ok_or_else(|| format!("{known:?} has elements of another kind"))?;
                let mut symbols: Vec<*const c_char> = vec![ptr::null(); sizes.len()];
                library.check((api.GetSymbolicDimensions)(tensor, symbols.as_mut_ptr(), symbols.len()))?;
                let shape = sizes.iter().zip(symbols).map(|(size, symbol)| match *size {
                    0.. => Size::Fixed(*size),
                    _ => Size::Open(Some(text(symbol)).filter(|name| !name.is_empty())),
                });
                found.push(Described { name: known, datatype, shape: shape.collect() });
            }
        }
        Ok(found)
    }

    /// Datatype, and the sizes of all axes; -1: open.
    ///
    /// # Safety
    /// The description is there.
    unsafe fn shape(&self, tensor: *const OrtTensorTypeAndShapeInfo) -> Result<(Option<Datatype>, Vec<i64>), String> {
        let (library, api) = (&self.library, self.library.api());
        let (mut element, mut axes) = (0_i32, 0);
        // SAFETY: the caller's promise, and places for what is made. The element type is read as a number, which a later version
        // may have more of than the enum has names.
        unsafe {
            library.check((api.GetTensorElementType)(tensor, (&raw mut element).cast()))?;
            library.check((api.GetDimensionsCount)(tensor, &raw mut axes))?;
            let mut sizes = vec![0; axes];
            library.check((api.GetDimensions)(tensor, sizes.as_mut_ptr(), axes))?;
            Ok((datatype_of(element), sizes))
        }
    }

    /// Runs the model on the inputs, which have as many bytes as shape and datatype say. All inputs of the model have to be there.
    ///
    /// # Errors
    /// As the library says it: an input is missing or does not fit.
    pub fn run(&self, inputs: &[Input<'_>]) -> Result<Outputs<'_>, String> {
        let (library, api) = (&self.library, self.library.api());
        let mut values: Vec<Guard<OrtValue>> = Vec::with_capacity(inputs.len());
        let mut aligned: Vec<Vec<u64>> = Vec::with_capacity(inputs.len());
        let mut input_names = Vec::with_capacity(inputs.len());
        for input in inputs {
            let at = self.inputs.iter().position(|known| known.name == input.name);
            let at = at.ok_or_else(|| format!("the model has no input {:?}", input.name))?;
            input_names.push(self.input_names[at].as_ptr());
            let shape: Vec<i64> = input.shape.iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect();
            // A message is not aligned, and the library's kernels may want it to be.
            let mut copy = vec![0_u64; input.data.len().div_ceil(8)];
            let mut value = ptr::null_mut();
            // SAFETY: the copy is large enough, and lives until the values have been released. The library does not write to inputs.
            unsafe {
                ptr::copy_nonoverlapping(input.data.as_ptr(), copy.as_mut_ptr().cast(), input.data.len());
                let data = copy.as_mut_ptr().cast::<c_void>();
                let kind = element_of(input.datatype);
                let made = (api.CreateTensorWithDataAsOrtValue)(
                    library.memory,
                    data,
                    input.data.len(),
                    shape.as_ptr(),
                    shape.len(),
                    kind,
                    &raw mut value,
                );
                library.check(made)?;
            }
            values.push(Guard(value, api.ReleaseValue));
            aligned.push(copy);
        }
        let inputs: Vec<*const OrtValue> = values.iter().map(|value| value.0.cast_const()).collect();
        let output_names: Vec<*const c_char> = self.output_names.iter().map(|name| name.as_ptr()).collect();
        let mut outputs: Vec<*mut OrtValue> = vec![ptr::null_mut(); output_names.len()];
        // SAFETY: all arrays are as long as is said, and live for the call.
        let status = unsafe {
            (api.Run)(
                self.raw,
                ptr::null(),
                input_names.as_ptr(),
                inputs.as_ptr(),
                inputs.len(),
                output_names.as_ptr(),
                output_names.len(),
                outputs.as_mut_ptr(),
            )
        };
        let outputs = Outputs {
            session: self,
            values: outputs.into_iter().map(|value| Guard(value, api.ReleaseValue)).collect(),
        };
        library.check(status)?;
        drop(values);
        drop(aligned);
        Ok(outputs)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: it is ended here only, and no call runs, as calls borrow it.
        unsafe { (self.library.api().ReleaseSession)(self.raw) }
    }
}

/// What a model has answered.
pub struct Outputs<'a> {
    session: &'a Session,
    values: Vec<Guard<OrtValue>>,
}

// SAFETY: a value belongs to no thread; only one has it.
unsafe impl Send for Outputs<'_> {}

/// An output: name, datatype, shape and bytes.
pub type Output<'a> = (&'a str, Datatype, Vec<usize>, &'a [u8]);

impl Outputs<'_> {
    /// All outputs, in the order of the model.
    ///
    /// # Errors
    /// One is no plain tensor.
    pub fn tensors(&self) -> Result<Vec<Output<'_>>, String> {
        let (library, api) = (&self.session.library, self.session.library.api());
        let mut found = Vec::with_capacity(self.values.len());
        for (value, described) in self.values.iter().zip(&self.session.outputs) {
            let name = described.name.as_str();
            if value.0.is_null() {
                return Err(format!("the model gave no output {name:?}"));
            }
            let mut info: *mut OrtTensorTypeAndShapeInfo = ptr::null_mut();
            let mut data: *mut c_void = ptr::null_mut();
            // SAFETY: the value is there, and each call gets a place for what it makes. The bytes live as long as the value, and
            // there are as many as shape and datatype say.
            unsafe {
                library.check((api.GetTensorTypeAndShape)(value.0, &raw mut info))?;
                let info = Guard(info, api.ReleaseTensorTypeAndShapeInfo);
                let (datatype, sizes) = self.session.shape(info.0)?;
                let datatype = datatype.ok_or_else(|| format!("output {name:?} has elements of another kind"))?;
                let shape: Vec<usize> = sizes.iter().map(|size| usize::try_from(*size).unwrap_or(0)).collect();
                let bytes = shape.iter().product::<usize>() * datatype.width();
                library.check((api.GetTensorMutableData)(value.0, &raw mut data))?;
                let data = if bytes == 0 { &[][..] } else { std::slice::from_raw_parts(data.cast::<u8>(), bytes) };
                found.push((name, datatype, shape, data));
            }
        }
        Ok(found)
    }
}

fn names(described: &[Described]) -> Result<Vec<CString>, String> {
    described.iter().map(|one| CString::new(one.name.as_str()).map_err(|error| error.to_string())).collect()
}

const ELEMENTS: [(ONNXTensorElementDataType, Datatype); 12] = {
    use ONNXTensorElementDataType as Element;
    [
        (Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, Datatype::Bool),
        (Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, Datatype::Int8),
        (Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16, Datatype::Int16),
        (Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, Datatype::Int32),
        (Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, Datatype::Int64),
        (Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, Datatype::Uint8),
        (Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16, Datatype::Uint16),
        (Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32, Datatype::Uint32),
        (Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64, Datatype::Uint64),
        (Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, Datatype::Fp16),
        (Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, Datatype::Fp32),
        (Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, Datatype::Fp64),
    ]
};

fn datatype_of(element: i32) -> Option<Datatype> {
    ELEMENTS.iter().find(|(known, _)| *known as i32 == element).map(|(_, datatype)| *datatype)
}

fn element_of(datatype: Datatype) -> ONNXTensorElementDataType {
    let found = ELEMENTS.iter().find(|(_, known)| *known == datatype);
    found.map_or(ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, |(element, _)| *element)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_datatype_of_messages_is_an_element_of_the_library() {
        for datatype in Datatype::ALL {
            let element = element_of(datatype);
            assert_ne!(element, ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, "{datatype:?}");
            assert_eq!(datatype_of(element as i32), Some(datatype));
        }
        assert_eq!(datatype_of(ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING as i32), None);
        assert_eq!(datatype_of(i32::MAX), None);
    }
}
