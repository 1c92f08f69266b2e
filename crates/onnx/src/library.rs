//! The shared library of onnxruntime, and its environment.

use std::ffi::{CStr, c_char};
use std::path::Path;
use std::ptr;

use ort_sys::{
    OrtAllocator, OrtAllocatorType, OrtApi, OrtApiBase, OrtEnv, OrtLoggingLevel, OrtMemType, OrtMemoryInfo,
    OrtStatusPtr,
};

/// Functions up to this version are used: onnxruntime 1.17.
const VERSION: u32 = 17;
const NAME: &CStr = c"modelmesh";

/// onnxruntime. There is no second one of the same file in a process, and it is never closed: sessions have threads in it.
pub struct Library {
    api: &'static OrtApi,
    pub(crate) env: *mut OrtEnv,
    pub(crate) memory: *mut OrtMemoryInfo,
    pub(crate) allocator: *mut OrtAllocator,
}

// SAFETY: onnxruntime's documentation says that the API, an environment, a memory info and the default allocator may be used by
// several threads at once. None of them changes here after `open`.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// Opens the library at `path`, which has to be onnxruntime of 1.17 or later.
    ///
    /// # Errors
    /// A sentence for people.
    pub fn open(path: &Path) -> Result<Self, String> {
        // SAFETY: the file is the one that onnxruntime's package ships; what it does when it is opened is onnxruntime's.
        let opened = unsafe { libloading::Library::new(path) }.map_err(|error| error.to_string())?;
        // SAFETY: this is the type that its header gives the function.
        let base = unsafe { opened.get::<unsafe extern "system" fn() -> *const OrtApiBase>(b"OrtGetApiBase\0") };
        let base = *base.map_err(|error| error.to_string())?;
        // Its code must stay: the table below points into it.
        std::mem::forget(opened);
        // SAFETY: the function may be called at any time. What it returns lives as long as the library.
        let found = unsafe { ((*base()).GetApi)(VERSION).as_ref() };
        let api = found.ok_or_else(|| format!("{} is older than onnxruntime 1.{VERSION}", path.display()))?;
        let (mut env, mut memory, mut allocator) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        let quiet = OrtLoggingLevel::ORT_LOGGING_LEVEL_ERROR;
        // SAFETY: each gets a place for what it makes, and a name that it copies.
        unsafe {
            check(api, (api.CreateEnv)(quiet, NAME.as_ptr(), &raw mut env))?;
            let (kind, of) = (OrtAllocatorType::OrtDeviceAllocator, OrtMemType::OrtMemTypeDefault);
            check(api, (api.CreateCpuMemoryInfo)(kind, of, &raw mut memory))?;
            check(api, (api.GetAllocatorWithDefaultOptions)(&raw mut allocator))?;
        }
        Ok(Self { api, env, memory, allocator })
    }

    pub(crate) fn api(&self) -> &OrtApi {
        self.api
    }

    pub(crate) fn check(&self, status: OrtStatusPtr) -> Result<(), String> {
        check(self.api, status)
    }
}

/// What a status says, and its end.
fn check(api: &OrtApi, status: OrtStatusPtr) -> Result<(), String> {
    if status.0.is_null() {
        return Ok(());
    }
    // SAFETY: it is a status that was just returned, and is released once. The text is copied before.
    unsafe {
        let text = text((api.GetErrorMessage)(status.0));
        (api.ReleaseStatus)(status.0);
        Err(text)
    }
}

/// A copy of a text of the library's.
///
/// # Safety
/// It is null, or ends with a zero.
pub(crate) unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
