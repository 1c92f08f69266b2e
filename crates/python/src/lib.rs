//! The native module `modelmesh._core._native`: unwrap, call, map errors. Nothing is decided here.
//!
//! `_native.pyi` documents it; `modelmesh-core` does the work. Calls that take longer release the interpreter.

mod arrays;
mod client;
mod core;
mod events;
mod given;
mod held;
mod onnx;
mod quick;
mod server;
mod tls;

use mimalloc::MiMalloc;
use pyo3::prelude::*;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Gives the system back what this thread has freed, as far as it has been free for a while.
fn give_back_memory() {
    // SAFETY: it works on the calling thread's own heap, and may be called at any time.
    unsafe { libmimalloc_sys::mi_collect(false) }
}

/// Index of the copy that gets a request: the less loaded of two drawn ones.
#[pyfunction]
fn choose_copy(loads: Vec<u32>, draws: (u32, u32)) -> usize {
    modelmesh_core::choose_copy(loads.len(), |index| loads[index], draws)
}

#[pymodule]
mod _native {
    use modelmesh_core::Outcome;
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::choose_copy;
    #[pymodule_export]
    use super::client::{ClientConnection, ClientTls};
    #[pymodule_export]
    use super::core::Core;
    #[pymodule_export]
    use super::events::{
        Asked, AttemptFailed, CallMessage, Called, Cancelled, CopyIdle, LinkBack, LinkLost, Logged, Missed, Overdue,
        Span, Tapped, Traced, Wanted,
    };
    #[pymodule_export]
    use super::held::HeldCall;
    #[pymodule_export]
    use super::onnx::OnnxSession;
    #[pymodule_export]
    use super::quick::QuickModels;
    #[pymodule_export]
    use super::server::{Came, OpenedCall, RequestPart, ServerSockets};
    #[pymodule_export]
    use super::tls::Tls;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("BUILD_PROFILE", if cfg!(debug_assertions) { "debug" } else { "release" })?;
        for (name, outcome) in [
            ("NOT_HERE", Outcome::NotHere),
            ("MOVED", Outcome::Moved),
            ("BUSY", Outcome::Busy),
            ("DRAINING", Outcome::Draining),
            ("NO_ROOM", Outcome::NoRoom),
            ("LOAD_FAILED", Outcome::LoadFailed),
            ("STORE_AWAY", Outcome::StoreAway),
            ("UNAVAILABLE", Outcome::Unavailable),
            ("EXHAUSTED", Outcome::Exhausted),
            ("LOST", Outcome::Lost),
            ("HUNG", Outcome::Hung),
            ("ENDED", Outcome::Ended),
        ] {
            module.add(name, outcome.text())?;
        }
        Ok(())
    }
}
