//! ONNX models without Python, by the C API of the shared library in onnxruntime's wheel.
//!
//! `library` opens it, once for a process. `session` is a model in memory. Only models whose inputs and outputs are plain tensors
//! are run here.

mod library;
mod session;

pub use library::Library;
pub use session::{Described, Outputs, Session, Size};
