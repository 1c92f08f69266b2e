//! Resolutions and statuses out of Python's tuples.

use modelmesh_core::{Code, Hop, Resolution, Status};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// Trailers in wire form.
pub type Trailers = Vec<(String, Vec<u8>)>;

pub fn resolution(tuple: &Bound<'_, PyTuple>) -> PyResult<Resolution> {
    let kind: String = tuple.get_item(0)?.extract()?;
    match kind.as_str() {
        "serve" => Ok(Resolution::Serve),
        "route" => Ok(Resolution::Route),
        "return" => Ok(Resolution::Return),
        "forward" => {
            let (_, instance, hop, tried, view): (String, String, String, Vec<String>, Option<u64>) =
                tuple.extract()?;
            let hop = Hop::parse(&hop)
                .map_err(|hop| PyValueError::new_err(format!("the hop is {hop:?}; it must be hit or load")))?;
            Ok(Resolution::Forward { instance, hop, tried, view })
        }
        "fail" => {
            let (_, code, message, trailers): (String, u64, String, Trailers) = tuple.extract()?;
            Ok(Resolution::Fail(status(code, message, trailers)?))
        }
        other => Err(PyValueError::new_err(format!("{other:?} is no resolution"))),
    }
}

pub fn status(code: u64, message: String, trailers: Trailers) -> PyResult<Status> {
    let mut status = Status::new(Code::from_number(code), message);
    for (name, value) in trailers {
        status = status
            .with_pair(&name, &value)
            .ok_or_else(|| PyValueError::new_err(format!("{name:?} is no valid trailer in wire form")))?;
    }
    Ok(status)
}
