//! Certificates, checked when they are handed in.

use modelmesh_core::{ClientAuth, Material};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Certificates of one listener (and, for the peer listener, of the calls to peers). PEM.
#[pyclass(frozen, module = "modelmesh._core._native")]
pub struct Tls(pub Material);

#[pymethods]
impl Tls {
    #[new]
    #[pyo3(signature = (*, certificate_chain, private_key, trusted = None, client_auth = "none"))]
    fn new(
        py: Python<'_>,
        certificate_chain: &[u8],
        private_key: &[u8],
        trusted: Option<&[u8]>,
        client_auth: &str,
    ) -> PyResult<Self> {
        let auth = ClientAuth::parse(client_auth).ok_or_else(|| {
            PyValueError::new_err(format!("client_auth is {client_auth:?}; it must be none, optional or require"))
        })?;
        py.detach(|| Material::new(certificate_chain, private_key, trusted, auth))
            .map(Self)
            .map_err(PyValueError::new_err)
    }
}
